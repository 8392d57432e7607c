"""Each stage of alignment, stopped at a named point and started again, ends with the same bytes."""

import contextlib

import pytest
import stages

from hs2jax import workdir
from hs2jax.alignment import sample as sampling
from hs2jax.alignment import weigh as weighing
from hs2jax.alignment.annotate import annotate
from hs2jax.alignment.rescale import rescale
from hs2jax.alignment.sample import sample
from hs2jax.alignment.steering import steer
from hs2jax.alignment.weigh import weigh
from hs2jax.evaluation import scores
from hs2jax.language_model import LanguageModel
from hs2jax.reward_model import RewardModel
from hs2jax.store import Store

MADE = ("seconds", "tokens_per_second", "config")  # Of a result, what is each run's own.


class StoppedError(Exception):
    """As if the process had been killed here."""


VERBS = {
    "sample": (sample, stages.sampling, ["samples.jsonl"]),
    "weigh": (
        weigh,
        lambda here: stages.weighing(here, f"sampled:{here / 'samples' / 'samples.jsonl'}"),
        ["groups.jsonl"],
    ),
    "annotate": (
        annotate,
        lambda here: stages.annotation(here, stages.prompts(here)),
        ["annotated.jsonl"],
    ),
    "rescale": (
        rescale,
        lambda here: stages.rescaling(here, stages.prompts(here), attributes=("verbosity",)),
        ["model/model.safetensors"],
    ),
    "steer": (steer, stages.steering, ["items/before.jsonl", "items/after.jsonl"]),
}

POINTS = {
    "kept": (Store, "add"),
    "saved": (RewardModel, "save"),
    "written": (workdir, "write_rows"),
}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    stages.models(folder)
    with pytest.MonkeyPatch.context() as patch:
        # Work in small pieces: of five prompts, or ten with two settings each.
        patch.setattr(sampling, "chunk", lambda config: 3)
        patch.setattr(weighing, "CHUNK", 3)
        patch.setattr(scores, "TOKENS", 60)
        patch.setattr(scores, "default_folder", lambda: folder / "scores of whole runs")
        sample(stages.sampling(folder), folder / "samples")
        for name, (verb, config_of, _) in VERBS.items():
            verb(config_of(folder), folder / name)
        yield folder


@contextlib.contextmanager
def stopped(owner, name: str, after: int):
    """What is done here is stopped once a function has been through `after` times."""
    keep, left = getattr(owner, name), after

    def kept(*arguments):
        nonlocal left
        found = keep(*arguments)
        left -= 1
        if not left:
            raise StoppedError
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, kept)
        with pytest.raises(StoppedError):
            yield


@pytest.mark.parametrize(
    ("verb", "point", "after", "left"),
    [
        ("sample", "kept", 1, 2),
        ("sample", "written", 1, 0),
        ("weigh", "kept", 2, 5),  # Among the reward model's scores,
        ("weigh", "kept", 6, 2),  # and after some of the prior's.
        ("annotate", "kept", 2, 0),
        ("rescale", "kept", 2, 0),
        ("rescale", "saved", 1, 0),
        ("steer", "kept", 2, 34),  # In the first policy's samples,
        ("steer", "kept", 6, 24),  # in the second one's,
        ("steer", "kept", 12, 20),  # while measuring,
        ("steer", "kept", 30, 14),  # and while the reference reads them.
        ("steer", "written", 5, 0),  # After one policy's items.
    ],
)
def test_stopped_it_ends_with_the_same_bytes(here, tmp_path, monkeypatch, verb, point, after, left):
    """left: groups that language models still compute."""
    run, config_of, files = VERBS[verb]
    place, whole = tmp_path / "run", here / verb
    monkeypatch.setattr(scores, "default_folder", lambda: tmp_path / "scores")
    with stopped(*POINTS[point], after):
        run(config_of(here), place)
    assert not (place / "result.json").exists()
    done = []
    for name in ("sample_groups", "log_probability_groups"):
        compute = getattr(LanguageModel, name)

        def noted(self, groups, *arguments, compute=compute, **options):
            done.extend(groups)
            return compute(self, groups, *arguments, **options)

        monkeypatch.setattr(LanguageModel, name, noted)
    rows = run(config_of(here), place)
    for name in [*files, "results.jsonl"]:
        assert (place / name).read_bytes() == (whole / name).read_bytes()
    own = dict.fromkeys(MADE)
    assert stages.result(place) | own == stages.result(whole) | own
    assert {each.name for each in place.iterdir()} == {each.name for each in whole.iterdir()}
    assert len(done) == left
    for kind in (RewardModel, LanguageModel):
        monkeypatch.setattr(kind, "load", lambda *_, **__: pytest.fail("loaded again"))
    assert run(config_of(here), place) == rows


def test_a_run_does_not_go_on_with_changed_prompts(here, tmp_path):
    questions = [*stages.QUESTIONS[:1], "What has changed?", *stages.QUESTIONS[2:]]
    config = stages.sampling(here, data=stages.prompts(tmp_path))
    with stopped(Store, "add", 2):
        sample(config, tmp_path / "run")
    stages.prompts(tmp_path, questions)
    with pytest.raises(ValueError, match=r"another run \(different: data \(set 1\): 5 groups"):
        sample(config, tmp_path / "run")
