"""Scores that the judge writes itself: its text is sampled, greedily, and the layers are read at
the place before the score in it.

LAGER (arXiv 2508.03550) has two such conditions. "direct": the score alone. "reasoning": feedback
first, then the score.
"""

import re
from collections.abc import Sequence

from hs2jax.data import chat, rows
from hs2jax.data.groups import Group
from hs2jax.judging import score_tokens
from hs2jax.judging.prompts import Request
from hs2jax.language_model import LanguageModel

LONGEST = {"direct": 10, "reasoning": 256}  # Tokens that are written, as in the repository.
NO_SCORE = "the judge wrote no score, or had no room to"


def answered(
    model: LanguageModel, requests: Sequence[Request], condition: str
) -> list[list[Request | None]]:
    """Make for each question of each request a request of its own whose prefix is what the judge
    wrote up to its score; None where it wrote none, or where the model has no room for the text."""
    asked = [
        (i, question, Group(rows.user_turn(request.item + question), ("-",), source=request.source))
        for i, request in enumerate(requests)
        for question in request.questions
    ]
    room = model.config.max_seq_len - LONGEST[condition]
    ids = chat.prompt_ids(model.tokenizer, [group for *_, group in asked])
    fits = [len(each) <= room for each in ids]
    texts = iter(
        model.sample_groups(
            [group for (*_, group), fit in zip(asked, fits, strict=True) if fit],
            1,
            temperature=0.0,
            max_new_tokens=LONGEST[condition],
        )
    )
    found: list[list[Request | None]] = [[] for _ in requests]
    for (i, question, _), fit in zip(asked, fits, strict=True):
        text = next(texts)[0].text if fit else ""
        found[i].append(_up_to_score(model.tokenizer, requests[i], question, text))
    return found


def place_of_score(text: str, answers: Sequence[str]) -> int | None:
    """Find where in a text the score begins: the answer right behind the last "Score:", else the
    last answer that stands alone, as in the repository; None where there is none."""
    answer = "|".join(map(re.escape, sorted(answers, key=len, reverse=True)))
    alone = rf"(?<![\w.-])({answer})(?![\w]|\.\d)"
    named = list(re.finditer(rf"score\W{{0,9}}?{alone}", text, re.IGNORECASE))
    found = named or list(re.finditer(alone, text))
    return found[-1].start(1) if found else None


def _up_to_score(tokenizer, request: Request, question: str, text: str) -> Request | None:
    place = place_of_score(text, request.answers)
    if place is None:
        return None
    one = request._replace(questions=(question,), prefix=text[:place])
    try:
        score_tokens.encode(tokenizer, [one])
    except ValueError:  # The tokenizer merges the score with what is before it.
        return None
    return one
