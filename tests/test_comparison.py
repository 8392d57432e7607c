"""Comparisons of simulated models: p-values under no difference, coverage, and counts by hand."""

import copy
import json

import numpy as np
import pytest
import raters
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from hs2jax.evaluation import comparison


def compare(first, second, **options):
    """Of margins [P] each."""
    per_group = options.pop("per_group", 1)
    return comparison.compare(
        *(raters.of_margins(m, per_group=per_group) for m in (first, second)), **options
    )


def two_models(rng, pairs, *, per_group=1, gap=0.0):
    """Margins [2, P] that share the pair's and the group's difficulty; the second is better."""
    groups = pairs // per_group
    shared = rng.normal(0.5, 0.7, size=groups).repeat(per_group) + rng.normal(0, 0.5, size=pairs)
    own = rng.normal(0, 0.5, size=(2, groups)).repeat(per_group, axis=1)
    own += rng.normal(0, 0.7, size=(2, pairs))
    return shared + own + np.array([[0.0], [gap]])


def p_values(pairs, per_group, trials, name):
    """Where there is no difference, by the functions that `compare` uses."""
    rng, found = np.random.default_rng(0), []
    for trial in range(trials):
        right = two_models(rng, pairs, per_group=per_group) > 0
        change = right[1].astype(float) - right[0]
        sums = change.reshape(-1, per_group).sum(axis=1)
        if name == "bootstrap":
            sizes = np.full(len(sums), per_group)
            found.append(comparison.bootstrap(sums, sizes, trial, 2_000)[1])
        else:
            exact, mid = comparison.mcnemar(int((sums < 0).sum()), int((sums > 0).sum()))
            found.append({"exact": exact, "mid": mid}[name])
    return np.array(found)


@pytest.mark.parametrize("per_group", [1, 4])
@pytest.mark.parametrize("name", ["bootstrap", "mid"])
def test_p_values_are_uniform_where_there_is_no_difference(name, per_group):
    p = p_values(3_000, per_group, 600, name)
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.03)


@pytest.mark.parametrize("per_group", [1, 4])
def test_the_exact_p_value_is_never_too_small_too_often(per_group):
    p = p_values(120, per_group, 2_000, "exact")
    for level in (0.01, 0.05, 0.1, 0.2, 0.5):
        assert (p <= level).mean() <= level + 3 * np.sqrt(level * (1 - level) / len(p))


def test_the_exact_p_value_is_conservative_by_arithmetic():
    for n in (1, 2, 7, 30):
        chance = scipy.stats.binom.pmf(np.arange(n + 1), n, 0.5)
        exact, mid = np.array([comparison.mcnemar(k, n - k) for k in range(n + 1)]).T
        for level in exact:
            assert chance[exact <= level + 1e-12].sum() <= level + 1e-9
        assert (mid <= exact).all()
        # The mid-p of a true difference of nothing is one half on average.
        assert (chance * mid).sum() == pytest.approx(0.5)


def test_mcnemar_by_hand():
    assert comparison.mcnemar(0, 0) == (1.0, 1.0)
    assert comparison.mcnemar(0, 5) == pytest.approx((2 / 32, 1 / 32))
    assert comparison.mcnemar(1, 4) == pytest.approx((12 / 32, 7 / 32))
    assert comparison.mcnemar(2, 2)[0] == 1.0


@pytest.mark.parametrize("per_group", [1, 3])
def test_intervals_hold_the_true_difference_at_their_rate(per_group):
    rng, inside, trials = np.random.default_rng(1), 0, 100
    truth = np.diff((two_models(rng, 600_000, gap=0.4) > 0).mean(axis=1))[0]
    for _ in range(trials):
        found = compare(*two_models(rng, 180, per_group=per_group, gap=0.4), per_group=per_group)
        inside += found["interval"][0] <= truth <= found["interval"][1]
    assert raters.covered(inside, trials, slack=0.01)


def test_a_real_difference_is_found():
    found = compare(*two_models(np.random.default_rng(2), 2_000, gap=0.4))
    assert found["difference"] > 0
    assert found["interval"][0] > 0
    assert found["p_bootstrap"] < 0.001
    assert found["p_mcnemar"] < 0.001


MARGINS = st.lists(
    st.tuples(st.integers(-2, 2).map(float), st.integers(-2, 2).map(float)), min_size=1, max_size=20
)


@given(MARGINS, st.integers(1, 3))
def test_counts_equal_a_plain_count_and_exchange_with_the_models(margins, per_group):
    first, second = np.array(margins).T
    found = compare(first, second, per_group=per_group)
    n = len(margins)
    assert found["pairs"] == n
    assert found["first"] == pytest.approx((first > 0).mean())
    assert found["second"] == pytest.approx((second > 0).mean())
    assert found["only_first"] == sum(a > 0 >= b for a, b in margins)
    assert found["only_second"] == sum(b > 0 >= a for a, b in margins)
    assert found["both"] == sum(a > 0 and b > 0 for a, b in margins)
    assert found["both"] + found["neither"] + found["only_first"] + found["only_second"] == n
    assert found["difference"] == pytest.approx((found["only_second"] - found["only_first"]) / n)
    low, high = found["interval"]
    assert low <= found["difference"] <= high
    if per_group == 1:
        assert found["votes"] == [found["only_first"], found["only_second"]]
    turned = compare(second, first, per_group=per_group)
    assert turned["difference"] == -found["difference"]
    assert turned["interval"] == pytest.approx([-high, -low])
    assert turned["p_mcnemar"] == pytest.approx(found["p_mcnemar"])
    assert turned["p_bootstrap"] == pytest.approx(found["p_bootstrap"], abs=0.05)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_model_is_no_better_than_itself():
    margins = np.random.default_rng(3).normal(size=50)
    found = compare(margins, margins)
    assert (found["difference"], found["p_bootstrap"], found["p_mcnemar"]) == (0.0, 1.0, 1.0)
    assert found["interval"][0] < 0 < found["interval"][1]
    assert found["disagreements"] == []


def test_copies_of_pairs_in_a_group_make_nothing_more_certain():
    first, second = two_models(np.random.default_rng(4), 200, gap=0.2)
    once = compare(first, second)
    again = compare(*(m.repeat(5) for m in (first, second)), per_group=5)
    assert again["p_mcnemar"] == once["p_mcnemar"]
    assert again["votes"] == once["votes"]
    assert again["p_bootstrap"] == pytest.approx(once["p_bootstrap"], abs=0.02)
    assert np.ptp(again["interval"]) > 0.95 * np.ptp(once["interval"])


def test_the_bootstrap_equals_drawing_groups():
    sums, sizes = np.array([1.0, 0.0, -2.0, 1.0, 1.5]), np.array([1, 2, 3, 1, 2])
    means, _ = comparison.bootstrap(sums, sizes, seed=5)
    drawn = np.random.default_rng(6).integers(5, size=(10_000, 5))
    plain = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    assert scipy.stats.ks_2samp(means, plain).pvalue > 0.01
    assert (comparison.bootstrap(sums, sizes, seed=5)[0] == means).all()


def test_only_common_items_count_and_folders_do_not():
    first = raters.of_margins([1.0, -1.0, 1.0])
    second = raters.of_margins([1.0, 1.0, -1.0, 2.0])[1:]
    for item in second:
        item["source"] = "/elsewhere/" + item["source"].split("/")[1]
    found = comparison.compare(first, second)
    assert (found["pairs"], found["missing_first"], found["missing_second"]) == (2, 1, 1)
    assert (found["only_first"], found["only_second"]) == (1, 1)
    with pytest.raises(ValueError, match=r"all 3 of the first.*all 1 of the second"):
        comparison.compare(first, second[2:])
    second[0]["pairs"] = [[1, 0, 1.0]]
    with pytest.raises(ValueError, match=r"made\.jsonl:2: the pairs are"):
        comparison.compare(first, second)


def test_items_that_occur_twice_are_matched_in_order():
    first = [{"name": "a", "n": 1}, {"name": "b", "n": 2}, {"name": "a", "n": 3}]
    second = [{"name": "a", "n": 4}, {"name": "a", "n": 5}, {"name": "a", "n": 6}]
    matched, missing_first, missing_second = comparison.match(first, second, lambda i: i["name"])
    assert [(a["n"], b["n"]) for a, b in matched] == [(1, 4), (3, 5)]
    assert (missing_first, missing_second) == (1, 1)


def test_subsets_add_up():
    first = raters.of_margins([1, 1, -1], subset="easy") + raters.of_margins([1, -1], subset="hard")
    second = raters.of_margins([1, -1, 1], subset="easy") + raters.of_margins([1, 1], subset="hard")
    found = comparison.compare(first, second)
    assert [(s["name"], s["pairs"], s["difference"]) for s in found["subsets"]] == [
        ("easy", 3, 0.0),
        ("hard", 2, 0.5),
    ]
    for subset, start in zip(found["subsets"], (0, 3), strict=True):
        part = slice(start, start + subset["pairs"])
        alone = comparison.compare(first[part], second[part])
        assert {k: alone[k] for k in subset if k != "name"} == {
            k: v for k, v in subset.items() if k != "name"
        }


def test_disagreements_are_the_widest_in_units_of_each_model():
    first, second = [10.0, -10.0, 30.0, 20.0], [-1.0, 0.1, -3.0, 5.0]
    found = compare(first, second, shown=2)["disagreements"]
    assert [d["first_margin"] for d in found] == [30.0, 10.0]
    assert [d["second_margin"] for d in found] == [-3.0, -1.0]
    assert found[0]["pair"] == [0, 1, 1.0]
    assert found[0]["prompt"] == "Question 2"
    scaled = compare(np.multiply(first, 1000), second, shown=2)["disagreements"]
    assert [d["prompt"] for d in scaled] == [d["prompt"] for d in found]


def rated_items(rng, groups, errors):
    """Two responses rated 0..4 per item; predictions off by errors [groups, 2]."""
    ratings = rng.integers(0, 5, size=(groups, 2)).astype(float)
    items = raters.of_candidates(ratings + errors)
    for item, row in zip(items, ratings, strict=True):
        item["ratings"] = [{"helpfulness": r} for r in row.tolist()]
    return items


def test_errors_of_ratings_are_compared():
    errors = np.random.default_rng(7).normal(size=(2, 150, 2))
    first = rated_items(np.random.default_rng(8), 150, errors[0])
    second = copy.deepcopy(first)
    for item, off in zip(second, (errors[1] - errors[0]) / 2, strict=True):
        outputs = np.array(item["outputs"])[:, 0] + off
        item["outputs"] = [[0.0, x] for x in outputs.tolist()]
    found = comparison.compare(first, second, ["helpfulness"], ["verbosity", "helpfulness"])
    assert found["pairs"] == 0
    assert found["difference"] is None
    part = found["attributes"]["helpfulness"]
    assert part["n"] == 300
    assert part["first_mse"] == pytest.approx((errors[0] ** 2).mean())
    assert part["second_mse"] == pytest.approx((errors.mean(axis=0) ** 2).mean())
    assert part["difference"] == pytest.approx(part["second_mse"] - part["first_mse"])
    assert part["interval"][0] < part["difference"] < part["interval"][1] < 0
    assert part["p_bootstrap"] < 0.01
    assert comparison.compare(first, second, ["helpfulness"], ["quality"])["attributes"] == {}
    second[3]["ratings"][1]["helpfulness"] += 1
    with pytest.raises(ValueError, match="ratings of helpfulness are not the same"):
        comparison.compare(first, second, ["helpfulness"], ["verbosity", "helpfulness"])
    first[2]["outputs"][0] = [1.0, 2.0]
    with pytest.raises(ValueError, match=r"made\.jsonl:3: expected 1 finite outputs"):
        comparison.compare(first, second, ["helpfulness"], ["verbosity", "helpfulness"])


def test_the_bootstrap_is_bold_where_few_pairs_differ_and_the_exact_test_is_not():
    found = compare([1.0] * 7 + [-1.0] * 3, [1.0] * 10)
    assert found["p_bootstrap"] == pytest.approx(0.7**10, abs=0.006)
    assert found["p_mcnemar"] == pytest.approx(0.25)


def test_the_interval_of_errors_holds_the_truth_at_its_rate():
    rng, inside, trials = np.random.default_rng(9), 0, 100
    for _ in range(trials):
        errors = rng.normal(0, [[[1.0]], [[1.3]]], size=(2, 60, 2))
        change = (errors[1] ** 2 - errors[0] ** 2).sum(axis=1)
        means, _ = comparison.bootstrap(change, np.full(60, 2), 0, 1_000)
        inside += np.quantile(means, 0.025) <= 0.69 <= np.quantile(means, 0.975)
    assert raters.covered(inside, trials)
