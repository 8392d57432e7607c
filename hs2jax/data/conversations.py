"""Conversations to be read by a model: checked, tokenised, seen to fit, and joined."""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from hs2jax.data import chat, packing, rows
from hs2jax.data.chat import Encoded
from hs2jax.data.fields import Row
from hs2jax.data.groups import FieldError, Group, check_turns, mistyped
from hs2jax.data.packing import Example
from hs2jax.data.record import Record

SHARED = 8  # Responses of one prompt that lie in one row.


def group_conversations(
    conversations, *, prompts: bool = False, skip: bool = False, record: Record | None = None
) -> list[Group | None]:
    """Make a group of each conversation; of prompts, with a response that stands for those to come.

    Its source is its number, as in "conversation 3". A malformed one raises FieldError; with `skip`
    it is None, and counted in `record`.
    """
    groups: list[Group | None] = []
    for i, conversation in enumerate(conversations):
        name = f"prompt {i}" if prompts else f"conversation {i}"
        try:
            groups.append(group_of(conversation, name, prompt=prompts))
        except FieldError as error:
            if not skip:
                raise
            groups.append(None)
            if record is not None:
                record.skip(error.reason, example=str(error))
    return groups


def group_of(conversation, name: str, *, prompt: bool = False) -> Group:
    """Make a group of a conversation, or of a prompt with a response that stands for those to come,
    as `group_conversations` does. Raises FieldError with its name."""
    given = list(conversation) if isinstance(conversation, tuple) else conversation
    if not isinstance(given, list):
        raise mistyped(name, "a list of messages in a list of conversations", given)
    turns, response = rows.messages(Row({}), name, given), "-"
    if not prompt:
        turns, response = rows.split_last(turns, name)
    check_turns(turns, name)
    return Group(turns, (response,), source=name)


def encode(
    tokenizer,
    groups: Sequence[Group],
    *,
    longest: int,
    read: str = "end_of_turn",
    truncate: bool = False,
    skip: bool = False,
    policy: bool = False,
    vocab_size: int | None = None,
    record: Record | None = None,
) -> list[list[Example]]:
    """Tokenise groups, without what is known of them: the parts of each group, in the order of
    its responses; [] for one that is left out.

    longest: tokens that a conversation may have. Where a prompt has to be cut, each of the group's
    conversations is a part of its own, so that a score does not depend on the others' length; else
    a part has at most SHARED, so that a row fits into memory. truncate: cut prompts from the left
    where a conversation is longer. skip: leave a group out that is still too long or that the chat
    template refuses. Both are counted in `record`, and else raise ValueError. policy, vocab_size:
    see `chat.encode`.
    """
    record = Record() if record is None else record
    options = {"policy": policy, "vocab_size": vocab_size, "record": record}
    every = chat.encode(tokenizer, groups, read, record if skip else None, **options)
    found: list[list[Example]] = []
    for group, encoded in zip(groups, every, strict=True):
        found.append([])
        if encoded is None:
            continue
        excess = packing.cost(encoded, "padded") - longest
        if excess <= 0:
            found[-1] = [unrated(encoded.prompt, r) for r in in_parts(encoded.responses, SHARED)]
            continue
        bos = tokenizer.bos_token_id
        cut = [fitted(encoded.prompt, r, longest, bos) for r in encoded.responses if truncate]
        if cut and all(cut):
            found[-1] = cut
            record.truncated += 1
        elif skip:
            record.too_long += 1
        else:
            way_out = (
                "its response alone does not: skip it (on_error=skip), or let more fit"
                if truncate
                else "prompts can be cut from the left (truncate)"
            )
            raise ValueError(
                f"{group.source}: a conversation of {longest + excess} tokens is longer than the "
                f"{longest} that fit; {way_out}"
            )
    return found


def fitted(prompt, response, longest: int, bos: int | None) -> Example | None:
    """Make a tokenised conversation of at most `longest` tokens, its prompt cut from the left where
    it must be; None where the response alone has more."""
    over = max(0, len(prompt) + len(response) - longest)
    short = chat.cut_prompt(Encoded(prompt, (response,)), over, bos)
    return short and unrated(short.prompt, [response])._replace(cut=over)


def unrated(prompt: np.ndarray, responses: Sequence[np.ndarray], **others) -> Example:
    """Make a tokenised group of which nothing else is known but the `others` of `Encoded`."""
    return Example(
        Encoded(prompt, tuple(responses), **others),
        np.zeros((len(responses), 0), np.float32),
        np.zeros((len(responses), 0), bool),
        [],
    )


def in_parts(things: Iterable, size: int):
    """Yield tuples of at most `size`, in order."""
    things = iter(things)
    while part := tuple(itertools.islice(things, size)):
        yield part


def share(encoded: Sequence[Encoded], width: int) -> list[range]:
    """Find the runs of neighbours, at most SHARED, that, each joined by `join`, are the least work
    for a model of this width. encoded: conversations, each a prompt and one response."""
    lengths = [packing.cost(one, "separate") for one in encoded]
    alike = [chat.common_prefix([a.prompt, b.prompt]) for a, b in itertools.pairwise(encoded)]
    # Of the first n: the least work, the size of its last run, and where that begins.
    best: list[tuple[float, int, int]] = [(0.0, 0, 0)]
    for stop in range(1, len(encoded) + 1):
        options = []
        for start in range(max(stop - SHARED, 0), stop):
            common = min(alike[start : stop - 1], default=0)
            tokens = sum(lengths[start:stop]) - common * (stop - 1 - start)
            # Attention is work for each pair of tokens: as much as the weights' at 10 widths.
            work = best[start][0] + tokens * (1 + tokens / (10 * width))
            options.append((work, stop - start, start))
        best.append(min(options))
    runs, stop = [], len(encoded)
    while stop:
        runs.append(range(best[stop][2], stop))
        stop = best[stop][2]
    return runs[::-1]


def join(encoded: Sequence[Encoded]) -> Example:
    """Join conversations, each a prompt and one response, to one group. Its prompt is what theirs
    begin with, learned as in the first; the rest of a prompt is given at the response's start."""
    common = chat.common_prefix([one.prompt for one in encoded])
    mask = encoded[0].loss_mask
    return unrated(
        encoded[0].prompt[:common],
        [np.concatenate([one.prompt[common:], one.responses[0]]) for one in encoded],
        loss_mask=None if mask is None else mask[:common],
        given=tuple(len(one.prompt) - common for one in encoded),
    )
