"""Densities of scores: nothing between the same, more the farther they are apart."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import gaussian_kde

from hs2jax.judging.agreement import distances

SCORES = st.lists(st.floats(1, 5).map(lambda x: round(x, 3)), min_size=2, max_size=30)


@given(SCORES, SCORES)
def test_the_same_is_zero_and_nothing_is_below_it(human, scores):
    assert distances(human, human, 1, 5) in ({"kl": 0.0, "mse": 0.0}, {"kl": None, "mse": None})
    result = distances(human, scores, 1, 5)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    constant = len(set(human)) < 2 or len(set(scores)) < 2
    assert (result["kl"] is None) == (result["mse"] is None) == constant
    if not constant:
        assert result["kl"] >= 0
        assert result["mse"] >= 0


@given(SCORES, SCORES, st.floats(0.1, 100), st.floats(-50, 50), st.randoms(use_true_random=False))
def test_neither_the_unit_of_the_scale_nor_the_order_matters(human, scores, unit, start, random):
    first = distances(human, scores, 1, 5)
    low, high = unit * 1 + start, unit * 5 + start
    moved = [[unit * x + start for x in random.sample(side, len(side))] for side in (human, scores)]
    second = distances(*moved, low, high)
    # Bandwidths of nearly equal scores are mostly rounding.
    if first["kl"] is not None and first["kl"] < 1e3:
        assert second["kl"] == pytest.approx(first["kl"], rel=1e-4, abs=1e-6)
        assert second["mse"] == pytest.approx(first["mse"], rel=1e-4, abs=1e-6)


def test_the_integrals_are_those_of_the_densities():
    rng = np.random.default_rng(1)
    human, scores = rng.uniform(1, 5, 300), np.clip(rng.normal(3.5, 0.8, 300), 1, 5)
    kernels = [gaussian_kde((side - 1) / 4, bw_method="silverman") for side in (human, scores)]
    masses = [kernel.integrate_box_1d(0, 1) for kernel in kernels]

    def densities(x):
        return [kernel(x)[0] / mass for kernel, mass in zip(kernels, masses, strict=True)]

    kl = quad(lambda x: densities(x)[0] * np.log(densities(x)[0] / densities(x)[1]), 0, 1)[0]
    mse = quad(lambda x: np.subtract(*densities(x)) ** 2, 0, 1)[0]
    result = distances(human, scores, 1, 5)
    assert result["kl"] == pytest.approx(kl, rel=0.02)
    assert result["mse"] == pytest.approx(mse, rel=0.02)


def test_what_cannot_be_compared():
    nothing = {"kl": None, "mse": None}
    assert distances([1, 2, 3], [4, 4, 4], 1, 5) == nothing
    assert distances([2, 2], [1, 4], 1, 5) == nothing
    assert distances([], [1, 4], 1, 5) == nothing
    # Far apart, and off the scale: large, but a number.
    assert 10 < distances([1, 1.01, 1.02], [4.9, 4.95, 5], 1, 5)["kl"] < np.inf
    assert distances([1, 3, 5], [40, 41, 42], 1, 5)["kl"] > 1
