"""Small runs of `hs2jax judge` for tests: a tiny model, data for it, and what a run wrote."""

import functools
import json
from pathlib import Path

import numpy as np
import tiny
from stages import write

from hs2jax import configs, workdir
from hs2jax.judging import evaluate

SET = "ratings-rated"  # Of the data that a run judges.
CRITERIA = [
    {"name": "helpfulness", "definition": "It helps."},
    {"name": "verbosity", "definition": "It is long.", "levels": ["a", "b", "c", "d", "e"]},
]


def rated_rows(n: int) -> list[dict]:
    """Two responses of each prompt, one of which nobody has rated by verbosity."""
    return [
        {
            "prompt": f"Is {i} odd?",
            "responses": [str(bool(i % 2)), "I forgot" + i % 7 * "."],
            "ratings": [
                {"helpfulness": 1 + 4 * i % 5, "verbosity": 1.5 if i % 3 else 1},
                {"helpfulness": 1 + i % 3, "verbosity": 2 + i % 4 if i else None},
            ],
        }
        for i in range(n)
    ]


OWN = [
    {"prompt": "What is the capital of France?", "responses": ["Paris.", "Rome."]},
    {
        "messages": [
            {"role": "user", "content": "How do I bake bread?"},
            {"role": "assistant", "content": "Which flour have you got?"},
            {"role": "user", "content": "Rye."},
            {"role": "assistant", "content": "Mix it with water and yeast."},
        ]
    },
]


def prepare(folder: Path) -> Path:
    """Writes what runs need: a language model, a reward model, criteria, data with and without
    ratings."""
    tiny.language_model(folder / "model", max_seq_len=4096)
    tiny.save(
        folder / "reward",
        outputs=("helpfulness", "other"),
        weights={"helpfulness": 0.0, "other": -2.0},
        tied=False,
    )
    (folder / "criteria.json").write_text(json.dumps(CRITERIA))
    write(folder / "rated.jsonl", rated_rows(8))
    write(folder / "own.jsonl", OWN)
    return folder


def settings_of(here: Path, model: str | Path = "model", **settings) -> dict:
    given = {"model.name": str(here / model), "data": f"ratings:{here / 'rated.jsonl'}"}
    if settings.get("task", "scores") in ("scores", "pairs"):
        given["criteria"] = str(here / "criteria.json")
    return given | {k: str(v) if isinstance(v, Path) else v for k, v in settings.items()}


def run(here: Path, folder: Path, **settings) -> list[dict]:
    """Judges in this process, and returns the rows."""
    config = configs.defaults("judge")
    for key, value in settings_of(here, **settings).items():
        *parents, name = key.split(".")
        functools.reduce(getattr, parents, config)[name] = value
    return evaluate.judge(config, folder)


def result_of(folder: Path) -> dict:
    return workdir.read_json(folder / "result.json")


def items_of(folder: Path, name: str = SET) -> list[dict]:
    return workdir.read_rows(folder / "items" / f"{name}.jsonl")


def column(items, method: str) -> np.ndarray:
    return np.array([item["scores"][method] for item in items], float)


def people(items) -> np.ndarray:
    return np.array([item["human"] for item in items], float)
