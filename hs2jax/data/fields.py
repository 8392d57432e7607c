"""A row that remembers which of its fields were read, and maps from a file's columns to fields."""

import operator
import re
from collections.abc import Container
from typing import NamedTuple

from hs2jax.data.groups import FieldError, check_number, show

UNKNOWN = ("", "n/a", "na", "none", "null", "unknown")  # Ratings that say nothing, in lower case.
# Names, in lower case with underscores, of what a model would be given or people said.
TURNS = "prompt|instruction|input|question|query|message|dialogue|dialog|conversation|transcript"
TEXTS = "context|document|passage|background|evidence|response|answer|output|completion|candidate"
TEXTS += "|repl(?:y|ie)|summar(?:y|ie)|text|content|body|utterance|persona|few_shot|demonstration"
TEXTS += "|prefill|prefix|suffix|choice|option"
INPUT = re.compile(
    r"(chat_|dialogue_|conversation_)?history|reasoning(_content)?|thinking|thoughts?|chain_of_thought"
    r"|(\w+_)?(system|developer)(_(prompt|message|text))?|(image|audio|video|media|attachment)s?(_(url|path)s?)?"
    r"|(available_)?(tool|function)s?(_(call|call_id|definition|schema|result|response|output)s?)?"
    r"|chat_template(_kwargs)?"
    rf"|({TURNS}|{TEXTS}|chosen|rejected)s?(_?[0-9a-h])?"
)
SAID = "rating|score|label|strength|margin|preference|reward|rank|winner|vote|grade|annotation"
SAID += "|verdict|judge?ment|choice|quality|(?:in)?correct|swapped|flipped|prefers?"
LABEL = re.compile(
    rf"(\w+_)?({SAID})s?(_(diff|difference|delta|gap|margin))?|({SAID})s?_(chosen|rejected|first|second|\w|response_\w|answer_\w)"
    r"|chosen_(idx|index|position|first|is_first)|(better|safer|preferred|winning|best)(_\w+)?|is_(better|preferred|chosen)"
    r"|helpfulness|correctness|coherence|complexity|verbosity"
)
# Of a turn, beside INPUT.
IN_TURNS = ("name", "weight", "train", "loss", "masked", "prefix", "audio", "images", "refusal")
ENTRY = re.compile(r"\s*(?:-\s*(?P<left>[^=]+?)|(?P<field>[^=]+?)\s*=\s*(?P<column>.+?))\s*")
STEP = re.compile(r"(.+?)\s*([-+*/])\s*(-?\d+(?:\.\d+)?)")  # Of a map, from left to right.
STEPS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


class Row(dict):
    """A decoded JSON object without what is null; `of_null` are the names of that.

    read: the fields that were looked at. notes: of which kind and name there is something to count
    in the record: "unread" columns, "unknown" ratings, the rule that gives "strengths". inner: what
    the objects of which a map takes parts hold besides. signed: fields that are computed.
    """

    def __init__(self, row: dict, fields: "Map | None" = None):
        super().__init__({name: value for name, value in row.items() if value is not None})
        self.of_null = row.keys() - self.keys()
        self.read: set[str] = set()
        self.notes: list[tuple[str, str]] = []
        self.fields, self.inner, self.signed = fields or Map(), set[str](), set[str]()

    def __getitem__(self, name):
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name, default=None):
        self.read.add(name)
        return super().get(name, default)

    def check_read(self, form: str, extras: Container[str], labels: bool) -> None:
        """Note the columns that a format has not read. Raises FieldError for one that looks like an
        input, or a label where the format reads any, or that the map names. extras: columns that
        the published files are known to have."""
        for name in sorted((self.keys() - self.read) | self.inner):
            if name in dict(self.fields.columns):
                what = f"is in the map of fields, and {form} reads no such field here"
                raise FieldError(name, what, "unread field")
            if name in extras or (name in self and says_nothing(dict.get(self, name))):
                continue
            if kind := looks(name.rpartition(".")[2] if name in self.inner else name, labels):
                what = (
                    f"looks like {kind}, and {form} does not read it: say which field it is, as in "
                    f"{form}{{FIELD={name}}}:FILE, or leave it out, {form}{{-{name}}}:FILE"
                )
                raise FieldError(name, what, f"unread field {show(name)}")
            self.notes.append(("unread", name))


class Map(NamedTuple):
    """A map of fields, as it is written between a format and its file: {prompt=question.text}."""

    columns: tuple[tuple[str, str], ...] = ()  # Of each field, the column that it is.
    left: tuple[str, ...] = ()  # Columns that are to be left alone.


def parse(text: str) -> Map:
    """Parse "FIELD=COLUMN, ..., -COLUMN". Raises ValueError."""
    found = [ENTRY.fullmatch(entry) for entry in text.split(",")]
    columns = {each["field"]: each["column"] for each in found if each and each["field"]}
    left = tuple(each["left"] for each in found if each and each["left"])
    if len(columns) + len(left) < len(found) or re.search(r"/\s*0(\.0*)?\s*(,|$)", text):
        raise ValueError(
            f"{{{text}}} does not map fields, each once: it looks like {{prompt=question.text,"
            "chosen=answer_0,rejected=answer_1,strength=score_0-score_1,-id}"
        )
    return Map(tuple(columns.items()), left)


def take(row: dict, fields: Map, own: Container[str] = ()) -> Row:
    """Make the row that a map says. own: the fields of a format whose others are names of ratings;
    () for other formats. Raises FieldError."""
    used: set[str] = set()
    values = {field: value_of(row, text, field, used) for field, text in fields.columns}
    named = {name: value for name, value in values.items() if own and name not in own}
    if named:
        values = {name: value for name, value in values.items() if name not in named}
        values["ratings"] = _of_each(named)
    roots = {path.partition("\0")[0] for path in used}
    rest = {name: x for name, x in row.items() if name not in roots and name not in fields.left}
    for name in rest.keys() & values:
        if not says_nothing(rest[name]):
            what = (
                f"is in the map of fields and a column of the row, too: leave that out with -{name}"
            )
            raise FieldError(name, what, "two of one field")
    found = Row(rest | values, fields)
    found.signed = {
        field for field, text in fields.columns if not any(name in row for name, *_ in _paths(text))
    }
    for root in roots - used:
        paths = [path.split("\0")[1:] for path in used if path.startswith(f"{root}\0")]
        named = {name for path in paths for name in path if not name.isdigit()}
        counted = {path[0] for path in paths if path[0].isdigit()}
        first = row[root]
        if isinstance(first, list):
            others = (str(i) for i in range(len(first)) if counted and str(i) not in counted)
            found.notes += (("unread", f"{root}.{other}") for other in others)
            first = first[0] if first else {}
        if isinstance(first, dict):
            rest = {name for name, x in first.items() if not says_nothing(x)} - named
            found.inner |= {f"{root}.{name}" for name in rest} - {*fields.left}
    return found


def value_of(row: dict, text: str, field: str, used: set[str]) -> object:
    """Find what a map names: a "COLUMN" or "COLUMN.NAME" (in a list that of each, or the item of a
    number), "A|B" (a list), the difference "A-B" of numbers; and behind each, from left to right,
    "*NUMBER", "/NUMBER", "+NUMBER", "-NUMBER". used: gets the columns, with names within."""
    if text in row:
        used.add(text)
        return row[text]
    if "|" in text:
        parts = [part.strip() for part in text.split("|")]
        if len({bool(STEP.fullmatch(part)) and part not in row for part in parts}) > 1:
            what = f"{show(text)} computes with some of its columns alone: write it behind each"
            raise FieldError(field, what, "two of one field")
        return [value_of(row, part, field, used) for part in parts]
    if step := STEP.fullmatch(text):
        value, by = value_of(row, step[1].strip(), field, used), float(step[3])
        values = [number(each, field) for each in (value if isinstance(value, list) else [value])]
        made = [None if each is None else STEPS[step[2]](each, by) for each in values]
        return made if isinstance(value, list) else made[0]
    for dash in re.finditer("-", text):
        sides = text[: dash.start()].strip(), text[dash.end() :].strip()
        if all(any(name in row for name, *_ in _paths(side)) for side in sides):
            first, second = (number(value_of(row, x, field, used), x) for x in sides)
            return None if first is None or second is None else first - second
    for name, *inner in _paths(text):
        if name in row:
            found = _inside(row[name], inner, field, text)
            used.add("\0".join((name, *inner)))
            return found
    what = f"its column {show(text)} is missing; the row has "
    raise FieldError(field, what + ", ".join(map(show, sorted(row)[:12])), "missing field")


def _paths(text: str) -> list[list[str]]:
    """List the ways to read a text as a column and names within it, whole names first."""
    parts = text.split(".")
    return [[".".join(parts[:n]), *parts[n:]] for n in range(len(parts), 0, -1)]


def _inside(value: object, names: list[str], field: str, text: str) -> object:
    if not names or value is None:
        return value
    if isinstance(value, list) and not names[0].isdigit():
        return [_inside(each, names, field, text) for each in value]
    if isinstance(value, list):
        value = dict(zip(map(str, range(len(value))), value, strict=True))
    if not isinstance(value, dict) or names[0] not in value:
        what = f"its column {show(text)} is missing: there is no {show(names[0])}"
        raise FieldError(field, what, "missing field")
    return _inside(value[names[0]], names[1:], field, text)


def number(value: object, field: str) -> float | None:
    """Check a number; None where it is said to be unknown. Raises FieldError."""
    return None if is_unknown(value) else check_number(value, field, -1e6, 1e6)


def is_unknown(value: object) -> bool:
    return value is None or (isinstance(value, str) and value.strip().lower() in UNKNOWN)


def _of_each(named: dict) -> dict | list[dict]:
    """Turn names of lists into an object for each response; single values are one object. True and
    false, which here the map calls ratings, are 1 and 0."""
    named = {
        name: [_one_or_zero(x) for x in value] if isinstance(value, list) else _one_or_zero(value)
        for name, value in named.items()
    }
    sizes = {len(value) if isinstance(value, list) else None for value in named.values()}
    if sizes == {None}:
        return named
    if len(sizes) > 1:
        what = f"expected as many ratings of each attribute as of the others: {', '.join(named)}"
        raise FieldError("ratings", what, "wrong number of ratings")
    rows = zip(*named.values(), strict=True)
    return [dict(zip(named, values, strict=True)) for values in rows]


def _one_or_zero(value: object) -> object:
    return int(value) if isinstance(value, bool) else value


def says_nothing(value: object) -> bool:
    return value is None or (not value.strip() if isinstance(value, str) else value in ([], {}))


def plain(name: str) -> str:
    """Write a column's name in lower case with underscores."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|\W+", "_", name).lower().strip("_")


def looks(name: str, labels: bool = True) -> str:
    """Say what a column seems to be by its name, or ""."""
    if INPUT.fullmatch(plain(name)):
        return "an input to the model"
    return "a label" if labels and LABEL.fullmatch(plain(name)) else ""
