"""Scores that the judge writes itself: its text is sampled, greedily, and the layers are read at
the place before the score in it.

LAGER (arXiv 2508.03550) has two such conditions. "direct": the score alone. "reasoning": feedback
first, then the score.
"""

import re
from collections.abc import Sequence

from hs2jax.data import chat, rows
from hs2jax.data.groups import Group
from hs2jax.data.record import REFUSED, Record
from hs2jax.judging import score_tokens
from hs2jax.judging.prompts import Request
from hs2jax.language_model import LanguageModel

LONGEST = {"direct": 10, "reasoning": 256}  # Tokens that are written, as in the repository.
NO_SCORE = "the judge wrote no score"
CUT = "the judge's text was cut before its score"
NO_ROOM = "the judge had no room to write"
MERGED = "the tokenizer merges the judge's score with the text before it"

# No scores: ranges and scales (1-5, from 1 to 5, 3 or 4), numbers of a list's items, what a scale
# goes up to, and what is quoted, unless the whole statement is.
RANGE = r"(?:\bbetween\s+\d+\s+and|\d+\s*(?:[-–—]|\.\.+|\bto\b|\bor\b))\s*\d+"
ITEM = r"^[ \t*#-]*\d+[.)](?=[ \t]+\S)"
UP_TO = r"(?:/|\bout of\b|(?<=\d)\s+of\b)\s*\d+"
QUOTED = r"\"[^\"\n]*\"|“[^”\n]*”|«[^»\n]*»|`[^`\n]*`|^[ \t]*>.*$"
NAME = r"\b(?:score|rating)s?\b(?:\W{0,9}|[^\d\n.!?]{0,60}?(?:[:=]|\b(?:is|of)\b)[^\w\n]*)"
GIVES = r"\b(?:giv(?:e|es|ing)|rated?|rates|scored?|deserves?|assign|award)\b[^\d\n.!?]{0,60}?"


def answered(
    model: LanguageModel, requests: Sequence[Request], condition: str, place: str = "statement"
) -> list[Request | str]:
    """Make for each request, of one question each, one whose prefix is what the judge wrote up to
    its score; or say why there is none. place: "statement" (`place_of_score`), or "last_token", the
    last token of the text that is an answer, as LAGER's repository has it."""
    asked = [
        Group(rows.user_turn(each.item + each.questions[0]), ("-",), source=each.source)
        for each in requests
    ]
    room = model.config.max_seq_len - LONGEST[condition]
    every = chat.prompt_ids(model.tokenizer, asked, Record())
    fits = [ids is not None and len(ids) <= room for ids in every]
    samples = iter(
        model.sample_groups(
            [group for group, fit in zip(asked, fits, strict=True) if fit],
            1,
            temperature=0.0,
            max_new_tokens=LONGEST[condition],
        )
    )
    return [
        _up_to_score(model.tokenizer, request, next(samples)[0], place)
        if fit
        else (REFUSED if ids is None else NO_ROOM)
        for request, ids, fit in zip(requests, every, fits, strict=True)
    ]


def place_of_score(text: str, answers: Sequence[str], finished: bool = True) -> int | None:
    """Find where in a judge's text its score begins: the answer behind "Score" or "Rating", the
    last one that begins a line or else the last; or the one number of the last line that is given
    ("I give it a 4", "4/5") or stands alone there. None where there is none.

    finished: the judge ended the text; one that was cut holds a score only behind its name."""
    alone = rf"(?<![\w.,/-])({'|'.join(sorted(map(re.escape, answers), key=len, reverse=True))})"
    alone += r"(?![\w%]|[.,]\d)"
    plain = _without(text, QUOTED, keep=_is_statement)
    out_of = [m.start(1) for m in re.finditer(rf"{alone}\s*(?:/|out of)\s*{answers[-1]}\b", plain)]
    for pattern in (UP_TO, RANGE, ITEM):
        plain = _without(plain, pattern)
    named = list(re.finditer(NAME + alone, plain, re.IGNORECASE))
    first = [m for m in named if not plain[: m.start()].rpartition("\n")[2].strip(' \t*_#>"“`')]
    if named:
        place = (first or named)[-1].start(1)
        rest = text[place:]
        open_ = not finished and any(each != rest and each.startswith(rest) for each in answers)
        return None if open_ else place
    if not finished:
        return None
    start = plain.rstrip().rfind("\n") + 1
    line = plain[start:]
    found = re.search(rf"{alone}(?!.*\d)", line)  # The last number of the line.
    if found is None:
        return None
    place, before = start + found.start(1), line[: found.start(1)]
    bare = re.fullmatch(r"\W*(stars?|points?)?\W*", before + line[found.end(1) :])
    given = re.search(GIVES + "$", before, re.IGNORECASE)
    return place if bare or given or place in out_of else None


def _without(text: str, pattern: str, keep=lambda text, match: False) -> str:
    """Blank what matches; all else stays in its place."""

    def blank(match: re.Match) -> str:
        return match[0] if keep(text, match) else " " * len(match[0])

    return re.sub(pattern, blank, text, flags=re.IGNORECASE | re.MULTILINE)


def _is_statement(text: str, match: re.Match) -> bool:
    """Tell whether a quotation is all of the last line, and nothing announces it."""
    before, behind = text[: match.start()].rstrip(" \t*_#"), text[match.end() :].strip(" \t\n*_.")
    return not behind and (not before or (before.endswith("\n") and before.rstrip()[-1:] != ":"))


def _up_to_score(tokenizer, request: Request, sample, place: str) -> Request | str:
    text, finished = sample.text, sample.finished
    if place == "last_token":
        at = _last_token(tokenizer, sample, request.answers)
    else:
        at = place_of_score(text, request.answers, finished)
    if at is None:
        return NO_SCORE if finished else CUT
    one = request._replace(prefix=text[:at])
    try:
        score_tokens.encode(tokenizer, [one])
    except ValueError:
        return MERGED
    return one


def _last_token(tokenizer, sample, answers: Sequence[str]) -> int | None:
    """Find where the last token that is an answer stands in the text of a sample."""
    ids, wanted = sample.tokens.tolist(), set(tokenizer.convert_tokens_to_ids(list(answers)))
    places = [i for i, id in enumerate(ids) if id in wanted]
    return len(tokenizer.decode(ids[: places[-1]])) if places else None
