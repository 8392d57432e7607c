"""`hs2jax score --best` and `--reference`: which responses are picked, and what that is worth."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from command import fail, succeed

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


def write(path: Path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


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


def picked(folder: Path, out: Path, *options: str, **more) -> tuple[list[dict], dict]:
    """best.jsonl and best_of_n.json of a command that ends well."""
    place = out / "best"
    printed = succeed(*command(folder, out, f"--best={place}", *options, **more))
    assert f"report: {place / 'report.html'}" in printed
    rows = [json.loads(line) for line in (place / "best.jsonl").read_text().splitlines()]
    return rows, json.loads((place / "best_of_n.json").read_text())


def test_the_response_with_the_highest_reward_is_picked(folder, tmp_path):
    rows, result = picked(folder, tmp_path)
    assert [row["prompt"] for row in rows] == PROMPTS
    for i, (row, prompt, answers) in enumerate(zip(rows, PROMPTS, ANSWERS, strict=True)):
        found = rewards(folder, prompt, answers)
        assert row["response"] == answers[row["index"]]
        assert row["index"] == int(np.argmax(found))
        assert row["reward"] == pytest.approx(max(found), abs=1e-5)
        assert row["candidates"] == len(answers)
        assert row["source"].endswith(f"candidates.jsonl:{i + 1}")
    assert {row["index"] for row in rows} != {0}  # Else the first would always do.
    assert (result["prompts"], result["ties"], result["win_rate"]) == (4, 0, None)
    lines = (tmp_path / "scores.jsonl").read_text().splitlines()
    assert [json.loads(line)["responses"] for line in lines] == ANSWERS


def test_the_curve_is_that_of_all_subsets(folder, tmp_path):
    _, result = picked(folder, tmp_path)
    tables = [rewards(folder, p, a) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    assert [each["n"] for each in result["curve"]] == [1, 2, 3, 4, 5]
    for each in result["curve"]:
        n = each["n"]
        best = [
            np.mean([max(some) for some in itertools.combinations(found, n)])
            for found in tables
            if len(found) >= n
        ]
        assert each["prompts"] == len(best)
        assert each["reward"] == pytest.approx(np.mean(best), abs=1e-5)
    # Only up to three candidates do all prompts have, so only so far can means be compared.
    three = result["curve"][2]["reward"]
    page = (tmp_path / "best" / "report.md").read_text()
    assert f"The best of 3 candidates has a mean reward of {three:+.2f}" in page.replace("−", "-")


def test_rows_of_one_prompt_are_its_candidates(folder, tmp_path):
    rows = [
        {"prompt": p, "response": a}
        for p, answers in zip(PROMPTS, ANSWERS, strict=True)
        for a in answers
    ]
    write(tmp_path / "single.jsonl", rows)
    once, first = picked(folder, tmp_path / "once")
    again, second = picked(folder, tmp_path / "again", data=tmp_path / "single.jsonl")
    for one, other in zip(once, again, strict=True):
        one, other = (
            {name: x for name, x in row.items() if name not in ("source", "reward")}
            for row in (one, other)
        )
        assert one == other
    for one, other in zip(first["curve"], second["curve"], strict=True):
        assert one["reward"] == pytest.approx(other["reward"], abs=1e-5)


def test_the_win_rate_is_of_the_same_conversations(folder, tmp_path):
    reference = f"--reference=responses:{folder / 'reference.jsonl'}"
    rows, result = picked(folder, tmp_path, reference)
    against = [rewards(folder, p, [r])[0] for p, r in zip(PROMPTS, REFERENCE, strict=True)]
    wins = sum(row["reward"] > other for row, other in list(zip(rows, against, strict=True))[1:])
    won = result["win_rate"]
    assert (won["prompts"], won["wins"], won["losses"]) == (3, wins, 3 - wins)
    assert won["win_rate"] == pytest.approx(wins / 3)
    assert (won["missing"], won["missing_reference"]) == (1, 1)
    assert "Against the reference" in (tmp_path / "best" / "report.html").read_text()


def test_what_picks_best_never_loses_against_its_own_candidates(folder, tmp_path):
    reference = f"--reference=responses:{folder / 'candidates.jsonl'}"
    _, result = picked(folder, tmp_path, reference)
    assert (result["win_rate"]["ties"], result["win_rate"]["win_rate"]) == (4, 0.5)


def test_a_single_candidate_is_nothing_to_pick_from(folder, tmp_path):
    rows, result = picked(folder, tmp_path, data="reference.jsonl")
    assert [row["index"] for row in rows] == [0] * 4
    assert [each["n"] for each in result["curve"]] == [1]
    assert "nothing to pick from" in (tmp_path / "best" / "report.md").read_text()


def test_without_one_reward_nothing_is_picked_and_nothing_written(folder, tmp_path):
    flags = command(folder, tmp_path, f"--best={tmp_path / 'best'}")
    flags[1] = f"--model={folder / 'unweighted'}"
    said = fail(*flags)
    assert "has the outputs helpfulness, verbosity" in said
    assert "give weights" in said
    assert not list(tmp_path.iterdir())
    succeed(*flags, "--weights=verbosity=-1")
    best = [json.loads(row) for row in (tmp_path / "best" / "best.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in best] == PROMPTS


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
