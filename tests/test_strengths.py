"""How much better a response is, and what ratings say: numbers, and what is told of them."""

import logging
import types

import pytest
import tiny
from test_fields import PAIR, read

from hs2jax import configs
from hs2jax.data import loader
from hs2jax.data.groups import DataError, pairs
from hs2jax.data.record import Record
from hs2jax.training import tasks

# What a row says, the strength of its pair, and the rule; or the field of the error and its words.
STRENGTHS = [
    ({}, 1, "none, so 1"),
    ({"strength": None}, 1, "none, so 1"),
    ({"strength": 2}, 2, "strength"),
    ({"Strength": 3.0}, 3, "Strength"),
    ({"margin": 0.5}, 0.5, "margin"),
    ({"strength": 0}, 0, "strength"),
    ({"preference_strength": -2}, 2, "preference_strength"),
    ({"score_chosen": 8.5, "score_rejected": 8}, 0.5, "score_chosen - score_rejected, at most 3"),
    ({"chosen_score": 9, "rejected_score": 1}, 3, "chosen_score - rejected_score, at most 3"),
    ({"chosen-rating": 4, "rejected-rating": 4}, 0, "chosen-rating - rejected-rating, at most 3"),
    ({"chosen_avg_rating": 4.5, "rejected_avg_rating": 2.5}, 2, None),
    ({"chosenReward": 0.25, "rejectedReward": -1}, 1.25, None),
    ({"strength": 2, "margin": 2.0}, 2, "strength"),
    ({"score_chosen": 8, "score_rejected": None}, 1, "none, so 1"),
    ({"score_chosen": 2, "score_rejected": 3}, "score_rejected", "is above score_chosen: .* map"),
    ({"strength": 4.5}, "strength", r"from 0 to 3, found 4.5: scale it, as in \{strength"),
    ({"margin": -1}, "margin", "from 0 to 3"),
    ({"preference_strength": 2}, "preference_strength", "from -3 to 0"),
    ({"strength": "2"}, "strength", "expected a number"),
    ({"strength": True}, "strength", "found true"),
    ({"strength": 2, "margin": 1}, "margin", "say different strengths, 1 and 2"),
    ({"score_chosen": 2}, "score_chosen", "looks like a label"),
    ({"label": 1}, "label", "looks like a label"),
    ({"score_diff": 1}, "score_diff", "looks like a label"),
    ({"better_response_id": 0}, "better_response_id", "looks like a label"),
    ({"helpfulness": 3}, "helpfulness", "looks like a label"),
]


@pytest.mark.parametrize(("says", "strength", "rule"), STRENGTHS)
def test_how_much_better_is_read_by_a_stated_rule_or_refused(says, strength, rule, tmp_path):
    if isinstance(strength, str):
        with pytest.raises(DataError, match=f"field '{strength}': .*{rule}"):
            read(tmp_path, PAIR | says)
        return
    record = Record()
    (group,) = read(tmp_path, PAIR | says, record=record)
    found, ties = pairs(group)
    assert ([pair[1:] for pair in found], ties) == ([(1, strength)] * (strength > 0), strength == 0)
    assert rule is None or record.strengths == {rule: 1}
    assert len(record.strengths) == 1
    assert str(record).endswith(f"strengths: {next(iter(record.strengths))} (1 rows)")


# Numbers ------------------------------------------------------------------------------------------

NUMBERS = [
    (3.0, 3),
    (3, 3),
    (2.5, 2.5),
    (None, None),
    ("N/A", None),
    (" n/a ", None),
    ("", None),
    (True, "true or false for a number"),
    ("3", "text for a number"),
    ("good", "text for a number"),
    (float("nan"), "not finite"),
    (float("inf"), "not finite"),
    ([3], "wrong type"),
]


@pytest.mark.parametrize(("value", "found"), NUMBERS)
def test_a_rating_is_a_number_unknown_or_refused_by_its_own_reason(value, found, tmp_path):
    rows = {
        "ratings": {"prompt": "p", "response": "a", "ratings": {"wit": value, "tone": 1}},
        "helpsteer": {"prompt": "p", "response": "a", "helpfulness": value}
        | dict.fromkeys(("correctness", "coherence", "complexity", "verbosity"), 2.0),
    }
    for form, row in rows.items():
        name, record = "wit" if form == "ratings" else "helpfulness", Record()
        groups = read(tmp_path, row, form, on_error="skip", record=record)
        if form == "helpsteer" and found == 2.5:
            assert record.skipped == {"wrong type": 1}
        elif isinstance(found, str):
            assert record.skipped == {found: 1}
        else:
            assert groups[0].ratings[0].get(name) == found
            assert record.unknown == ({name: 1} if found is None else {})


@pytest.mark.parametrize(
    ("low", "high", "count", "told"),
    [
        *((0, 10, 2, "*0.4"), (1, 5, 2, "-1"), (0, 5, 2, "*0.8"), (0, 1, 40, "*4")),
        *((0, 0, 40, "*4"), (0, 1, 2, None), (0, 4, 40, None)),
    ],
)
def test_ratings_on_another_scale_are_told(low, high, count, told, tmp_path, caplog):
    rows = [
        {"prompt": f"p{i}", "response": "a", "ratings": {"helpfulness": (low, high)[i % 2]}}
        for i in range(count)
    ]
    record = Record()
    with caplog.at_level(logging.WARNING):
        read(tmp_path, rows, "ratings", record=record)
    found = [text for text in caplog.messages if f"goes from {low} to {high}" in text]
    assert [text.rpartition("COLUMN")[2] for text in found] == ([f"{told}}}"] if told else [])
    assert f"helpfulness {low} to {high}, mean {(low + high) / 2:g}" in str(record)


@pytest.mark.parametrize(("name", "sign", "told"), [("rank", 1, 1), ("Rank", -1, 0), ("wit", 1, 0)])
def test_which_rank_is_the_better_one_is_told(name, sign, told, tmp_path, caplog):
    ratings = [{name: sign * i} for i in (1, 2)]
    read(tmp_path, {"prompt": "p", "responses": ["a", "b"], "ratings": ratings}, "ratings")
    assert caplog.text.count(f"a higher {name} is better; else map") == told


# Runs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preference", ["regular", "margin", "scaled"])
@pytest.mark.parametrize("says", [{}, {"strength": 1}, {"margin": 2}])
def test_a_loss_of_strengths_without_any_is_told(preference, says, tmp_path):
    groups = read(tmp_path, [PAIR | says, PAIR | says | {"prompt": "Name another tree."}])
    options = {"attributes": ("reward",), "row_length": 256, "max_tokens": 256}
    config = configs.defaults("train_reward_model")
    config.objective.preference = preference
    task = types.SimpleNamespace(config=config, model=types.SimpleNamespace(outputs=("reward",)))
    _, notes = tasks.RewardTask.prepare_training(
        task, loader.prepare(groups, tiny.tokenizer(), **options)
    )
    assert len(notes["warnings"]) == (preference != "regular" and "margin" not in says)
