"""The search for attribute weights: finds planted ones, and does not flatter itself."""

import json

import numpy as np
import pytest
import raters
from hypothesis import given, settings
from hypothesis import strategies as st

from hs2jax.evaluation import attribute_weights
from hs2jax.report.run import select

NAMES = ["helpfulness", "correctness", "verbosity"]
PLANTED = np.array([0.3, 0.5, -0.2])


def items_of(differences, per_group=1):
    """Differences chosen - rejected [P, K] of outputs."""
    items = raters.of_margins(differences[:, 0], per_group=per_group)
    rows = iter(differences.tolist())
    for item in items:
        item["outputs"] = [o for _ in item["pairs"] for o in (next(rows), [0.0] * len(NAMES))]
    return items


def search(items, names=NAMES, **options) -> tuple[dict, dict]:
    """The weights found, and the rows by metric: of the held-out ones those of the search."""
    weights, rows = attribute_weights.search(items, names, **options)
    json.dumps(rows, allow_nan=False)
    found = {row["metric"]: row for row in rows if not row.get("method")}
    (single,) = select(rows, metric="held_out", method=names)
    return weights, found | {"single": single}


def planted(rng, pairs, *, scale=(1.0, 1.0, 1.0), noise=0.1, K=3):
    """Outputs of which people prefer what the planted weights prefer, but for noise."""
    unit = rng.normal(size=(pairs, K))
    people = unit @ PLANTED[:K] + noise * rng.normal(size=pairs)
    return unit * np.sign(people)[:, None] * np.array(scale)


@pytest.mark.parametrize("scale", [(1.0, 1.0, 1.0), (10.0, 0.1, 3.0)])
def test_planted_weights_are_found_whatever_the_scales(scale):
    differences = planted(np.random.default_rng(0), 3_000, scale=scale)
    weights, found = search(items_of(differences))
    truth = PLANTED / np.array(scale)
    truth /= np.abs(truth).sum()
    assert list(weights.values()) == pytest.approx(truth, abs=0.03, rel=0.15)
    assert sum(map(abs, weights.values())) == pytest.approx(1)
    right = (differences @ truth > 0).mean()
    assert found["accuracy"]["value"] >= right - 0.002
    assert found["held_out"]["value"] == pytest.approx(right, abs=0.02)
    equal = (differences.sum(axis=1) > 0).mean()
    assert found["equal_weights"]["value"] == pytest.approx(equal)
    for name, other in (("equal", equal), ("single", found["single"]["value"])):
        gain = found[f"gain_over_{name}"]
        assert gain["value"] == pytest.approx(found["held_out"]["value"] - other)
        assert gain["low"] > 0
        assert (gain["n"], gain["reference"]) == (3_000, 0.0)


def test_the_same_seed_finds_the_same():
    items = items_of(planted(np.random.default_rng(2), 100))
    assert search(items, seed=3) == search(items, seed=3)


@settings(max_examples=10)
@given(
    st.lists(
        st.lists(st.integers(-2, 2).map(float), min_size=3, max_size=3), min_size=5, max_size=25
    ),
    st.integers(1, 2),
)
def test_the_search_is_at_least_as_accurate_as_what_it_is_compared_with(rows, per_group):
    differences = np.array(rows)
    items = items_of(differences, per_group)
    weights, found = search(items, folds=min(5, len(items)))
    accuracy = found["accuracy"]["value"]
    assert accuracy >= found["equal_weights"]["value"] - 1e-12
    eye = np.concatenate([np.eye(3), -np.eye(3)])
    singles = (differences @ eye.T > 0).mean(axis=0)
    assert accuracy >= singles.max() - 1e-12
    k = NAMES.index(found["single"]["method"])
    assert max(singles[k], singles[k + 3]) == pytest.approx(singles.max())
    w = np.array(list(weights.values()))
    assert accuracy == pytest.approx((differences @ w > 0).mean())
    assert np.abs(w).sum() == pytest.approx(1)


def test_pairs_of_a_group_stay_in_one_fold():
    # Copies in other folds would make noise look like something that can be learned.
    rng, held_out, flattering = np.random.default_rng(4), [], []
    for _ in range(10):
        rows = rng.normal(size=(15, 3)).repeat(5, axis=0)
        _, found = search(items_of(rows, per_group=5))
        held_out.append(found["held_out"]["value"])
        flattering.append(found["accuracy"]["value"])
    assert np.mean(flattering) > 0.7
    assert np.mean(held_out) < 0.6


def test_weights_do_not_cancel_and_what_never_differs_gets_none():
    quality = np.random.default_rng(6).normal(0.5, 1, size=100)
    weights, found = search(items_of(np.stack([quality, -quality, 0 * quality], axis=1)))
    assert weights["helpfulness"] - weights["correctness"] > 0.99
    assert weights["verbosity"] == 0
    assert found["held_out"]["value"] == pytest.approx((quality > 0).mean())
    weights, found = search(items_of(np.zeros((10, 3))))
    assert list(weights.values()) == pytest.approx([1 / 3] * 3)
    assert (found["accuracy"]["value"], found["held_out"]["value"]) == (0.0, 0.0)


def test_published_weights_are_of_helpsteer2s_attributes():
    names = ["helpfulness", "correctness", "coherence", "complexity", "verbosity"]
    for weights in attribute_weights.PUBLISHED.values():
        assert list(weights) == names
        assert weights["verbosity"] == min(weights.values()) < 0
    assert attribute_weights.PUBLISHED["llama3_70b"]["correctness"] == 0.8
    assert sum(attribute_weights.PUBLISHED["nemotron4_340b"].values()) == pytest.approx(1.64)


def test_too_few_groups_are_named():
    with pytest.raises(ValueError, match=r"5 folds.*4 groups"):
        attribute_weights.search(items_of(np.ones((4, 3))), NAMES)
