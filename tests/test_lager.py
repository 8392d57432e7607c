"""The ten aggregations against their formulas in float64, and what must not change a score."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import gaussian_kde
from tiny_policies import softmax

from hs2jax.judging import lager
from hs2jax.judging.agreement import distances
from hs2jax.judging.lager import AGGREGATIONS, PRESETS, WEIGHTED, Preset

SCALES = [range(1, 6), range(10)]
ALL_PRESETS = [*PRESETS.values(), Preset("without_last", "final", False, "absolute", 0.5)]
EXPECTATIONS = [name for name, rule in lager.AGGREGATIONS.items() if rule.expectation]


@st.composite
def readings(draw):
    """Logits [..., 2, L + 1, S] with the same last entry in both, values, and a preset."""
    values = np.array(draw(st.sampled_from(SCALES)))
    leading = draw(st.sampled_from([(), (3, 2)]))
    entries = draw(st.sampled_from([2, 5]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([0.1, 1.0, 30.0]))
    # Multiples of 1/64: sums with whole numbers are exact in float32.
    logits = np.round(rng.normal(size=(*leading, 2, entries, len(values))) * spread * 64) / 64
    logits[..., 0, -1, :] = logits[..., 1, -1, :]
    return logits, values, draw(st.sampled_from(ALL_PRESETS))


def weights_for(logits, preset, seed=0):
    used = logits.shape[-2] - (preset.layers == "without_last")
    return np.random.default_rng(seed).dirichlet(np.ones(used))


def over_values(name, logits, preset, w):
    """What an aggregation takes the expectation or the greatest of; one reading, float64."""
    z = logits[1 if preset.norm == "final" else 0]
    last = z[-1]
    if preset.layers == "without_last":
        z = z[:-1]
    p = np.array([softmax(layer) for layer in z])
    mixture = sum(weight * layer for weight, layer in zip(w, p, strict=True))
    summed = sum(p)
    return {
        "lager_w": softmax(sum(weight * layer for weight, layer in zip(w, z, strict=True))),
        "prob_weighted_agg_e": softmax(mixture) if preset.double_softmax else mixture,
        "logits_agg_weighted_max": sum(a * b for a, b in zip(w, z, strict=True)),
        "prob_weighted_agg_max": mixture,
        "lager_wo": softmax(sum(z) / len(z)),
        "prob_agg_e": softmax(summed) if preset.double_softmax else summed / len(z),
        "logits_agg_max": sum(z) / len(z),
        "prob_agg_max": summed,
        "e_score": softmax(last),
        "direct": last,
    }[name]


@pytest.mark.parametrize("name", AGGREGATIONS)
@given(reading=readings(), seed=st.integers(0, 99))
def test_every_aggregation_equals_its_formula(name, reading, seed):
    logits, values, preset = reading
    w = weights_for(logits, preset, seed)
    found = lager.aggregate(logits, values, name, preset, w)
    assert found.dtype == np.float32
    assert found.shape == logits.shape[:-3]
    for index in np.ndindex(found.shape):
        expected = over_values(name, logits[index], preset, w)
        if name in EXPECTATIONS:
            assert found[index] == pytest.approx((expected * values).sum(), abs=2e-4)
        else:
            # Of values that are equally likely but for rounding, any may be taken.
            (at,) = np.flatnonzero(values == float(found[index]))
            assert expected[at] >= expected.max() - 1e-5 * max(1, np.abs(expected).max())
        if name in lager.CROSS_LAYER:
            weights = w if name in WEIGHTED else None
            chances = lager.distribution(logits, preset, weights)[index]
            np.testing.assert_allclose(chances, expected, atol=1e-5)


@given(readings(), st.integers(-20_000, 20_000))
def test_a_constant_on_all_candidates_of_a_layer_changes_nothing(reading, constant):
    logits, values, preset = reading
    w = weights_for(logits, preset)
    shifted = logits.copy()
    shifted[..., 0, :] += constant
    shifted[..., -1, :] -= constant // 2
    assert not constant or (shifted != logits).any()
    for name in AGGREGATIONS:
        one, other = (lager.aggregate(x, values, name, preset, w) for x in (logits, shifted))
        np.testing.assert_array_equal(one, other)


def test_huge_logits_stay_finite_and_keep_their_decimals():
    rng, values = np.random.default_rng(0), np.arange(1, 6)
    logits = rng.normal(size=(20, 2, 31, 5)) * 20_000
    for name in AGGREGATIONS:
        for preset in ALL_PRESETS:
            w = weights_for(logits, preset)
            assert np.isfinite(lager.aggregate(logits, values, name, preset, w)).all()
            nothing = lager.aggregate(np.full_like(logits, np.nan), values, name, preset, w)
            assert np.isnan(nothing).all()
    # Large alike, and apart by little: what is common must not eat the difference.
    near = np.full((2, 31, 5), 20_000.0)
    near[..., 1] += 0.25
    expected = (softmax(np.array([0, 0.25, 0, 0, 0])) * values).sum()
    found = lager.aggregate(near, values, "lager_wo", PRESETS["paper"])
    assert found == pytest.approx(expected, abs=1e-5)


def test_what_cannot_be_aggregated_is_refused():
    logits, values, paper = np.zeros((3, 2, 4, 5)), range(1, 6), PRESETS["paper"]
    for name in WEIGHTED:
        with pytest.raises(ValueError, match=f"{name} needs the layers' weights"):
            lager.aggregate(logits, values, name, paper)
    with pytest.raises(ValueError, match=r"shape \(4,\), but the preset uses 3 layers"):
        lager.aggregate(logits, values, "lager_w", PRESETS["repository"], np.full(4, 0.25))
    with pytest.raises(ValueError, match=r"weights has shape \(3,\)"):
        lager.distribution(logits, paper, np.full(3, 1 / 3))


# Distributions of scores ------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high"), [(1, 5), (-3, 7)])
def test_the_integrals_are_those_of_the_densities(low, high):
    rng, span = np.random.default_rng(1), high - low
    human, scores = rng.uniform(0, 1, 300), np.clip(rng.normal(0.6, 0.2, 300), 0, 1)
    kernels = [gaussian_kde(side, bw_method="silverman") for side in (human, scores)]
    masses = [kernel.integrate_box_1d(0, 1) for kernel in kernels]

    def densities(x):
        return [kernel(x)[0] / mass for kernel, mass in zip(kernels, masses, strict=True)]

    kl = quad(lambda x: densities(x)[0] * np.log(densities(x)[0] / densities(x)[1]), 0, 1)[0]
    mse = quad(lambda x: np.subtract(*densities(x)) ** 2, 0, 1)[0]
    result = distances(low + span * human, low + span * scores, low, high)
    assert result == {"kl": pytest.approx(kl, rel=0.02), "mse": pytest.approx(mse, rel=0.02)}
    assert distances(human, human, low, high) == {"kl": 0.0, "mse": 0.0}


def test_what_cannot_be_compared():
    nothing = {"kl": None, "mse": None}
    assert distances([1, 2, 3], [4, 4, 4], 1, 5) == nothing
    assert distances([2, 2], [1, 4], 1, 5) == nothing
    assert distances([], [1, 4], 1, 5) == nothing
    assert distances([0.1 + 0.2, 0.3], [1, 4], 1, 5) == nothing  # Constant but for rounding.
    # Far apart, and off the scale: large, but a number.
    assert 10 < distances([1, 1.01, 1.02], [4.9, 4.95, 5], 1, 5)["kl"] < np.inf
    assert distances([1, 3, 5], [40, 41, 42], 1, 5)["kl"] > 1
