"""`hs2jax evaluate` from end to end on a tiny model: sets, benchmarks, settings, bad input."""

from pathlib import Path

import numpy as np
import pytest
import stages
import tiny
from command import fail, succeed

from hs2jax.data import corpora
from hs2jax.data.groups import Group
from hs2jax.data.record import Record
from hs2jax.evaluation import attribute_weights, calibration, length, measures
from hs2jax.evaluation import items as item_files
from hs2jax.evaluation.scores import Scored
from hs2jax.report.run import Run, find, select
from hs2jax.reward_model import RewardModel

CONFIG = Path(__file__).parent.parent / "configs" / "evaluate.py"
OUTPUTS = ("helpfulness", "verbosity")
PAIRS = "helpsteer2_preference:mini/preference.jsonl[val]"
RATINGS = "helpsteer2:mini/train.jsonl[:6]"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny.save(
        folder, outputs=OUTPUTS, weights={"helpfulness": 1.0, "verbosity": -0.5}, max_seq_len=2048
    )
    return folder


def flags(model, workdir, **settings) -> list[str]:
    given = [f"--config.{key}={value}" for key, value in settings.items()]
    return [f"--config={CONFIG}:{model}", f"--workdir={workdir}", *given]


def reward_bench(path: Path, subsets: dict[str, int], **first) -> str:
    """A file in RewardBench's form, of questions with a right and a wrong sum; in the first row
    some fields are others."""
    rows = [
        {
            "prompt": f"How much is {i} and {i}? ({subset})",
            "chosen": f"It is {2 * i}.",
            "rejected": f"{2 * i + 1}",
            "subset": subset,
            "id": i,
        }
        for subset, count in subsets.items()
        for i in range(count)
    ]
    return f"reward_bench:{stages.write(path, [rows[0] | first, *rows[1:]])}"


def test_sets_are_scored_and_told(model, tmp_path):
    printed = succeed("evaluate", *flags(model, tmp_path, data=f"{PAIRS}+{RATINGS}"))
    run, loaded = Run(tmp_path), RewardModel.load(model)
    assert run.sets() == ["helpsteer2_preference-preference-val", "helpsteer2-train-6"]
    for name in run.sets():
        items, groups = run.items(name), list(corpora.read(run.result["sets"][name]["data"]))
        assert [item["source"] for item in items] == [group.source for group in groups]
        for item, group in list(zip(items, groups, strict=True))[:2]:
            talks = [[*group.prompt, {"role": "assistant", "content": r}] for r in group.responses]
            found = [score.reward for score in loaded.score(talks)]
            np.testing.assert_allclose(item["rewards"], found, atol=1e-5)
        expected = measures.rows(name, items, OUTPUTS) + length.rows(name, items)
        expected += calibration.rows(name, items)
        bare = [
            {key: x for key, x in row.items() if key not in ("kind", "headline")}
            for row in select(run.rows, set=name)
        ]
        assert bare[: len(expected)] == expected
        counts = [find(run.rows, set=name, metric=m)["value"] for m in ("groups", "responses")]
        assert counts == [len(items), sum(len(item["responses"]) for item in items)]
        assert run.result["sets"][name]["benchmark"] is None
        assert name in printed
    assert find(run.rows, set=run.sets()[0], metric="accuracy")["n"] > 10
    weights = {row["part"]: row["value"] for row in select(run.rows, metric="weight")}
    assert weights == {"attribute/helpfulness": 1.0, "attribute/verbosity": -0.5}
    assert f"report: {tmp_path / 'report.html'}" in printed
    # Finished, it says the same again and computes nothing.
    again = succeed("evaluate", *flags(model, tmp_path, data=f"{PAIRS}+{RATINGS}"))
    assert [line for line in again.splitlines() if line in printed.splitlines()]
    assert "different: data" in fail("evaluate", *flags(model, tmp_path, data=PAIRS))


def test_the_files_of_a_benchmark_are_one_set_and_what_is_left_out_is_missing(model, tmp_path):
    path, subsets = tmp_path / "a.jsonl", {"alpacaeval-easy": 3, "hep-python": 2}
    first = reward_bench(path, subsets, chosen="So. " * 3000)
    second = reward_bench(tmp_path / "b.jsonl", {"alpacaeval-easy": 2, "mt-bench-med": 40})
    settings = {"data": f"{first}+{second}"}
    said = fail("evaluate", *flags(model, tmp_path / "run", **settings))
    assert f"{path}:1: a conversation of 12045 tokens is longer than the 2048 that fit" in said
    assert "on_error=skip" in said
    assert not (tmp_path / "run" / "result.json").exists()
    settings["on_error"] = "skip"
    succeed("evaluate", *flags(model, tmp_path / "other", **settings))
    run = Run(tmp_path / "other")
    assert run.sets() == ["reward_bench"]
    assert find(run.rows, metric="score", part="") is None
    chat = find(run.rows, metric="score", part="section/Chat")
    assert (chat["n"], chat["expected"], chat["complete"]) == (44, 358, False)
    assert find(run.rows, metric="left_out")["value"] == 1
    assert run.result["records"]["reward_bench"]["too_long"] == 1
    easy = find(run.rows, metric="score", part="section/Chat/alpacaeval-easy")
    assert (easy["n"], easy["expected"]) == (4, 100)
    page = (tmp_path / "other" / "report.md").read_text(encoding="utf-8")
    assert "Incomplete" in page


def test_weights_are_searched_on_validation_pairs_and_overlap_is_warned_of(model, tmp_path):
    settings = {"data": f"{PAIRS}+{RATINGS}", "model.weights": "search", "validation": PAIRS}
    for data, warned in ((RATINGS, False), (f"{PAIRS}+{RATINGS}", True)):
        settings["data"] = data
        place = tmp_path / str(warned)
        succeed("evaluate", *flags(model, place, seed=3, **settings))
        run = Run(place)
        held_out, temperature = (
            find(run.rows, set="", metric=m) for m in ("held_out", "temperature")
        )
        assert bool(run.result["warnings"]) == warned
        assert temperature["value"] > 0
        assert temperature["n"] == held_out["n"]
        fitted = find(run.rows, metric="brier", method="fitted temperature")
        assert (fitted is not None) == warned  # Of sets with pairs.
    weights = run.result["model"]["weights"]
    found = {row["part"]: row["value"] for row in select(run.rows, metric="weight")}
    assert found == {f"attribute/{name}": value for name, value in weights.items()}
    for item in run.items("helpsteer2-train-6"):
        rewards = np.array(item["outputs"]) @ [weights[name] for name in OUTPUTS]
        np.testing.assert_allclose(item["rewards"], rewards, atol=1e-5)


def test_published_weights_are_known_by_name(tmp_path):
    published = attribute_weights.PUBLISHED["llama3_70b"]
    tiny.save(tmp_path / "other", outputs=tuple(published))
    settings = {"data": PAIRS, "model.weights": "llama3_70b"}
    succeed("evaluate", *flags(tmp_path / "other", tmp_path / "run", **settings))
    assert Run(tmp_path / "run").result["model"]["weights"] == published


BAD = {  # What is seen in the config alone is tested at its check.
    "weights of other outputs": ({"model.weights": "clarity=1"}, "clarity"),
    "too short a length": ({"max_tokens": 5}, "longer than the 5 that fit"),
    "no pairs to fit on": ({"validation": RATINGS}, "config.validation"),
    "too few to search on": (
        {"validation": "helpsteer2_preference:mini/preference.jsonl[:3]"}
        | {"model.weights": "search"},
        "config.validation: a search in 5 folds",
    ),
    "an attribute that nobody rated": (
        {"data": RATINGS, "derive": "clarity"},
        "config.derive is 'clarity'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_said(case, model, tmp_path):
    settings, words = BAD[case]
    assert words in fail("evaluate", *flags(model, tmp_path / "run", **settings))
    assert not (tmp_path / "run" / "result.json").exists()


def test_pairs_are_a_benchmarks_own_and_derived_ones_those_of_other_data():
    prompt = ({"role": "user", "content": "Is 7 odd?"},)
    right, wrong = {"correct": 1.0}, {"correct": 0.0}
    rated = ({"correct": 1.0, "helpfulness": 1.0}, {"correct": 0.0, "helpfulness": 3.0})

    def pairs(ratings, derive):
        group = Group(prompt, ("Yes.",) * len(ratings), ratings=ratings)
        table = np.zeros((len(ratings), 1), np.float32)
        scored = Scored(group, table, [1] * len(ratings), 0, names)
        return item_files.of(scored, np.ones(1), derive, record)["pairs"]

    names, record = ["a", "b", "c"], Record()

    for derive in (None, "helpfulness"):
        assert pairs((right, right, wrong), derive) == [[0, 2, 1.0], [1, 2, 1.0]]
    assert pairs(rated, "helpfulness") == [[1, 0, 2.0]]
    assert pairs(rated, None) == []
    names = ["a", "a", "b"]  # Of what the model reads.
    assert pairs(rated, "helpfulness") == []
    assert pairs((right, wrong, wrong), None) == [[0, 2, 1.0]]
    assert record.indistinct == 2
