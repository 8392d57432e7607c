"""What two hosts have begun, one ends with the rows that one gives alone."""

from pathlib import Path

import numpy as np
import pytest
import stages
from faults_at_writes import Killed
from judge_runs import prepare, run
from test_judge_processes import WEIGHTED_MAX
from test_processes import SETTINGS, finish, start_two

from hs2jax import configs, stopping, workdir
from hs2jax.alignment import annotate, sample, steering, weigh
from hs2jax.evaluation import evaluate, scores
from hs2jax.judging import readings
from hs2jax.store import Store
from hs2jax.training import loop

pytestmark = pytest.mark.long
# Each verb, and how often it keeps something before it is stopped.
KEPT = {"sample": 1, "annotate": 2, "weigh": 3, "steer": 2, "evaluate": 2, "judge": 2}
KEPT["train"] = 3  # How often it asks whether to stop, before steps and batches of evaluations.
CLOCKS = ("seconds", "tokens_per_second", "seconds_per_step", "peak_memory_bytes", "time")


def work(verb: str, here: Path, folder: Path) -> None:
    if verb == "judge":
        settings = {"weights": "cross-validate", "folds": 4, "baselines": "gpt_score"}
        run(here, folder, **settings)
    elif verb == "sample":
        sample.sample(stages.sampling(here), folder)
    elif verb == "annotate":
        annotate.annotate(stages.annotation(here, stages.prompts(here)), folder)
    elif verb == "weigh":
        weigh.weigh(stages.weighing(here, f"sampled:{here / 'samples' / 'samples.jsonl'}"), folder)
    elif verb == "steer":
        steering.steer(stages.steering(here), folder)
    elif verb == "evaluate":
        config = configs.defaults("evaluate")
        config.model.name, config.data = str(here / "ratings"), f"preference:{here}/pairs.jsonl"
        evaluate.evaluate(config, folder)
    else:
        config, data = configs.defaults("train_reward_model"), f"preference:{here}/pairs.jsonl"
        own = {"data.train": f"{data}[:-6]", "data.validation": f"{data}[-6:]"}
        own |= {"model.name": str(here / "policy"), "micro_batch_size": 8}
        config.update_from_flattened_dict({**SETTINGS, **own})
        loop.train(config, folder)


def in_pieces(patch, here: Path, cache: str) -> None:
    patch.setattr(sample, "chunk", lambda config: 3)
    patch.setattr(weigh, "CHUNK", 3)
    patch.setattr(scores, "TOKENS", 1)  # For each device.
    patch.setattr(scores, "default_folder", lambda: here / cache)
    patch.setattr(readings, "CHUNK", 4)


def begin(here: str) -> None:
    """Begin each verb, and stop where it has kept something; called by both hosts."""
    patch, here = pytest.MonkeyPatch(), Path(here)
    in_pieces(patch, here, "cache")
    add, kept = Store.add, []

    def asked():
        kept.append(1)
        return "SIGTERM" if len(kept) >= KEPT[verb] else ""

    def adding(self, entries):
        found = add(self, entries)
        kept.extend([1] * bool(entries))
        if len(kept) == KEPT[verb]:
            raise Killed
        return found

    patch.setattr(Store, "add", adding)
    patch.setattr(stopping, "asked", asked)
    for verb in KEPT:
        kept.clear()
        with pytest.raises((Killed, stopping.Stopped)):
            work(verb, here, here / "two" / verb)


def assert_near(one, two, where: str) -> None:
    if isinstance(one, float) or isinstance(two, float):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4, err_msg=where)
    elif isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for name in one:
            assert_near(one[name], two[name], f"{where}/{name}")
    elif isinstance(one, list):
        assert len(one) == len(two), where
        for number, (a, b) in enumerate(zip(one, two, strict=True)):
            assert_near(a, b, f"{where}/{number}")
    else:
        assert one == two, where


def test_what_two_hosts_began_one_ends_as_one_alone(tmp_path, monkeypatch):
    here = prepare(tmp_path)
    stages.models(here)
    stages.pairs(here / "pairs.jsonl", 12)
    in_pieces(monkeypatch, here, "another cache")
    sample.sample(stages.sampling(here), here / "samples")
    program = f"import test_hosts_resumed\ntest_hosts_resumed.begin({str(here)!r})"
    said = [here / "first", here / "second"]
    finish(start_two(program, said), said)
    for verb in KEPT:
        work(verb, here, here / "one" / verb)
    in_pieces(monkeypatch, here, "cache")
    for verb in KEPT:
        assert not workdir.finished(here / "two" / verb)
        work(verb, here, here / "two" / verb)
        # Of a judge without skill, statistics hang on the last bits of what is nearly the same.
        files = (here / "one" / verb).glob("items/*.jsonl" if verb == "judge" else "**/*.jsonl")
        names = [path.relative_to(here / "one") for path in files]
        assert names
        for name in names:
            one, two = (workdir.read_rows(here / each / name) for each in ("one", "two"))
            for each in (*one, *two):
                for metric in WEIGHTED_MAX if verb == "judge" else ():
                    del each["scores"][metric]
                for clock in (*CLOCKS, "value") if each.get("metric") in CLOCKS else CLOCKS:
                    each.pop(clock, None)
            assert_near(one, two, str(name))
