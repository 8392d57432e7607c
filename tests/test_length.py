"""Length: bands by hand, and the length-controlled accuracy of models whose truth is known."""

import json

import numpy as np
import pytest
import raters
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from hs2jax.evaluation import length, statistics

REWARD_OF_LENGTH = {
    "characters": lambda n: n / 100,
    "logarithm": lambda n: 1.5 * np.log(n),
    "root": lambda n: np.sqrt(n) / 4,
    "saturating": lambda n: np.minimum(n, 400) / 100,
    "square": lambda n: (n / 300) ** 2,
    "shorter": lambda n: -n / 200,
}


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
        found.append(length.analysis(raters.of_margins(margin, lengths=n))["controlled"])
        plain.append((margin > 0).mean())
    assert abs(np.mean(plain) - 0.5) > 0.1
    assert np.mean([c["accuracy"] for c in found]) == pytest.approx(0.5, abs=0.03)
    assert sum(c["interval"][0] <= 0.5 <= c["interval"][1] for c in found) >= 7
    median_gain = REWARD_OF_LENGTH[name](np.array([480.0])) - REWARD_OF_LENGTH[name](
        np.array([240.0])
    )
    assert np.mean([c["coefficient"] for c in found]) * median_gain > 0


def test_nothing_but_length_is_half_right():
    n = lengths_of(np.random.default_rng(2), 300)
    margin = np.log1p(n[:, 0]) - np.log1p(n[:, 1])
    result = length.analysis(raters.of_margins(margin, lengths=n))
    differ = (n[:, 0] != n[:, 1]).mean()  # Equal rewards are wrong, as everywhere.
    assert result["controlled"]["accuracy"] == pytest.approx(differ / 2)
    assert result["controlled"]["coefficient"] == pytest.approx(np.log(2), abs=0.01)
    assert result["reward_spearman"] is not None


def test_a_model_that_ignores_length_keeps_its_accuracy():
    rng, controlled, plain, inside = np.random.default_rng(3), [], [], 0
    for _ in range(30):
        n = lengths_of(rng, 300)
        margin = rng.normal(1, 1, size=300)
        result = length.analysis(raters.of_margins(margin, lengths=n))["controlled"]
        controlled.append(result["accuracy"])
        plain.append((margin > 0).mean())
        inside += result["interval"][0] <= scipy.stats.norm.cdf(1) <= result["interval"][1]
    assert np.mean(controlled) == pytest.approx(np.mean(plain), abs=0.01)
    assert np.abs(np.subtract(controlled, plain)).max() < 0.04
    assert raters.covered(inside, 30)


def test_exactly_the_plain_accuracy_where_lengths_are_equal():
    margin = np.random.default_rng(4).normal(0.3, 1, size=200)
    margin[:5] = 0
    items = raters.of_margins(margin, per_group=2)
    result, plain = length.analysis(items), statistics.preferences(items)
    assert result["controlled"]["accuracy"] == plain["accuracy"]
    assert result["controlled"]["interval"] == pytest.approx(plain["interval"], abs=0.01)
    assert result["controlled"]["coefficient"] == pytest.approx(0, abs=1e-9)
    assert result["margin_pearson"] is None
    assert [band["name"] for band in result["bands"]] == ["about as long (80 to 125%)"]


@pytest.mark.parametrize("name", ["logarithm", "square"])
def test_what_length_adds_is_taken_out_and_what_is_left_is_measured(name):
    rng, inside, found = np.random.default_rng(5), 0, []
    truth = scipy.stats.norm.cdf(0.8)
    for _ in range(60):
        n = lengths_of(rng, 250)
        quality = rng.normal(0.8, 1, size=250)
        added = REWARD_OF_LENGTH[name](n.astype(float))
        items = raters.of_margins(quality + added[:, 0] - added[:, 1], lengths=n)
        controlled = length.analysis(items)["controlled"]
        found.append(controlled["accuracy"])
        inside += controlled["interval"][0] <= truth <= controlled["interval"][1]
    assert np.mean(found) == pytest.approx(truth, abs=0.012)
    assert raters.covered(inside, 60)


def test_an_effect_that_grows_too_fast_pulls_towards_a_coin():
    rng = np.random.default_rng(8)
    n = lengths_of(rng, 1_000)
    added = np.exp(np.minimum(n / 300, 8))
    margin = rng.normal(0.8, 1, size=1_000) + added[:, 0] - added[:, 1]
    accuracy = length.analysis(raters.of_margins(margin, lengths=n))["controlled"]["accuracy"]
    assert 0.5 < accuracy < 0.7  # Quality alone: 0.79, as the docstring says.


def test_pairs_of_one_group_widen_the_interval():
    rng = np.random.default_rng(6)
    n, margin = lengths_of(rng, 100), rng.normal(0.5, 1, size=100)
    once = length.analysis(raters.of_margins(margin, lengths=n))["controlled"]
    copies = raters.of_margins(np.repeat(margin, 4), lengths=np.repeat(n, 4, axis=0), per_group=4)
    again = length.analysis(copies)["controlled"]
    assert np.ptp(again["interval"]) > 0.8 * np.ptp(once["interval"])
    loose = raters.of_margins(np.repeat(margin, 4), lengths=np.repeat(n, 4, axis=0))
    assert np.ptp(length.analysis(loose)["controlled"]["interval"]) < 0.7 * np.ptp(once["interval"])


def test_bands_by_hand():
    lengths = [(1, 2), (51, 100), (4, 5), (81, 100), (5, 5), (124, 100), (5, 4), (199, 100), (2, 1)]
    margins = [1, -1, 1, 1, -1, 1, -1, -1, 0]
    result = length.analysis(raters.of_margins(margins, lengths=lengths))
    assert [(b["pairs"], b["accuracy"], b["longer"]) for b in result["bands"]] == [
        (1, 1.0, 0.0),
        (2, 0.5, 0.0),
        (3, pytest.approx(2 / 3), pytest.approx(1 / 3)),
        (2, 0.0, 1.0),
        (1, 0.0, 1.0),
    ]
    assert [b["name"] for b in result["bands"]] == length.BANDS
    assert result["controlled"] is None  # Too few.


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12))
def test_exchanging_the_responses_mirrors_the_bands(lengths):
    forth = length.analysis(raters.of_margins([1.0] * len(lengths), lengths=lengths))["bands"]
    turned = [pair[::-1] for pair in lengths]
    back = length.analysis(raters.of_margins([1.0] * len(lengths), lengths=turned))["bands"]
    names = dict(zip(length.BANDS, length.BANDS[::-1], strict=True))
    assert {names[b["name"]]: b["pairs"] for b in forth} == {b["name"]: b["pairs"] for b in back}
    assert sum(b["pairs"] for b in forth) == len(lengths)


def test_correlations_equal_scipy():
    rng = np.random.default_rng(7)
    n, margin = lengths_of(rng, 60), rng.normal(size=60)
    items = raters.of_margins(margin, lengths=n)
    result = length.analysis(items)
    rewards = np.concatenate([item["rewards"] for item in items])
    characters = n.reshape(-1)
    assert result["reward_pearson"] == pytest.approx(scipy.stats.pearsonr(rewards, characters)[0])
    assert result["reward_spearman"] == pytest.approx(scipy.stats.spearmanr(rewards, characters)[0])
    assert result["margin_pearson"] == pytest.approx(
        scipy.stats.pearsonr(margin, n[:, 0] - n[:, 1])[0]
    )
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert length.analysis(items) == result


def test_without_items_or_pairs_or_numbers():
    assert length.analysis([]) is None
    alone = length.analysis(raters.of_candidates([[1.0, 2.0]]))
    assert (alone["margin_pearson"], alone["controlled"], alone["bands"]) == (None, None, [])
    with pytest.raises(ValueError, match=r"made\.jsonl:1.*finite"):
        length.analysis(raters.of_candidates([[1.0, float("inf")]]))
