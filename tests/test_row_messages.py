"""What is told of rows: their format, their turns as they count them, what is in their texts."""

import functools

import format_rows
import pytest

from hs2jax.data import corpora
from hs2jax.data.groups import DataError
from hs2jax.data.record import Record

WITHIN = "\n\nHuman: Hi\n\nAssistant: "


@pytest.fixture
def write(tmp_path):
    return functools.partial(format_rows.write, tmp_path)


def told(write, form, row):
    """The error of a file of one row."""
    with pytest.raises(DataError) as error:
        list(corpora.read(f"{form}:{write([row])}"))
    return str(error.value)


def by(letters):
    """Messages by system, user and assistant."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": roles[each], "content": f"text {i}"} for i, each in enumerate(letters)]


PAIR = {"chosen": "a", "rejected": "b"}
RATED = {"responses": ["a", "b"], "ratings": [{"x": 1}, {"x": 2}]}
ARGILLA = {"instruction": "Hi", "chosen_response": "a", "rejected_response": "b"}
COMPARED = {"response1": "a", "response2": "b", "overall_preference": 1}


@pytest.mark.parametrize(
    ("form", "row", "said"),
    [
        ("preference", {x: f"{WITHIN}{x}." for x in PAIR}, "format hh_rlhf reads it"),
        ("preference", {"prompt": "Hi", **RATED}, "the format ratings reads"),
        ("responses", {"prompt": "Hi", **PAIR}, "the format preference reads"),
        ("preference", {"instruction": "Hi", "output": "a"}, "the format instructions reads"),
        ("hh_rlhf", {"prompt": "Hi", "response": "a"}, "the format responses reads"),
        ("helpsteer2", {"messages": by("ua")}, "the format conversations reads"),
        ("conversations", {"conversation": by("ua")}, "(another column: conversations{"),
        ("preference", ARGILLA, "nearest format: instructions"),
        ("ratings", {"context": by("u"), **COMPARED}, "the format helpsteer3 reads"),
        ("preference", {"id": 3}, "preference{chosen=COLUMN}:FILE)"),
    ],
)
def test_a_missing_column_names_the_nearest_format(write, form, row, said):
    text = told(write, form, row)
    assert said in text
    assert text.endswith("; on_error=skip leaves such rows out")
    record = Record()
    assert not list(corpora.read(f"{form}:{write([row])}", on_error="skip", record=record))
    assert "on_error" not in record.skipped_examples[0]


BLANK = [{"role": "system", "content": ""}]
HUMANS = [{"from": "human", "value": "a"}, {"from": "Human", "value": "b"}]


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        (by("aua"), "turn 1 of 3 should be by 'user', is by 'assistant'"),
        (by("uua"), "turn 2 of 3 should be by 'assistant', is by 'user'"),
        (by("uaa"), "turn 3 of 3 should be by 'user', is by 'assistant'"),
        (by("sa"), "turn 2 of 2 should be by 'user', is by 'assistant'"),
        (by("usa"), "turn 2 of 3 should be by 'assistant', is by 'system'"),
        (by("ssua"), "turn 2 of 4 should be by 'user', is by 'system'"),
        (BLANK + by("uua"), "turn 3 of 4 should be by 'assistant', is by 'user'"),
        (by("uauua"), "turn 4 of 5 should be by 'assistant', is by 'user'"),
        (by("u"), "expected a last turn by the assistant, the last one is by 'user'"),
        (HUMANS, "turn 2 of 2 should be by 'assistant', is by 'Human'"),
        (f"\n\nAssistant: So?{WITHIN}So.", "turn 1 of 3 should be by 'Human'"),
        (f"\n\nHuman: Hi\n\nHuman: {WITHIN}So.", "'chosen, turn 2': expected a text"),
    ],
)
def test_turns_are_counted_as_the_row_has_them(write, turns, said):
    form, field = ("hh_rlhf", "chosen") if isinstance(turns, str) else ("conversations", "messages")
    assert said in told(write, form, {field: turns})


@pytest.mark.parametrize("blank", [None, "", " \n", [], [{"type": "text", "text": ""}]])
def test_an_empty_system_turn_is_none(write, blank):
    turns = [{"role": "system", "content": blank}, *by("ua")]
    (group,) = corpora.read(f"conversations:{write([{'messages': turns}])}")
    assert [turn["role"] for turn in group.prompt] == ["user"]
    turns[0]["content"] = [{"type": "image", "image": "x.png"}]
    assert "expected one part of type 'text'" in told(write, "conversations", {"messages": turns})


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (WITHIN, "format hh_rlhf"),
        ("Human: Hi\nAssistant: Yes.\nHuman: Why?", "format hh_rlhf"),
        ("USER: Name a city. ASSISTANT:", "speakers' names"),
        ("User: Hi\nAssistant: Yes.", "speakers' names"),
        ("Here it is.\n\n### Instruction:\nHi\n\n### Response:\n", "format instructions"),
        ("<|im_start|>user\nHi<|im_end|>\n", "control tokens"),
        ("<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>", "control tokens"),
        ("<s>[INST] Hi [/INST]", "control tokens"),
        ("<start_of_turn>user\nHi<end_of_turn>", "control tokens"),
        ("<\uff5cUser\uff5c>Hi<\uff5cAssistant\uff5c>", "control tokens"),
        ("Hi\n<extra_id_1>Assistant\nYes.", "format helpsteer2"),
        ('[{"role": "user", "content": "Hi"}]', "a list of messages as a text"),
        ("[{'from': 'human', 'value': 'Hi'}]", "a list of messages as a text"),
        ('["Hi", "And then?"]', "a list of texts as a text"),
        (r"b'Hi\nYou'", "bytes as a text"),
        ("A chat with a model. USER: Hi ASSISTANT: Yes.", "speakers' names"),
        ("<human>: Hi\n<bot>: Yes.", "speakers' names"),
        ("Q: Who?\nA: I.\nQ: Why?", "questions and answers"),
        ("### Human: Hi\n### Assistant:", "an instruction template"),
        ("Assistant: Yes.", "a speaker's name"),
        ("helpfulness:4,verbosity:2\nYes.", "line of attribute values"),
        ("<extra_id_2>quality:4\nYes.", "line of attribute values"),
        ("The user: he said 1 < 2 | 3 > 2.\nHuman rights\n## Instruction", None),
        ("note:4\nhelpfulness: good, <b>so</b> [INST", None),
    ],
)
@pytest.mark.parametrize("field", ["prompt", "response"])
def test_a_conversation_within_a_text_is_told_and_counted(write, caplog, field, text, kind):
    row, record = {"prompt": "Hi", "response": "Yes."} | {field: text}, Record()
    (group,) = corpora.read(f"responses:{write([row])}", record=record)
    assert text in (group.prompt[0]["content"], *group.responses)
    if kind is None:
        assert not record.transcripts
        return
    assert any(kind in name for name in record.transcripts)
    assert kind in caplog.text
    assert "transcripts: " in str(record)
