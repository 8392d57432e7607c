"""`hs2jax score --best` and `--reference`: which responses are picked, and what that is worth."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import tiny
from command import fail, succeed
from stages import read, write

from hs2jax.report.run import Run, find, select
from hs2jax.reward_model import RewardModel

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
    # The curve is that of all subsets.
    assert list(curve(rows)) == [f"n/{n}" for n in range(1, 6)]
    for n in range(1, 6):
        able = [found for found in tables if len(found) >= n]
        means = [np.mean([max(s) for s in itertools.combinations(x, n)]) for x in able]
        value, prompts = curve(rows)[f"n/{n}"]
        assert prompts == len(means)
        assert value == pytest.approx(np.mean(means), abs=1e-5)
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
