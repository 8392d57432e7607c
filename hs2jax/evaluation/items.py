"""Scored groups as plain dicts: what statistics and reports are made from."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hs2jax.data.loader import Prepared
from hs2jax.data.record import Record


def make(prepared: Prepared, outputs: Sequence[np.ndarray], scalar: np.ndarray) -> list[dict]:
    """One item per group.

    outputs: [responses, K] each; scalar: weights [K] that make the outputs one reward. An item has
    source, prompt (its last turn), responses, outputs, rewards, ratings, pairs (chosen, rejected,
    strength), ties and tokens (of each response).
    """
    items = []
    for group, example, table in zip(prepared.groups, prepared.examples, outputs, strict=True):
        items.append(
            {
                "source": group.source,
                "prompt": group.prompt[-1]["content"],
                "responses": list(group.responses),
                "outputs": [[float(x) for x in row] for row in table],
                "rewards": [float(row @ scalar) for row in table],
                "ratings": [dict(rating) for rating in group.ratings or [{}] * len(table)],
                "pairs": [list(pair) for pair in example.pairs],
                "ties": example.ties,
                "tokens": [len(ids) for ids in example.encoded.responses],
            }
        )
    return items


def write(path: Path, items: Sequence[dict]) -> None:
    """JSON lines; whole or not at all."""
    scratch = path.with_suffix(".tmp")
    with scratch.open("w", encoding="utf-8") as file:
        for item in items:
            file.write(json.dumps(item, ensure_ascii=False) + "\n")
    scratch.replace(path)


def read(path: Path) -> list[dict]:
    """The items of a file that `write` wrote."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def rating_means(prepared: Prepared, names: Sequence[str]) -> dict[str, float]:
    """The mean rating of each attribute that is rated at all: the simplest predictor."""
    if not prepared.examples:
        return {}
    ratings = np.concatenate([example.ratings for example in prepared.examples])
    rated = np.concatenate([example.rated for example in prepared.examples])
    return {
        name: float(ratings[rated[:, k], k].mean())
        for k, name in enumerate(names)
        if rated[:, k].any()
    }


def describe(record: Record) -> str:
    """A line for people about what was read and what was left out."""
    data = record.to_dict()
    text = f"{data['rows']} rows, {data['groups']} groups, {data['pairs']} pairs"
    left = {"ties": data["ties"], "too long": data["too_long"], "truncated": data["truncated"]}
    left |= {"refused by the chat template": data["refused"], **data["skipped"]}
    counted = ", ".join(f"{name} {count}" for name, count in left.items() if count)
    if counted:
        text += f" ({counted})"
    if data["tokens"]:
        text += f", {data['tokens']:,} tokens, {data['padding_fraction']:.1%} padding"
    return text
