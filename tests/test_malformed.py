"""2,000 malformed rows, each among good ones: none crashes, none is silently used or dropped."""

import copy
import functools
import itertools
import json
import random

import pytest
from format_rows import FILES, MALFORMED, ROWS
from hypothesis import given
from hypothesis import strategies as st

from hs2jax.data import corpora
from hs2jax.data.formats import ATTRIBUTES, FORMATS, LOGS
from hs2jax.data.groups import MAX_CHARACTERS, DataError
from hs2jax.data.record import Record

MANY = 2000
HINT = "; on_error=skip leaves such rows out"
MISSING = object()
SENTINEL = "(here)"  # Replaced by a broken byte once the row is written.
NAN, INFINITY = float("nan"), float("inf")

# Values that are wrong whatever range or kind of text is asked for.
NO_TEXT = [MISSING, None, True, 7, 2.5, NAN, {}, {"content": "x"}, [], ["x"], [[["x"]]]]
BAD_TEXT = ["", " \n\t", "\ud800", "x\udfffx", "x" * (MAX_CHARACTERS + 1), SENTINEL]
NO_NUMBER = [None, True, False, "3", "", [], [3], {}, {"value": 3}, NAN, INFINITY, -INFINITY]
FAR = [10**400, -(10**400), 1e300, -1e300]
RATING = [MISSING, *NO_NUMBER[1:4], *NO_NUMBER[5:], *FAR, -1, 5, 2.5]  # null, "": unknown.
MARKED = [
    "Hi\n<extra_id_1>User\nHi",
    "Hi\n<extra_id_1>Assistant\nHello",
    "Hi\n<extra_id_1>Assistant\nHello\n<extra_id_1>Assistant\nHi\n<extra_id_1>User\nHi",
    "Hi\n<extra_id_1>Assistant\n\n<extra_id_1>User\nHi",
    "\n<extra_id_1>Assistant\nHello\n<extra_id_1>User\nHi",
    "<extra_id_1>User\nHi",
    "Hi\n<extra_id_1>System\nx\n<extra_id_1>User\nHi",
]
TRANSCRIPT = [
    "Hi",
    "\n\nHuman: Hi",
    "\n\nAssistant: Hello",
    "\n\nHuman: Hi\n\nAssistant: ",
    "\n\nHuman: \n\nAssistant: Hello",
    "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye",
    "\n\nAssistant: Hello\n\nHuman: Hi\n\nAssistant: Hello",
    "Once\n\nHuman: Hi\n\nAssistant: Hello",
]


def turns(*roles):
    return [{"role": role, "content": "Hi"} for role in roles]


BROKEN_TURN = [{"role": "user"}, {"content": "x"}, "user", None, 3]
BROKEN_TURN += [{"role": "user", "content": bad} for bad in (None, 3, ["x"], *BAD_TEXT)]
BROKEN_TURN += [{"role": role, "content": "x"} for role in (None, 3, "", "tool", ["user"])]
ORDERS = ["s", "a", "uu", "ua", "us", "usu", "su a", "ssu", "uaau", "asu", "uasu"]
NAMES = {"s": "system", "u": "user", "a": "assistant", " ": "tool"}
PROMPT = [turns(*(NAMES[letter] for letter in order)) for order in ORDERS]
PROMPT += [[turn] for turn in BROKEN_TURN] + [[*turns("user", "assistant"), t] for t in BROKEN_TURN]
ENDED = ["", "s", "a", "uu", "ua", "uua", "ssu", "asu", "su "]
ANSWER = [turns("user"), turns("user", "assistant", "user"), turns("user", "assistant")]
ANSWER += [turns("system", "assistant"), *([turn] for turn in BROKEN_TURN)]


def published(name, i):
    """The published row of a format, with a prompt of its own where rows are joined by prompts."""
    row, column = ROWS[name], "article" if name == "summeval" else "prompt"
    own = {} if FORMATS[name].rows else {column: f"{row[column]} {i}"}
    return [{**row, **own, **FORMATS[name].of_path(FILES[name])}]


def rated(i, responses):
    five = dict.fromkeys(ATTRIBUTES, i % 5)
    return [{"prompt": f"p{i}", "response": response, **five} for response in responses]


SAID = {"from": "User", "value": "p"}, {"from": "Assistant", "value": "r"}
# For each form of row: the rows of a good group that has a number.
GOOD = {
    "helpsteer": lambda i: rated(i, [f"r{i}"]),
    "helpsteer2": lambda i: rated(i, [f"a{i}", f"b{i}"]),
    "helpsteer2_preference": lambda i: [
        {"split": "val", "prompt": f"p{i}", "response_1": "a", "response_2": f"b{i}", "extra": None}
        | {"preference_strength": i % 7 - 3, "preference_statement": ""}
    ],
    "hh_rlhf": lambda i: [
        {side: f"\n\nHuman: p{i}\n\nAssistant: {side}" for side in ("chosen", "rejected")}
    ],
    "preference": lambda i: [
        {"prompt": (turns("system", "user", "assistant", "user"), f"p{i}")[i % 2]}
        | {"chosen": f"a{i}", "rejected": "b", "strength": 1 + i % 3}
    ],
    "ratings": lambda i: [
        {"prompt": f"p{i}", "responses": ["a", f"b{i}"], "strength": -0.5}
        | {"ratings": [{"x": i % 5, "y": None}, {"x": 2.5}]}
    ],
    "ratings_single": lambda i: [
        {"prompt": turns("user"), "response": f"a{i}", "ratings": {"x": i, "y": -1.5}}
    ],
    "conversations": lambda i: [
        {"messages": [*turns("system", "user"), {"role": "assistant", "content": f"r{i}"}]}
    ],
    "conversations_single": lambda i: [
        {"conversations": [SAID[0], SAID[1] | {"label": f"helpfulness:{i % 5},verbosity:2"}]}
        | {"system": "", "mask": "User"}
    ],
    "sampled": lambda i: [
        {"prompt": turns("user"), "condition": {"x": i % 5}, "responses": ["a", f"b{i}"]}
        | {"tokens": [[1, 2], [i]], "finished": [True, False]}
        | {name: [-0.5, -float(i)] for name in LOGS}
    ],
    **{name: functools.partial(published, name) for name in MALFORMED},
}

# For each form of row: the place of a field, and values that are wrong there.
FORMS = {
    "helpsteer": [
        (["prompt"], NO_TEXT + BAD_TEXT + MARKED),
        (["response"], NO_TEXT + BAD_TEXT),
        *[([name], RATING) for name in ATTRIBUTES],
    ],
    "helpsteer2_preference": [
        (["prompt"], NO_TEXT + BAD_TEXT + MARKED),
        (["response_1"], NO_TEXT + BAD_TEXT),
        (["response_2"], NO_TEXT + BAD_TEXT),
        (["preference_strength"], [MISSING, *NO_NUMBER, *FAR, -4, 4, 1.5, -100, -99]),
    ],
    "hh_rlhf": [
        (["chosen"], NO_TEXT + BAD_TEXT + TRANSCRIPT),
        (["rejected"], NO_TEXT + BAD_TEXT + TRANSCRIPT),
        (["rejected"], ["\n\nHuman: Hi\n\nAssistant: Other", "\n\nHuman: A\n\nHuman: B"]),
    ],
    "preference": [
        (["prompt"], NO_TEXT + BAD_TEXT + PROMPT),
        (["chosen"], NO_TEXT + BAD_TEXT + ANSWER),
        (["rejected"], NO_TEXT + BAD_TEXT + ANSWER),
        (["strength"], [*NO_NUMBER[1:], *FAR, -1, 3.5]),
    ],
    "ratings": [
        (["prompt"], NO_TEXT + BAD_TEXT + PROMPT),
        (["responses"], [MISSING, None, True, 7, "ab", {}, []]),
        (["responses", 1], [*NO_TEXT[1:], *BAD_TEXT]),
        (["response"], ["a", 3]),
        (["ratings"], [MISSING, None, True, 7, "x", {}, [], [{}], [{}, {}, {}], [{}, 3]]),
        (["ratings", 0], [None, True, 7, "x", [], [{"x": 1}]]),
        (["ratings", 1, "x"], [*NO_NUMBER[1:4], *NO_NUMBER[5:], *FAR, 2e6]),
        (["strength"], [*NO_NUMBER[1:], *FAR, 3.5, -3.5]),
    ],
    "ratings_single": [
        (["response"], [*NO_TEXT[1:], *BAD_TEXT]),
        (["ratings"], [MISSING, None, True, 7, "x", [], [{"x": 1}]]),
        (["strength"], [1, 0, -2]),
    ],
    "conversations": [
        (["messages"], [*NO_TEXT[1:], "Hi", turns("user"), turns("user", "user")]),
        (["messages"], [turns(*(NAMES[n] for n in order), "assistant") for order in ENDED]),
        (["messages", 1, "content"], [*NO_TEXT[1:], *BAD_TEXT]),
        (["messages", 1, "role"], [None, 3, "", "robot", "tool", ["user"]]),
        (["messages", 2], [None, 3, "x", {}, {"role": "assistant"}]),
    ],
    "conversations_single": [
        (["conversations"], [MISSING, None, True, 7, "Hi", {}, []]),
        (["conversations", 0], [None, 3, "x", {}, {"from": "User"}, {"value": "x"}]),
        (["conversations", 0, "value"], [*NO_TEXT[1:], *BAD_TEXT]),
        (["conversations", 1, "from"], [None, 3, "", "tool", ["gpt"]]),
        (["conversations", 1, "label"], [True, 7, {}, [], "", "x", "x:", ":1", "x:y", "x:1,x:2"]),
        (["conversations", 1, "label"], ["x:nan", "x:inf", "x:1e9", "x:1,,y:2", "x:1;y:2"]),
        (["system"], [True, 7, {}, [], *BAD_TEXT[2:]]),
        (["messages"], [turns("user", "assistant")]),
    ],
    "sampled": [
        (["prompt"], NO_TEXT + BAD_TEXT + PROMPT),
        (["condition"], [True, 7, "x:1", [], [{"x": 1}]]),
        (["condition", "x"], [*NO_NUMBER, *FAR, -1, 5, 2.5]),
        (["responses"], [MISSING, None, True, 7, "ab", {}, []]),
        (["responses", 1], [*NO_TEXT[1:], *BAD_TEXT]),
        (["tokens"], [True, 7, "ab", {}, [], [[1]], [[1], [2], [3]]]),
        (["tokens", 1], [None, True, 7, "ab", {}, []]),
        (["tokens", 1, 0], [*NO_NUMBER, *FAR, -1, 2.5, 2**31]),
        (["finished"], [True, "ab", {}, [], [True]]),
        (["finished", 1], [None, 1, "true", []]),
        *[([name], [-1.0, "ab", {}, [], [-1.0], [-1.0] * 3]) for name in LOGS],
        *[([name, 1], [*NO_NUMBER, *FAR, 0.5, -2e6]) for name in LOGS],
        # A condition that holds these names cannot write more than itself.
        (["condition"], [{n: 1} for n in ("a:b", "a,b", "a\nb", " a", "<extra_id_1>", "")]),
    ],
    **{name: [([k], values) for k, values in MALFORMED[name].items()] for name in MALFORMED},
}
FORMS["helpsteer2"] = [*FORMS["helpsteer"], (["prompt"], ["of no other row"])]

# Whole lines that are no row at all. "%s" stands for a good row.
NO_ROW = [
    *(b"null", b"3", b"NaN", b"[]", b'"text"', b"true", b"{", b"{]", b"{'prompt': 1}", b"\xff\xfe"),
    *(b"[%s]", b"%s %s", b"%s,,", b"\xef\xbb\xbf%s", b"\x00%s"),
    *(b"[" * 100_000, b'{"prompt":' * 100_000, b'{"prompt": ' + b"9" * 5000 + b"}"),
]


def write_row(row, rng):
    """A row as bytes, with the sentinel turned into bytes that are not UTF-8."""
    line = json.dumps(row, ensure_ascii="\\ud" in json.dumps(row)).encode()
    return line.replace(SENTINEL.encode(), rng.choice([b"\xff", b"\xc3", b"\x80", b"\xed\xa0\x80"]))


def every_malformed_line():
    """(form, function from (i, random generator) to a line, field that the error must name)."""
    for form, fields in FORMS.items():
        for place, values in fields:
            field = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in place)[1:]
            for value in values:
                yield form, functools.partial(damaged, form, place, value), field
        for line in NO_ROW if form not in MALFORMED else ():
            yield form, functools.partial(no_row, form, line), "row"
        yield form, functools.partial(truncated, form), "row"


def damaged(form, place, value, i, rng):
    """A good row with a wrong value at one place."""
    row = copy.deepcopy(GOOD[form](i)[-1])
    *before, last = place
    inner = row
    for step in before:
        inner = inner[step]
    if value is MISSING:
        del inner[last]
    else:
        inner[last] = value
    return write_row(row, rng)


def no_row(form, line, i, rng):
    """A line that is not JSON, or not an object."""
    return line.replace(b"%s", write_row(GOOD[form](i)[-1], rng))


def truncated(form, i, rng):
    """A row that stops in the middle."""
    line = write_row(GOOD[form](i)[-1], rng)
    return line[: rng.randrange(1, len(line))]


def content(groups):
    return [(g.prompt, g.responses, g.ratings, g.strength, g.condition, g.tokens) for g in groups]


@pytest.fixture(scope="module")
def cases():
    """(form, i, malformed line, field), 2,000 of them from a seed, with every kind among them."""
    rng = random.Random(20)
    kinds = list(every_malformed_line())
    assert len(kinds) <= MANY
    assert {form for form, *_ in kinds} == GOOD.keys()
    rng.shuffle(kinds)
    chosen = itertools.islice(itertools.cycle(kinds), MANY)
    numbered = ((*kind, rng.randrange(50)) for kind in chosen)
    return [(form, i, make(i, rng), field) for form, make, field, i in numbered]


def test_2000_malformed_rows(cases, tmp_path):
    rng = random.Random(1)
    path = tmp_path / "rows.jsonl"
    expected_of = {}
    for form, i, bad, field in cases:
        where = f"{form}, {field}: {bad[:200]!r}"
        spec = f"{form.removesuffix('_single')}:{path}"
        good = [GOOD[form](100 + k) for k in range(rng.randrange(1, 6))]
        units = [[write_row(row, rng) for row in unit] for unit in good]
        # What begins a file says in which encoding it is.
        at = rng.randrange(bad.startswith((b"\xff\xfe", b"\xef\xbb")), len(units) + 1)
        # Of a pair, the second is malformed: the first is good, and goes with it.
        partner = [write_row(row, rng) for row in GOOD[form](i)[:-1]]
        before = [line for unit in units[:at] for line in unit] + partner
        after = [line for unit in units[at:] for line in unit]
        path.write_bytes(b"\n".join([*before, bad, *after]) + b"\n")

        with pytest.raises(DataError) as raised:
            pytest.fail(f"silently used: {list(corpora.read(spec))[at]}, {where}")
        text = str(raised.value)
        assert f"{path}, line {len(before) + 1}," in text, where
        assert f"field '{field}" in text, f"{text}\n{where}"
        assert len(text) < 1000, where
        text.encode()  # It can be printed, whatever the row holds.

        record = Record()
        kept = list(corpora.read(spec, on_error="skip", record=record))
        if (form, len(good)) not in expected_of:
            path.write_bytes(b"\n".join(line for unit in units for line in unit))
            expected_of[form, len(good)] = content(corpora.read(spec))
        assert content(kept) == expected_of[form, len(good)], where
        assert len(kept) == len(good) == record.groups, where
        expected = {raised.value.reason: 1}
        if partner:
            expected["partner of a malformed row"] = 1
        assert record.skipped == expected, where
        assert [f"{each}{HINT}" for each in record.skipped_examples] == [text], where
        assert record.rows == len(before) + 1 + len(after), where


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(st.data())
def test_any_json_is_a_group_or_a_data_error(tmp_path_factory, data):
    form = data.draw(st.sampled_from(list(FORMS)))
    *partner, row = GOOD[form](data.draw(st.integers(0, 9)))
    row |= data.draw(st.dictionaries(st.sampled_from(list(row)), JSON, min_size=1))
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in (*partner, row)))
    spec = f"{form.removesuffix('_single')}:{path}"
    record = Record()
    groups = list(corpora.read(spec, on_error="skip", record=record))
    rows = len(partner) + 1
    assert (len(groups), sum(record.skipped.values())) in ((1, 0), (0, rows))
    for group in groups:
        json.dumps(group.about)
        for text in (*group.responses, *(turn["content"] for turn in group.prompt)):
            assert text.strip()
        for value in (group.strength or 0, *(v for r in group.ratings for v in r.values())):
            assert -1e6 <= value <= 1e6


@pytest.mark.parametrize("form", FORMS)
def test_broken_bytes_in_a_field_that_nobody_reads(form, tmp_path):
    lines = [write_row(row, random.Random()) for row in GOOD[form](0)]
    lines[-1] = lines[-1][:-1] + b', "other": "\xff"}'
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    spec = f"{form.removesuffix('_single')}:{tmp_path}/rows.jsonl"
    with pytest.raises(DataError, match=rf"line {len(lines)}, field 'row'.*0xff"):
        list(corpora.read(spec))
