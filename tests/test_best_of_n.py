"""Best of n against all subsets, by counting."""

import itertools
import json

import numpy as np
import pytest
import raters
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import comb

from hs2jax.evaluation import best_of_n

# Few values, so that equal rewards are common.
REWARDS = st.lists(st.integers(-2, 2).map(float), min_size=1, max_size=7)


def over_subsets(row, worth, n):
    """The mean worth of the first best of every subset of n candidates."""
    subsets = list(itertools.combinations(range(len(row)), n))
    return np.mean([worth[max(s, key=lambda i: (row[i], -i))] for s in subsets])


@given(st.lists(REWARDS, min_size=1, max_size=4), st.data())
def test_the_curve_equals_counting_all_subsets(rewards, data):
    correct = [[data.draw(st.sampled_from([0.0, 1.0])) for _ in row] for row in rewards]
    items = raters.of_candidates(rewards, [[{"correct": c} for c in row] for row in correct])
    found = best_of_n.curve(items)
    assert [entry["n"] for entry in found] == list(range(1, max(map(len, rewards)) + 1))
    for entry in found:
        n = entry["n"]
        able = [(row, c) for row, c in zip(rewards, correct, strict=True) if len(row) >= n]
        assert entry["prompts"] == len(able) == entry["ratings"]["correct"]["prompts"]
        mean = np.mean([over_subsets(row, row, n) for row, _ in able])
        assert entry["reward"] == pytest.approx(mean)
        accuracy = np.mean([over_subsets(row, c, n) for row, c in able])
        assert entry["accuracy"] == pytest.approx(accuracy)
        assert entry["ratings"]["correct"]["mean"] == pytest.approx(accuracy)
        assert entry["accuracy_interval"][0] <= accuracy + 1e-12
        assert accuracy - 1e-12 <= entry["accuracy_interval"][1]
        if len(able) > 1:
            assert entry["interval"][0] <= mean + 1e-12
            assert mean - 1e-12 <= entry["interval"][1]
        else:
            assert entry["interval"] is None
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@given(st.lists(REWARDS, min_size=1, max_size=4))
def test_the_ends_of_the_curve(rewards):
    items = raters.of_candidates(rewards)
    (one,) = best_of_n.curve(items, sizes=[1])
    assert one["reward"] == pytest.approx(np.mean([np.mean(row) for row in rewards]))
    assert one["kl"] == 0
    least = min(map(len, rewards))
    everyone = best_of_n.curve(items, sizes=range(1, least + 1))
    assert (np.diff([entry["reward"] for entry in everyone]) > -1e-12).all()
    best = best_of_n.pick(items)["best"]
    for item, index in zip(items, best, strict=True):
        (last,) = best_of_n.curve([item], sizes=[len(item["rewards"])])
        assert last["reward"] == pytest.approx(item["rewards"][index])


@given(st.integers(1, 60), st.data())
def test_weights_equal_the_formula(N, data):
    n = data.draw(st.integers(1, N))
    rank = np.arange(1, N + 1)
    assert best_of_n.weights(N, n) == pytest.approx(
        comb(rank - 1, n - 1) / comb(N, n), rel=1e-9, abs=1e-300
    )


def test_weights_are_a_distribution_where_factorials_overflow():
    for n in (1, 2, 5_000, 9_999, 10_000):
        weights = best_of_n.weights(10_000, n)
        assert np.isfinite(weights).all()
        assert weights.min() >= 0
        assert weights.sum() == pytest.approx(1)


def test_the_curve_is_unbiased_and_its_interval_holds_the_truth():
    rng, means, inside, trials = np.random.default_rng(0), [], 0, 200
    draws = rng.normal(size=(400_000, 4)).max(axis=1)
    truth = draws.mean()
    for _ in range(trials):
        (entry,) = best_of_n.curve(raters.of_candidates(rng.normal(size=(40, 12))), sizes=[4])
        means.append(entry["reward"])
        inside += entry["interval"][0] <= truth <= entry["interval"][1]
    assert np.mean(means) == pytest.approx(truth, abs=4 * np.std(means) / np.sqrt(trials))
    assert raters.covered(inside, trials, slack=0)


def test_another_model_judges_what_this_one_picks():
    items = raters.of_candidates([[1.0, 3.0, 2.0], [0.0, 1.0, 2.0]])
    gold = raters.of_candidates([[5.0, 4.0, 6.0], [9.0, 8.0, 7.0]])
    found = best_of_n.curve(items, gold=gold)
    assert [entry["gold"] for entry in found] == pytest.approx(
        [(5 + 8) / 2, ((4 + 6 + 4) / 3 + (8 + 7 + 7) / 3) / 2, (4 + 7) / 2]
    )
    part = best_of_n.curve(items, gold=gold[1:])
    assert [(entry["gold"], entry["gold_prompts"]) for entry in part][-1] == (7.0, 1)
    assert part[0]["gold_interval"] is None
    with pytest.raises(ValueError, match="nothing in common"):
        best_of_n.curve(items, gold=raters.of_candidates([[1.0]]))


def test_kl_is_the_analytic_bound():
    (entry,) = best_of_n.curve(raters.of_candidates([[0.0] * 8]), sizes=[8])
    assert entry["kl"] == pytest.approx(np.log(8) - 7 / 8)


def test_sizes_by_default():
    found = best_of_n.curve(raters.of_candidates([np.arange(100)]))
    assert [entry["n"] for entry in found] == [*range(1, 17), 32, 64, 100]
    assert best_of_n.curve([]) == []
    with pytest.raises(ValueError, match="at least 1"):
        best_of_n.curve(raters.of_candidates([[1.0]]), sizes=[0])


def test_pick_takes_the_first_of_equals_and_counts():
    items = raters.of_candidates([[1.0, 2.0, 2.0], [3.0, 1.0], [0.0, 0.0]])
    assert best_of_n.pick(items) == {"best": [1, 0, 0], "ties": 2}
    for row in ([], [1.0, float("nan")]):
        with pytest.raises(ValueError, match=r"made\.jsonl:1: expected a finite reward"):
            best_of_n.pick(raters.of_candidates([row]))


def test_win_rate_by_hand():
    items = raters.of_candidates([[1.0, 4.0], [2.0], [0.0], [9.0]])
    reference = raters.of_candidates([[3.0], [2.0, 1.0], [5.0]])
    reference.append({**reference[0], "prompt": "Only here"})
    found = best_of_n.win_rate(items, reference)
    assert (found["wins"], found["ties"], found["losses"]) == (1, 1, 1)
    assert (found["missing"], found["missing_reference"]) == (1, 1)
    assert found["win_rate"] == 0.5
    with pytest.raises(ValueError, match="nothing in common"):
        best_of_n.win_rate(items, reference[3:])


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_win_rates_of_both_sides_add_up(rewards):
    ours, theirs = (raters.of_candidates([[float(pair[k])] for pair in rewards]) for k in (0, 1))
    found, turned = best_of_n.win_rate(ours, theirs), best_of_n.win_rate(theirs, ours)
    assert found["win_rate"] + turned["win_rate"] == pytest.approx(1)
    assert found["interval"] == pytest.approx([1 - end for end in turned["interval"]][::-1])
    assert found["interval"][0] <= found["win_rate"] <= found["interval"][1]
    assert found["interval"][0] >= 0
    assert found["interval"][1] <= 1


def test_the_win_rate_interval_holds_the_truth():
    rng, inside, trials = np.random.default_rng(1), 0, 300
    for _ in range(trials):
        outcome = rng.choice([-1.0, 0.0, 1.0], p=[0.2, 0.2, 0.6], size=60)
        ours = raters.of_candidates(outcome[:, None])
        low, high = best_of_n.win_rate(ours, raters.of_candidates(np.zeros((60, 1))))["interval"]
        inside += low <= 0.7 <= high
    assert raters.covered(inside, trials, slack=0.01)
