"""Intervals of benchmarks' sections and overall scores lie around them and cover at their rate."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_benchmarks import SECTIONS, WEIGHTS

from hs2jax.evaluation.benchmarks.scoring import Part, combine
from hs2jax.evaluation.statistics import Estimate, share, wilson

SHARES = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 60)), min_size=1, max_size=6)


def shares(drawn: list[tuple[int, int]]) -> list[Part]:
    """Scores as the parts of a section have them; at most k right of n."""
    return [Part(share([1.0] * min(k, n) + [0.0] * (n - min(k, n))), n, n) for k, n in drawn]


@settings(max_examples=50)
@given(SHARES, st.data())
def test_a_weighted_mean_has_an_interval_around_it(drawn, data):
    parts = shares(drawn)
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(drawn), max_size=len(drawn)))
    found = combine(parts, weights).score
    low, high = found.interval
    assert found.value == pytest.approx(np.average([s.score.value for s in parts], weights=weights))
    assert 0 <= low <= found.value <= high <= 1
    assert high - low > 0.005
    mirrored = combine(shares([(n - min(k, n), n) for k, n in drawn]), weights).score
    assert mirrored.interval == pytest.approx([1 - high, 1 - low], abs=1e-9)
    absent = Part(Estimate(None), 0, 0)
    assert combine([*parts, absent], [*weights, 5.0]).score == found


@given(st.integers(0, 30), st.lists(st.integers(1, 5), min_size=2, max_size=5))
def test_equal_shares_weighted_by_their_counts_are_one_sample(right, sizes):
    drawn = [(right * size, 30 * size) for size in sizes]
    found = combine(shares(drawn), [n for _, n in drawn]).score
    total = sum(n for _, n in drawn)
    assert found.worth == pytest.approx(total)
    assert found.interval == pytest.approx(wilson(sum(k for k, _ in drawn), total))


@pytest.mark.parametrize("accuracy", [0.6, 0.98])
def test_intervals_of_sections_and_overall_cover_at_their_rate(accuracy):
    rng = np.random.default_rng(7)
    rows = {name: list(subsets.values()) for name, subsets in SECTIONS.items()}
    spread = {
        name: np.clip(accuracy + (1 - accuracy) * rng.uniform(-1, 0.8, len(sizes)), 0, 1)
        for name, sizes in rows.items()
    }
    truth = [np.average(spread[name], weights=WEIGHTS[name]) for name in rows]
    covered = []
    for _ in range(400):
        sections = []
        for name, sizes in rows.items():
            right = rng.binomial(sizes, spread[name])
            parts = [
                Part(Estimate(k / n, wilson(k, n), None, float(n)), n, n)
                for k, n in zip(right, sizes, strict=True)
            ]
            sections.append(combine(parts, WEIGHTS[name]))
        ends = [section.score.interval for section in (*sections, combine(sections))]
        each = zip(ends, [*truth, np.mean(truth)], strict=True)
        covered.append([low <= t <= high for (low, high), t in each])
    rates = np.mean(covered, axis=0)  # The standard error of a rate of 0.95 is 0.011.
    assert np.all((rates > 0.905) & (rates < 0.985)), rates
