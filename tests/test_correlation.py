"""Correlations with people against scipy; their intervals and p-values by simulation."""

import json
import time

import numpy as np
import pytest
import raters
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from hs2jax.evaluation.correlation import (
    MEASURES,
    correlations,
    mean_of_parts,
    paired,
    paired_mean_of_parts,
)

REFERENCES = {
    "spearman": scipy.stats.spearmanr,
    "pearson": scipy.stats.pearsonr,
    "kendall": scipy.stats.kendalltau,
}
# Few values, so that ties and constant columns are common.
VALUES = st.one_of(st.integers(1, 3).map(float), st.floats(-5, 5).map(lambda x: round(x, 6)))
ROWS = st.lists(st.tuples(st.integers(1, 5), VALUES, VALUES, st.integers(0, 4)), max_size=40)


def columns(rows):
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[], [], [], []]


def judged(rng, prompts, responses, *, noise=(1.0, 1.0), together=0.5):
    """Ratings 1..5 and two methods' scores of the same hidden quality, [prompts * responses]."""
    shared = 0.6 * rng.normal(size=(prompts, 1))
    quality = shared + 0.8 * rng.normal(size=(prompts, responses))
    human = np.clip(np.rint(3.3 + 1.1 * quality), 1, 5)
    scores = [
        0.5 * quality
        + size * (rng.normal(size=quality.shape) + together * rng.normal(size=(prompts, 1)))
        for size in noise
    ]
    clusters = np.repeat(np.arange(prompts), responses)
    return human.ravel(), *(side.ravel() for side in scores), clusters


@given(ROWS)
def test_values_are_scipys(rows):
    human, scores, _, clusters = columns(rows)
    result = correlations(human, scores, clusters)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["n"] == len(rows)
    constant = len(set(human)) < 2 or len(set(scores)) < 2
    assert (result["note"] is not None) == (constant or len(set(clusters)) < 2)
    for name, reference in REFERENCES.items():
        value, interval = result[name]["value"], result[name]["interval"]
        if constant:
            assert value is None
            assert interval is None
            continue
        assert value == pytest.approx(reference(human, scores)[0], abs=1e-9)
        if len(set(clusters)) < 2 or abs(value) == 1:
            assert interval is None
        if interval:
            assert -1 <= interval[0] <= value <= interval[1] <= 1


@given(ROWS, st.randoms(use_true_random=False), st.floats(0.1, 10))
def test_order_names_and_units_do_not_matter(rows, random, unit):
    human, a, b, clusters = columns(rows)
    shuffled = columns(random.sample(rows, len(rows)))
    for first, second in (
        (correlations(human, a, clusters), correlations(shuffled[0], shuffled[1], shuffled[3])),
        (
            correlations(human, a, clusters),
            correlations(human, np.multiply(a, unit), [f"prompt {c}" for c in clusters]),
        ),
        (paired(human, a, b, clusters), paired(*shuffled)),
    ):
        assert first["n"] == second["n"]
        for name in MEASURES:
            for key, value in first[name].items():
                if key in ("value", "difference"):
                    assert second[name][key] == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("name", MEASURES)
def test_the_deviation_is_that_of_leaving_each_cluster_out(name):
    """An independent way to the same deviation: scipy's values without each prompt in turn."""
    rng = np.random.default_rng(0)
    human, a, b, clusters = judged(rng, 150, 3, noise=(0.5, 2.0))

    def deviation(statistic):
        left = np.array([statistic(clusters != c) for c in range(150)])
        return np.sqrt(149 / 150 * ((left - left.mean()) ** 2).sum())

    reference, t = REFERENCES[name], scipy.stats.t(149).ppf(0.975)
    one = correlations(human, a, clusters)[name]
    low, high = np.arctanh(one["interval"])
    expected = deviation(lambda k: np.arctanh(reference(human[k], a[k])[0]))
    assert (high - low) / 2 / t == pytest.approx(expected, rel=0.03)
    both = paired(human, a, b, clusters)[name]
    low, high = both["interval"]
    expected = deviation(lambda k: reference(human[k], a[k])[0] - reference(human[k], b[k])[0])
    assert (high - low) / 2 / t == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(("prompts", "together"), [(12, 0.5), (50, 1.5)])
def test_intervals_hold_the_truth_at_their_rate(prompts, together):
    rng, trials = np.random.default_rng(1), 400
    human, scores, *_ = judged(rng, 4_000, 4, together=together)
    truth = {name: reference(human, scores)[0] for name, reference in REFERENCES.items()}
    inside = dict.fromkeys(MEASURES, 0)
    for _ in range(trials):
        human, scores, _, clusters = judged(rng, prompts, 4, together=together)
        result = correlations(human, scores, clusters)
        for name in MEASURES:
            low, high = result[name]["interval"]
            inside[name] += low <= truth[name] <= high
    for name, count in inside.items():
        assert raters.covered(count, trials), (name, count)
        assert count < trials, name


@pytest.mark.parametrize("prompts", [12, 50])
def test_p_is_uniform_where_two_methods_are_equally_good(prompts):
    rng, trials = np.random.default_rng(2), 500
    found = {name: [] for name in MEASURES}
    for _ in range(trials):
        result = paired(*judged(rng, prompts, 4))
        for name, values in found.items():
            values.append(result[name]["p"])
    for name, values in found.items():
        assert scipy.stats.kstest(values, "uniform").pvalue > 0.001, name
        assert 0.02 < np.mean(np.array(values) < 0.05) < 0.09, name


def test_a_better_method_is_found_more_surely_with_more_prompts():
    rng, shares = np.random.default_rng(3), []
    for prompts in (10, 40, 160):
        found = [paired(*judged(rng, prompts, 4, noise=(0.5, 1.0))) for _ in range(60)]
        shares.append(np.mean([each["spearman"]["p"] < 0.05 for each in found]))
        assert np.mean([each["spearman"]["difference"] for each in found]) > 0.1
    assert shares[0] < shares[1] < shares[2] == 1


def test_copies_of_ratings_do_not_narrow_the_interval():
    human, a, b, clusters = judged(np.random.default_rng(4), 30, 2)
    copied = [np.tile(side, 5) for side in (human, a, b, clusters)]
    for first, second in (
        (correlations(human, a, clusters), correlations(copied[0], copied[1], copied[3])),
        (paired(human, a, b, clusters), paired(*copied)),
    ):
        for name in MEASURES:
            assert second[name]["interval"] == pytest.approx(first[name]["interval"], abs=1e-9)
    together, apart = (correlations(copied[0], copied[1], c) for c in (copied[3], range(300)))
    for name in MEASURES:
        wide, narrow = (np.diff(each[name]["interval"])[0] for each in (together, apart))
        assert narrow < 0.6 * wide


@given(ROWS)
def test_a_difference_is_that_of_the_correlations_and_p_goes_with_its_interval(rows):
    human, a, b, clusters = columns(rows)
    result, swapped = paired(human, a, b, clusters), paired(human, b, a, clusters)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    singles = [correlations(human, side, clusters) for side in (a, b)]
    for name in MEASURES:
        ours, theirs = (single[name]["value"] for single in singles)
        one, other = result[name], swapped[name]
        if ours is None or theirs is None:
            assert one == {"difference": None, "interval": None, "p": None}
            assert result["note"]
            continue
        assert one["difference"] == pytest.approx(ours - theirs, abs=1e-8)
        assert other["difference"] == pytest.approx(-one["difference"], abs=1e-12)
        if one["p"] is not None:
            low, high = one["interval"]
            assert 0 <= one["p"] <= 1
            assert low - 1e-12 <= one["difference"] <= high + 1e-12
            if low > -2 and high < 2:
                assert (one["p"] < 0.05) == (low > 0 or high < 0)
            assert other["p"] == pytest.approx(one["p"], abs=1e-9)


def test_methods_that_say_the_same_do_not_differ():
    human, a, _, clusters = judged(np.random.default_rng(5), 20, 3)
    for same in (a, 3 * a - 7):
        for name in MEASURES:
            expected = {"difference": 0.0, "interval": [0.0, 0.0], "p": 1.0}
            assert paired(human, a, same, clusters)[name] == expected


def test_unread_items_are_left_out_and_counted():
    human, a, b, clusters = judged(np.random.default_rng(6), 20, 3)
    gap, other = a.copy(), b.copy()
    gap[[3, 17]], other[[17, 40]] = np.nan, np.nan
    unrated = [None if i == 5 else float(x) for i, x in enumerate(human)]
    kept = np.setdiff1d(np.arange(60), [3, 5, 17])
    result = correlations(unrated, gap, clusters)
    assert result["left_out"] == 3
    assert result == {**correlations(human[kept], a[kept], clusters[kept]), "left_out": 3}
    kept = np.setdiff1d(kept, [40])
    result = paired(unrated, gap, other, clusters)
    assert result == {**paired(human[kept], a[kept], b[kept], clusters[kept]), "left_out": 4}


def test_what_is_not_defined_is_none_and_said():
    nothing = {"value": None, "interval": None}
    for human, scores, note in (
        ([], [], "two ratings or more, here are 0"),
        ([1.0], [2.0], "here are 1"),
        ([3.0, 3.0], [1.0, 2.0], "all people's ratings are equal (3)"),
        ([1.0, 2.0], [4.5, 4.5], "all scores are equal (4.5)"),
        ([1.0, 2.0], [np.nan, 4.5], "here are 1"),
    ):
        result = correlations(human, scores, range(len(human)))
        assert note in result["note"]
        assert all(result[name] == nothing for name in MEASURES)
    alone = correlations([1.0, 2.0, 3.0], [1.0, 3.0, 2.0], ["p", "p", "p"])
    assert alone["spearman"] == {"value": pytest.approx(0.5), "interval": None}
    assert "one cluster" in alone["note"]
    perfect = correlations([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], range(3))
    assert perfect["kendall"] == {"value": 1.0, "interval": None}
    constant = paired([1.0, 2.0], [1.0, 2.0], [3.0, 3.0], range(2))
    assert constant["note"] == "all b are equal (3)"
    opposite = paired([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [3.0, 2.0, 1.0], range(3))
    assert opposite["spearman"] == {"difference": 2.0, "interval": None, "p": None}


def test_wrong_columns_are_refused():
    with pytest.raises(ValueError, match="2 in human, 3 in scores, 2 in clusters"):
        correlations([1, 2], [1, 2, 3], [0, 1])
    with pytest.raises(ValueError, match=r"b\[1\] is inf"):
        paired([1, 2], [1, 2], [1, np.inf], [0, 1])


def test_thousands_of_ratings_take_no_time():
    rng = np.random.default_rng(7)
    human, a, b, clusters = judged(rng, 1_600, 4)
    start = time.perf_counter()
    for _ in range(31):
        correlations(human, a, clusters)
    paired(human, a, b, clusters)
    assert time.perf_counter() - start < 10


def test_the_mean_of_criteria_does_not_see_their_levels():
    rng = np.random.default_rng(5)
    human, a, b, clusters = judged(rng, 60, 4)
    criterion = np.arange(len(human)) % 2
    moved = a + 10 * criterion  # Of two criteria one is scored far higher by a.
    found = mean_of_parts(human, moved, clusters, criterion)
    each = [scipy.stats.spearmanr(human[criterion == k], a[criterion == k])[0] for k in (0, 1)]
    assert found["value"] == pytest.approx(np.mean(each))
    assert found["interval"][0] < found["value"] < found["interval"][1]
    pooled = correlations(human, moved, clusters)["spearman"]["value"]
    assert pooled < found["value"] - 0.1
    # Of one criterion it is the correlation itself, with its interval.
    one = mean_of_parts(human, a, clusters, np.zeros(len(a)))
    assert one["value"] == pytest.approx(correlations(human, a, clusters)["spearman"]["value"])
    assert one["interval"] == pytest.approx(
        correlations(human, a, clusters)["spearman"]["interval"]
    )
    difference = paired_mean_of_parts(human, a, b, clusters, np.zeros(len(a)))
    assert difference["p"] == pytest.approx(paired(human, a, b, clusters)["spearman"]["p"])
    assert paired_mean_of_parts(human, a, moved, clusters, criterion)["difference"] == 0
    constant = np.where(criterion == 0, 1.0, b)
    assert mean_of_parts(human, constant, clusters, criterion) == {"value": None, "interval": None}
