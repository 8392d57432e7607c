"""One bad conversation of a list is named by its number, or left out without harm to the others."""

import dataclasses
import functools

import numpy as np
import pytest
import tiny
from tiny import talk

from hs2jax.data.record import Record
from hs2jax.judging.judge import Judge
from hs2jax.language_model import LanguageModel

# It refuses a text.
REFUSING = tiny.CHATML.replace(
    "<|im_start|>{{ message['role'] }}",
    "{% if 'unsafe' in message['content'] %}{{ raise_exception('no') }}{% endif %}"
    "<|im_start|>{{ message['role'] }}",
)
GOOD = [talk(f"Where is {place}?", text) for place in ("Paris", "Rome") for text in ("So.", "Hi")]
BAD = {
    "none": (None, "expected a list of messages"),
    "a text": ("Hi", "expected a list of messages"),
    "one message": ({"role": "user", "content": "Hi"}, "expected a list of messages"),
    "empty": ([], "at least one"),
    "no content": ([{"role": "user"}], "an object with 'role' and 'content'"),
    "an empty text": (talk(" ", "Yes."), "found an empty one"),
    "broken Unicode": (talk("\ud800", "Yes."), "half of a surrogate pair"),
    "order": ([*talk("Hi", "Yes."), *talk("Hi", "Yes.")[1:]], "turn 3 of 3 should be by 'user'"),
    "an unknown role": ([{"role": "tool", "content": "Hi"}], "expected one of system"),
    "an image": (talk([{"type": "image"}], "Yes."), "one part of type 'text'"),
    "too long": (talk("word " * 2000, "Yes."), "tokens"),
    "refused": (talk("unsafe", "Yes."), "the chat template refuses this: no"),
}


@functools.cache
def model(kind):
    words = tiny.tokenizer()
    words.chat_template = REFUSING
    if kind == "score":
        return dataclasses.replace(tiny.reward_model(("a",)), tokenizer=words)
    config = tiny.config(max_seq_len=1024)
    found = LanguageModel(config, tiny.parameters(config), words)
    return Judge(found) if kind == "judge" else found


def ask(kind, talks, **options):
    """What each conversation gives, as numbers."""
    if kind == "sample":
        talks = [one[:-1] if isinstance(one, list) and len(one) == 2 else one for one in talks]
        found = model(kind).sample(talks, max_new_tokens=2, temperature=0.0, **options)
        return [some and some[0].tokens for some in found]
    if kind == "log_probability":
        return [one and one.tokens for one in model(kind).log_probability(talks, **options)]
    found = model(kind).score(talks, **options)
    name = "reward" if kind == "score" else "score"
    return [one and getattr(one, name) for one in found]


@functools.cache
def alone(kind):
    return ask(kind, GOOD)


@pytest.mark.parametrize("kind", ["score", "log_probability", "sample", "judge"])
def test_a_bad_conversation_is_named_by_its_number_or_left_out_alone(kind):
    bad = list(BAD.values())
    for conversation, said in bad:
        with pytest.raises(ValueError, match=said) as error:
            ask(kind, [*GOOD[:2], conversation, GOOD[2]])
        assert str(error.value).startswith(("conversation 2", "prompt 2"))
    record, talks = Record(), [*GOOD[:1], *(each for each, _ in bad), *GOOD[1:]]
    found = ask(kind, talks, skip=True, record=record)
    stop = 1 + len(bad)
    assert found[1:stop] == [None] * len(bad)
    for one, other in zip([found[0], *found[stop:]], alone(kind), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    assert sum(record.left_out().values()) == len(bad)
    assert (record.too_long, record.refused, record.posing) == (1, 1, 0)
    assert ask(kind, [conversation for conversation, _ in bad[:2]], skip=True) == [None] * 2
