"""Conversations and sampled responses are the groups that their rows say."""

import json

import numpy as np
import pytest
import tiny
from format_rows import ROWS, of
from hypothesis import given
from hypothesis import strategies as st
from test_policy_chat import TEXTS, talk

from hs2jax.data import formats, loader
from hs2jax.data.formats import LOGS
from hs2jax.data.groups import FieldError, Group


@st.composite
def sampled_rows(draw):
    turns = draw(st.lists(TEXTS, min_size=1, max_size=5).filter(lambda t: len(t) % 2))
    n = draw(st.integers(1, 4))
    of_each = lambda values: st.lists(values, min_size=n, max_size=n)  # noqa: E731
    row = {
        "prompt": talk(*turns, system=draw(st.none() | TEXTS)),
        "condition": draw(st.dictionaries(st.sampled_from("abc"), st.integers(0, 4))),
        "responses": draw(of_each(TEXTS)),
    }
    lists = {"tokens": of_each(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=4))}
    lists |= {"finished": of_each(st.booleans())}
    lists |= {name: of_each(st.floats(-1e6, 0)) for name in LOGS}
    return row | draw(st.fixed_dictionaries({}, optional=lists))


@given(row=sampled_rows())
def test_a_sampled_row_comes_back_from_its_group(row):
    group = formats.FORMATS["sampled"].group(json.loads(json.dumps(row)))
    found = {
        "prompt": list(group.prompt),
        "condition": group.condition,
        "responses": list(group.responses),
        "tokens": [list(ids) for ids in group.tokens],
    } | {name: [rating[name] for rating in group.ratings if name in rating] for name in LOGS}
    lists = {name: [] for name in ("tokens", *LOGS)}
    expected = {name: value for name, value in (lists | row).items() if name != "finished"}
    assert found == expected
    assert len(group.ratings) in (0, len(group.responses))


def test_log_probabilities_become_the_loaders_columns():
    prepared = loader.prepare(
        [of("sampled")],
        tiny.tokenizer(),
        attributes=LOGS,
        row_length=99,
        max_tokens=99,
        policy=True,
    )
    (example,) = prepared.examples
    np.testing.assert_array_equal(example.ratings, [[-0.5, -3.0, -2.5], [-27.0, 0.0, -1.25]])
    assert [ids.tolist() for ids in example.encoded.responses] == ROWS["sampled"]["tokens"]


def said(*pairs, **more):
    return {"conversations": [{"from": name, "value": value} for name, value in pairs], **more}


TURNS = [("user", "Hi"), ("assistant", "Hello."), ("user", "Bye"), ("assistant", "Bye.")]
TALKS = {
    "messages": lambda turns: {"messages": [{"role": r, "content": c} for r, c in turns]},
    "nemo": lambda turns: said(*((role.title(), text) for role, text in turns), mask="User"),
    "sharegpt": lambda turns: said(
        *(({"user": "human", "assistant": "gpt"}.get(role, role), text) for role, text in turns)
    ),
}
EVERY_FORM = pytest.mark.parametrize("form", TALKS.values(), ids=TALKS)
conversations = formats.FORMATS["conversations"].group


@EVERY_FORM
def test_every_form_of_a_conversation_is_the_same_group(form):
    for system in (None, "Be brief."):
        turns = ([("system", system)] if system else []) + TURNS
        expected = Group(tuple(talk("Hi", "Hello.", "Bye", system=system)), ("Bye.",))
        assert conversations(form(turns)) == expected
    assert conversations(form(TURNS) | {"system": "Be brief."}) == expected
    twice = form([("system", "Be kind."), *TURNS]) | {"system": "Be brief."}
    with pytest.raises(FieldError, match="system: expected one system text"):
        conversations(twice)


@EVERY_FORM
@pytest.mark.parametrize("system", ["", " \n"])
def test_a_system_text_without_content_is_no_turn(form, system):
    expected = conversations(form(TURNS))
    assert conversations(form([("system", system), *TURNS])) == expected
    assert conversations(form(TURNS) | {"system": system}) == expected


def test_the_last_turns_label_is_its_ratings():
    row = TALKS["nemo"](TURNS)
    row["conversations"][1]["label"] = "helpfulness:0"
    assert conversations(row).ratings == ()
    row["conversations"][3]["label"] = "quality:4, helpfulness:2.5,toxicity:-1"
    expected = {"quality": 4.0, "helpfulness": 2.5, "toxicity": -1.0}
    assert conversations(row).ratings == (expected,)
    row["conversations"][3]["label"] = None
    assert conversations(row).ratings == ()
