"""Calibration of simulated raters whose truth is known."""

import itertools
import json

import numpy as np
import pytest
import raters
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, log_expit

from hs2jax.evaluation import calibration
from hs2jax.report.run import select


def margins_of(rng, pairs, *, temperature=1.0, spread=1.5):
    """Margins of a model that overstates log odds by `temperature`."""
    logit = rng.normal(0, spread, size=pairs)
    people = rng.random(pairs) < expit(logit)
    return np.where(people, logit, -logit) * temperature


def measured(margins, temperature=1.0, **options) -> tuple[dict, list[dict]]:
    """The values over all pairs by name, and the rows of bins."""
    rows = calibration.rows("", raters.of_margins(margins, **options), temperature)
    return {r["metric"]: r["value"] for r in rows if not r["part"]}, select(rows, family="bin")


def test_ece_of_a_calibrated_rater_goes_to_zero_as_chance_says():
    rng, found = np.random.default_rng(0), []
    for pairs, trials in ((200, 40), (1_000, 20), (20_000, 1)):
        several = [measured(margins_of(rng, pairs))[0] for _ in range(trials)]
        found.append(np.mean([each["ece"] for each in several]))
        chance = np.mean([each["ece_by_chance"] for each in several])
        if trials > 1:
            assert found[-1] == pytest.approx(chance, rel=0.2)
    assert found[0] > found[1] > found[2]
    assert found[2] < 0.015


@pytest.mark.parametrize("temperature", [0.1, 7.0])
def test_the_planted_temperature_is_found_and_mends_the_calibration(temperature):
    margins = margins_of(np.random.default_rng(2), 10_000, temperature=temperature)
    found = calibration.fit_temperature(raters.of_margins(margins))
    assert found == pytest.approx(temperature, rel=0.05)
    mended, _ = measured(margins, found)
    assert mended["ece"] < 0.02
    for other in (found / 1.2, found * 1.2):
        assert measured(margins, other)[0]["log_loss"] > mended["log_loss"]


MARGINS = st.lists(
    st.one_of(st.integers(-3, 3).map(float), st.floats(-40, 40)), min_size=1, max_size=60
)


@settings(max_examples=50)
@given(MARGINS, st.floats(0.1, 10))
def test_scores_equal_their_definitions_on_both_orders(margins, temperature):
    found, bins = measured(margins, temperature)
    # Every pair in both orders, the outcome 1 where the first named is the chosen one.
    log_odds = np.concatenate([margins, np.negative(margins)]) / temperature
    outcome = np.repeat([1.0, 0.0], len(margins))
    assert found["brier"] == pytest.approx(((expit(log_odds) - outcome) ** 2).mean())
    loss = -log_expit(np.where(outcome == 1, log_odds, -log_odds)).mean()
    assert found["log_loss"] == pytest.approx(loss, abs=1e-12)
    assert sum(each["n"] for each in bins) == len(margins)
    apart = sum(each["n"] * abs(each["value"] - each["confidence"]) for each in bins)
    assert found["ece"] == pytest.approx(apart / len(margins))
    assert len(bins) <= max(1, len(margins) // 10)
    for each in bins:
        assert 0.5 <= each["confidence_low"] <= each["confidence"] + 1e-12
        assert each["confidence"] - 1e-12 <= each["confidence_high"] <= 1
        assert each["low"] - 1e-12 <= each["value"] <= each["high"] + 1e-12
    for before, after in itertools.pairwise(bins):
        assert before["confidence_high"] < after["confidence_low"]
    agreed = sum(each["value"] * each["n"] for each in bins)
    half_credit = (np.sign(margins) + 1).sum() / 2
    assert agreed == pytest.approx(half_credit)
    json.dumps([found, bins], allow_nan=False)


def test_limits_where_the_loss_has_no_minimum():
    for margins, expected in (
        ([1.0, 3.0], 0.02),
        ([-1.0, -3.0], 200),
        ([1.0, -3.0], 200),
        ([0.0, 0.0], 1.0),
    ):
        found = calibration.fit_temperature(raters.of_margins(margins))
        assert found == pytest.approx(expected)
    one, other = (
        calibration.fit_temperature(raters.of_margins([3 * u, 3 * u, -u])) for u in (1, 9)
    )
    assert 0.02 < one < 200
    assert other == pytest.approx(9 * one, rel=1e-3)


def test_what_cannot_be_measured():
    (only,) = measured([0.0, 0.0])[1]
    assert (only["confidence"], only["value"]) == (0.5, 0.5)  # Half an agreement.
    assert calibration.rows("", []) == []
    assert calibration.rows("", raters.of_candidates([[1.0, 2.0]])) == []
