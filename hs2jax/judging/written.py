"""Scores that the judge writes itself: its text is sampled, greedily, and the layers are read at
the place before the score in it.

LAGER (arXiv 2508.03550) has two such conditions. "direct": the score alone. "reasoning": feedback
first, then the score.
"""

import itertools
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

# No scores: thoughts, what a judge makes up behind the form's headings, and what is quoted, unless
# the whole statement is; ranges, lists, sums and scales (1-5, 3 or 4, 2 + 2, 1 = bad), numbers of a
# list's items, what a scale goes up to.
THOUGHT = r"[<\[]{}\w*(?:think|thought|reason)\w*[>\]]"
OPENED, CLOSED = THOUGHT.format(""), THOUGHT.format("/")
UNSAID = (
    rf"{OPENED}[\s\S]*?(?:{CLOSED}|\Z)",
    rf"\A[\s\S]*{CLOSED}",
    r"^[ \t]*\[(?:Prompt|Response|Criterion|Question|Dialogue)[ AB]*\][\s\S]*",
)
QUOTED = r'"(?:\\.|[^"\\\n])*"|“[^”\n]*”|«[^»\n]*»|`[^`\n]*`|^[ \t]*>.*$'
QUOTED += r"|(?<!\w)'[^'\n]+'(?!\w)"
JOINED = r"[-–—~～〜&|+×→−]|[-=]>|\.\.+|\b(?:to|or|and)\b"
NO_SCORES = (
    r"(?:/|\bout of\b|(?<=\d)\s+of\b)\s*\d+",
    rf"\bbetween\s+\d+\s+and\s+\d+|\d+(?:[ \t]*(?:{JOINED})[ \t]*\d+)+",
    r"\d+(?:[,;][ \t]*\d+)+(?=\W*$)|\d+[ \t]*=[ \t]*[^\W\d][^,;)\n]*",
    r"^[ \t*#-]*\d+[.)](?=[ \t]+\S)",
)
SIGNS = "<≤≥≠~≈±−"  # Before a number that is a bound, about right or below 0.
GAP = rf"(?:[^\w>{SIGNS}]|(?<![\s:=])>)"
NAME = r"\b(?:score|rating|boxed)s?\b"
NAME += rf"(?:{GAP}{{0,9}}|[^\d\n.!?]{{0,60}}?(?:[:=]|\b(?:is|of)\b)(?:(?!\n){GAP})*)"
BEFORE_NAME = r"[\W_]*(?:(?:the|my|final|overall|total)\s+)*"
GIVES = r"\b(?:giv(?:e|ing)|rated?|rates|scored?|deserves?|assign|award)\b"
GIVES += rf"[^\d\n.!?>{SIGNS}]{{0,60}}?"
DENIED = r"\b(?:not|never|cannot|neither|nor|hardly)\b|n['’]t\b|\b(?:than|least|most|below|above"
DENIED += r"|under|over|almost|nearly|about)\W+(?:an?\W+)?$"
OF_ANOTHER = r"\b(?:says|said|writes|wrote|claims|claimed|states|stated|asks|asked)\b[^\n.!?]{0,9}$"
# At the start of a clause, with a number that ends the line: "actually covers 3 points" is none.
CORRECTED = r"(?:^|[.!?;,(—–][ \t]*|\bno,? )(?:wait|actually|correction|on second thoughts?"
CORRECTED += r"|scratch that|make (?:it|that))\b[^\n]{0,40}?(?<![\w.+=])\d"
CORRECTED += r"(?=[ \t]*(?:[.!]?[ \t]*$|/|stars?\b))"
PLAIN = rf"{BEFORE_NAME}(?:scores?|ratings?|boxed)?(?: is| of)?\W*"
SUPPOSED = r"[ \t)]+(?:would|could|should|might|means?|requires?|needs?|represents?|indicates?)\b"
# Behind a number that is given; else it counts something ("gives 3 reasons").
GOES_ON = r"\s*(?:[^\w\s]|$|(?:stars?|points?|for|because|since|as|on|in|overall|here|due)\b)"


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
    ("I give it a 4", "4/5") or stands alone there. None where there is none, as where it is of
    another scale ("4/10"), denied, supposed, or where the scale's values are gone through.

    finished: the judge ended the text; one that was cut holds a score only behind its name."""
    values = "|".join(sorted(map(re.escape, answers), key=len, reverse=True))
    top = rf"{re.escape(answers[-1])}\b"
    alone = rf"(?<![\w.,/⁄∕／{SIGNS}-])({values})(?:\.0+)?(?![\w%⁄∕／]|[.,]\d"
    alone += rf"|[ \t]+(?:\d|%|percent)|\W{{0,3}}(?:/|\bout of\b|\bof\b)\s*(?!{top})\d|{SUPPOSED})"
    for pattern in UNSAID:
        text = _without(text, pattern)
    plain = _without(text, QUOTED, keep=_is_statement)
    numbers = re.finditer(alone, plain, re.IGNORECASE)
    # Before what follows is blanked, that tells a score of this scale from one of another.
    real = {m.start(1) for m in numbers}
    out_of = [m.start(1) for m in re.finditer(rf"{alone}\s*(?:/|out of)\s*{top}", plain)]
    for pattern in NO_SCORES:
        plain = _without(plain, pattern)

    def is_said(place: int, named: str = "") -> bool:
        clause = re.split(r"[,;.!?\n]", plain[:place])[-1]
        about = named if re.search("[:=]", named) else clause
        return place in real and not re.search(DENIED, about, re.IGNORECASE)

    named = re.finditer(NAME + alone, plain, re.IGNORECASE)
    named = [m for m in named if is_said(m.start(1), m[0][: m.start(1) - m.start()])]
    named = [m for m in named if not re.search(OF_ANOTHER, plain[: m.start()], re.IGNORECASE)]
    lines = (plain[: m.start()].rpartition("\n")[2] for m in named)
    first = [bool(re.fullmatch(BEFORE_NAME, line, re.IGNORECASE)) for line in lines]
    if named := [*itertools.compress(named, first)] or named:
        if _of_several(plain, named):
            return None
        places = [answers.index(m[1]) for m in named[-3:]]
        if len(places) == 3 and abs(places[2] - places[0]) == 2 and sum(places) == 3 * places[1]:
            return None  # Three neighbours of the scale in their order.
        place = named[-1].start(1)
        rest = text[place:]
        open_ = not finished and any(each != rest and each.startswith(rest) for each in answers)
        return None if open_ else place
    if not finished:
        return None
    start = plain.rstrip().rfind("\n") + 1
    line = plain[start:]
    found = re.search(rf"{alone}(?!.*\d)", line)  # The last number of the line.
    if found is None or not is_said(place := start + found.start(1)):
        return None
    before, behind = line[: found.start(1)], line[found.end() :]
    bare = re.fullmatch(rf"{GAP}*", before) and re.fullmatch(r"\W*(stars?|points?)?\W*", behind)
    given = re.search(GIVES + "$", before, re.IGNORECASE) and re.match(GOES_ON, behind)
    return place if bare or given or place in out_of else None


def _of_several(plain: str, named: Sequence[re.Match]) -> bool:
    """Tell whether the last score is one of several that lines give to different things, or is
    corrected behind it."""
    last, label = named[-1], [plain[: m.start(1)].rpartition("\n")[2].lower() for m in named]
    if re.search(CORRECTED, plain[last.end() :], re.IGNORECASE | re.MULTILINE):
        return True
    other = any(x != label[-1] and m[1] != last[1] for x, m in zip(label, named, strict=True))
    short = len(label[-1].split()) <= 4 and not re.fullmatch(PLAIN, label[-1])
    return other and short and re.fullmatch(r"\W*[\w ]+\W+", label[-1]) is not None


def _without(text: str, pattern: str, keep=lambda text, match: False) -> str:
    """Blank what matches; all else stays in its place."""

    def blank(match: re.Match) -> str:
        return match[0] if keep(text, match) else re.sub(r"[^\n]", " ", match[0])

    return re.sub(pattern, blank, text, flags=re.IGNORECASE | re.MULTILINE)


def _is_statement(text: str, match: re.Match) -> bool:
    """Tell whether a quotation is all of the last line, and nothing announces it; or a key or value
    of JSON, such as "score": "4"."""
    before, behind = text[: match.start()].rstrip(" \t*_#"), text[match.end() :].strip(" \t\n*_.")
    if re.fullmatch(r"\W*(?:scores?|ratings?|\d+)\W*", match[0], re.IGNORECASE):
        return behind.startswith(":") or before.endswith(":")
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
