"""Calibration of simulated raters whose truth is known."""

import itertools
import json

import numpy as np
import pytest
import raters
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, log_expit

from hs2jax.evaluation import calibration, statistics


def margins_of(rng, pairs, *, temperature=1.0, per_group=1, spread=1.5):
    """Margins of a model that overstates log odds by `temperature`; groups agree by their size."""
    logit = rng.normal(0, spread, size=pairs // per_group).repeat(per_group)
    people = rng.random(pairs // per_group).repeat(per_group) < expit(logit)
    return np.where(people, logit, -logit) * temperature


def test_ece_of_a_calibrated_rater_goes_to_zero_as_chance_says():
    rng, found = np.random.default_rng(0), []
    for pairs in (200, 1_000, 20_000):
        trials = [
            calibration.measure(raters.of_margins(margins_of(rng, pairs)))
            for _ in range(40 if pairs < 20_000 else 1)
        ]
        found.append(np.mean([trial["ece"] for trial in trials]))
        chance = np.mean([trial["ece_chance"] for trial in trials])
        if pairs < 20_000:
            assert found[-1] == pytest.approx(chance, rel=0.15)
    assert found[0] > found[1] > found[2]
    assert found[2] < 0.015


@pytest.mark.parametrize("temperature", [0.4, 3.0])
def test_ece_of_a_rater_of_known_fault_is_the_known_value(temperature):
    rng = np.random.default_rng(1)
    margin = margins_of(rng, 20_000, temperature=temperature)
    result = calibration.measure(raters.of_margins(margin))
    # Over- or under-confident everywhere, so bins do not matter.
    grid = np.abs(rng.normal(0, 1.5, size=200_000))
    truth = np.abs(expit(grid) - expit(grid * temperature)).mean()
    assert result["ece"] == pytest.approx(truth, abs=0.012)
    assert result["ece"] > 5 * result["ece_chance"]
    signs = {np.sign(b["observed"] - b["predicted"]) for b in result["bins"][2:8]}
    assert signs == {-1.0 if temperature > 1 else 1.0}


@pytest.mark.parametrize("temperature", [0.1, 1.0, 7.0])
def test_the_planted_temperature_is_found_and_mends_the_calibration(temperature):
    rng = np.random.default_rng(2)
    items = raters.of_margins(margins_of(rng, 10_000, temperature=temperature))
    found = calibration.fit_temperature(items)
    assert found == pytest.approx(temperature, rel=0.05)
    mended = calibration.measure(items, found)
    assert mended["ece"] < 0.02
    for other in (found / 1.2, found * 1.2):
        assert calibration.measure(items, other)["loss"] > mended["loss"]


@pytest.mark.parametrize("per_group", [1, 4])
def test_intervals_of_bins_hold_the_truth_at_their_rate(per_group):
    rng, inside, trials = np.random.default_rng(3), 0, 0
    for _ in range(150):
        # One confidence for all, so that there is one bin and its truth is known.
        people = rng.random(120 // per_group).repeat(per_group) < 0.7
        margin = np.where(people, 1.0, -1.0) * np.log(0.7 / 0.3)
        (only,) = calibration.measure(raters.of_margins(margin, per_group=per_group))["bins"]
        assert only["predicted"] == pytest.approx(0.7)
        inside += only["interval"][0] <= 0.7 <= only["interval"][1]
        trials += 1
    assert raters.covered(inside, trials, slack=0.01 if per_group == 1 else 0.03)


MARGINS = st.lists(
    st.one_of(st.integers(-3, 3).map(float), st.floats(-40, 40)), min_size=1, max_size=60
)


@given(MARGINS, st.floats(0.1, 10))
def test_scores_equal_their_definitions_on_both_orders(margins, temperature):
    result = calibration.measure(raters.of_margins(margins), temperature)
    # Every pair in both orders, the outcome 1 where the first named is the chosen one.
    p = expit(np.concatenate([margins, np.negative(margins)]) / temperature)
    outcome = np.repeat([1.0, 0.0], len(margins))
    assert result["brier"] == pytest.approx(((p - outcome) ** 2).mean())
    log_odds = np.concatenate([margins, np.negative(margins)]) / temperature
    loss = -log_expit(np.where(outcome == 1, log_odds, -log_odds)).mean()
    assert result["loss"] == pytest.approx(loss, abs=1e-12)
    bins = result["bins"]
    assert sum(b["pairs"] for b in bins) == len(margins) == result["pairs"]
    assert result["ece"] == pytest.approx(
        sum(b["pairs"] * abs(b["observed"] - b["predicted"]) for b in bins) / len(margins)
    )
    assert len(bins) <= max(1, len(margins) // 10)
    for b in bins:
        assert 0.5 <= b["low"] <= b["predicted"] + 1e-12
        assert b["predicted"] - 1e-12 <= b["high"] <= 1
        assert b["interval"][0] <= b["observed"] + 1e-12
        assert b["observed"] - 1e-12 <= b["interval"][1]
    for before, after in itertools.pairwise(bins):
        assert before["high"] < after["low"]
    agreed = sum(b["observed"] * b["pairs"] for b in bins)
    half_credit = statistics.preferences(raters.of_margins(margins))["accuracy_half_credit"]
    assert agreed == pytest.approx(half_credit * len(margins))
    assert json.loads(json.dumps(result, allow_nan=False)) == result


@given(MARGINS, st.randoms(use_true_random=False), st.floats(0.01, 100))
def test_neither_order_nor_unit_matters(margins, random, unit):
    shuffled = random.sample(margins, len(margins))
    first, second = (calibration.measure(raters.of_margins(m)) for m in (margins, shuffled))
    assert first["ece"] == pytest.approx(second["ece"])
    assert [b["pairs"] for b in first["bins"]] == [b["pairs"] for b in second["bins"]]
    fitted = calibration.fit_temperature(raters.of_margins(margins))
    scaled = calibration.fit_temperature(raters.of_margins(np.multiply(margins, unit)))
    if any(margins):
        assert scaled == pytest.approx(fitted * unit, rel=1e-3)
    assert calibration.measure(raters.of_margins(margins), fitted)["loss"] < np.log(2) + 0.02


def test_limits_where_the_loss_has_no_minimum():
    assert calibration.fit_temperature(raters.of_margins([1.0, 3.0])) == pytest.approx(0.02)
    assert calibration.fit_temperature(raters.of_margins([-1.0, -3.0])) == pytest.approx(200)
    assert calibration.fit_temperature(raters.of_margins([1.0, -3.0])) == pytest.approx(200)
    assert calibration.fit_temperature(raters.of_margins([0.0, 0.0])) == 1.0
    inside = calibration.fit_temperature(raters.of_margins([3.0, 3.0, -1.0]))
    assert 0.02 < inside < 200


def test_a_margin_of_zero_is_half_an_agreement():
    (only,) = calibration.measure(raters.of_margins([0.0, 0.0]))["bins"]
    assert (only["predicted"], only["observed"]) == (0.5, 0.5)


def test_what_cannot_be_measured():
    assert calibration.measure([]) is None
    assert calibration.measure(raters.of_candidates([[1.0, 2.0]])) is None
    with pytest.raises(ValueError, match="no pairs"):
        calibration.fit_temperature([])
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="above 0"):
            calibration.measure(raters.of_margins([1.0]), temperature)
