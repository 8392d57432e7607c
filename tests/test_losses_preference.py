"""DPO and IPO against numpy written from the formulas, and numbers worked by hand."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_losses import check_gradient

from hs2jax import losses

LOG = st.floats(-60, 0, width=32)
ZERO = np.zeros(1)


@st.composite
def pairs(draw):
    """Policy and reference of the chosen and the rejected response, strengths, counts of tokens."""
    n = draw(st.sampled_from([1, 5]))
    column = hnp.arrays(np.float64, n, elements=LOG)
    strength = hnp.arrays(np.float64, n, elements=st.sampled_from([0.5, 1.0, 3.0]))
    tokens = hnp.arrays(np.float64, n, elements=st.integers(1, 40))
    return [draw(column) for _ in range(4)], draw(strength), [draw(tokens) for _ in range(2)]


def reference_dpo(logs, m, beta, kind, e, smoothing):
    pc, pr, rc, rr = logs
    gap = beta * ((pc - rc) - (pr - rr))
    shift, scale = (m if kind == "margin" else 0), (m if kind == "scaled" else 1)
    right, wrong = (scale * np.logaddexp(0, shift - x) for x in (gap, -gap))
    sign, over = (1, 1) if smoothing == "conservative" else (-1, 1 - 2 * e)
    return ((1 - e) * right + sign * e * wrong) / over


@pytest.mark.parametrize(
    ("kind", "e", "smoothing"),
    [
        ("regular", 0.0, "conservative"),
        ("margin", 0.0, "conservative"),
        ("scaled", 0.1, "conservative"),
        ("regular", 0.1, "unbiased"),
        ("margin", 0.1, "unbiased"),
    ],
)
@given(pairs())
def test_dpo(kind, e, smoothing, data):
    logs, m, _ = data
    options = {"beta": 0.3, "kind": kind, "label_smoothing": e, "smoothing": smoothing}

    def reference(logs):
        return reference_dpo(logs, m, 0.3, kind, e, smoothing)

    found = losses.dpo(*logs, m, **options)
    assert found.shape == m.shape
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, reference(logs), rtol=2e-5, atol=2e-5)
    for side in range(2):
        put = lambda x, side=side: [*logs[:side], x, *logs[side + 1 :]]  # noqa: E731
        check_gradient(
            lambda x, put=put: losses.dpo(*put(x), m, **options),
            lambda x, put=put: reference(put(x)),
            logs[side],
        )


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@given(pairs())
def test_ipo(reduction, data):
    (pc, pr, rc, rr), _, tokens = data
    tokens = tokens if reduction == "mean" else ()
    by = tokens or (1, 1)

    def reference(pc):
        return ((pc - rc) / by[0] - (pr - rr) / by[1] - 1 / 0.6) ** 2

    def ours(pc):
        return losses.ipo(pc, pr, rc, rr, *tokens, beta=0.3, reduction=reduction)

    np.testing.assert_allclose(ours(pc), reference(pc), rtol=1e-4, atol=1e-4)
    check_gradient(ours, reference, pc)


@pytest.mark.parametrize(
    ("kind", "m", "expected"),
    [
        ("regular", 3, math.log(2)),
        ("margin", 3, 3.048587),
        ("margin", 1, 1.313262),
        ("scaled", 3, 2.079442),
        ("scaled", 1, math.log(2)),
    ],
)
@given(st.sampled_from([1e-3, 0.1, 7.0]), LOG, LOG)
def test_a_policy_that_is_its_reference_has_a_known_loss(kind, m, expected, beta, one, other):
    one, other = np.full(1, one), np.full(1, other)
    found = losses.dpo(one, other, one, other, np.full(1, m), beta=beta, kind=kind)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(losses.ipo(one, other, one, other, beta=beta), 1 / (4 * beta**2))


def test_numbers_worked_by_hand():
    """beta times the lead is 2: smoothed one way and the other; IPO's lead of 3 by sum, 1 by mean,
    whatever tokens of the prompt came before."""
    dpo = functools.partial(losses.dpo, np.full(1, 20.0), ZERO, ZERO, ZERO, beta=0.1)
    for options, expected in (
        ({}, 0.126928),
        ({"label_smoothing": 0.1}, 0.326928),
        ({"label_smoothing": 0.1, "smoothing": "unbiased"}, -0.123072),
        # Neighbours: another rate, and with strengths.
        (
            {"label_smoothing": 0.2, "smoothing": "unbiased"},
            (0.8 * 0.126928 - 0.2 * 2.126928) / 0.6,
        ),
        ({"label_smoothing": 0.1, "strength": np.full(1, 3.0), "kind": "scaled"}, 3 * 0.326928),
    ):
        np.testing.assert_allclose(dpo(**options), expected, atol=2e-6)
    log_ratios = np.full(1, 4 * 0.5), np.full(1, 2 * -0.5), ZERO, ZERO
    np.testing.assert_allclose(losses.ipo(*log_ratios, beta=0.1), 4, rtol=1e-6)
    tokens = np.full(1, 4), np.full(1, 2)
    found = losses.ipo(*log_ratios, *tokens, beta=0.1, reduction="mean")
    np.testing.assert_allclose(found, 16, rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "shapes", "options", "told"),
    [
        (losses.dpo, [(2, 1), (2,), (2,), (2,)], {}, "shapes must be equal"),
        (losses.dpo, [(2,), (2,), (1,), (2,)], {}, "shapes must be equal"),
        (losses.dpo, [(2, 1)] * 4, {}, "one axis"),
        (losses.dpo, [(2,)] * 4, {"kind": "hinge"}, "kind is 'hinge'"),
        (losses.dpo, [(2,)] * 4, {"kind": "scaled"}, "needs the strength"),
        (losses.dpo, [(2,)] * 4, {"label_smoothing": 0.5}, "label_smoothing is 0.5"),
        (losses.dpo, [(2,)] * 4, {"label_smoothing": -0.1, "smoothing": "unbiased"}, "is -0.1"),
        (losses.dpo, [(2,)] * 4, {"smoothing": "unbiased"}, "no effect"),
        (losses.dpo, [(2,)] * 4, {"smoothing": "robust"}, "must be one of conservative, unbiased"),
        (losses.dpo, [(2,)] * 4, {"beta": 0.0}, "beta is 0.0; it must be more than 0"),
        (losses.ipo, [(2,)] * 4, {"beta": -0.1}, "beta is -0.1"),
        (losses.ipo, [(2,)] * 4, {"beta": math.nan}, "beta is nan"),
        (losses.ipo, [(2,), (2,), (2,), (2, 1)], {}, "shapes must be equal"),
        (losses.ipo, [(2,)] * 4, {"reduction": "mean"}, "needs both"),
        (losses.ipo, [(2,)] * 5, {"reduction": "mean"}, "needs both"),
        (losses.ipo, [(2,)] * 6, {}, "neither"),
        (losses.ipo, [(2,)] * 4 + [(1,)] * 2, {"reduction": "mean"}, "shapes must be equal"),
        (losses.ipo, [(2,)] * 4, {"reduction": "median"}, "must be one of sum, mean"),
    ],
)
def test_what_would_broadcast_or_do_nothing_is_refused(loss, shapes, options, told):
    with pytest.raises(ValueError, match=told):
        loss(*map(jnp.ones, shapes), **{"beta": 0.1} | options)


def test_losses_stay_finite_far_out():
    far = np.array([1e4, -1e4])
    grad = jax.grad(lambda x: losses.dpo(x, -x, -x, x, beta=1.0).sum())(far)
    assert np.isfinite(losses.dpo(far, -far, -far, far, beta=1.0)).all()
    np.testing.assert_allclose(grad, [0, -4], atol=1e-6)
