"""The bundled mini set is whole, says the same in both formats, and gives nothing away by length.

What is read is the package's own files, through the names that a config uses for them.
"""

import json

import numpy as np
import pytest

from hs2jax.data import corpora
from hs2jax.data.formats import ATTRIBUTES
from hs2jax.data.groups import pairs
from hs2jax.data.record import Record

RATINGS = {"train": "helpsteer2:mini/train.jsonl", "val": "helpsteer2:mini/validation.jsonl"}
PREFERENCES = "helpsteer2_preference:mini/preference.jsonl"
SIZES = {"train": 72, "val": 24}


def preferences(split):
    return list(corpora.read(f"{PREFERENCES}[{split}]"))


@pytest.mark.parametrize("split", SIZES)
def test_the_set_is_whole_and_its_ratings_use_the_scale(split):
    record = Record()
    rated = list(corpora.read(RATINGS[split], record=record))
    assert len(rated) == len(preferences(split)) == SIZES[split]
    assert (record.rows, record.groups) == (2 * SIZES[split], SIZES[split])
    assert sum(len(group.prompt) > 1 for group in rated) >= SIZES[split] / 4
    for name in ATTRIBUTES:
        values = [rating[name] for group in rated for rating in group.ratings]
        assert set(values) <= set(range(5))
        assert len(set(values)) >= 4, name


def test_nothing_is_there_twice():
    groups = [group for split in SIZES for group in preferences(split)]
    assert len({json.dumps(group.prompt) for group in groups}) == 96
    assert len({response for group in groups for response in group.responses}) == 192


@pytest.mark.parametrize("split", SIZES)
def test_strengths_agree_with_helpfulness(split):
    both = []
    for rated, preferred in zip(corpora.read(RATINGS[split]), preferences(split), strict=True):
        assert (rated.prompt, rated.responses) == (preferred.prompt, preferred.responses)
        first, second = (rating["helpfulness"] for rating in rated.ratings)
        both.append((second - first, preferred.strength))
        assert preferred.strength * (second - first) >= 0
        assert second != first or abs(preferred.strength) < 2
        assert second == first or preferred.strength
    assert np.corrcoef(*zip(*both, strict=True))[0, 1] > 0.9
    assert {abs(strength) for _, strength in both} == {0, 1, 2, 3}


@pytest.mark.parametrize(("split", "low", "high"), [("train", 0.45, 0.55), ("val", 0.4, 0.6)])
def test_neither_length_nor_place_tells_the_better_one(split, low, high):
    longer, first = [], []
    for group in preferences(split):
        for chosen, rejected, _ in pairs(group)[0]:
            longer.append(len(group.responses[chosen]) > len(group.responses[rejected]))
            first.append(chosen == 0)
    assert low <= np.mean(longer) <= high
    assert low <= np.mean(first) <= high
