"""Pairs, selections, emotions and knowledge on disk as `hs2jax judge` leaves them before the page.

Real results of planted judges, on made-up data.
"""

import dataclasses
import json
import zlib

import numpy as np
from evaluations import EVIL, HARD_TEXTS
from planted_judge import PlantedJudge
from test_emotions import knows as knows_intensities
from test_emotions import row as dialogue
from test_knowledge import knows as knows_answers
from test_knowledge import questions
from test_pairwise import HELPFUL, WEIGHTS, PlantedPairs, worth_groups

from hs2jax.judging import emotions, knowledge, pairwise, selection

TASKS = ("pairs", "selection", "emotions", "knowledge")
NOISE = (9.0, 3.0, 1.5, 5.0)  # The third layer knows best.
ROWS = 60


def make(folder, task):
    """Fills a folder with what a task leaves in it, and returns it."""
    made = {"pairs": _compared, "selection": _selected, "emotions": _felt, "knowledge": _known}
    write_result(folder, task, made[task](folder))
    return folder


def write_result(folder, task, result, **changes):
    evaluation = {
        "model": {
            "name": "models/SmolLM2-135M-Instruct",
            "checksum": "9f86d081884c7d65",
            "layers": 3,
            "dtype": "float32",
        },
        "task": task,
        "preset": "recommended",
        "result": result,
        "environment": {"device": "cpu", "jax": "0.10.2"},
        "seconds": 131.0,
        "config": {
            "data": "llmbar:data/pairs.json",
            "weights": "runs/other/weights.json" if task == "pairs" else "",
            "seed": 1234,
        },
        **changes,
    }
    (folder / "judge.json").write_text(json.dumps(evaluation, allow_nan=False), encoding="utf-8")
    return evaluation


class WaveringPairs(PlantedPairs):
    """Answers with A or B are unsure, and differ between layers."""

    def _reading(self, request):
        reading = super()._reading(request)
        if request.answers == ("A", "B"):
            rng = np.random.default_rng(zlib.crc32(request.item.encode()))
            reading.logits[...] += rng.normal(size=reading.logits.shape) * self.noise[:, None]
        return reading


def _compared(folder):
    rng = np.random.default_rng(0)
    groups = [
        dataclasses.replace(
            each, responses=tuple(text + " more" * rng.integers(9) for text in each.responses)
        )
        for each in worth_groups(80, 60)
    ]
    judge = WaveringPairs((3.0, 2.0, 1.0, 2.0), likes_a=0.5)
    return pairwise.evaluate(judge, groups, HELPFUL, folder / "readings", weights=WEIGHTS)


def _selected(folder):
    rng = np.random.default_rng(0)
    rows = [
        {
            "instruction": HARD_TEXTS[i] if i in (0, 1, 4) else f"Task {i}. {EVIL}",
            "input": "",
            "output": f"quality {rng.uniform(1, 9):.3f} {EVIL} " + "word " * rng.integers(400),
        }
        for i in range(ROWS)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def likes(request, q):
        return float(request.item.split("quality ")[1].split()[0])

    judge = PlantedJudge(likes, NOISE)
    return selection.select(judge, f"instructions:{path}", folder, fraction=0.25)


def _felt(folder):
    path = folder / "questions.json"
    rows = [dialogue(f"Ann: I won {i}!\nBob: Oh.", n=i) for i in range(20)]
    path.write_text(json.dumps(dict(enumerate(rows))))
    judge = PlantedJudge(knows_intensities(emotions.read(str(path))), NOISE)
    return emotions.evaluate(judge, str(path), folder)


def _known(folder):
    path = folder / "questions.json"
    path.write_text(json.dumps({"example": questions(90)}))
    return knowledge.evaluate(PlantedJudge(knows_answers, NOISE), str(path), folder)
