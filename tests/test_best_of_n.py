"""Best of n against all subsets, by counting."""

import itertools
import json

import numpy as np
import pytest
import raters
from hypothesis import given, settings
from hypothesis import strategies as st

from hs2jax.evaluation import best_of_n

# Few values, so that equal rewards are common.
REWARDS = st.lists(st.integers(-2, 2).map(float), min_size=1, max_size=7)


def over_subsets(row, worth, n):
    """The mean worth of the first best of every subset of n candidates."""
    subsets = list(itertools.combinations(range(len(row)), n))
    return np.mean([worth[max(s, key=lambda i: (row[i], -i))] for s in subsets])


def curve(items) -> dict[int, dict]:
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
    found = curve(items)
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
    assert list(curve(raters.of_candidates([np.arange(100)]))) == [*range(1, 17), 32, 64, 100]
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
    with pytest.raises(ValueError, match="nothing in common"):
        best_of_n.win_rate(items, reference[3:])


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_win_rates_of_both_sides_add_up(rewards):
    ours, theirs = (raters.of_candidates([[float(pair[k])] for pair in rewards]) for k in (0, 1))
    found, turned = best_of_n.win_rate(ours, theirs), best_of_n.win_rate(theirs, ours)
    assert found["value"] + turned["value"] == pytest.approx(1)
    assert (found["low"], found["high"]) == pytest.approx((1 - turned["high"], 1 - turned["low"]))
    assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
