"""Every kind of run gives on one mesh what it gives on another, but for last bits."""

import os

import judge_runs
import pytest
import stages
import tiny

from hs2jax import cli, configs
from hs2jax.evaluation import scores

LONG = bool(os.environ.get("LONG"))
MESHES = ({}, {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2})
CLOCKS = ("seconds", "tokens_per_second")
MADE = {"sample": "samples.jsonl", "annotate": "annotated.jsonl"}
PAIRS = "helpsteer2_preference:mini/preference.jsonl[:3]"


def config(here, kind: str):
    """A small run of a kind."""
    data = f"ratings:{here / 'rated.jsonl'}"
    own = {
        "evaluate": {"model.name": here / "reward", "data": PAIRS},
        "judge": judge_runs.settings_of(here, data=f"{data}[:3]"),
        "expo": {"initial": here / "ratings", "trained": here / "other", "data": PAIRS},
    }
    if kind in own:
        made = configs.defaults(kind)
        values = {key: x if isinstance(x, str) else str(x) for key, x in own[kind].items()}
        made.update_from_flattened_dict(values)
        if kind == "expo":
            made.update({"weights": "helpfulness=1", "factors": (1.5,), "fine_step": 0.0})
        return made
    return {
        "sample": lambda: stages.sampling(here, n=2, max_new_tokens=4),
        "weigh": lambda: stages.weighing(here, f"sampled:{here / 'sample-0' / 'samples.jsonl'}"),
        "annotate": lambda: stages.annotation(here, data),
        "rescale": lambda: stages.rescaling(here, data, attributes=("verbosity",)),
        "steer": lambda: stages.steering(here),
    }[kind]()


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("meshes")
    judge_runs.prepare(folder)
    stages.models(folder)
    tiny.save(folder / "other", outputs=stages.OUTPUTS, bias=True, seed=5)
    return folder


OF_SCORING = [kind for kind in cli.KINDS if not kind.startswith("train")]
OF_SCORING = [kind for kind in OF_SCORING if kind not in ("recipe", "sweep")]


@pytest.mark.parametrize("kind", OF_SCORING if LONG else ("sample", "evaluate"))
def test_another_mesh_gives_the_same_rows(here, kind, monkeypatch):
    declared = {key for key, each in configs.SETTINGS[kind].items() if each.identity == "sums"}
    assert declared == MESHES[1].keys()
    assert not any(each.identity == "free" for each in configs.SETTINGS[kind].values())
    found = []
    for number, mesh in enumerate(MESHES):
        monkeypatch.setattr(scores, "default_folder", lambda n=number: here / f"scores-{n}")
        of = config(here, kind)
        of.update_from_flattened_dict(mesh)
        found.append(cli.function(kind)(of, here / f"{kind}-{number}"))
    for ours, theirs in zip(*found, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            if isinstance(value, float) and ours["metric"] not in CLOCKS:
                assert ours[name] == pytest.approx(value, rel=1e-4, abs=1e-5), ours
            elif not isinstance(value, float):
                assert ours[name] == value, ours
    if kind in MADE:
        ours, theirs = (here / f"{kind}-{n}" / MADE[kind] for n in (0, 1))
        for a, b in zip(stages.read(ours), stages.read(theirs), strict=True):
            assert a["responses"] == b["responses"]
