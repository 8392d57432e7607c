"""From requests to token ids: rows that end right before the answer, and the answers' tokens.

Which token an answer is depends on the tokenizer and on the text before it: " 5" may be one token
or two, and "10" one or two. So nothing is looked up by its name: whole texts are tokenised with
their answer, and what they have in common is the row.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hs2jax.data import chat, rows
from hs2jax.data.chat import Encoded
from hs2jax.judging.prompts import Request


class Asked(NamedTuple):
    """A request as token ids: `encoded.prompt` is what its questions share, `encoded.responses` the
    rest of each, whose last token predicts the answer; tokens int32 [S], the answers'."""

    encoded: Encoded
    tokens: np.ndarray


def encode(
    tokenizer, requests: Sequence[Request], vocab_size: int | None = None, *, skip: bool = False
) -> list[Asked | str]:
    """Render and tokenise requests. skip: one that the template refuses is the reason.

    An answer of several tokens stands for itself by the first token in which the answers differ.
    Raises ValueError where two answers begin with the same one, where the tokenizer has no chat
    template or its template refuses a request, and where the embedding has no row for a token, if
    `vocab_size` says how many it has.
    """
    if requests:
        chat.require_template(tokenizer)
    texts: list[list[str] | str] = []
    for request in requests:
        try:
            texts.append([_text(tokenizer, request, question) for question in request.questions])
        except chat.RefusedError as error:
            if not skip:
                raise
            texts.append(error.reason)
    # Each with the first answer behind it, since a tokenizer may merge it with what is before.
    answered = [
        text + request.answers[0]
        for request, some in zip(requests, texts, strict=True)
        for text in (() if isinstance(some, str) else some)
    ]
    every, found = iter(chat.tokenize(tokenizer, answered) if answered else ()), []
    ends: dict[tuple[str, tuple[str, ...]], tuple[list[int], list[int]]] = {}
    for request, some in zip(requests, texts, strict=True):
        if isinstance(some, str):
            found.append(some)
            continue
        kind = (request.prefix, request.answers)
        if kind not in ends:
            ends[kind] = _ends(tokenizer, some[0], request.answers)
        tokens, end = ends[kind]
        whole = [next(every) for _ in some]
        used = itertools.chain(tokens, *whole)
        chat.embedded(used, tokenizer, vocab_size, request.source or "a request")
        if any(ids[-len(end) :] != end for ids in whole):
            raise ValueError(
                f"{request.source}: the tokenizer splits the answer {request.answers[0]!r} "
                "otherwise here than in other texts; end the prefix with a line break"
            )
        whole = [ids[: -len(end)] for ids in whole]
        shared = min(chat.common_prefix(whole), *(len(ids) - 1 for ids in whole))
        parts = (whole[0][:shared], *(ids[shared:] for ids in whole))
        prompt, *rest = (np.array(ids, np.int32) for ids in parts)
        found.append(Asked(Encoded(prompt, tuple(rest)), np.array(tokens, np.int32)))
    return found


def _text(tokenizer, request: Request, question: str) -> str:
    """The text of a question, up to the answer."""
    turns = rows.user_turn(request.item + question)
    text = chat.render(tokenizer, turns, request.source, add_generation_prompt=True)
    return text + request.prefix


def _ends(tokenizer, text: str, answers: Sequence[str]) -> tuple[list[int], list[int]]:
    """(the token of each answer behind the text, all tokens of the first answer from there on)."""
    rows = chat.tokenize(tokenizer, [text + answer for answer in answers])
    at = chat.common_prefix(rows)
    seen: dict[int | None, str] = {}
    for answer, ids in zip(answers, rows, strict=True):
        token = ids[at] if at < len(ids) else None
        if token in seen or token is None:
            other = seen.get(token) or next(each for each in answers if each != answer)
            raise ValueError(
                f"the answers {other!r} and {answer!r} begin with the same token in this "
                "tokenizer, so one forward pass cannot tell them apart: choose a scale whose "
                "numbers begin differently, such as 1..9 or 0..9"
            )
        seen[token] = answer
    return list(seen), rows[0][at:]
