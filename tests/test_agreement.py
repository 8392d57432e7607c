"""Quadratic-weighted kappa against hand-made cases and its definition."""

import json

import numpy as np
import pytest
import raters
from hypothesis import given
from hypothesis import strategies as st

from hs2jax.evaluation import agreement


def items_of(pairs, name="helpfulness", per_group=1):
    """(prediction, rating or None) of responses, `per_group` to a prompt."""
    return [
        {
            "source": f"a.jsonl:{start + 1}",
            "outputs": [[float(p)] for p, _ in pairs[start : start + per_group]],
            "ratings": [
                {} if r is None else {name: r} for _, r in pairs[start : start + per_group]
            ],
        }
        for start in range(0, len(pairs), per_group)
    ]


def kappa(pairs):
    return agreement.ratings(items_of(pairs), ["helpfulness"])["helpfulness"]["kappa"]


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([(0, 0), (4, 4), (2, 2)], 1.0),
        ([(0, 4), (4, 0)], -1.0),
        ([(0, 0), (0, 4), (4, 0), (4, 4)], 0.0),
        # Observed (0 + 1 + 0 + 1) / 4; by chance both sides are 0, 1 or 2 with 1/4, 1/2, 1/4 and
        # 1/2, 0, 1/2: (2 * (1/8 * 4) + 1/4 + 1/4) / 1.
        ([(0, 0), (1, 0), (2, 2), (1, 2)], 1 - 0.5 / 1.5),
        # A textbook case: agreement 2/3 where chance gives 4/9 and all disagreements are one step.
        ([(1, 1), (2, 2), (1, 2)], 1 - (1 / 3) / (5 / 9)),
        # One side constant: no better than chance.
        ([(2, 0), (2, 4), (2, 2)], 0.0),
    ],
)
def test_kappa_by_hand(pairs, expected):
    assert kappa(pairs) == pytest.approx(expected)


def test_kappa_is_none_where_both_sides_are_one_level():
    result = agreement.ratings(items_of([(2.2, 2), (1.9, 2)]), ["helpfulness"])["helpfulness"]
    assert result["kappa"] is None
    assert result["interval"] is None
    assert result["confusion"][2] == [0, 0, 2, 0, 0]


PAIRS = st.lists(st.tuples(st.floats(-3, 8), st.integers(0, 4)), min_size=1, max_size=30)


@given(PAIRS, st.integers(1, 3))
def test_kappa_confusion_and_outside_equal_their_definitions(pairs, per_group):
    result = agreement.ratings(items_of(pairs, per_group=per_group), ["helpfulness"])["helpfulness"]
    predicted = [min(4, max(0, int(np.floor(p + 0.5)))) for p, _ in pairs]
    rated = [r for _, r in pairs]
    confusion = np.zeros((5, 5), int)
    for p, r in zip(predicted, rated, strict=True):
        confusion[r, p] += 1
    assert result["confusion"] == confusion.tolist()
    assert result["n"] == len(pairs)
    assert result["outside"] == sum(p < -0.5 or p >= 4.5 for p, _ in pairs)
    observed = np.mean(np.subtract(predicted, rated) ** 2)
    chance = np.mean(np.subtract.outer(predicted, rated) ** 2)
    if chance == 0:
        assert result["kappa"] is None
    else:
        assert result["kappa"] == pytest.approx(1 - observed / chance)
        assert -1 - 1e-12 <= result["kappa"] <= 1
    if result["interval"]:
        assert result["interval"][0] - 1e-9 <= result["kappa"] <= result["interval"][1] + 1e-9
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_a_half_is_rounded_up_on_both_sides_and_unrated_responses_do_not_count():
    result = agreement.ratings(
        items_of([(0.5, 1.5), (2.5, 2.5), (3.0, None)], per_group=3), ["helpfulness"]
    )["helpfulness"]
    assert result["confusion"][2][1] == 1
    assert result["confusion"][3][3] == 1
    assert result["n"] == 2


def test_the_interval_holds_the_truth_at_its_rate():
    rng, inside, trials = np.random.default_rng(0), 0, 150

    def draw(groups):
        shared = rng.normal(2, 1, size=(groups, 1))  # Responses of a prompt hang together.
        people = np.clip(np.round(shared + rng.normal(0, 0.5, size=(groups, 2))), 0, 4)
        return np.stack([shared + rng.normal(0, 0.7, size=(groups, 2)), people], axis=-1)

    truth = kappa([tuple(row) for row in draw(10_000).reshape(-1, 2)])
    for _ in range(trials):
        pairs = [tuple(row) for row in draw(80).reshape(-1, 2)]
        found = agreement.ratings(items_of(pairs, per_group=2), ["helpfulness"])["helpfulness"]
        inside += found["interval"][0] <= truth <= found["interval"][1]
    assert raters.covered(inside, trials)


def test_ratings_on_another_scale_are_refused_by_name_and_others_are_kept():
    items = [
        {
            "source": "a.jsonl:1",
            "outputs": [[1.0, 7.0], [3.0, 2.0]],
            "ratings": [{"helpfulness": 1, "quality": 7}, {"helpfulness": 3, "quality": 2}],
        }
    ]
    result = agreement.ratings(items, ["helpfulness", "quality"])
    assert result["helpfulness"]["kappa"] == 1.0
    assert result["helpfulness"]["note"] is None
    assert (result["quality"]["kappa"], result["quality"]["confusion"]) == (None, [])
    assert "2 to 7" in result["quality"]["note"]
    assert agreement.ratings(items, ["correctness", "coherence"]) == {}


def test_outputs_that_cannot_be_right_are_named():
    items = items_of([(1.0, 2)])
    with pytest.raises(ValueError, match=r"a\.jsonl:1: expected 2 finite outputs"):
        agreement.ratings(items, ["helpfulness", "verbosity"])
    with pytest.raises(ValueError, match=r"a\.jsonl:1: expected 1 finite"):
        agreement.ratings(items_of([(float("nan"), 2)]), ["helpfulness"])
