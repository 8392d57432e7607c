"""Evaluation statistics against brute force, scipy and their own definitions."""

import json
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hs2jax.evaluation.statistics import (
    attributes,
    one_line,
    preferences,
    summarize,
    wilson,
)

NAMES = ["helpfulness", "verbosity"]
# Few values, so that equal scores, equal lengths and constant columns are common.
# Six decimals: differences in the last bit of a float depend on the order of a sum.
SCORES = st.one_of(
    st.integers(-2, 2).map(float), st.floats(-50, 50).map(lambda value: round(value, 6))
)


@st.composite
def scored_groups(draw, max_pairs=3):
    n = draw(st.integers(2, 4))
    outputs = draw(st.lists(st.lists(SCORES, min_size=2, max_size=2), min_size=n, max_size=n))
    rating = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 4).map(float))
    pair = st.permutations(range(n)).map(lambda order: order[:2])
    pairs = draw(st.lists(pair, max_size=max_pairs))
    return {
        "source": "train.jsonl:7",
        "prompt": "Why?",
        "responses": draw(st.lists(st.text(max_size=4), min_size=n, max_size=n)),
        "outputs": outputs,
        "rewards": [row[0] for row in outputs],
        "ratings": draw(st.lists(rating, min_size=n, max_size=n)),
        "pairs": [[*p, draw(st.sampled_from([0.5, 1.0, 1.3, 2.0, 3.0]))] for p in pairs],
        "ties": draw(st.integers(0, 1)),
        "tokens": [1] * n,
    }


ITEMS = st.lists(scored_groups(), min_size=1, max_size=6)


def group(*pairs, lengths=(5, 5), ratings=({}, {}), outputs=None):
    """A group of two responses with one entry (reward 0, reward 1) per pair 0 over 1."""
    first, second = pairs[0] if pairs else (0.0, 0.0)
    return {
        "source": "a.jsonl:1",
        "prompt": "p",
        "responses": ["x" * lengths[0], "x" * lengths[1]],
        "outputs": outputs or [[first], [second]],
        "rewards": [first, second],
        "ratings": list(ratings),
        "pairs": [[0, 1, 1.0]] if pairs else [],
        "ties": 0,
        "tokens": [1, 1],
    }


@given(st.integers(1, 2000), st.floats(0, 1), st.floats(0.5, 0.999))
def test_wilson_contains_the_proportion_and_solves_its_equation(n, share, level):
    successes = round(share * n)
    low, high = wilson(successes, n, level)
    p, z = successes / n, scipy.stats.norm.ppf(0.5 + level / 2)
    assert 0 <= low <= p <= high <= 1
    for end in (low, high):  # the ends are the proportions that a score test just does not reject
        assert abs(p - end) == pytest.approx(z * math.sqrt(end * (1 - end) / n), abs=1e-7)
    mirrored = wilson(n - successes, n, level)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)
    wider = wilson(successes, n, (1 + level) / 2)
    assert wider[0] <= low
    assert wider[1] >= high
    quadrupled = wilson(4 * successes, 4 * n, level)
    assert quadrupled[1] - quadrupled[0] < high - low


def test_wilson_covers_as_often_as_it_says():
    n, truths = 40, np.linspace(0.05, 0.95, 37)
    ends = np.array([wilson(k, n) for k in range(n + 1)])
    chance = scipy.stats.binom.pmf(np.arange(n + 1)[:, None], n, truths)
    inside = (ends[:, :1] <= truths) & (truths <= ends[:, 1:])
    coverage = (chance * inside).sum(axis=0)
    assert coverage.mean() == pytest.approx(0.95, abs=0.01)
    assert coverage.min() > 0.9


@pytest.mark.parametrize(("k", "n"), [(1, 0), (-1, 5), (6, 5), (float("nan"), 5)])
def test_wilson_refuses_what_is_no_proportion(k, n):
    with pytest.raises(ValueError, match="successes"):
        wilson(k, n)


@given(ITEMS)
def test_preferences_equal_a_plain_count(items):
    pairs = [(item, c, r, s) for item in items for c, r, s in item["pairs"]]
    result = preferences(items)
    if not pairs:
        assert result is None
        return
    margins = [item["rewards"][c] - item["rewards"][r] for item, c, r, _ in pairs]
    lead = [len(item["responses"][c]) - len(item["responses"][r]) for item, c, r, _ in pairs]
    n = len(pairs)
    right, equal = sum(m > 0 for m in margins), sum(m == 0 for m in margins)
    assert result["pairs"] == n
    assert result["ties"] == sum(item["ties"] for item in items)
    assert result["equal"] == equal
    assert result["accuracy"] == pytest.approx(right / n)
    assert result["accuracy_half_credit"] == pytest.approx((right + equal / 2) / n)
    assert result["margin"] == pytest.approx(sum(margins) / n)
    losses = [-scipy.special.log_expit(m) for m in margins]
    assert result["loss"] == pytest.approx(sum(losses) / n)
    length = result["length_baseline"]
    assert length["accuracy"] == pytest.approx(sum(d > 0 for d in lead) / n)
    assert length["shorter_accuracy"] == pytest.approx(sum(d < 0 for d in lead) / n)
    assert length["equal"] == sum(d == 0 for d in lead)
    best = max(length["accuracy"], length["shorter_accuracy"])
    assert length["lead"] == pytest.approx(right / n - best)
    assert sum(level["pairs"] for level in result["by_strength"].values()) == n
    for level, part in result["by_strength"].items():
        mine = [m for m, (*_, s) in zip(margins, pairs, strict=True) if math.ceil(s) == int(level)]
        assert part["accuracy"] == pytest.approx(sum(m > 0 for m in mine) / len(mine))
        assert part["margin"] == pytest.approx(sum(mine) / len(mine))


@given(ITEMS)
def test_intervals_contain_what_they_are_of(items):
    result = preferences(items)
    assume(result is not None)
    length = result["length_baseline"]
    parts = [result, length, *result["by_strength"].values()]
    for part in parts:
        low, high = part["interval"]
        assert 0 <= low <= part["accuracy"] + 1e-12
        assert part["accuracy"] - 1e-12 <= high <= 1
    assert length["lead_interval"][0] <= length["lead"] <= length["lead_interval"][1]
    assert 1 - 1e-9 <= result["effective_pairs"] <= result["pairs"] + 1e-9
    alone = all(len(item["pairs"]) <= 1 for item in items)
    assert (result["interval_kind"] == "Wilson") == alone
    if alone:
        n, right = result["pairs"], round(result["accuracy"] * result["pairs"])
        assert result["interval"] == pytest.approx(wilson(right, n))


@given(ITEMS, st.randoms(use_true_random=False))
def test_the_order_of_groups_and_responses_does_not_matter(items, random):
    def turned(item):
        last = len(item["responses"]) - 1
        reverse = {k: item[k][::-1] for k in ("responses", "outputs", "rewards", "ratings")}
        pairs = [[last - c, last - r, s] for c, r, s in item["pairs"]][::-1]
        return {**item, **reverse, "pairs": pairs}

    other = [turned(item) for item in items]
    random.shuffle(other)
    assert_close(summarize(other, NAMES), summarize(items, NAMES))


def test_pairs_of_one_group_count_less_than_independent_ones():
    rng = np.random.default_rng(0)
    covered, naive = [], []
    for _ in range(300):
        items = []
        for right in rng.random(50) < 0.7:  # all six pairs of a group are right, or none is
            item = group((1.0, 0.0) if right else (0.0, 1.0))
            items.append({**item, "pairs": item["pairs"] * 6})
        result = preferences(items)
        low, high = result["interval"]
        covered.append(low <= 0.7 <= high)
        low, high = wilson(result["accuracy"] * 300, 300)
        naive.append(low <= 0.7 <= high)
    assert np.mean(covered) > 0.92
    assert np.mean(naive) < 0.75


def test_a_model_that_counts_characters_has_no_lead():
    lengths = [(9, 2), (3, 8), (7, 1), (4, 4)]
    items = [group((float(a), float(b)), lengths=(a, b)) for a, b in lengths]
    length = preferences(items)["length_baseline"]
    assert (length["best"], length["lead"]) == ("longer", 0.0)
    shorter = [group((-float(a), -float(b)), lengths=(b, a)) for a, b in lengths]
    assert preferences(shorter)["length_baseline"]["best"] == "shorter"


def test_a_few_pairs_that_agree_are_not_certain():
    result = preferences([group((1.0, 0.0), lengths=(1, 2)), group((1.0, 0.0), lengths=(2, 1))])
    assert result["accuracy"] == 1.0
    assert result["interval"][0] < 0.5
    assert result["length_baseline"]["lead_interval"][0] < 0


def test_equal_rewards_are_wrong_and_counted():
    result = preferences([group((1.0, 1.0)), group((2.0, 1.0))])
    assert (result["accuracy"], result["accuracy_half_credit"]) == (0.5, 0.75)
    assert result["equal"] == 1


@settings(max_examples=200)
@given(ITEMS)
def test_attributes_equal_numpy_and_scipy(items):
    result = attributes(items, NAMES)
    for column, name in enumerate(NAMES):
        both = [
            (o[column], r[name])
            for item in items
            for o, r in zip(item["outputs"], item["ratings"], strict=True)
            if name in r
        ]
        if not both:
            assert name not in result
            continue
        x, y = np.array(both).T
        a = result[name]
        assert a["n"] == len(both)
        assert a["mse"] == pytest.approx(np.mean((x - y) ** 2))
        assert a["mse_of_mean"] == pytest.approx(np.var(y), abs=1e-12)
        assert (a["mean_prediction"], a["mean_rating"]) == pytest.approx((x.mean(), y.mean()))
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            assert a["pearson"] is None
            assert a["spearman"] is None
        else:
            assert a["spearman"] == pytest.approx(scipy.stats.spearmanr(x, y)[0], abs=1e-9)
            assert a["pearson"] == pytest.approx(scipy.stats.pearsonr(x, y)[0], abs=1e-6)


def test_correlation_does_not_depend_on_the_scale_of_the_predictions():
    ratings = ({"helpfulness": 1.0}, {"helpfulness": 3.0})
    for scale in (1e-200, 1.0, 1e150):
        items = [group(ratings=ratings, outputs=[[scale], [3 * scale]])]
        assert attributes(items, ["helpfulness"])["helpfulness"]["pearson"] == pytest.approx(1)


def test_the_mean_of_training_ratings_is_used_where_given():
    ratings = ({"helpfulness": 1.0}, {"helpfulness": 3.0})
    items = [group(ratings=ratings, outputs=[[2.0], [2.0]])]
    own = attributes(items, ["helpfulness"])["helpfulness"]
    assert (own["mse_of_mean"], own["mean_from"]) == (1.0, "these ratings")
    given_mean = attributes(items, ["helpfulness"], {"helpfulness": 4.0})["helpfulness"]
    assert (given_mean["mse_of_mean"], given_mean["mean_from"]) == (5.0, "training ratings")
    assert own["pearson"] is None


def test_what_cannot_be_right_is_named():
    item = group((1.0, 0.0), ratings=({"helpfulness": 1.0}, {}))
    with pytest.raises(ValueError, match=r"a\.jsonl:1.*1 outputs.*2 names"):
        attributes([item], NAMES)
    with pytest.raises(ValueError, match=r"a\.jsonl:1.*outside"):
        preferences([{**item, "pairs": [[0, 2, 1.0]]}])
    with pytest.raises(ValueError, match=r"a\.jsonl:1.*finite"):
        preferences([{**item, "rewards": [float("nan"), 0.0]}])


@given(ITEMS)
def test_a_summary_survives_json(items):
    summary = summarize(iter(items), NAMES)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["groups"] == len(items)
    assert summary["responses"] == sum(len(item["responses"]) for item in items)
    assert "\n" not in one_line(summary)


def test_one_line():
    rated = ({"helpfulness": 1.0}, {"helpfulness": 3.0})
    summary = summarize([group((2.0, 1.0), lengths=(1, 3), ratings=rated)], ["helpfulness"])
    assert one_line(summary) == (
        "accuracy 100.0% [20.7, 100.0] on 1 pair (longer wins: 0.0%), margin 1.00, loss 0.313; "
        "helpfulness mse 2.500 (mean: 1.000, r -1.00)"
    )
    assert (
        one_line(summarize([group()], ["reward"])) == "2 responses scored, no pairs and no ratings"
    )


def assert_close(a, b):
    """Nested equality, with floats to 1e-7: sums in another order differ in the last digits."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_close(a[key], b[key])
    elif isinstance(a, list | float):
        assert a == pytest.approx(b, rel=1e-7, abs=1e-7)
    else:
        assert a == b
