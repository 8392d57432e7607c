"""`hs2jax judge` for pairs and for the paper's downstream uses, on a tiny model."""

import json
from pathlib import Path

import numpy as np
import pytest
from command import fail, succeed
from judge_runs import flags, judged, prepare, write
from test_emotions import row as dialogue
from test_knowledge import questions

from hs2jax.data import corpora
from hs2jax.judging import criteria, emotions, knowledge, lager, layer_weights, pairwise
from hs2jax.judging.judge import Judge
from hs2jax.models.checksum import checksum


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    return prepare(tmp_path_factory.mktemp("here"))


@pytest.fixture(scope="module")
def foreign(here) -> tuple[Path, list[float]]:
    """A file of weights that were fitted with other prompts on another scale, and its weights."""
    path, weights = here / "weights.json", [0.4, 0.1, 0.2, 0.3]
    layer_weights.save(
        path,
        layer_weights.Fit(np.array(weights), 1.0, 0.9, 10, 100, "converged", 0),
        model="here",
        checksum=checksum(Judge.load(str(here / "model")).model.params),
        template="of other prompts",
        preset=lager.PRESETS["paper"],
        scale=range(1, 6),
        data="other data",
    )
    return path, weights


def test_training_data_is_selected(here, foreign, tmp_path):
    rows = [
        {"instruction": f"Task {i}.", "input": "", "output": "word " * (1 + i % 4), "more": [i]}
        for i in range(10)
    ]
    rows[3]["output"] = "word " * 6000
    data = f"instructions:{write(tmp_path / 'rows.jsonl', rows)}"
    settings = {"data": data, "fraction": 0.3, "weights": foreign[0], "preset": "paper"}
    workdir = tmp_path / "run"
    printed = succeed("judge", *flags(here, workdir, config="data_selection", **settings))
    result = judged(workdir)["result"]
    assert judged(workdir)["task"] == "selection"
    assert (result["chosen_by"], result["rows"], result["selected"]) == ("lager_w", 9, 3)
    assert result["left_out"] == {"too long": 1}
    found = [json.loads(line) for line in (workdir / "scores.jsonl").open()]
    best = sorted(found, key=lambda row: -row["means"]["lager_w"])[:3]
    places = sorted(int(row["source"].rpartition(":")[2]) for row in best)
    selected = (workdir / "selected.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in selected] == [rows[place - 1] for place in places]
    for row in found:
        mean = np.mean(list(row["scores"].values()))
        np.testing.assert_allclose(row["means"]["lager_w"], mean, atol=1e-5)
    assert "selection: 3 of 9 rows by lager_w" in printed

    settings |= {"weights": "", "max_tokens": 20}
    said = fail("judge", *flags(here, tmp_path / "short", config="data_selection", **settings))
    assert "no row could be judged (left out: too long 10)" in said


@pytest.mark.parametrize("given", [False, True], ids=["fitted", "given"])
@pytest.mark.parametrize("task", ["emotions", "knowledge"])
def test_feelings_and_knowledge_are_judged(here, foreign, tmp_path, task, given):
    path = tmp_path / "questions.json"
    if task == "emotions":
        talks = [dialogue(f"Ann: I won {i} times!\nBob: Oh.", n=i) for i in range(6)]
        path.write_text(json.dumps({str(i): talk for i, talk in enumerate(talks, 1)}))
    else:
        path.write_text(json.dumps({"example": questions(18)}))
    settings = {"data": path, "weights": foreign[0] if given else "", "preset": "paper"}
    printed = succeed("judge", *flags(here, tmp_path / "run", config=task, **settings))
    written = judged(tmp_path / "run")
    result = written["result"]
    assert (written["task"], written["preset"]) == (task, "paper")
    assert list(result["scores"]) == list(lager.AGGREGATIONS)
    assert result["n"] == {"emotions": 24, "knowledge": 18}[task]
    assert result["weights_from"] == ("given" if given else "cross-validation")
    if given:
        np.testing.assert_allclose(result["weights"], foreign[1], atol=1e-6)
    else:
        np.testing.assert_allclose(sum(result["weights"]), 1, atol=1e-5)
    assert task in printed
    # The way to the function itself changes nothing.
    module = {"emotions": emotions, "knowledge": knowledge}[task]
    weights = np.array(foreign[1], np.float32) if given else None
    judge = Judge.load(str(here / "model"))
    again = module.evaluate(judge, str(path), tmp_path / "run", preset="paper", weights=weights)
    assert json.loads(json.dumps(again)) == result


def test_pairs_are_compared(here, tmp_path):
    rows = [{"prompt": f"Is {i} odd?", "chosen": str(i % 2), "rejected": "No."} for i in range(4)]
    data = f"preference:{write(tmp_path / 'pairs.jsonl', [*rows, {'prompt': 'And 5?'}])}"
    settings = {"task": "pairs", "data": data, "criteria": "helpfulness", "on_error": "skip"}
    succeed("judge", *flags(here, tmp_path / "run", preset="paper", **settings))
    result = judged(tmp_path / "run")["result"]
    assert (result["pairs"], result["criterion"]) == (4, "helpfulness")
    assert result.pop("left_out") == {"missing field": 1}
    # The way to the function itself changes nothing.
    again = pairwise.evaluate(
        Judge.load(str(here / "model")),
        list(corpora.read(f"{data}[:4]")),
        criteria.find("helpfulness"),
        None,
        preset="paper",
    )
    assert again.pop("left_out") == {}
    assert json.loads(json.dumps(again)) == result
