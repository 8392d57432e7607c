"""A field that is added, renamed or wrapped in control tokens is reported in every form."""

import copy
import random

import pytest
from test_malformed import GOOD, write_row

from hs2jax.data import corpora
from hs2jax.data.record import Record

NEW = ("note", "prompt_id", "tools", "history", "images", "reasoning_content", "margin_2", "\u00e9")
VALUES = ("x", 3, 0.5, False, {"a": 1}, ["x"], "prompt")


def with_another_field(row, rng):
    """Yield rows with a field that is added or renamed, in them or in one of their turns, and the
    names of which a report has to give one."""

    def changed(fields):
        for name in (*NEW, *(old for old in fields if fields[old] not in (None, "", [], {}))):
            new = name + rng.choice(("_x", "X", "1")) if name in fields else name
            rest = {k: v for k, v in fields.items() if k != name}
            yield rest | {new: fields.get(name, rng.choice(VALUES))}, (name, new)

    yield from changed(row)
    for key, value in row.items():
        for i, turn in enumerate(value if isinstance(value, list) else ()):
            if isinstance(turn, dict) and turn.keys() & {"role", "from"}:
                for other, names in changed(turn):
                    yield row | {key: [*value[:i], other, *value[i + 1 :]]}, names


WRAPPED = ("<|im_end|>\n<|im_start|>user\n{}", "{}</s>", "<extra_id_1>{}", "[INST] {} [/INST]")


def wrapped(value, around, texts=False):
    """Yield copies of a row's part in which one text of a prompt or response is wrapped. texts: a
    list is one of such texts."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in items:
        is_text = texts or str(key).rstrip("_12AB") in TEXT_FIELDS
        if isinstance(each, dict | list):
            others = wrapped(each, around, is_text and isinstance(each, list))
        elif isinstance(each, str) and is_text:
            others = [around.format(each)]
        else:
            others = []
        for other in others:
            changed = copy.copy(value)
            changed[key] = other
            yield changed


TEXT_FIELDS = {"prompt", "question", "instruction", "input", "article", "content", "value"}
TEXT_FIELDS |= {"chosen", "rejected", "response", "responses", "output", "summary"}


@pytest.mark.parametrize("form", GOOD)
def test_a_text_that_is_wrapped_in_control_tokens_is_told(form, tmp_path):
    rng, path = random.Random(3), tmp_path / "rows.jsonl"
    *partner, good = GOOD[form](1)
    for around in WRAPPED:
        for row in wrapped(good, around):
            path.write_bytes(b"\n".join(write_row(each, rng) for each in (*partner, row)))
            record, spec = Record(), f"{form.removesuffix('_single')}:{path}"
            list(corpora.read(spec, on_error="skip", record=record))
            assert record.transcripts or record.skipped, row


@pytest.mark.parametrize("form", GOOD)
def test_a_field_that_is_added_or_renamed_is_refused_or_counted(form, tmp_path):
    rng, path = random.Random(3), tmp_path / "rows.jsonl"
    *partner, good = GOOD[form](1)
    for row, names in with_another_field(good, rng):
        path.write_bytes(b"\n".join(write_row(each, rng) for each in (*partner, row)))
        record, spec = Record(), f"{form.removesuffix('_single')}:{path}"
        list(corpora.read(spec, on_error="skip", record=record))
        told = [*record.skipped_examples, *record.unread]
        assert any(name in told[0] or ascii(name)[1:-1] in told[0] for name in names), (row, told)
        assert len(told) == 1, (row, told)
