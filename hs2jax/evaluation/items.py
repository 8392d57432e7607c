"""Scored groups as plain dicts, which measures and reports are made from."""

from collections.abc import Sequence

import numpy as np

from hs2jax.data import records
from hs2jax.data.groups import Group, distinct, pairs, prompt_text
from hs2jax.data.loader import Prepared
from hs2jax.data.record import Record
from hs2jax.evaluation.scores import Scored


def make(prepared: Prepared, outputs: Sequence[np.ndarray], scalar: np.ndarray) -> list[dict]:
    """Make an item of each prepared group. outputs: [responses, K] each; scalar: see `item`."""
    found = []
    for group, each, table in zip(prepared.groups, prepared.examples, outputs, strict=True):
        tokens = [len(ids) for ids in each.encoded.responses]
        found.append(item(group, table, scalar, each.pairs, each.ties, tokens, each.cut))
    return found


def of(
    scored: Scored, scalar: np.ndarray, derive: str | None = None, record: Record | None = None
) -> dict:
    """Make the item of a group that has been scored. derive: see `data.groups.pairs`; where a
    benchmark says which responses are "correct", and nothing else, that makes its pairs. record:
    counts the pairs that the model cannot tell apart, which are left out."""
    group, table, tokens, cut, names = scored
    if group.ratings and all(rating.keys() == {"correct"} for rating in group.ratings):
        derive = "correct"
    found, ties = pairs(group, derive)
    found, alike = distinct(found, names)
    if record is not None:
        record.indistinct += alike
    return item(group, table, scalar, found, ties, tokens, cut)


def item(group: Group, table, scalar, better: Sequence, ties: int, tokens, cut: int) -> dict:
    """Make the item of a group, as in `measures`. table: outputs [responses, K]; scalar: weights
    [K] that make them one reward; better: pairs (chosen, rejected, strength); tokens: of each
    response; cut: how many its prompt lost."""
    return {
        "source": group.source,
        "about": dict(group.about),
        "prompt": prompt_text(group),
        "responses": list(group.responses),
        "outputs": [[float(x) for x in row] for row in table],
        "rewards": [float(row @ scalar) for row in table],
        "ratings": [dict(rating) for rating in group.ratings or [{}] * len(table)],
        "pairs": [list(pair) for pair in better],
        "ties": ties,
        "tokens": list(tokens),
        "cut": cut,
    }


def rating_means(prepared: Prepared, names: Sequence[str]) -> dict[str, float]:
    """Compute the mean rating of each attribute that is rated at all: the simplest predictor."""
    known = records.table(prepared.examples).responses
    ratings, rated = known["ratings"], known["rated"]
    return {
        name: float(ratings[rated[:, k], k].mean())
        for k, name in enumerate(names)
        if rated[:, k].any()
    }
