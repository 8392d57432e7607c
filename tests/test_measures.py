"""Rows of scored groups against plain counts, numpy and scipy."""

import json
import math

import numpy as np
import pytest
import raters
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from hs2jax.evaluation import measures
from hs2jax.evaluation.statistics import wilson
from hs2jax.report.run import find, select

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
    strengths = st.sampled_from([0.5, 1.0, 1.3, 2.0, 3.0])
    return raters.item(
        draw(st.lists(st.text(max_size=4), min_size=n, max_size=n)),
        [row[0] for row in outputs],
        [(*pair, draw(strengths)) for pair in pairs],
        outputs=outputs,
        ratings=draw(st.lists(rating, min_size=n, max_size=n)),
        ties=draw(st.integers(0, 1)),
    )


ITEMS = st.lists(scored_groups(), min_size=1, max_size=6)


def values(rows, part="") -> dict:
    return {row["metric"]: row["value"] for row in rows if row["part"] == part}


def rated_items(pairs, name="helpfulness", per_group=1):
    """(prediction, rating or None) of responses, `per_group` to a prompt."""
    ratings = [{} if rating is None else {name: rating} for _, rating in pairs]
    parts = [slice(start, start + per_group) for start in range(0, len(pairs), per_group)]
    return [raters.item("", [p for p, _ in pairs[s]], ratings=ratings[s]) for s in parts]


@settings(max_examples=50)
@given(ITEMS)
def test_rows_of_pairs_equal_a_plain_count(items):
    pairs = [(item, c, r, s) for item in items for c, r, s in item["pairs"]]
    rows = measures.pair_rows("set", items)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    if not pairs:
        assert rows == []
        return
    margins = np.array([item["rewards"][c] - item["rewards"][r] for item, c, r, _ in pairs])
    lead = np.array([len(i["responses"][c]) - len(i["responses"][r]) for i, c, r, _ in pairs])
    best = "longer" if (lead > 0).sum() >= (lead < 0).sum() else "shorter"
    expected = {
        "accuracy": (margins > 0).mean(),
        "accuracy_ties_as_half": ((margins > 0) + (margins == 0) / 2).mean(),
        "margin": margins.mean(),
        "log_loss": -scipy.special.log_expit(margins).mean(),
        "longer_wins": (lead > 0).mean(),
        "shorter_wins": (lead < 0).mean(),
        "lead_over_length": (margins > 0).mean() - max((lead > 0).mean(), (lead < 0).mean()),
        "equal_rewards": (margins == 0).sum(),
        "equal_lengths": (lead == 0).sum(),
        "ties": sum(item["ties"] for item in items),
    }
    assert values(rows) == pytest.approx(expected, abs=1e-9)
    assert find(rows, metric="lead_over_length")["against"] == best
    levels = select(rows, family="strength", metric="accuracy")
    assert sum(row["n"] for row in levels) == len(pairs) == find(rows, metric="accuracy")["n"]
    for row in levels:
        level = int(row["part"].removeprefix("strength/"))
        mine = margins[[math.ceil(s) == level for *_, s in pairs]]
        assert row["value"] == pytest.approx((mine > 0).mean())
    for row in rows:
        if row["low"] is not None:
            assert row["low"] - 1e-9 <= row["value"] <= row["high"] + 1e-9
    if all(len(item["pairs"]) <= 1 for item in items):
        row = find(rows, metric="accuracy")
        ends = wilson((margins > 0).sum(), len(pairs))
        assert (row["low"], row["high"]) == pytest.approx(ends)


def test_a_few_pairs_that_agree_are_not_certain():
    rows = measures.pair_rows("", raters.of_margins([1.0, 1.0], lengths=[(1, 2), (1, 2)]))
    assert find(rows, metric="accuracy")["value"] == 1.0
    assert find(rows, metric="accuracy")["low"] < 0.5
    assert find(rows, metric="lead_over_length")["low"] is None


@settings(max_examples=50)
@given(ITEMS)
def test_rows_of_attributes_equal_numpy_and_scipy(items):
    rows = measures.attribute_rows("", items, NAMES, {"verbosity": 1.5})
    for column, name in enumerate(NAMES):
        both = [
            (o[column], r[name])
            for item in items
            for o, r in zip(item["outputs"], item["ratings"], strict=True)
            if name in r
        ]
        found = values(rows, f"attribute/{name}")
        if not both:
            assert not found
            continue
        x, y = np.array(both).T
        mse, of_mean = ((y - each) ** 2 for each in (x, y.mean() if column == 0 else 1.5))
        constant = np.ptp(x) == 0 or np.ptp(y) == 0
        expected = {
            "mse": mse.mean(),
            "mae": np.abs(x - y).mean(),
            "mse_of_mean": of_mean.mean(),
            "mse_below_mean": of_mean.mean() - mse.mean(),
            "mean_prediction": x.mean(),
            "mean_rating": y.mean(),
            "pearson": None if constant else scipy.stats.pearsonr(x, y)[0],
            "spearman": None if constant else scipy.stats.spearmanr(x, y)[0],
        }
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    sources = {row["part"]: row["method"] for row in select(rows, metric="mse_of_mean")}
    expected = {"helpfulness": "mean of these ratings", "verbosity": "training mean"}
    assert all(sources[part] == expected[part.removeprefix("attribute/")] for part in sources)


PAIRS = st.lists(st.tuples(st.floats(-3, 8), st.integers(0, 4)), min_size=1, max_size=30)


@settings(max_examples=50)
@given(PAIRS, st.integers(1, 3))
def test_kappa_confusion_and_outside_equal_their_definitions(pairs, per_group):
    items = rated_items(pairs, per_group=per_group)
    rows = measures.attribute_rows("", items, ["helpfulness"])
    found = values(rows, "attribute/helpfulness")
    predicted = [min(4, max(0, int(np.floor(p + 0.5)))) for p, _ in pairs]
    rated = [r for _, r in pairs]
    table = np.zeros((5, 5), int)
    np.add.at(table, (rated, predicted), 1)
    for rating in range(5):
        line = values(rows, f"confusion/helpfulness, rated {rating}")
        assert [line[f"predicted_{p}"] for p in range(5)] == table[rating].tolist()
    assert found["outside"] == sum(p < -0.5 or p >= 4.5 for p, _ in pairs)
    observed = np.mean(np.subtract(predicted, rated) ** 2)
    chance = np.mean(np.subtract.outer(predicted, rated) ** 2)
    if chance == 0:
        assert found["kappa"] is None
    else:
        assert found["kappa"] == pytest.approx(1 - observed / chance)


def test_a_half_is_rounded_up_on_both_sides_and_unrated_responses_do_not_count():
    items = rated_items([(0.5, 1.5), (2.5, 2.5), (3.0, None)], per_group=3)
    found = find(measures.attribute_rows("", items, ["helpfulness"]), metric="kappa")
    # Predicted 1 and 3, rated 2 and 3: observed (1 + 0) / 2, by chance (1 + 4 + 1 + 0) / 4.
    assert (found["n"], found["value"]) == (2, pytest.approx(1 - 0.5 / 1.5))


def test_ratings_on_another_scale_have_no_kappa_and_others_are_kept():
    names, table = ["helpfulness", "quality"], [[1.0, 7.0], [3.0, 2.0]]
    rated = [dict(zip(names, row, strict=True)) for row in table]
    items = [raters.item("ab", [1, 3], outputs=table, ratings=rated)]
    rows = measures.attribute_rows("", items, names)
    ours, other = (find(rows, metric="kappa", part=f"attribute/{name}") for name in names)
    assert (ours["value"], "note" in ours) == (1.0, False)
    assert other["value"] is None
    assert "run from 2 to 7" in other["note"]
    assert measures.attribute_rows("", items, ["correctness", "coherence"]) == []


def test_what_is_not_finite_is_named():
    item = raters.of_margins([float("nan")])[0]
    with pytest.raises(ValueError, match=r"made\.jsonl:1.*finite"):
        measures.pair_rows("", [item])
    with pytest.raises(ValueError, match=r"made\.jsonl:1: outputs must be finite"):
        measures.attribute_rows("", rated_items([(float("nan"), 2)]), ["helpfulness"])
