"""Rows for policies are the groups that they say, and what they do not say is no part of these."""

import json

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from test_policy_chat import TEXTS, talk

from hs2jax.data import corpora, loader
from hs2jax.data.groups import DataError, FieldError, Group
from hs2jax.data.record import Record
from hs2jax.data.whole_rows import LOGS, conversations, sampled

ROW = {
    "source": "prompts.jsonl:3",
    "prompt": talk("Hi"),
    "condition": {"helpfulness": 4, "verbosity": 0},
    "responses": ["Yes.", "No."],
    "tokens": [[5, 6, 2], [7, 2]],
    "finished": [True, True],
    "log_proposal": [-2.5, -1.25],
    "predicted": [{"helpfulness": 3.1}, {"helpfulness": 0.2}],
    "log_attribute": [-0.5, -27.0],
    "log_prior": [-3.0, 0.0],
}


def write(folder, *rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def said(*pairs, **more):
    return {"conversations": [{"from": name, "value": value} for name, value in pairs], **more}


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
    group = sampled(json.loads(json.dumps(row)))
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


def test_a_file_of_samples_keeps_condition_and_tokens(tmp_path):
    path = write(tmp_path, ROW, {"prompt": "Hi", "responses": ["Yes."]})
    first, second = corpora.read(f"sampled:{path}")
    assert first == Group(
        prompt=tuple(talk("Hi")),
        responses=("Yes.", "No."),
        ratings=tuple(
            {"log_attribute": a, "log_prior": p, "log_proposal": q}
            for a, p, q in ((-0.5, -3.0, -2.5), (-27.0, 0.0, -1.25))
        ),
        source=f"{path}:1",
        condition={"helpfulness": 4, "verbosity": 0},
        tokens=((5, 6, 2), (7, 2)),
    )
    assert second == Group(tuple(talk("Hi")), ("Yes.",), source=f"{path}:2")


def test_log_probabilities_become_the_loaders_columns():
    prepared = loader.prepare(
        [sampled(ROW)], tiny.tokenizer(), attributes=LOGS, row_length=99, max_tokens=99, policy=True
    )
    (example,) = prepared.examples
    np.testing.assert_array_equal(example.ratings, [[-0.5, -3.0, -2.5], [-27.0, 0.0, -1.25]])
    assert example.rated.all()
    assert [ids.tolist() for ids in example.encoded.responses] == ROW["tokens"]


@pytest.mark.parametrize("name", LOGS)
@pytest.mark.parametrize("value", [float("-inf"), float("nan"), 3.0], ids=str)
def test_a_log_probability_that_is_none_names_its_field_and_line(name, value, tmp_path):
    path = write(tmp_path, ROW, ROW | {name: [-1.0, value]})
    with pytest.raises(DataError, match=rf"rows\.jsonl, line 2, field '{name}\[1\]'"):
        list(corpora.read(f"sampled:{path}"))


@pytest.mark.parametrize("name", ["a:b", "a,b", "a\nb", " a", "<extra_id_1>", ""])
def test_an_attributes_name_cannot_write_more_than_itself(name):
    with pytest.raises(FieldError, match="condition, name of an attribute"):
        sampled(ROW | {"condition": {name: 1}})


TURNS = [("user", "Hi"), ("assistant", "Hello."), ("user", "Bye"), ("assistant", "Bye.")]
FORMS = {
    "messages": lambda turns: {"messages": [{"role": r, "content": c} for r, c in turns]},
    "nemo": lambda turns: said(*((role.title(), text) for role, text in turns), mask="User"),
    "sharegpt": lambda turns: said(
        *(({"user": "human", "assistant": "gpt"}.get(role, role), text) for role, text in turns)
    ),
}
EVERY_FORM = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


@EVERY_FORM
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_every_form_of_a_conversation_is_the_same_group(form, system):
    turns = ([("system", system)] if system else []) + TURNS
    expected = Group(tuple(talk("Hi", "Hello.", "Bye", system=system)), ("Bye.",))
    assert conversations(form(turns)) == expected


@EVERY_FORM
@pytest.mark.parametrize("system", ["", " \n"])
def test_a_system_text_without_content_is_no_turn(form, system):
    expected = conversations(form(TURNS))
    assert conversations(form([("system", system), *TURNS])) == expected
    assert conversations(form(TURNS) | {"system": system}) == expected


@EVERY_FORM
def test_a_system_text_of_its_own_is_the_first_turn(form):
    expected = conversations(form([("system", "Be brief."), *TURNS]))
    assert conversations(form(TURNS) | {"system": "Be brief."}) == expected
    twice = form([("system", "Be kind."), *TURNS]) | {"system": "Be brief."}
    with pytest.raises(FieldError, match="system: expected one system text"):
        conversations(twice)


def test_the_last_turns_label_is_its_ratings():
    row = said(("User", "Hi"), ("Assistant", "Yes."), ("User", "Bye"), ("Assistant", "Bye."))
    row["conversations"][1]["label"] = "helpfulness:0"
    assert conversations(row).ratings == ()
    row["conversations"][3]["label"] = "quality:4, helpfulness:2.5,toxicity:-1"
    expected = {"quality": 4.0, "helpfulness": 2.5, "toxicity": -1.0}
    assert conversations(row).ratings == (expected,)
    row["conversations"][3]["label"] = None
    assert conversations(row).ratings == ()


@EVERY_FORM
@pytest.mark.parametrize(
    ("roles", "what"),
    [
        ("ua u", "expected a last turn by the assistant, the last one is by 'user'"),
        ("u", "expected a last turn by the assistant"),
        ("s", "expected a last turn by the assistant"),
        ("a", "expected a tuple of at least one turn"),
        ("u u a", "should be by 'assistant'"),
        ("u a a", "the last turn should be by 'user'"),
        ("s a", "should be by 'user'"),
        ("a u a", "should be by 'user'"),
    ],
)
def test_turns_out_of_order_are_an_error(form, roles, what):
    names = {"u": "user", "a": "assistant", "s": "system"}
    turns = [(names[letter], "x") for letter in roles.replace(" ", "")]
    with pytest.raises(FieldError, match=what):
        conversations(form(turns))


def test_a_conversation_that_ends_with_the_user_can_be_left_out(tmp_path):
    path = write(tmp_path, FORMS["nemo"](TURNS[:3]), FORMS["nemo"](TURNS))
    with pytest.raises(DataError, match="line 1, field 'conversations': expected a last turn"):
        list(corpora.read(f"conversations:{path}"))
    record = Record()
    (kept,) = corpora.read(f"conversations:{path}", on_error="skip", record=record)
    assert kept.responses == ("Bye.",)
    assert record.skipped == {"no assistant answer": 1}


def test_a_row_without_a_conversation_names_what_is_missing():
    with pytest.raises(FieldError, match="conversations: is missing; the row has 'text'"):
        conversations({"text": "Hi"})
    both = FORMS["messages"](TURNS) | FORMS["nemo"](TURNS)
    with pytest.raises(FieldError, match="found both"):
        conversations(both)
