"""What a row says is used, counted or refused; columns of other files become fields by a map."""

import logging
import re

import pytest
from format_rows import user
from stages import write
from test_policy_chat import talk

from hs2jax.data import corpora
from hs2jax.data.groups import DataError
from hs2jax.data.record import Record

PAIR = {"prompt": "Name a tree.", "chosen": "Oak.", "rejected": "Cow."}
SAYS = {"role": "assistant", "content": "Oak."}
ASKS = {"role": "user", "content": "Name a tree."}


def read(tmp_path, row, form="preference", **options):
    """Groups of a row, or of several."""
    path = write(tmp_path / "rows.jsonl", row if isinstance(row, list) else [row])
    return list(corpora.read(f"{form}:{path}", **options))


# Maps ---------------------------------------------------------------------------------------------

WEBGPT = {"question": {"full_text": "Why?", "id": 3}, "answer_0": "So.", "answer_1": "No."}
WEBGPT |= {"score_0": -0.5, "score_1": 0.5}
WEBGPT_MAP = (
    "{prompt=question.full_text,chosen=answer_0,rejected=answer_1,strength=score_0-score_1}"
)
NECTAR = [{"answer": "a", "rank": 1.0}, {"answer": "b", "rank": 7}, {"answer": "c", "rank": "N/A"}]
FLAT = {"q": "Why?", "a": "So.", "Helpfulness": 8, "corr": "N/A"}
DEEP = {"all": {"q": "Why?", "context": "There.", "id": 3}, "c": "So.", "r": "No."}
RATED = {"prompt": "p", "response": "a", "ratings": {"Wit": 3}}
# A form with a map, a row, and what its group has.
MAPPED = [
    (f"preference{WEBGPT_MAP}", WEBGPT, {"responses": ("So.", "No."), "strength": 1}),
    (f"preference{WEBGPT_MAP}", WEBGPT | {"score_0": 9}, {"prompt": user("Why?"), "strength": -3}),
    ("preference{strength=points/4,-id}", PAIR | {"points": 8, "id": 1}, {"strength": -2}),
    ("preference{strength=stars-1*0.5}", PAIR | {"stars": 5}, {"strength": -2}),
    ("preference{strength=a*-2+1}", PAIR | {"a": 1}, {"strength": 1}),
    ("preference{strength=a-b*0.5}", PAIR | {"a": 4, "b": 1}, {"strength": -1.5}),
    ("preference{strength=a-b}", PAIR | {"a": 4, "b": None}, {"strength": -1}),
    ("preference{strength=a-b}", PAIR | {"a": 2, "b": 2.0}, {"strength": 0}),
    ("preference{strength=gap-wide}", PAIR | {"gap-wide": 2.5}, {"strength": -2.5}),
    ("preference{-tools, -rank}", PAIR | {"tools": ["x"], "rank": 2}, {"strength": -1}),
    ("preference{chosen=a.0.b,-chosen}", PAIR | {"a.0.b": "Elm."}, {"responses": ("Elm.", "Cow.")}),
    (
        "ratings{prompt=q, response=a, helpfulness=Helpfulness*0.5, correctness=corr}",
        *(FLAT, {"responses": ("So.",), "ratings": ({"helpfulness": 4},)}),
    ),
    (
        "ratings{prompt=q,responses=all.answer,rank=all.rank*-1}",
        {"q": "Why?", "all": NECTAR},
        {"responses": ("a", "b", "c"), "ratings": ({"rank": -1}, {"rank": -7}, {})},
    ),
    (
        "ratings{prompt=question.full_text,responses=answer_0|answer_1,wit=score_0|score_1}",
        *(WEBGPT, {"responses": ("So.", "No."), "ratings": ({"wit": -0.5}, {"wit": 0.5})}),
    ),
    ("preference{prompt=all.q,chosen=c,rejected=r,-all.context}", DEEP, {"prompt": user("Why?")}),
    (
        "preference{prompt=q,chosen=all.0.answer,rejected=all.1.answer,-all.rank}",
        *({"q": "Why?", "all": NECTAR}, {"responses": ("a", "b")}),
    ),
    ("ratings{wit=ratings.Wit}", RATED, {"ratings": ({"wit": 3},)}),
    ("responses{prompt=a b,response=c}", {"a b": "Why?", "c": "So."}, {"responses": ("So.",)}),
    ("conversations{messages=all}", {"all": [ASKS, SAYS]}, {"responses": ("Oak.",)}),
    (
        "llmbar{input=q,output_1=x,output_2=y}",
        *({"q": "p", "x": "a", "y": "b", "label": 2.0}, {"strength": 1, "prompt": user("p")}),
    ),
]


@pytest.mark.parametrize(("form", "row", "expected"), MAPPED)
def test_a_map_names_the_columns_of_fields(form, row, expected, tmp_path):
    (group,) = read(tmp_path, row, form)
    assert {name: getattr(group, name) for name in expected} == expected


def test_a_map_stands_with_slices_stars_and_other_files(tmp_path):
    path = write(tmp_path / "1.jsonl", [WEBGPT | {"answer_0": f"{i}"} for i in range(4)])
    write(tmp_path / "2.jsonl", [WEBGPT])
    plain = write(tmp_path / "plain.json", [PAIR])
    spec = f"preference{WEBGPT_MAP}:{tmp_path}/*.jsonl[:2]+preference:{plain} + "
    record = Record()
    groups = list(corpora.read(spec + f"preference{WEBGPT_MAP}:{path}[-1:]", record=record))
    assert [group.responses[0] for group in groups] == ["0", "1", "So.", "Oak.", "3"]
    assert record.strengths == {"score_0-score_1, at most 3": 4, "none, so 1": 1}
    assert record.unread == {f"question.id in {path}": 3, f"question.id in {tmp_path}/2.jsonl": 1}
    assert len(corpora.sets_of(spec + f"preference{WEBGPT_MAP}:{path}[-1:]")) == 3


def test_items_that_a_map_does_not_take_are_counted(tmp_path):
    record, row = Record(), {"q": "Why?", "all": ["a", "b", "c"]}
    read(tmp_path, row, "preference{prompt=q,chosen=all.0,rejected=all.2}", record=record)
    assert record.unread == {f"all.1 in {tmp_path}/rows.jsonl": 1}


WRONG_MAPS = [
    ("preference{}", "does not map fields"),
    ("preference{prompt}", "does not map fields"),
    ("preference{prompt=a,prompt=b}", "does not map fields"),
    ("preference{strength=score_0/0}", "does not map fields"),
    ("preference{chosen=question.3}", "'question.3' is missing: there is no '3'"),
    ("preference{prompt=}", "does not map fields"),
    ("ratings{wit=score_0|score_1*2}", "computes with some of its columns alone: write it behind"),
    ("preference{prompt=wrong}", r"field 'prompt': its column 'wrong' is missing; the row has 'a"),
    ("preference{chosen=question.wrong}", "'question.wrong' is missing: there is no 'wrong'"),
    (f"preference{WEBGPT_MAP[:-1]},promt=score_0}}", "'promt': is in the map .* reads no such"),
    ("preference{chosen=answer_0}", "field 'rejected': is missing"),
    (
        f"preference{WEBGPT_MAP.replace('score_1', 'answer_1')}",
        "field 'answer_1': expected a number",
    ),
    (f"preference{WEBGPT_MAP.partition(',strength')[0]}}}", "'score_0': looks like a label"),
    ("ratings{prompt=question.full_text,response=answer_0,a=score_0,b=score_0|score_1}", "as many"),
    (
        "preference{prompt=answer_0}",
        "'prompt': is in the map of fields and a column of the row, too",
    ),
    ("preference{prompt=all.q,chosen=c,rejected=r}", "'all.context': looks like an input"),
    ("tfds{prompt=a}", "unknown data format|there is no data set"),
]


@pytest.mark.parametrize(("form", "told"), WRONG_MAPS)
def test_a_wrong_map_is_told(form, told, tmp_path):
    row = DEEP if "all.q" in form else WEBGPT
    row = {"q": "p", "c": "a", "r": "b", "s-s": -1} if "s-s" in form else row
    row = row | ({"prompt": "Why?"} if form == "preference{prompt=answer_0}" else {})
    with pytest.raises(ValueError, match=told):
        read(tmp_path, row, form)


# What else a row says -----------------------------------------------------------------------------

CALL = [{"function": {"name": "weather"}}]
PART = {"type": "text", "text": "Oak."}
NEW_INPUTS = ("reply", "text", "content", "body", "persona", "few_shots", "prefill", "options")
NEW_LABELS = ("swapped", "is_flipped", "chosen_idx", "is_correct", "human_prefers", "verdict")
# What a row or its last turn says besides, and whether it is "used", "counted" or by what refused.
BESIDES = [
    ({"tools": CALL}, "'tools': looks like an input"),
    ({"history": [["a", "b"]]}, "'history': looks like an input"),
    ({"images": ["a.png"]}, "'images': looks like an input"),
    ({"image_url": "x"}, "'image_url': looks like an input"),
    ({"Context": "x"}, "'Context': looks like an input"),
    ({"documents": [{"text": "x"}]}, "'documents': looks like an input"),
    ({"reasoning_content": "x"}, "'reasoning_content': looks like an input"),
    ({"system_prompt": "x"}, "'system_prompt': looks like an input"),
    ({"answer_2": "x"}, "'answer_2': looks like an input"),
    ({"conversations": [ASKS]}, "'conversations': looks like an input"),
    *(({name: "x"}, f"'{name}': looks like an input") for name in NEW_INPUTS),
    *(({name: 1}, f"'{name}': looks like a label") for name in NEW_LABELS),
    ({"system": "Be brief."}, "used"),
    ({"tools": None, "history": [], "images": "", "context": {}}, "used"),
    ({"prompt_id": "x"}, "counted"),
    ({"chosen_model": "x"}, "counted"),
    ({"source": "x"}, "counted"),
    ({"num_turns": 0}, "counted"),
]
IN_TURNS = [
    ({"tool_calls": CALL}, "'messages.1..tool_calls': stands beside"),
    ({"function_call": {}}, "used"),
    ({"function_call": {"name": "x"}}, "'messages.1..function_call'"),
    ({"reasoning_content": "x"}, "'messages.1..reasoning_content'"),
    ({"images": ["x"]}, "'messages.1..images'"),
    ({"name": "Ann"}, "'messages.1..name'"),
    ({"refusal": "I can't."}, "'messages.1..refusal'"),
    ({"content": [PART | {"cache_control": "x"}]}, "one of type 'text' with 'cache_control'"),
    ({"weight": 0}, "'messages.1..weight'"),
    ({"name": None, "tool_calls": [], "refusal": None}, "used"),
    ({"timestamp": 3}, "counted"),
    ({"content": [PART]}, "used"),
    ({"content": [PART, PART]}, "'messages.1..content': expected one part .* found 2"),
    ({"content": [{"type": "image", "text": "Oak."}]}, "type 'image'"),
    ({"content": [{"type": "text", "text": None}]}, "'messages.1..content': expected a text"),
    ({"content": None, "tool_calls": CALL}, "'messages.1..tool_calls'"),
    ({"from": "gpt"}, "'messages.1.': expected an object"),
    ({"role": "tool"}, "unknown role|expected one of"),
    *(({"role": name}, "used") for name in ("Assistant", "bot", "CHATBOT", "model", "ai")),
    ({"role": "human"}, "should be by 'assistant', is by 'human'"),
]


def came_of(tmp_path, row, form):
    """What came of a row in its two ways to be read, and what was counted."""
    record = Record()
    groups = read(tmp_path, row, form, on_error="skip", record=record)
    if not groups:
        with pytest.raises(DataError) as raised:
            read(tmp_path, row, form)
        assert str(raised.value).startswith(record.skipped_examples[0])
        return str(raised.value)
    return "counted" if record.unread else "used"


@pytest.mark.parametrize(
    ("form", "row", "told"),
    [
        *(("preference", PAIR | more, told) for more, told in BESIDES),
        *(("responses", {"messages": [ASKS, SAYS | more]}, told) for more, told in IN_TURNS),
    ],
)
def test_what_stands_besides_is_used_counted_or_refused(form, row, told, tmp_path):
    assert re.search(told, came_of(tmp_path, row, form))


def test_a_column_that_is_not_read_is_told_once_for_each_file(tmp_path, caplog):
    record = Record()
    rows = [PAIR | {"prompt_id": i} for i in range(3)]
    with caplog.at_level(logging.WARNING):
        read(tmp_path, rows, record=record)
        read(tmp_path, rows)
    assert record.unread == {f"prompt_id in {tmp_path}/rows.jsonl": 3}
    (told,) = (text for text in caplog.messages if "prompt_id" in text)
    assert told.endswith(f"'preference' does not read: prompt_id in {tmp_path}/rows.jsonl (3 rows)")
    assert "unread: prompt_id in" in str(record)


LONG = talk("Name a fish.", "Carp.", "Name a tree.")
WHOLE = {side: [*LONG, {**SAYS, "content": side}] for side in ("chosen", "rejected")}
WITH_SYSTEM = {side: [{"role": "system", "content": "Be brief."}, *WHOLE[side]] for side in WHOLE}
# Fields that say the same, and the roles of the prompt's turns; or the field that says another.
SAME = [
    (WHOLE, "uau"),
    (WHOLE | {"prompt": "Name a tree. \n"}, "uau"),
    (WHOLE | {"prompt": "Name a fish."}, "uau"),
    (WHOLE | {"prompt": None}, "uau"),
    (WHOLE | {"prompt": " "}, "uau"),
    (WHOLE | {"prompt": LONG}, "uau"),
    (WITH_SYSTEM | {"prompt": "Name a tree."}, "suau"),
    (WITH_SYSTEM | {"prompt": LONG}, "suau"),
    (WHOLE | {"system": "Be brief."}, "suau"),
    (WITH_SYSTEM | {"system": "Be brief."}, "suau"),
    (WHOLE | {"messages": WHOLE["chosen"]}, "uau"),
    (WHOLE | {"messages": []}, "uau"),
    (PAIR | {"response": "Oak. "}, "u"),
    (PAIR | {"chosen": [SAYS]}, "u"),
    (PAIR | {"chosen": SAYS}, "u"),
    (PAIR | {"prompt": LONG, "chosen": [*LONG, SAYS]}, "uau"),
    (WHOLE | {"prompt": "Name a bird."}, "chosen"),
    (WHOLE | {"prompt": "Carp."}, "chosen"),
    (WHOLE | {"rejected": [ASKS, SAYS]}, "rejected"),
    (WITH_SYSTEM | {"rejected": WHOLE["rejected"]}, "suau"),
    (WITH_SYSTEM | {"system": "Be long."}, "system"),
    (WHOLE | {"messages": WHOLE["rejected"]}, "messages"),
    (PAIR | {"response": "Elm."}, "response"),
]


@pytest.mark.parametrize(("row", "expected"), SAME)
def test_fields_that_say_the_same_agree_or_are_refused(row, expected, tmp_path):
    if set(expected) <= set("sua"):
        (group,) = read(tmp_path, row)
        assert "".join(turn["role"][0] for turn in group.prompt) == expected
        assert group.responses == (("chosen", "rejected"), ("Oak.", "Cow."))["Cow." in str(row)]
    else:
        with pytest.raises(DataError, match=f"field '{expected}': "):
            read(tmp_path, row)


TO_SCORE = [
    ({"messages": [ASKS, SAYS], "prompt": "Name a tree."}, ""),
    ({"conversations": [ASKS, SAYS], "prompt": "Name a tree.", "prompt_id": "x"}, ""),
    ({"conversations": [ASKS, SAYS], "prompt": "Name a fish."}, "conversations"),
    ({"messages": [ASKS, SAYS], "response": "Oak."}, ""),
    ({"prompt": "Name a tree.", "response": [ASKS, SAYS]}, ""),
    ({"prompt": "Name a tree.", "responses": [[ASKS, SAYS]]}, ""),
    ({"prompt": "Name a tree.", "response": "Oak.", "responses": "Oak."}, "responses"),
    ({"messages": [ASKS, SAYS], "prompt": "Name a fish."}, "messages"),
    ({"messages": [ASKS, SAYS], "response": "Elm."}, "response"),
    ({"messages": [ASKS, SAYS], "responses": ["Elm."]}, "responses"),
    ({"prompt": "Name a tree.", "response": "Oak.", "responses": ["Elm."]}, "response"),
]


@pytest.mark.parametrize(("row", "wrong"), TO_SCORE)
def test_one_response_is_said_once_or_twice_alike(row, wrong, tmp_path):
    form = "conversations" if "conversations" in row else "responses"
    if wrong:
        with pytest.raises(DataError, match=f"field '{wrong}': "):
            read(tmp_path, row, form)
    else:
        (group,) = read(tmp_path, row, form)
        assert (group.prompt, group.responses) == (user("Name a tree."), ("Oak.",))
