"""The one record of all data: a prompt, several responses, and what is known of each."""

import contextlib
import dataclasses
import decimal
import itertools
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

MAX_CHARACTERS = 1_000_000  # Of one text. Longer ones are broken files, not conversations.
MAX_STRENGTH = 3.0
# White space, and what has no width.
BLANK = re.compile(r"[\s\x00\u00ad\u200b-\u200f\u2060\ufeff]*")
# Cells of pandas and Excel in place of a text, as where they took one for a formula.
NO_TEXTS = ("nan", "NaN", "<NA>", "#N/A", "#NAME?", "#VALUE!", "#REF!", "#DIV/0!", "#NUM!")
OF_ROWS = (".json", ".parquet", ".csv", ".tsv", ".arrow", ".feather")
REASONS = {bool: "true or false for a number", str: "text for a number"}  # Else "wrong type".
NAME = re.compile(r"[\w.-]+(?: [\w.-]+)*")  # Of an attribute that stands in a line of values.


class FieldError(ValueError):
    """Something is wrong with one field.

    `field`: its name, with indices, as in "prompt[1].content". `what`: what was found and expected.
    `reason`: a few words of a fixed kind, to count by.
    """

    def __init__(self, field: str, what: str, reason: str):
        super().__init__(field, what, reason)
        self.field, self.what, self.reason = field, what, reason

    def __str__(self) -> str:
        return f"{self.field}: {self.what}"

    def at(self, file: str, line: int) -> "DataError":
        """Say in which file and line the field is."""
        return DataError(file, line, self.field, self.what, self.reason)


class DataError(ValueError):
    """A malformed row: its `file` and `line` (from 1; see `row_unit`), the rest as in FieldError.
    Of a TFDS data set, `file` is "tfds:NAME/CONFIG[SPLIT]" and `line` the index (from 0)."""

    def __init__(self, file: str, line: int, field: str, what: str, reason: str = "malformed"):
        # All arguments go to the base class, so that the error survives pickling by loader workers.
        super().__init__(file, line, field, what, reason)
        self.file, self.line, self.field, self.what, self.reason = file, line, field, what, reason

    def __str__(self) -> str:
        return f"{self.file}, {row_unit(self.file)} {self.line}, field '{self.field}': {self.what}"


def row_unit(file: str) -> str:
    """Name the unit that numbers the rows of a file (or TFDS data set): line, row or index."""
    if file.startswith("tfds:"):
        return "index"
    return "row" if file.lower().removesuffix(".gz").endswith(OF_ROWS) else "line"


@dataclasses.dataclass(frozen=True)
class Group:
    """One prompt and its responses. Raises FieldError (a ValueError) where a field breaks a rule.

    Attributes:
        prompt: turns {"role": "system" | "user" | "assistant", "content": text}: a system turn
            first or none, then user and assistant in turn, the last one by the user.
        responses: the assistant's answers, at least one. Only with tokens may one say nothing.
        ratings: of each response by attribute (an unknown one is absent), or ().
        strength: with exactly two responses, how much the second is better, from -3 (the first is
            much better) to 3; 0 is a tie; None where unknown. The sign is HelpSteer2-Preference's.
        source: "path:line" of its first row, or "tfds:NAME/CONFIG[SPLIT]:index".
        about: what a benchmark says of the row, texts or integers by name, as in {"subset":
            "alpacaeval-easy", "id": 30}.
        condition: attribute values from 0 to 4 that the responses are asked to have, as in
            {"helpfulness": 4, "verbosity": 2} (SteerLM). Only policies see it.
        tokens: of each response, the token ids that the policy sampled, with the end of turn where
            it came to one; () where texts are to be tokenised.
    """

    prompt: tuple[dict, ...]
    responses: tuple[str, ...]
    ratings: tuple[dict[str, float], ...] = ()
    strength: float | None = None
    source: str = ""
    about: dict[str, str | int] = dataclasses.field(default_factory=dict)
    condition: dict[str, int] = dataclasses.field(default_factory=dict)
    tokens: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self):
        check_turns(self.prompt, "prompt")
        n = len(self.responses) if isinstance(self.responses, tuple) else 0
        if not n:
            raise mistyped("responses", "a tuple of at least one text", self.responses)
        for i, response in enumerate(self.responses):
            says_nothing = isinstance(response, str) and BLANK.fullmatch(response)
            if not (says_nothing and self.tokens):
                check_text(response, f"responses[{i}]")
        _check_of_each(self.ratings, "ratings", n, dict)
        for i, rating in enumerate(self.ratings):
            for name, value in rating.items():
                check_text(name, f"ratings[{i}], name of an attribute")
                check_number(value, f"ratings[{i}].{name}", -1e6, 1e6)
        if self.strength is not None:
            if n != 2:
                what = f"only two responses can have a strength, not {n}"
                raise FieldError("strength", what, "wrong number of responses")
            check_number(self.strength, "strength", -MAX_STRENGTH, MAX_STRENGTH)
        for field in ("about", "condition"):
            if not isinstance(getattr(self, field), dict):
                raise mistyped(field, "an object from name to value", getattr(self, field))
        for name, value in self.about.items():
            check_label(value, check_text(name, "about, name of an entry"))
        for name, value in self.condition.items():
            if not NAME.fullmatch(check_text(name, "condition, name of an attribute")):
                what = f"expected letters, digits, '_', '-', '.' and spaces, found {show(name)}"
                raise FieldError("condition, name of an attribute", what, "wrong name")
            check_integer(value, f"condition.{name}", 0, 4)
        _check_of_each(self.tokens, "tokens", n, tuple)
        for i, ids in enumerate(self.tokens):
            if not ids:
                raise FieldError(f"tokens[{i}]", "expected at least one token id", "empty list")
            for j, token in enumerate(ids):
                check_integer(token, f"tokens[{i}][{j}]", 0, 2**31 - 1)


class Pair(NamedTuple):
    """Indices of the better and the worse response of a group, and how much better (above 0)."""

    chosen: int
    rejected: int
    strength: float


def pairs(group: Group, derive: str | None = None) -> tuple[list[Pair], int]:
    """Find the preference pairs of a group, and the number of its ties, which are not returned.

    A given strength decides. Without one, and with `derive` an attribute such as "helpfulness",
    every two responses that both have this rating are compared: the higher one is chosen, with the
    difference, at most 3, as the strength (HelpSteer2-Preference correlates 0.90 with it).
    """
    rated = [(i, r[derive]) for i, r in enumerate(group.ratings) if derive in r]
    compared = [(i, j, b - a) for (i, a), (j, b) in itertools.combinations(rated, 2)]
    if group.strength is not None:
        compared = [(0, 1, group.strength)]
    found = []
    for i, j, better in compared:
        if better:
            chosen, rejected = (j, i) if better > 0 else (i, j)
            found.append(Pair(chosen, rejected, min(abs(float(better)), MAX_STRENGTH)))
    return found, len(compared) - len(found)


def distinct(found: Sequence[Pair], shown: Sequence) -> tuple[list[Pair], int]:
    """Leave out pairs of two responses that are the same to a model, and count them. shown: what
    the model reads of each response."""
    kept = [pair for pair in found if shown[pair.chosen] != shown[pair.rejected]]
    return kept, len(found) - len(kept)


def prompt_text(group: Group) -> str:
    """Write the prompt for people: one user turn as it is, a conversation with its speakers."""
    if len(group.prompt) == 1:
        return group.prompt[0]["content"]
    return "\n\n".join(f"{turn['role'].title()}: {turn['content']}" for turn in group.prompt)


def mistyped(field: str, expected: str, value: object) -> FieldError:
    """Make the error of a field that holds another kind of value than it should."""
    return FieldError(field, f"expected {expected}, found {show(value)}", "wrong type")


def check_text(value: object, field: str) -> str:
    """Return a text that says something and can be encoded. Raises FieldError."""
    if not isinstance(value, str):
        raise mistyped(field, "a text", value)
    if BLANK.fullmatch(value):
        raise FieldError(field, "expected a text, found an empty one", "empty text")
    if isinstance(value, Cell) and value.strip() in NO_TEXTS:
        what = f"expected a text, found {show(value)}, which tables write where there is none"
        raise FieldError(field, what, "empty text")
    if len(value) > MAX_CHARACTERS:
        what = f"expected at most {MAX_CHARACTERS:,} characters, found {len(value):,}"
        raise FieldError(field, what, "huge text")
    return check_unicode(value, field)


def check_unicode(value: str, field: str) -> str:
    """Return a text that can be encoded. Raises FieldError."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        found = f"a broken byte or half of a surrogate pair at character {error.start + 1}"
        raise FieldError(field, f"expected Unicode, found {found}", "broken Unicode") from None
    return value


class Cell(str):
    """A text in a table whose columns have no types: it may stand for a number."""


def check_number(value: object, field: str, low: float, high: float) -> float:
    """Return a number from low to high (no bool, no NaN) as a float. Raises FieldError."""
    expected = f"a number from {low:g} to {high:g}"
    if isinstance(value, Cell) and "_" not in value:  # Which Python would leave out.
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, decimal.Decimal):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        error = mistyped(field, expected, value)
        error.reason = REASONS.get(type(value), error.reason)
        raise error
    if not low <= value <= high:
        finite = isinstance(value, int) or math.isfinite(value)
        reason = "out of range" if finite else "not finite"
        raise FieldError(field, f"expected {expected}, found {show(value)}", reason)
    return float(value)


def check_integer(value: object, field: str, low: int, high: int) -> int:
    """Return an integer from low to high, which 3.0 is, too. Raises FieldError."""
    number = check_number(value, field, low, high)
    if not number.is_integer():
        raise mistyped(field, f"an integer from {low} to {high}", value)
    return value if isinstance(value, int) else int(number)


def check_label(value: object, field: str) -> str | int:
    """Return a text that says something or an integer of at most 64 bits. Raises FieldError."""
    if isinstance(value, str):
        return check_text(value, field)
    if not isinstance(value, int | float):
        raise mistyped(field, "a text or an integer", value)
    return check_integer(value, field, -(2**63), 2**63 - 1)


def check_turns(turns: tuple[dict, ...], field: str) -> None:
    """Check that turns are well formed, in order, and end with the user's. Raises FieldError."""
    if not isinstance(turns, tuple) or not turns:
        raise mistyped(field, "a tuple of at least one turn", turns)
    for i, turn in enumerate(turns):
        if not isinstance(turn, dict) or turn.keys() != {"role", "content"}:
            raise mistyped(f"{field}[{i}]", "{'role': ..., 'content': ...}", turn)
        check_text(turn["content"], f"{field}[{i}].content")
    roles = [turn["role"] for turn in turns]
    start = 1 if roles[0] == "system" else 0
    for i, role in enumerate(roles[start:] or [None]):
        expected = "assistant" if i % 2 else "user"
        if role != expected:
            at = f"turn {start + i + 1} of {len(roles)}"
            what = f"{at} should be by '{expected}', is by {show(role)}"
            raise FieldError(field, what, "turn order")
    if roles[-1] != "user":
        what = f"the last turn should be by 'user', is by {show(roles[-1])}"
        raise FieldError(field, what, "turn order")


def _check_of_each(values: object, field: str, n: int, kind: type) -> None:
    """Check that there are none, or a value of this kind for each of the n responses."""
    if not isinstance(values, tuple) or len(values) not in (0, n):
        what = f"expected (), or a tuple of one {kind.__name__} for each of the {n} responses"
        raise FieldError(field, what, f"wrong number of {field}")
    for i, value in enumerate(values):
        if not isinstance(value, kind):
            raise mistyped(f"{field}[{i}]", f"a {kind.__name__}", value)


def show(value: object) -> str:
    """Show a value in JSON's terms, short enough for an error text, safe to print anywhere."""
    kinds = {dict: "an object", list: "a list", type(None): "null", bool: "true or false"}
    if type(value) in kinds:
        return kinds[type(value)]
    if isinstance(value, int) and abs(value) > 10**30:
        return "a huge integer"  # Python refuses to print integers of many thousand digits.
    text = ascii(value).replace("\n", " ")
    return text if len(text) <= 60 else text[:57] + "..."
