"""Length: bands by hand, and the length-controlled accuracy of models whose truth is known."""

import json

import numpy as np
import pytest
import raters
import scipy.stats

from hs2jax.evaluation import length
from hs2jax.report.run import select

REWARD_OF_LENGTH = {
    "characters": lambda n: n / 100,
    "logarithm": lambda n: 1.5 * np.log(n),
    "root": lambda n: np.sqrt(n) / 4,
    "saturating": lambda n: np.minimum(n, 400) / 100,
    "square": lambda n: (n / 300) ** 2,
    "shorter": lambda n: -n / 200,
}


def measured(margins, **options) -> dict:
    """The rows over all pairs by their metric, and (pairs, accuracy, share of longer ones) by
    band under "bands"."""
    rows = length.rows("", raters.of_margins(margins, **options))
    both = (select(rows, family="band", metric=m) for m in ("accuracy", "longer_wins"))
    bands = {
        right["part"].removeprefix("band/"): (right["n"], right["value"], longer["value"])
        for right, longer in zip(*both, strict=True)
    }
    json.dumps(rows, allow_nan=False)
    return {row["metric"]: row for row in rows if row["part"] == ""} | {"bands": bands}


def holds(row: dict, truth: float) -> bool:
    return row["low"] <= truth <= row["high"]


def width(row: dict) -> float:
    return row["high"] - row["low"]


EQUAL, TWICE = "accuracy_at_equal_length", "reward_of_twice_length"


def lengths_of(rng, pairs):
    """Characters [P, 2]; the chosen response is the longer one more often than not."""
    return np.exp(rng.normal([5.9, 5.4], 0.7, size=(pairs, 2))).astype(int) + 1


@pytest.mark.parametrize("name", REWARD_OF_LENGTH)
def test_a_model_of_length_and_noise_is_a_coin(name):
    rng, found, plain = np.random.default_rng(1), [], []
    for _ in range(8):
        n = lengths_of(rng, 400)
        rewards = REWARD_OF_LENGTH[name](n.astype(float)) + rng.normal(size=n.shape) / 2
        margin = rewards[:, 0] - rewards[:, 1]
        found.append(measured(margin, lengths=n))
        plain.append((margin > 0).mean())
    assert abs(np.mean(plain) - 0.5) > 0.1
    assert np.mean([each[EQUAL]["value"] for each in found]) == pytest.approx(0.5, abs=0.03)
    assert sum(holds(each[EQUAL], 0.5) for each in found) >= 7
    gain = np.diff(REWARD_OF_LENGTH[name](np.array([240.0, 480.0])))[0]
    assert np.mean([each[TWICE]["value"] for each in found]) * gain > 0


def test_nothing_but_length_is_half_right():
    n = lengths_of(np.random.default_rng(2), 300)
    result = measured(np.log1p(n[:, 0]) - np.log1p(n[:, 1]), lengths=n)
    differ = (n[:, 0] != n[:, 1]).mean()  # Equal rewards are wrong, as everywhere.
    assert result[EQUAL]["value"] == pytest.approx(differ / 2)
    assert result[TWICE]["value"] == pytest.approx(np.log(2), abs=0.01)


@pytest.mark.parametrize(("name", "mean"), [(None, 1.0), ("logarithm", 0.8), ("square", 0.8)])
def test_what_length_adds_is_taken_out_and_what_is_left_is_measured(name, mean):
    rng, inside, found = np.random.default_rng(5), 0, []
    truth = scipy.stats.norm.cdf(mean)
    for _ in range(40):
        n = lengths_of(rng, 250)
        margin = rng.normal(mean, 1, size=250)
        if name:
            margin = margin - np.diff(REWARD_OF_LENGTH[name](n.astype(float)), axis=1)[:, 0]
        row = measured(margin, lengths=n)[EQUAL]
        found.append(row["value"])
        inside += holds(row, truth)
    assert np.mean(found) == pytest.approx(truth, abs=0.015)
    assert inside >= 32  # Of 40, which is four standard errors below 95%.


def test_exactly_the_plain_accuracy_where_lengths_are_equal():
    margin = np.random.default_rng(4).normal(0.3, 1, size=200)
    margin[:5] = 0
    result = measured(margin, per_group=2)
    assert result[EQUAL]["value"] == (margin > 0).mean()
    assert result[TWICE]["value"] == pytest.approx(0, abs=1e-9)
    assert result["margin_length_pearson"]["value"] is None
    assert list(result["bands"]) == ["about as long (80 to 125%)"]


def test_pairs_of_one_group_widen_the_interval():
    rng = np.random.default_rng(6)
    n, margin = lengths_of(rng, 100), rng.normal(0.5, 1, size=100)
    once = width(measured(margin, lengths=n)[EQUAL])
    copies = {"lengths": np.repeat(n, 4, axis=0)}
    assert width(measured(np.repeat(margin, 4), per_group=4, **copies)[EQUAL]) > 0.8 * once
    assert width(measured(np.repeat(margin, 4), **copies)[EQUAL]) < 0.7 * once


def test_bands_by_hand():
    lengths = [(1, 2), (51, 100), (4, 5), (81, 100), (5, 5), (124, 100), (5, 4), (199, 100), (2, 1)]
    margins = [1, -1, 1, 1, -1, 1, -1, -1, 0]
    result = measured(margins, lengths=lengths)
    assert list(result["bands"].values()) == [
        (1, 1.0, 0.0),
        (2, 0.5, 0.0),
        (3, pytest.approx(2 / 3), pytest.approx(1 / 3)),
        (2, 0.0, 1.0),
        (1, 0.0, 1.0),
    ]
    assert list(result["bands"]) == length.BANDS
    assert EQUAL not in result  # Too few.


def test_correlations_equal_scipy():
    rng = np.random.default_rng(7)
    n, margin = lengths_of(rng, 60), rng.normal(size=60)
    rewards = np.stack([margin, np.zeros(60)], axis=1).ravel()
    found, characters = measured(margin, lengths=n), n.reshape(-1)
    for name, expected in {
        "reward_length_pearson": scipy.stats.pearsonr(rewards, characters)[0],
        "reward_length_spearman": scipy.stats.spearmanr(rewards, characters)[0],
        "margin_length_pearson": scipy.stats.pearsonr(margin, n[:, 0] - n[:, 1])[0],
    }.items():
        assert found[name]["value"] == pytest.approx(expected)


def test_without_items_or_pairs_or_numbers():
    assert length.rows("", []) == []
    alone = length.rows("", raters.of_candidates([[1.0, 2.0]]))
    assert {row["metric"] for row in alone} == {"reward_length_pearson", "reward_length_spearman"}
