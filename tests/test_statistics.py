"""Intervals by simulation and by their definitions; correlations against scipy."""

import math

import coverage
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from hs2jax.evaluation import statistics
from hs2jax.evaluation.statistics import FISHER, LOG, difference, interval, share, wilson, within

REFERENCES = {
    "spearman": scipy.stats.spearmanr,
    "pearson": scipy.stats.pearsonr,
    "kendall": scipy.stats.kendalltau,
}
# Few values, so that ties and constant columns are common.
VALUES = st.one_of(st.integers(1, 3).map(float), st.floats(-5, 5).map(lambda x: round(x, 6)))
ROWS = st.lists(st.tuples(st.integers(1, 5), VALUES, VALUES, st.integers(0, 4)), max_size=30)


def columns(rows):
    found = [list(column) for column in zip(*rows, strict=True)] if rows else [[], [], [], []]
    return [np.array(column, float) for column in found]


# The longer table: `python tests/coverage.py`. Half of the widths of these: 0.03 at 400 trials.
@pytest.mark.parametrize("together", [0.0, 0.5])
@pytest.mark.parametrize("name", ["accuracy", "accuracy_difference", "mse", "kappa", "spearman"])
def test_intervals_hold_the_truth_at_their_rate(name, together):
    trials = 150 if name == "spearman" else 300
    rate = coverage.coverage(name, 30, together, trials)
    assert rate == pytest.approx(0.95, abs=0.02 + 2.5 * math.sqrt(0.05 * 0.95 / trials))


# Wilson ---------------------------------------------------------------------------------------


@given(st.integers(1, 2000), st.floats(0, 1))
def test_wilson_contains_the_proportion_and_solves_its_equation(n, part):
    successes = round(part * n)
    low, high = wilson(successes, n)
    p, z = successes / n, scipy.stats.norm.ppf(0.975)
    assert 0 <= low <= p <= high <= 1
    for end in (low, high):  # the ends are the proportions that a score test just does not reject
        assert abs(p - end) == pytest.approx(z * math.sqrt(end * (1 - end) / n), abs=1e-7)
    mirrored = wilson(n - successes, n)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)


def test_a_share_is_wilsons_where_values_are_independent_and_wider_where_they_are_not():
    right = np.random.default_rng(0).random(60) < 0.7
    assert share(right).interval == share(right, range(60)).interval == wilson(right.sum(), 60)
    copies, apart = share(np.repeat(right, 6), np.repeat(range(60), 6)), share(np.repeat(right, 6))
    assert copies.value == apart.value == right.mean()
    assert np.ptp(copies.interval) == pytest.approx(np.ptp(share(right).interval), rel=0.05)
    assert np.ptp(apart.interval) < 0.5 * np.ptp(copies.interval)
    # Nothing shows how values of a cluster hang together: each cluster counts as one, or less.
    assert share(np.ones(20), np.repeat(range(4), 5)).interval[0] <= wilson(4, 4)[0]
    assert share([]).value is None


# The jackknife --------------------------------------------------------------------------------


def test_of_a_mean_of_independent_values_it_is_students():
    values = np.random.default_rng(1).normal(size=50)
    found = interval(np.mean, [values], range(50))
    expected = scipy.stats.ttest_1samp(values, 0)
    ends = expected.confidence_interval(0.95)
    assert found.interval == pytest.approx((ends.low, ends.high))
    assert found.p == pytest.approx(expected.pvalue)


@settings(max_examples=40)
@given(ROWS, st.randoms(use_true_random=False))
def test_neither_order_nor_names_of_clusters_matter_and_p_goes_with_the_interval(rows, random):
    human, a, b, cluster = columns(rows)
    shuffled = columns(random.sample(rows, len(rows)))
    names = [f"prompt {c}" for c in shuffled[3]]
    cases = (
        (statistics.spearman, (human, a), shuffled[:2], FISHER),
        (statistics.squared_error, (human, a), shuffled[:2], LOG),
        (difference(statistics.pearson), (human, a, b), shuffled[:3], statistics.PLAIN),
    )
    for statistic, ours, theirs, scale in cases:
        one = interval(statistic, ours, cluster, scale)
        two = interval(statistic, theirs, names, scale)
        assert one == two or one.value == pytest.approx(two.value, abs=1e-9)
        if one.interval and two.interval:
            assert one.interval == pytest.approx(two.interval, rel=1e-4, abs=1e-6)
            assert one.interval[0] - 1e-9 <= one.value <= one.interval[1] + 1e-9
            if one.p is not None and min(map(abs, one.interval)) > 1e-6:
                assert (one.p < 0.05) == (one.interval[0] > 0 or one.interval[1] < 0)


def test_copies_do_not_narrow_and_many_clusters_are_left_out_in_groups(monkeypatch):
    people, first, _, cluster = coverage.rated(np.random.default_rng(4), 150, 0.3)

    def width(columns, cluster):
        return np.ptp(interval(statistics.spearman, columns, cluster, FISHER).interval)

    once = width([people, first], cluster)
    copied = [np.tile(each, 3) for each in (people, first, cluster)]
    assert width(copied[:2], copied[2]) == pytest.approx(once)
    assert width(copied[:2], range(len(copied[2]))) < 0.7 * once
    many = coverage.rated(np.random.default_rng(5), 600, 0.3)
    groups = width(many[:2], many[3])
    monkeypatch.setattr(statistics, "MOST", 600)
    assert groups == pytest.approx(width(many[:2], many[3]), rel=0.15)


def test_repetitions_widen_by_their_own_variance():
    rng = np.random.default_rng(6)
    errors = rng.normal([1.0, 1.6, 0.7], 1, size=(80, 3))
    prompts = interval(np.mean, [errors], range(80))
    both = interval(np.mean, [errors], range(80), between=errors.mean(axis=0))
    assert both.value == prompts.value
    assert np.ptp(both.interval) > 2 * np.ptp(prompts.interval)
    same = interval(np.mean, [errors], range(80), between=[1.0, 1.0, 1.0])
    assert same.interval == pytest.approx(prompts.interval)


def test_what_is_not_defined_is_none():
    x, y = np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])
    one = interval(statistics.spearman, [x, y], ["p"] * 3, FISHER)
    assert one == (pytest.approx(0.5), None, None, None)  # One cluster.
    assert interval(statistics.kendall, [x, x], range(3), FISHER) == (1.0, None, None, None)
    assert interval(statistics.pearson, [x, 0 * x], range(3), FISHER) == (None, None, None, None)
    assert interval(np.mean, [np.array([])], []) == (None, None, None, None)
    # The same in another unit.
    same = interval(difference(statistics.spearman), [y, x, 3 * x - 7], range(3))
    assert same == (0.0, None, None, None)
    with pytest.raises(ValueError, match="columns of 3, 2 rows, and 3 clusters"):
        interval(statistics.pearson, [x, y[:2]], range(3))


# Statistics -----------------------------------------------------------------------------------


@settings(max_examples=50)
@given(ROWS)
def test_correlations_are_scipys(rows):
    human, scores, *_ = columns(rows)
    for name, reference in REFERENCES.items():
        found = statistics.CORRELATIONS[name](human, scores)
        if len(set(human)) < 2 or len(set(scores)) < 2:
            assert math.isnan(found)
        else:
            assert found == pytest.approx(reference(human, scores)[0], abs=1e-9)


def test_a_correlation_does_not_depend_on_the_scale():
    for scale in (1e-200, 1.0, 1e150):
        found = statistics.pearson(scale * np.array([1.0, 3.0]), np.array([1.0, 3.0]))
        assert found == pytest.approx(1)


def test_the_mean_of_criteria_does_not_see_their_levels():
    people, a, *_ = coverage.rated(np.random.default_rng(5), 60, 0.3)
    criterion = np.arange(len(people)) % 2
    moved = a + 10 * criterion  # Of two criteria one is scored far higher.
    found = within(statistics.spearman)(people, moved, criterion)
    each = [scipy.stats.spearmanr(people[criterion == k], a[criterion == k])[0] for k in (0, 1)]
    assert found == pytest.approx(np.mean(each))
    assert statistics.spearman(people, moved) < found - 0.1
    assert math.isnan(within(statistics.spearman)(people, np.where(criterion, a, 1.0), criterion))


def test_a_difference_of_shares_lies_within_what_it_can_be():
    """Of two clusters one alike and one not: Student's t with one degree of freedom is wide."""
    found = statistics.interval(np.mean, [np.array([0.0, -1.0])], [0, 1], statistics.OF_SHARES)
    assert (found.value, found.interval) == (-0.5, (-1.0, 1.0))
    many = [np.tile([0.0, -1.0, 0.0], 50)]
    inside, plain = (
        statistics.interval(np.mean, many, range(150), scale)
        for scale in (statistics.OF_SHARES, statistics.PLAIN)
    )
    assert inside == plain
