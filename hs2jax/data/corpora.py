"""Files of rows, read as groups: `read("helpsteer2:train.jsonl.gz[:95%]")`."""

import copy
import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hs2jax.data import fields, files, nearest, rows, tables
from hs2jax.data.formats import ATTRIBUTES, FORMATS, NO_MAP, PROMPTS
from hs2jax.data.groups import DataError, FieldError, Group, row_unit
from hs2jax.data.record import Record
from hs2jax.data.templates import ORDER
from hs2jax.data.tfds import catalogue

FEW = 20  # Ratings of a file that need not reach the end of their scale.
PART = re.compile(r"(\w+)(?:\{([^{}]*)\})?:([^\[\]]+)((?:\[[^\[\]]*\]){0,2})")
BEGINS = re.compile(r"\w+(?:\{[^{}]*\})?:(?!//)")  # A specification, no address or path.
PLUS = re.compile(r"\+(?=\s*\w+(?:\{[^{}]*\})?:)")
SLICE = re.compile(r"(-?\d+%?)?:(-?\d+%?)?")
OF_PROMPTS = re.compile(r"~(?:(\d+)%)?:(?:(\d+)%)?")

# Conversations within a text, with what reads them: patterns that are all found there.
TRANSCRIPTS = {
    kind: [re.compile(pattern, re.MULTILINE) for pattern in patterns]
    for kind, *patterns in (
        ("a Human/Assistant transcript (format hh_rlhf)", r"^Human:", r"^Assistant:"),
        (
            "speakers' names (format conversations)",
            r"\b(User|USER):|^<(human|user)>",
            r"\b(?i:assistant):|^<(bot|assistant)>",
        ),
        ("questions and answers (format conversations)", r"^Q(uestion)?:", r"^A(nswer)?:"),
        ("a speaker's name before a text", r"\A\s*(?i:assistant|human|user|ai|bot)\s*:"),
        ("an instruction template (format instructions)", r"^### (Instruction|Human|User):"),
        (
            "a list of messages as a text (make it a list: json.loads)",
            r"\A\s*\[\s*\{\s*['\"](role|from|content|value)['\"]\s*:",
        ),
        (
            "a list of texts as a text (make it a list: json.loads)",
            r"\A\s*\[\s*(['\"]).*\1\s*\]\s*\Z",
        ),
        ("Python's bytes as a text (decode them)", r"\Ab(['\"]).*\1\s*\Z"),
        ("NeMo's markers (format helpsteer2)", r"<extra_id_\d+>"),
        (
            "control tokens of a chat template (format conversations)",
            r"<[|\uff5c][^\s<>]{1,40}[|\uff5c]>|</?s>|\[/?INST\]|<(start|end)_of_turn>",
        ),
        (
            "a line of attribute values (format conversations, `label`)",
            rf"\A(<extra_id_2>)?(?:({'|'.join(ORDER)}):\d,?)+$",
        ),
    )
}

log = logging.getLogger(__name__)

# The number of a row, what it is, and what is to be noted of it (see `fields.Row`).
Row = tuple[int, Group | DataError, list[tuple[str, str]]]


class Spec(NamedTuple):
    """One file of a specification: what is in it, where it is, and which part of it is meant."""

    format: str
    path: str  # Of a data set: "tfds:NAME/CONFIG[SPLIT]".
    selector: str  # "train" or "val", "a:b" with integers or percents, or "" for all.
    columns: fields.Map = NO_MAP
    others: dict[str, dict] | None = None  # Gets the other fields of each row that is read.


def read(
    spec: str,
    *,
    on_error: str = "raise",
    record: Record | None = None,
    others: dict[str, dict] | None = None,
    prompts: bool = False,
) -> Iterator[Group]:
    """Read the groups of one file or of several, one after the other.

    Args:
        spec: "format:path" or "format:path[selector]", or several joined with "+". Formats are the
            keys of FORMATS; "format{field=column,...}:path" reads other columns (`fields.parse`).
            The path is a file of rows of any kind (`tables.lines`), as `files.locate` and
            `files.expand` understand it; of several files the selector is taken of each. It is a
            slice of the file's groups, [a:b], with integers or percents ([:90%] and [90%:] share
            nothing), counted before any is skipped, [~:90%] or [~90%:] of its prompts, chosen by
            their hashes, so that no prompt is in both, or the split [train] or [val] of rows that
            name theirs. "tfds:NAME", "tfds:NAME/CONFIG" is a TFDS data set of ours that has been
            built, with [SPLIT], [a:b] or [SPLIT][a:b] behind it; without a split its first, train.
        on_error: "raise", or "skip" to leave malformed rows out and count them in the record.
        record: counts rows, groups and skipped rows. Needed to skip.
        others: gets, by the source of each group before it is given, the fields of its row that
            hold none of its texts, such as ids; of a group of several rows a list for each.
        prompts: the responses mean nothing, so that files of prompts alone will do.

    Raises ValueError or FileNotFoundError at once for a wrong spec, and DataError for a malformed
    row, when it comes to it. A damaged file is an error in any case.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}, expected 'raise' or 'skip'")
    if on_error == "skip" and record is None:
        raise ValueError("on_error='skip' needs a record, where what is skipped is counted")
    if not prompts and any(each.format == PROMPTS for each in parse(spec)):
        raise ValueError(f"'{spec}': prompts without responses are to be sampled from, only")
    record = Record() if record is None else record
    files = (each._replace(others=others) for each in _files(spec))
    return itertools.chain.from_iterable(_groups(each, on_error, record) for each in files)


def raw(spec: str) -> Iterator[tuple[str, bytes]]:
    """Give all rows of the files, whatever is selected, as they are, JSON, each with its source
    "path:line". Raises what `read` raises for a wrong spec."""
    for each in _files(spec):
        for number, line in _lines(each):
            row = line if isinstance(line, bytes) else json.dumps(line, default=str).encode()
            yield f"{each.path}:{number}", row.strip()


def split(spec: str) -> list[str]:
    """Split a specification into the parts that are joined with "+"."""
    return [part.strip() for part in PLUS.split(spec)]


def parse(spec: str) -> list[Spec]:
    """Parse a specification into its files. Raises ValueError for what cannot be understood."""
    return [_parse_part(part) for part in split(spec)]


def _parse_part(part: str) -> Spec:
    match = PART.fullmatch(part)
    if not match:
        forms = "format:path[selector], format{field=column}:path or tfds:name/config[split][slice]"
        raise ValueError(f"data spec '{part}' is not {forms}")
    name, mapped, path, brackets = match.groups()
    columns = NO_MAP if mapped is None else fields.parse(mapped)
    selectors = re.findall(r"\[(.*?)\]", brackets)
    split, splits = next(iter(selectors), ""), []
    if name == "tfds":
        path, source = catalogue.find(path)
        name, splits = source.format, list(source.files)
        split = "validation" if split == "val" else split
        path = f"{catalogue.PREFIX}{path}[{split if split in splits else splits[0]}]"
        selectors = selectors[split in splits :]
    elif name not in FORMATS:
        known = ", ".join(FORMATS)
        raise ValueError(f"unknown data format '{name}' in '{part}', expected one of: {known}")
    elif FORMATS[name].rows == 1:
        splits = ["train", "val"]
        if selectors == [split] and split in splits:
            return Spec(name, path, split, columns)
    sliced = any(way.fullmatch("".join(selectors)) for way in (SLICE, OF_PROMPTS))
    if len(selectors) > 1 or (selectors and not sliced):
        or_split = " or ".join(f"[{each}]" for each in splits) or "where rows name theirs"
        raise ValueError(
            f"unknown selector [{selectors[0]}] in '{part}': expected a slice of groups such as "
            f"[:100], [-50:] or [10%:90%], of prompts as [~:90%], or a split, {or_split}"
        )
    return Spec(name, path, next(iter(selectors), ""), columns)


def sets_of(data: str) -> list[tuple[str, str]]:
    """List the sets of a data specification as (name, specification): the files of a benchmark
    together, under its name; every other file by itself."""
    found: dict[str, list[str]] = {}
    for part in split(data):
        spec = parse(part)[0]
        name = spec.format
        if not FORMATS[name].benchmark:
            stem = Path(spec.path).name.split(".")[0]
            name = re.sub(r"\W+", "-", f"{name}-{stem}-{spec.selector}").strip("-")
            while name in found:
                name += "-again"
        found.setdefault(name, []).append(part)
    return [(name, "+".join(parts)) for name, parts in found.items()]


def local_files(spec: str) -> list[Path] | None:
    """The files that are read, or None where one is in a bucket, or a data set."""
    if any(each.path.startswith(catalogue.PREFIX) for each in parse(spec)):
        return None
    found = [Path(files.locate(each.path)) for each in _files(spec)]
    return found if all(each.is_file() for each in found) else None


def _files(spec: str) -> list[Spec]:
    """A spec for each file that is meant. Raises FileNotFoundError where one is absent."""
    found = []
    for each in parse(spec):
        if each.path.startswith(catalogue.PREFIX):
            _built().open_built(each.path)
            found.append(each)
        else:
            found += [each._replace(path=path) for path in files.expand(each.path)]
    return found


def _lines(spec: Spec) -> Iterator[tables.Line]:
    """The rows as JSON, with the numbers of their lines, or their indices in the data set."""
    if spec.path.startswith(catalogue.PREFIX):
        return _built().lines(spec.path)
    return tables.lines(files.locate(spec.path), spec.path)


def _built():
    from hs2jax.data.tfds import building  # Imports TFDS, which is slow.

    return building


def _groups(spec: Spec, on_error: str, record: Record) -> Iterator[Group]:
    """Read the groups of one file, with everything counted."""
    own, before = Record(), copy.deepcopy(record.ratings)
    for unit in _selected(spec):
        record.rows += len(unit)
        try:
            group = _join(unit, spec)
        except DataError as error:
            if on_error == "raise":
                error.what += "; on_error=skip leaves such rows out"
                raise
            record.skip(error.reason, example=str(error))
            if len(unit) > 1:
                record.skip("partner of a malformed row", rows=len(unit) - 1)
            continue
        for counts in (record, own):
            counts.count(group)
            for _, _, notes in unit:
                counts.note(notes, spec.path)
        if spec.others is not None and len(unit) > 1:
            each = [spec.others[f"{spec.path}:{number}"] for number, *_ in unit]
            names = dict.fromkeys(name for row in each for name in row)
            spec.others[group.source] = {name: [row.get(name) for row in each] for name in names}
        yield group
    if own.unread:
        columns = ", ".join(f"{name} ({count} rows)" for name, count in own.unread.items())
        _say(f"columns that '{spec.format}' does not read: {columns}")
    for kind, count in own.transcripts.items():
        _say(f"{spec.path}: {kind}, within a text, in {count} rows: it is read as that text")
    for name, of in own.ratings.items():
        column = dict(spec.columns.columns).get(name, name)
        if fields.plain(column).startswith("rank") and of["low"] >= 0:
            _say(f"{spec.path}: a higher {name} is better; else map {{{name}=COLUMN*-1}}")
        usual = 4 if name in ATTRIBUTES else before[name]["high"] if name in before else of["high"]
        if _scale(usual) != _scale(of["high"]) and (of["high"] > usual or of["n"] >= FEW):
            where = "HelpSteer" if name in ATTRIBUTES else "another file"
            moved = of["low"] > 0 and of["high"] - of["low"] == usual  # 1 to 5 in place of 0 to 4.
            step = f"-{of['low']:g}" if moved else f"*{_scale(usual) / _scale(of['high']):.3g}"
            _say(
                f"{spec.path}: {name} goes from {of['low']:g} to {of['high']:g}, and to {usual:g} "
                f"in {where}; a map puts it on one scale, as in {{{name}=COLUMN{step}}}"
            )


@functools.cache
def _say(text: str) -> None:
    """Log a warning, once although a file may be read twice."""
    log.warning("%s", text)


def _scale(high: float) -> float:
    """The usual scale, 0 to this, on which a highest rating lies."""
    return next((end for end in (1, 4, 5, 7, 10, 100) if high <= end), high)


def _selected(spec: Spec) -> Iterator[list[Row]]:
    """The units of the file that the spec's slice takes."""
    match, units = SLICE.fullmatch(spec.selector), _units(spec)
    if of := OF_PROMPTS.fullmatch(spec.selector):
        low, high = int(of[1] or 0), int(of[2] or 100)
        return (unit for unit in units if low <= _percent(unit) < high)
    if not match:
        return units
    bounds, total = match.groups(), sys.maxsize
    if any(bound and ("%" in bound or "-" in bound) for bound in bounds):
        if size := FORMATS[spec.format].rows:  # Counted without being held.
            total = -(-sum(1 for _ in _lines(spec)) // size)
        else:
            units = list(units)
            total = len(units)
    start, stop = (
        int(b[:-1]) * total // 100 if b and b.endswith("%") else int(b) if b else None
        for b in bounds
    )
    start, stop, _ = slice(start, stop).indices(total)
    return itertools.islice(units, start, max(start, stop))


def _percent(unit: list[Row]) -> int:
    """Hash the prompt of a unit to 0..99; malformed ones are among the first."""
    if any(isinstance(row, DataError) for _, row, _ in unit):
        return 0
    turns = [[turn["role"], turn["content"].strip()] for turn in unit[0][1].prompt]
    return int(hashlib.sha256(json.dumps(turns).encode()).hexdigest(), 16) % 100


def _units(spec: Spec) -> Iterator[list[Row]]:
    """The rows of the file, each with those that should be one group with it; of one prompt in the
    order of first rows, where a malformed row stays alone."""
    size, read_rows = FORMATS[spec.format].rows, _rows(spec)
    if size is not None:
        while unit := list(itertools.islice(read_rows, size)):
            yield unit
        return
    units: dict[object, list[Row]] = {}
    for number, row, notes in read_rows:
        malformed = isinstance(row, DataError)
        key = number if malformed else tuple(turn["content"] for turn in row.prompt)
        units.setdefault(key, []).append((number, row, notes))
    yield from units.values()


def _rows(spec: Spec) -> Iterator[Row]:
    """The rows of the file, of those the ones in the spec's split."""
    form = FORMATS[spec.format]
    named, split = form.of_path(spec.path), spec.selector
    for number, line in _lines(spec):
        try:
            whole = tables.decode(line)
            row = fields.take({**whole, **named}, spec.columns, form.own)
            if split not in ("train", "val") or rows.split(row) == split:
                group = form.read(row)
                if isinstance(line, bytes):
                    line.decode()
                if spec.others is not None:
                    spec.others[f"{spec.path}:{number}"] = _others(whole, row, group)
                yield number, group, [*row.notes, *_transcripts(group)]
        except FieldError as error:
            if error.reason == "missing field" and not spec.columns.columns:
                name = "ATTRIBUTE" if form.own and error.field == "ratings" else error.field
                error.what += f" (another column: {spec.format}{{{name}=COLUMN}}:FILE"
                error.what += f"{_nearest(tables.decode(line), spec)})"
            yield number, error.at(spec.path, number), []
        except UnicodeDecodeError as error:  # In a field that the format does not read.
            what = f"expected UTF-8, found {line[error.start]:#04x} at byte {error.start + 1}"
            yield number, DataError(spec.path, number, "row", what, "broken Unicode"), []


def _others(whole: dict, row: fields.Row, group: Group) -> dict:
    """The fields of a row that hold no text of its group, as JSON has them."""
    said = [*(turn["content"] for turn in group.prompt), *group.responses]

    found = {}
    for name, value in whole.items():
        holds = isinstance(value, str) and any(text.strip() in value for text in said)
        taken = name in row.read or name not in row  # A map names it.
        if not (taken and (holds or isinstance(value, list))):
            found[name] = value
    return json.loads(json.dumps(found, default=str))


def _nearest(row: dict, spec: Spec) -> str:
    """Name the format that reads a row, or of whose columns it has the most; "" for the spec's."""
    best, found = nearest.format_of(row, spec.path)
    own = nearest.fit(spec.format, row, spec.path)
    if (found.group is None) == (own.group is None) and found.columns <= own.columns:
        return ""
    return f"; nearest format: {best}" if found.group is None else f"; the format {best} reads it"


def _transcripts(group: Group) -> Iterator[tuple[str, str]]:
    """Note each kind of conversation that stands within the texts of a group."""
    texts = [*(turn["content"] for turn in group.prompt), *group.responses]
    for kind, patterns in TRANSCRIPTS.items():
        if any(all(pattern.search(text) for pattern in patterns) for text in texts):
            yield "transcripts", kind


def _join(unit: list[Row], spec: Spec) -> Group:
    """Make one group of its rows. Raises DataError."""
    for _, row, _ in unit:
        if isinstance(row, DataError):
            raise row
    size = FORMATS[spec.format].rows
    if size is not None and len(unit) < size:
        what = f"expected {size} rows for each prompt, but the file ends after this one"
        raise DataError(spec.path, unit[-1][0], "prompt", what, "no partner")
    start, first, _ = unit[0]
    for number, other, _ in unit:
        if other.prompt != first.prompt:
            what = f"expected the prompt of {row_unit(spec.path)} {start}, found another one"
            raise DataError(spec.path, number, "prompt", what, "no partner")
    return dataclasses.replace(
        first,
        responses=tuple(r for _, group, _ in unit for r in group.responses),
        ratings=tuple(r for _, group, _ in unit for r in group.ratings),
        source=f"{spec.path}:{start}",
    )
