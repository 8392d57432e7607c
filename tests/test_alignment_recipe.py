"""The recipe of SteerLM 2.0, from fine-tuning to the steering report, with a tiny model."""

import json

import stages
import tiny
from command import succeed

STAGES = ("reward", "sft", "annotation", "steerlm", "samples_1", "groups_1", "round_1", "steering")
RATINGS = "ratings:{annotation}/annotated.jsonl"
ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def test_the_small_recipe_goes_through_all_its_stages(tmp_path):
    tiny.language_model(tmp_path / "base", max_seq_len=2048, num_layers=1, intermediate_size=32)
    fast = {"model.remat": False, "data.row_length": 1024, "epochs": 1}
    own = {**fast, "model.name": tmp_path / "base", "batch_size": 24}
    few = "helpsteer2:mini/train.jsonl[:12]"
    settings = {
        "reward": {**own, "data.train": few, "data.validation": few},
        "sft": {**own, "data.train": few, "data.validation": few},
        "annotation": {"data": few},
        "steerlm": {**own, "data.train": RATINGS, "data.validation": RATINGS},
        "samples_1": {"n": 3, "max_new_tokens": 8},
        "round_1": fast,
        "steering": {"max_new_tokens": 8, "requested": "(0,4)"},
    }
    flags = [
        f"--config.{stage}.{key}={value}"
        for stage, of in settings.items()
        for key, value in of.items()
    ]
    run = tmp_path / "run"
    command = ["run", "--config=configs/steerlm2.py:runlocal", f"--workdir={run}", *flags]
    said = succeed(*command)
    assert f"report: {run / 'report.html'}" in said
    assert f"model: {run / 'round_1' / 'model'}" in said
    assert {each.name for each in run.iterdir() if each.is_dir()} == set(STAGES)

    page = (run / "report.md").read_text(encoding="utf-8")
    assert all(stage in page for stage in STAGES)

    # What each stage made is what the next one learned from.
    rows = stages.read(run / "groups_1" / "groups.jsonl")
    assert 2 < len(rows) <= len(stages.read(run / "samples_1" / "samples.jsonl")) == 6
    trained = json.loads((run / "round_1" / "result.json").read_text())
    assert trained["records"]["train"]["groups"] == len(rows) - 2
    start = json.loads((run / "round_1" / "metrics.jsonl").read_text().splitlines()[0])
    assert (start["kind"], start["step"]) == ("validation", 0)
    annotated = stages.read(run / "annotation" / "annotated.jsonl")
    assert tuple(annotated[0]["ratings"][0]) == ATTRIBUTES
