"""Comparisons of simulated models: p-values under no difference, and counts by hand."""

import copy
import json

import numpy as np
import pytest
import raters
from hypothesis import given, settings
from hypothesis import strategies as st

from hs2jax.evaluation import comparison
from hs2jax.report.run import find, select


def compare(first, second, **options):
    """The row of the difference, of margins [P] each."""
    per_group = options.pop("per_group", 1)
    rows, _ = comparison.rows(
        "", *(raters.of_margins(m, per_group=per_group) for m in (first, second)), **options
    )
    return find(rows, metric="accuracy_difference", part="")


def test_mcnemar_by_hand():
    for (first, second), p in {(0, 0): 1.0, (0, 5): 2 / 32, (1, 4): 12 / 32, (2, 2): 1.0}.items():
        one = [1.0] * (first + 1) + [-1.0] * second
        other = [1.0] + [-1.0] * first + [1.0] * second
        assert compare(one, other)["p_mcnemar"] == pytest.approx(p)


MARGINS = st.lists(
    st.tuples(st.integers(-2, 2).map(float), st.integers(-2, 2).map(float)), min_size=1, max_size=20
)


@settings(max_examples=50)
@given(MARGINS, st.integers(1, 3))
def test_counts_equal_a_plain_count_and_exchange_with_the_models(margins, per_group):
    first, second = np.array(margins).T
    found, n = compare(first, second, per_group=per_group), len(margins)
    assert found["n"] == n
    assert found["only_first"] == sum(a > 0 >= b for a, b in margins)
    assert found["only_second"] == sum(b > 0 >= a for a, b in margins)
    assert found["both"] == sum(a > 0 and b > 0 for a, b in margins)
    assert found["both"] + found["neither"] + found["only_first"] + found["only_second"] == n
    assert found["value"] == pytest.approx((found["only_second"] - found["only_first"]) / n)
    turned = compare(second, first, per_group=per_group)
    assert turned["value"] == -found["value"]
    assert turned["p_mcnemar"] == pytest.approx(found["p_mcnemar"])
    if found["low"] is None:
        assert turned["low"] is None
    else:
        assert found["low"] <= found["value"] <= found["high"]
        assert [-turned["high"], -turned["low"]] == pytest.approx([found["low"], found["high"]])
    json.dumps(found, allow_nan=False)


def test_a_model_is_no_better_than_itself_and_copies_make_nothing_more_certain():
    rng = np.random.default_rng(4)
    first, second = rng.normal(0.5, 0.9, 200) + rng.normal([[0.0], [0.2]], 0.9, (2, 200))
    same = compare(first, first)
    assert (same["value"], same["low"], same["p_mcnemar"]) == (0.0, None, 1.0)
    once = compare(first, second)
    again = compare(*(m.repeat(5) for m in (first, second)), per_group=5)
    for key in ("p_mcnemar", "p", "low", "high"):
        assert again[key] == pytest.approx(once[key])


def test_only_common_items_count_and_folders_do_not():
    first = raters.of_margins([1.0, -1.0, 1.0])
    second = raters.of_margins([1.0, 1.0, -1.0, 2.0])[1:]
    for item in second:
        item["source"] = "/elsewhere/" + item["source"].split("/")[1]
    rows, _ = comparison.rows("", first, second)
    counts = [find(rows, metric=m)["value"] for m in ("common", "missing_first", "missing_second")]
    assert counts == [2, 1, 1]
    row = find(rows, metric="accuracy_difference")
    assert (row["only_first"], row["only_second"]) == (1, 1)
    with pytest.raises(ValueError, match=r"all 3 of the first.*all 1 of the second"):
        comparison.rows("", first, second[2:])
    second[0]["pairs"] = [[1, 0, 1.0]]
    with pytest.raises(ValueError, match=r"made\.jsonl:2: the pairs are"):
        comparison.rows("", first, second)


def test_items_that_occur_twice_are_matched_in_order():
    first = [{"name": "a", "n": 1}, {"name": "b", "n": 2}, {"name": "a", "n": 3}]
    second = [{"name": "a", "n": 4}, {"name": "a", "n": 5}, {"name": "a", "n": 6}]
    matched, missing_first, missing_second = comparison.match(first, second, lambda i: i["name"])
    assert [(a["n"], b["n"]) for a, b in matched] == [(1, 4), (3, 5)]
    assert (missing_first, missing_second) == (1, 1)


def test_subsets_add_up():
    first = raters.of_margins([1, 1, -1], subset="easy") + raters.of_margins([1, -1], subset="hard")
    second = raters.of_margins([1, -1, 1], subset="easy") + raters.of_margins([1, 1], subset="hard")
    rows, _ = comparison.rows("", first, second)
    found = select(rows, family="subset", metric="accuracy_difference")
    assert [(row["part"], row["n"], row["value"]) for row in found] == [
        ("subset/easy", 3, 0.0),
        ("subset/hard", 2, 0.5),
    ]
    alone = find(comparison.rows("", first[3:], second[3:])[0], metric="accuracy_difference")
    assert {**alone, "part": "subset/hard"} == found[1]


def test_disagreements_are_the_widest_in_units_of_each_model(monkeypatch):
    monkeypatch.setattr(comparison, "SHOWN", 2)
    first, second = [10.0, -10.0, 30.0, 20.0], [-1.0, 0.1, -3.0, 5.0]
    _, found = comparison.rows("", *map(raters.of_margins, (first, second)))
    assert [d["first_margin"] for d in found] == [30.0, 10.0]
    assert [d["second_margin"] for d in found] == [-3.0, -1.0]


def test_errors_on_ratings_are_compared_where_both_predict_them():
    rng = np.random.default_rng(8)
    errors = rng.normal(0, [[[1.0]], [[0.6]]], size=(2, 150, 2))
    first = raters.of_candidates(rng.integers(0, 5, size=(150, 2)))
    for item, off in zip(first, errors[0], strict=True):
        item["ratings"] = [{"helpfulness": reward} for reward in item["rewards"]]
        item["outputs"] = [[x] for x in (np.array(item["rewards"]) + off).tolist()]
    second = copy.deepcopy(first)
    for item, off in zip(second, errors[1], strict=True):
        item["outputs"] = [[0.0, x] for x in (np.array(item["rewards"]) + off).tolist()]
    names = ["helpfulness"], ["verbosity", "helpfulness"]
    rows, _ = comparison.rows("", first, second, *names)
    assert find(rows, metric="accuracy_difference") is None
    part = {"part": "attribute/helpfulness"}
    mses = [find(rows, metric="mse", method=m, **part)["value"] for m in ("first", "second")]
    assert mses == pytest.approx((errors**2).mean(axis=(1, 2)))
    row = find(rows, metric="mse_difference", **part)
    assert row["value"] == pytest.approx(mses[1] - mses[0])
    assert row["low"] < row["value"] < row["high"] < 0
    assert (row["n"], row["better"]) == (300, "lower")
    assert not select(comparison.rows("", first, second, names[0], ["x"])[0], family="attribute")
    second[3]["ratings"][1]["helpfulness"] += 1
    with pytest.raises(ValueError, match="ratings of helpfulness are not the same"):
        comparison.rows("", first, second, *names)
