"""The search for attribute weights: finds planted ones, and does not flatter itself."""

import json

import numpy as np
import pytest
import raters
from hypothesis import given, settings
from hypothesis import strategies as st

from hs2jax.evaluation import attribute_weights

NAMES = ["helpfulness", "correctness", "verbosity"]
PLANTED = np.array([0.3, 0.5, -0.2])


def items_of(differences, per_group=1):
    """Differences chosen - rejected [P, K] of outputs."""
    items = raters.of_margins(differences[:, 0], per_group=per_group)
    rows = iter(differences.tolist())
    for item in items:
        item["outputs"] = [o for _ in item["pairs"] for o in (next(rows), [0.0] * len(NAMES))]
    return items


def planted(rng, pairs, *, scale=(1.0, 1.0, 1.0), noise=0.1, K=3):
    """Outputs of which people prefer what the planted weights prefer, but for noise."""
    unit = rng.normal(size=(pairs, K))
    people = unit @ PLANTED[:K] + noise * rng.normal(size=pairs)
    return unit * np.sign(people)[:, None] * np.array(scale)


@pytest.mark.parametrize("scale", [(1.0, 1.0, 1.0), (10.0, 0.1, 3.0)])
def test_planted_weights_are_found_whatever_the_scales(scale):
    differences = planted(np.random.default_rng(0), 3_000, scale=scale)
    found = attribute_weights.search(items_of(differences), NAMES)
    truth = PLANTED / np.array(scale)
    truth /= np.abs(truth).sum()
    assert list(found["weights"].values()) == pytest.approx(truth, abs=0.03, rel=0.15)
    assert sum(map(abs, found["weights"].values())) == pytest.approx(1)
    right = (differences @ truth > 0).mean()
    assert found["accuracy"] >= right - 0.002
    assert found["held_out"] == pytest.approx(right, abs=0.02)
    assert found["gain_interval"][0] > 0
    assert found["single"]["gain_interval"][0] > 0
    assert found["gain"] == pytest.approx(found["held_out"] - found["uniform"])
    assert found["uniform"] == pytest.approx((differences.sum(axis=1) > 0).mean())
    assert (found["pairs"], found["folds"]) == (3_000, 5)


def test_what_is_held_out_does_not_flatter():
    rng, inside, flattering, trials = np.random.default_rng(1), 0, [], 25
    for _ in range(trials):
        # Nothing to be found: outputs are noise.
        found = attribute_weights.search(items_of(rng.normal(size=(60, 3))), NAMES)
        low, high = found["held_out_interval"]
        inside += low <= 0.5 <= high
        flattering.append(found["accuracy"])
    assert np.mean(flattering) > 0.58
    assert raters.covered(inside, trials)


def test_the_same_seed_finds_the_same():
    items = items_of(planted(np.random.default_rng(2), 100))
    first, again = (attribute_weights.search(items, NAMES, seed=3) for _ in range(2))
    assert first == again
    assert json.loads(json.dumps(first, allow_nan=False)) == first


@settings(max_examples=15)
@given(
    st.lists(
        st.lists(st.integers(-2, 2).map(float), min_size=3, max_size=3), min_size=5, max_size=25
    ),
    st.integers(1, 2),
)
def test_the_search_is_at_least_as_accurate_as_what_it_is_compared_with(rows, per_group):
    differences = np.array(rows)
    items = items_of(differences, per_group)
    folds = min(5, len(items))
    found = attribute_weights.search(items, NAMES, folds=folds)
    assert found["accuracy"] >= found["uniform"] - 1e-12
    eye = np.concatenate([np.eye(3), -np.eye(3)])
    singles = (differences @ eye.T > 0).mean(axis=0)
    assert found["accuracy"] >= singles.max() - 1e-12
    k = NAMES.index(found["single"]["name"])
    assert max(singles[k], singles[k + 3]) == pytest.approx(singles.max())
    w = np.array(list(found["weights"].values()))
    assert found["accuracy"] == pytest.approx((differences @ w > 0).mean())
    assert np.abs(w).sum() == pytest.approx(1)
    for name in ("held_out", "uniform", "accuracy"):
        assert 0 <= found[name] <= 1
    low, high = found["held_out_interval"]
    assert low - 1e-12 <= found["held_out"] <= high + 1e-12


def test_pairs_of_a_group_stay_in_one_fold():
    # Copies in other folds would make noise look like something that can be learned.
    rng, held_out, flattering = np.random.default_rng(4), [], []
    for _ in range(12):
        rows = rng.normal(size=(15, 3)).repeat(5, axis=0)
        found = attribute_weights.search(items_of(rows, per_group=5), NAMES)
        held_out.append(found["held_out"])
        flattering.append(found["accuracy"])
    assert np.mean(flattering) > 0.7
    assert np.mean(held_out) < 0.6


def test_weights_do_not_cancel_where_outputs_say_the_same():
    quality = np.random.default_rng(6).normal(0.5, 1, size=100)
    differences = np.stack([quality, -quality, 0 * quality], axis=1)
    found = attribute_weights.search(items_of(differences), NAMES)
    weights = list(found["weights"].values())
    assert weights[0] - weights[1] > 0.99
    assert found["held_out"] == pytest.approx((quality > 0).mean())


def test_an_output_that_never_differs_gets_no_weight():
    differences = planted(np.random.default_rng(5), 60)
    differences[:, 1] = 0
    weights = attribute_weights.search(items_of(differences), NAMES)["weights"]
    assert weights["correctness"] == 0
    nothing = attribute_weights.search(items_of(np.zeros((10, 3))), NAMES)
    assert list(nothing["weights"].values()) == pytest.approx([1 / 3] * 3)
    assert (nothing["accuracy"], nothing["held_out"]) == (0.0, 0.0)


def test_published_weights_are_of_helpsteer2s_attributes():
    names = ["helpfulness", "correctness", "coherence", "complexity", "verbosity"]
    for weights in attribute_weights.PUBLISHED.values():
        assert list(weights) == names
        assert weights["verbosity"] == min(weights.values()) < 0
    assert attribute_weights.PUBLISHED["llama3_70b"]["correctness"] == 0.8
    assert sum(attribute_weights.PUBLISHED["nemotron4_340b"].values()) == pytest.approx(1.64)


def test_overlap_counts_prompts_once():
    first = [{"prompt": p} for p in ("a", "a ", "b", "c")]
    second = [{"prompt": p} for p in ("\na", "c", "c", "d")]
    assert attribute_weights.overlap(first, second) == 2
    assert attribute_weights.overlap(first, []) == 0


def test_what_cannot_be_searched_is_named():
    items = items_of(np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"5 folds.*4 groups"):
        attribute_weights.search(items, NAMES)
    with pytest.raises(ValueError, match="at least 2 folds"):
        attribute_weights.search(items, NAMES, folds=1)
    with pytest.raises(ValueError, match=r"made\.jsonl:1: expected 2 outputs"):
        attribute_weights.search(items, NAMES[:2], folds=2)
    items[2]["outputs"][0][1] = float("nan")
    with pytest.raises(ValueError, match=r"made\.jsonl:3: outputs must be finite"):
        attribute_weights.search(items, NAMES, folds=2)
