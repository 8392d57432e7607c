"""Each loss against numpy written from the formulas, and its gradient against differences."""

import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hs2jax import losses

REWARD = st.floats(-20, 20, width=32)


@st.composite
def pairs(draw):
    n = draw(st.sampled_from([1, 2, 7]))  # A few sizes, since each is compiled.
    column = hnp.arrays(np.float64, n, elements=REWARD)
    strength = hnp.arrays(np.float64, n, elements=st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0]))
    return draw(column), draw(column), draw(strength)


@st.composite
def rated(draw):
    shape = draw(st.sampled_from([(1, 1), (1, 5), (4, 3)]))
    return (
        draw(hnp.arrays(np.float64, shape, elements=REWARD)),
        draw(hnp.arrays(np.float64, shape, elements=st.floats(0, 4, width=32))),
        draw(hnp.arrays(bool, shape)),
    )


def reference_bradley_terry(c, r, m, kind, smoothing):
    """-log of the smoothed likelihood's parts, one pair at a time, in double precision."""

    def nll(better, worse, strength):
        gap = better - worse - (strength if kind == "margin" else 0.0)
        value = math.log1p(math.exp(-abs(gap))) + max(-gap, 0.0)
        return value * (strength if kind == "scaled" else 1.0)

    return np.array(
        [
            (1 - smoothing) * nll(a, b, s) + smoothing * nll(b, a, s)
            for a, b, s in zip(c, r, m, strict=True)
        ]
    )


def check_gradient(f, reference, x, tolerance=2e-3):
    """jax's gradient of sum(f) against central differences of the double precision reference."""
    step = 1e-5
    expected = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        expected[i] = (reference(up).sum() - reference(down).sum()) / (2 * step)
    got = jax.grad(lambda y: f(y).sum())(x.astype(np.float32))
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["regular", "margin", "scaled"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@given(pairs())
def test_bradley_terry(kind, smoothing, data):
    c, r, m = data

    def ours(c, r):
        return losses.bradley_terry(c, r, m, kind=kind, label_smoothing=smoothing)

    def reference(c, r):
        return reference_bradley_terry(c, r, m, kind, smoothing)

    assert ours(c, r).shape == c.shape
    np.testing.assert_allclose(ours(c, r), reference(c, r), rtol=1e-5, atol=1e-5)
    check_gradient(lambda x: ours(x, r), lambda x: reference(x, r), c)
    check_gradient(lambda x: ours(c, x), lambda x: reference(c, x), r)


@given(rated(), pairs())
def test_regression_and_centering(ratings, preferences):
    predictions, targets, where = ratings
    unrated_is_nan = np.where(where, targets, np.nan)
    c, r, _ = preferences
    for x, f, reference in (
        (
            predictions,
            lambda x: losses.regression(x, unrated_is_nan, where),
            lambda x: np.where(where, (x - targets) ** 2, 0.0),
        ),
        (c, lambda x: losses.centering(x, r), lambda x: (x + r) ** 2),
    ):
        np.testing.assert_allclose(f(x), reference(x), rtol=1e-5, atol=1e-5)
        check_gradient(f, reference, x)


@given(rated(), pairs(), st.floats(0, 5), st.data())
def test_combined(ratings, preferences, weight, data):
    predictions, targets, where = ratings
    c, r, m = preferences
    paired = data.draw(hnp.arrays(bool, c.shape))
    preference_losses = reference_bradley_terry(c, r, m, "scaled", 0.0)
    squared = (predictions - targets) ** 2
    expected = squared[where].mean() if where.any() else 0.0
    expected += weight * preference_losses[paired].mean() if paired.any() else 0.0
    got = losses.combined(squared, where, preference_losses, paired, preference_weight=weight)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_large_rewards_do_not_overflow():
    c, r = np.array([-1e4, 1e4], np.float32), np.array([1e4, -1e4], np.float32)
    loss = losses.bradley_terry(c, r)
    np.testing.assert_allclose(loss, [2e4, 0.0])
    gradient = jax.grad(lambda x: losses.bradley_terry(x, r).sum())(c)
    np.testing.assert_allclose(gradient, [-1.0, 0.0])


COLUMN, FLAT = np.ones((3, 1)), np.ones(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.bradley_terry(FLAT, FLAT, kind="scale"), "regular, margin, scaled"),
        (lambda: losses.bradley_terry(FLAT, FLAT, kind="scaled"), "needs the strength"),
        (lambda: losses.bradley_terry(FLAT, FLAT, label_smoothing=0.5), "label_smoothing"),
        (lambda: losses.bradley_terry(COLUMN, COLUMN, FLAT, kind="margin"), "must be equal"),
        (lambda: losses.bradley_terry(COLUMN, COLUMN), "one axis"),
        (lambda: losses.regression(COLUMN, FLAT), "shapes must be equal"),
    ],
)
def test_bad_arguments_and_columns_of_rewards_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
