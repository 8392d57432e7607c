"""Best of n: what picking is worth, by counting all subsets, and `hs2jax score --best`."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import raters
import tiny
from command import fail, succeed
from hypothesis import given, settings
from hypothesis import strategies as st
from stages import read, write

from hs2jax.evaluation import best_of_n
from hs2jax.evaluation.statistics import wilson
from hs2jax.report.run import Run, find, select
from hs2jax.reward_model import RewardModel

# Worth ------------------------------------------------------------------------------------------

# Few values, so that equal rewards are common.
REWARDS = st.lists(st.integers(-2, 2).map(float), min_size=1, max_size=7)


def over_subsets(row, worth, n):
    """The mean worth of the first best of every subset of n candidates."""
    subsets = list(itertools.combinations(range(len(row)), n))
    return np.mean([worth[max(s, key=lambda i: (row[i], -i))] for s in subsets])


def by_size(items) -> dict[int, dict]:
    """The rows of each n, by metric."""
    rows = best_of_n.curve(items)
    json.dumps(rows, allow_nan=False)
    found: dict = {}
    for row in rows:
        found.setdefault(int(row["part"].removeprefix("n/")), {})[row["metric"]] = row
    return found


@settings(max_examples=50)
@given(st.lists(REWARDS, min_size=1, max_size=4), st.data())
def test_the_curve_equals_counting_all_subsets(rewards, data):
    correct = [[data.draw(st.sampled_from([0.0, 1.0])) for _ in row] for row in rewards]
    items = raters.of_candidates(rewards, [[{"correct": c} for c in row] for row in correct])
    found = by_size(items)
    assert list(found) == list(range(1, max(map(len, rewards)) + 1))
    for n, rows in found.items():
        able = [(row, c) for row, c in zip(rewards, correct, strict=True) if len(row) >= n]
        assert {row["n"] for row in rows.values()} == {len(able)}
        mean = np.mean([over_subsets(row, row, n) for row, _ in able])
        assert rows["reward"]["value"] == pytest.approx(mean)
        assert rows["reward"]["kl"] == pytest.approx(np.log(n) - (n - 1) / n)
        accuracy = np.mean([over_subsets(row, c, n) for row, c in able])
        assert rows["rating"]["method"] == "correct"
        for name in ("rating", "correct"):
            assert rows[name]["value"] == pytest.approx(accuracy)
        for row in rows.values():
            if row["low"] is not None:
                assert row["low"] - 1e-9 <= row["value"] <= row["high"] + 1e-9
        if len(able) == 1:
            assert rows["reward"]["low"] is None


def test_weights_are_a_distribution_where_factorials_overflow():
    for n in (1, 2, 5_000, 9_999, 10_000):
        weights = best_of_n.weights(10_000, n)
        assert np.isfinite(weights).all()
        assert weights.min() >= 0
        assert weights.sum() == pytest.approx(1)


def test_sizes_by_default():
    sizes = by_size(raters.of_candidates([np.arange(100)]))
    assert list(sizes) == [*range(1, 17), 32, 64, 100]
    assert best_of_n.curve([]) == []


def test_pick_takes_the_first_of_equals_and_counts():
    items = raters.of_candidates([[1.0, 2.0, 2.0], [3.0, 1.0], [0.0, 0.0]])
    assert best_of_n.pick(items) == ([1, 0, 0], 2)


def test_win_rate_by_hand():
    items = raters.of_candidates([[1.0, 4.0], [2.0], [0.0], [9.0]])
    reference = raters.of_candidates([[3.0], [2.0, 1.0], [5.0]])
    reference.append({**reference[0], "prompt": "Only here"})
    found = best_of_n.win_rate(items, reference)
    assert [found[key] for key in ("wins", "ties", "losses")] == [1, 1, 1]
    assert (found["missing"], found["missing_reference"]) == (1, 1)
    assert (found["value"], found["reference"], found["n"]) == (0.5, 0.5, 3)
    assert (found["low"], found["high"]) == pytest.approx(wilson(1.5, 3))
    with pytest.raises(ValueError, match="nothing in common"):
        best_of_n.win_rate(items, reference[3:])


# The command ------------------------------------------------------------------------------------

SYSTEM = {"role": "system", "content": "Answer in one word."}
WEIGHTS = {"helpfulness": 0.65, "verbosity": -0.4}


def asked(text: str, *before: dict) -> list[dict]:
    return [*before, {"role": "user", "content": text}]


# The same last turn twice, in two conversations; different numbers of candidates.
PROMPTS = [
    asked("Is 7 odd?"),
    asked("Is 7 odd?", SYSTEM),
    asked("Which is the capital of France?"),
    asked("How do I bake bread?"),
]
ANSWERS = [
    ["Yes.", "No, it is even.", "I forgot."],
    ["Yes.", "No.", "Maybe, who knows?", "Seven."],
    ["Paris.", "It is Lyon.", "The capital of France is Paris.", "Bread!", "Two."],
    ["Mix flour, water, salt and yeast.", "Buy it.", "Let the dough rise."],
]
REFERENCE = ["It is.", "Odd.", "Paris is.", "With flour."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model with weights, one without, and rows of candidates and of reference responses."""
    folder = tmp_path_factory.mktemp("best")
    tiny.save(folder / "model", outputs=tuple(WEIGHTS), weights=WEIGHTS)
    tiny.save(folder / "unweighted", outputs=tuple(WEIGHTS))
    write(
        folder / "candidates.jsonl",
        [{"prompt": p, "responses": a} for p, a in zip(PROMPTS, ANSWERS, strict=True)],
    )
    # Not in the order of the candidates, and one prompt less.
    rows = [{"prompt": p, "response": r} for p, r in zip(PROMPTS, REFERENCE, strict=True)]
    write(folder / "reference.jsonl", [*rows[:0:-1], {"prompt": "Else?", "response": "No."}])
    return folder


def rewards(folder: Path, prompt: list[dict], answers: list[str]) -> list[float]:
    talks = [[*prompt, {"role": "assistant", "content": a}] for a in answers]
    return [score.reward for score in RewardModel.load(folder / "model").score(talks)]


def command(folder: Path, out: Path, *options: str, data="candidates.jsonl") -> list[str]:
    return [
        "score",
        f"--model={folder / 'model'}",
        f"--data=responses:{folder / data}",
        f"--output={out / 'scores.jsonl'}",
        *options,
    ]


def picked(folder: Path, out: Path, *options: str, **more) -> tuple[list[dict], list[dict]]:
    """best.jsonl and the rows of a command that ends well."""
    place = out / "best"
    printed = succeed(*command(folder, out, f"--best={place}", *options, **more))
    assert f"report: {place / 'report.html'}" in printed
    return read(place / "best.jsonl"), Run(place).rows


def curve(rows: list[dict]) -> dict[str, tuple[float, int]]:
    return {row["part"]: (row["value"], row["n"]) for row in select(rows, metric="reward")}


def test_the_response_with_the_highest_reward_is_picked_and_its_worth_told(folder, tmp_path):
    best, rows = picked(folder, tmp_path)
    tables = [rewards(folder, p, a) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    assert [row["prompt"] for row in best] == PROMPTS
    for i, (row, found, answers) in enumerate(zip(best, tables, ANSWERS, strict=True)):
        assert row["response"] == answers[row["index"]]
        assert row["index"] == int(np.argmax(found))
        assert row["reward"] == pytest.approx(max(found), abs=1e-5)
        assert row["candidates"] == len(answers)
        assert row["source"].endswith(f"candidates.jsonl:{i + 1}")
    assert {row["index"] for row in best} != {0}  # Else the first would always do.
    assert [find(rows, metric=m)["value"] for m in ("prompts", "ties_at_top")] == [4, 0]
    assert find(rows, metric="win_rate") is None
    assert [row["responses"] for row in read(tmp_path / "scores.jsonl")] == ANSWERS
    whole, prompts = curve(rows)["n/5"]
    assert (whole, prompts) == (pytest.approx(max(tables[2]), abs=1e-5), 1)
    assert [curve(rows)[f"n/{n}"][1] for n in range(1, 6)] == [4, 4, 4, 2, 1]
    # Only up to three candidates do all prompts have, so only so far can means be compared.
    (headline,) = select(rows, headline=True)
    assert headline["part"] == "n/3"


def test_rows_of_one_prompt_are_its_candidates(folder, tmp_path):
    lines = [
        {"prompt": p, "response": a}
        for p, answers in zip(PROMPTS, ANSWERS, strict=True)
        for a in answers
    ]
    write(tmp_path / "single.jsonl", lines)
    once, first = picked(folder, tmp_path / "once")
    again, second = picked(folder, tmp_path / "again", data=tmp_path / "single.jsonl")
    for one, other in zip(once, again, strict=True):
        names = ("prompt", "response", "index", "candidates")
        assert [one[name] for name in names] == [other[name] for name in names]
    for part, (value, _) in curve(first).items():
        assert curve(second)[part][0] == pytest.approx(value, abs=1e-5)


def test_the_win_rate_is_of_the_same_conversations(folder, tmp_path):
    reference = f"--reference=responses:{folder / 'reference.jsonl'}"
    best, rows = picked(folder, tmp_path / "a", reference)
    against = [rewards(folder, p, [r])[0] for p, r in zip(PROMPTS, REFERENCE, strict=True)]
    wins = sum(row["reward"] > other for row, other in list(zip(best, against, strict=True))[1:])
    won = find(rows, metric="win_rate")
    assert (won["n"], won["wins"], won["losses"]) == (3, wins, 3 - wins)
    assert won["value"] == pytest.approx(wins / 3)
    assert (won["missing"], won["missing_reference"]) == (1, 1)
    # It never loses against its own candidates.
    _, rows = picked(folder, tmp_path / "b", f"--reference=responses:{folder / 'candidates.jsonl'}")
    won = find(rows, metric="win_rate")
    assert (won["ties"], won["value"]) == (4, 0.5)


def test_without_one_reward_nothing_is_picked_and_nothing_written(folder, tmp_path):
    flags = command(folder, tmp_path, f"--best={tmp_path / 'best'}")
    flags[1] = f"--model={folder / 'unweighted'}"
    said = fail(*flags)
    assert "has the outputs helpfulness, verbosity" in said
    assert "give weights" in said
    assert not list(tmp_path.iterdir())
    succeed(*flags, "--weights=verbosity=-1")
    assert [row["prompt"] for row in read(tmp_path / "best" / "best.jsonl")] == PROMPTS


BAD = {
    "a reference without best": (["--reference=responses:{folder}/reference.jsonl"], "--best"),
    "no such reference": (["--best={out}", "--reference=responses:gone.jsonl"], "gone.jsonl"),
    "no such format": (["--best={out}", "--reference=guesses:gone.jsonl"], "guesses"),
    "nothing in common": (
        ["--best={out}", "--reference=responses:{folder}/reference.jsonl[3:]"],
        "nothing in common",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_flags_are_said_and_nothing_is_picked(case, folder, tmp_path):
    flags, words = BAD[case]
    options = [flag.format(folder=folder, out=tmp_path / "best") for flag in flags]
    assert words in fail(*command(folder, tmp_path, *options))
    assert not (tmp_path / "best").exists()
