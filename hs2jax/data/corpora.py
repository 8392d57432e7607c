"""Files of rows, read as groups: `read("helpsteer2:train.jsonl.gz[:95%]")`."""

import contextlib
import gzip
import itertools
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from etils import epath

from hs2jax.data import rows
from hs2jax.data.groups import DataError, FieldError, Group, show
from hs2jax.data.record import Record

MINI = Path(__file__).parent / "mini"
SLICE = re.compile(r"(-?\d+%?)?:(-?\d+%?)?")

T = TypeVar("T")
Line = tuple[int, bytes]  # Its number, from 1, and its bytes.
Unit = list[Line]  # The lines that should become one group.


class Format(NamedTuple):
    """How rows are read (one to a Group), and which lines are joined to one group."""

    row: Callable[[dict], Group]
    lines: int | None  # That follow one another; None: all lines of the file with one prompt.


FORMATS = {
    "helpsteer": Format(rows.helpsteer, None),
    "helpsteer2": Format(rows.helpsteer, 2),
    "helpsteer2_preference": Format(rows.helpsteer2_preference, 1),
    "hh_rlhf": Format(rows.hh_rlhf, 1),
    "preference": Format(rows.preference, 1),
    "ratings": Format(rows.ratings, 1),
    "responses": Format(rows.responses, 1),
}


class Spec(NamedTuple):
    """One file of a specification: what is in it, where it is, and which part of it is meant."""

    format: str
    path: str
    selector: str  # "train" or "val", "a:b" with integers or percents, or "" for all.


def read(spec: str, *, on_error: str = "raise", record: Record | None = None) -> Iterator[Group]:
    """The groups of one file or of several, one after the other.

    Args:
        spec: "format:path" or "format:path[selector]", or several joined with "+". Formats are the
            keys of FORMATS. The path is a .jsonl or .jsonl.gz file, here or in a bucket (gs://);
            "mini/NAME" is a file of the bundled mini set. The selector is a slice of the file's
            groups, [a:b], with integers or percents ([:90%] and [90%:] share nothing), or the
            split [train] or [val] of rows that name theirs. A slice counts groups before any is
            skipped, so it always means the same rows.
        on_error: "raise", or "skip" to leave malformed rows out and count them in the record.
        record: counts rows, groups and skipped rows. Needed to skip.

    Raises ValueError or FileNotFoundError at once for a wrong spec, and DataError for a malformed
    row, when it comes to it. A damaged .gz file is an error in any case.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}, expected 'raise' or 'skip'")
    if on_error == "skip" and record is None:
        raise ValueError("on_error='skip' needs a record, where what is skipped is counted")
    specs = parse(spec)
    for each in specs:
        if not locate(each.path).exists():
            raise FileNotFoundError(f"there is no file {locate(each.path)} (data spec '{spec}')")
    record = Record() if record is None else record
    return itertools.chain.from_iterable(_groups(each, on_error, record) for each in specs)


def parse(spec: str) -> list[Spec]:
    """The files of a specification. Raises ValueError that says what cannot be understood."""
    found = []
    for part in re.split(r"\+(?=\s*\w+:)", spec):
        match = re.fullmatch(r"(\w+):([^\[\]]+)(?:\[([^\[\]]*)\])?", part.strip())
        if not match:
            raise ValueError(f"data spec '{part}' is not format:path or format:path[selector]")
        name, path, selector = match.groups()
        if name not in FORMATS:
            known = ", ".join(FORMATS)
            raise ValueError(f"unknown data format '{name}' in '{part}', expected one of: {known}")
        if selector in ("train", "val") and FORMATS[name].lines != 1:
            raise ValueError(f"rows of format '{name}' name no split, in '{part}'")
        if selector not in (None, "train", "val") and not SLICE.fullmatch(selector):
            raise ValueError(
                f"unknown selector [{selector}] in '{part}': expected a slice of groups such as "
                "[:100], [-50:] or [10%:90%], or a split, [train] or [val]"
            )
        found.append(Spec(name, path, selector or ""))
    return found


def locate(path: str) -> epath.Path:
    """Where the file of a spec is. "mini/NAME" is bundled with the package, "./mini/NAME" not."""
    return epath.Path(MINI / path[len("mini/") :] if path.startswith("mini/") else path)


def _groups(spec: Spec, on_error: str, record: Record) -> Iterator[Group]:
    """The groups of one file, with everything counted."""
    wanted = spec.selector if spec.selector in ("train", "val") else None
    for unit in _selected(spec):
        try:
            if wanted and _read_row(unit[0], spec, rows.split) != wanted:
                continue
            group = _group(unit, spec)
        except DataError as error:
            if on_error == "raise":
                raise
            record.rows += len(unit)
            record.skip(error.reason, example=str(error))
            if len(unit) > 1:
                record.skip("partner of a malformed row", rows=len(unit) - 1)
            continue
        record.rows += len(unit)
        record.groups += 1
        yield group


def _selected(spec: Spec) -> Iterator[Unit]:
    """The units of the file that the spec's slice takes."""
    match = SLICE.fullmatch(spec.selector)
    if not match:
        return _units(spec)
    bounds = match.groups()
    # Counting is another pass over the file, done only where it is needed.
    counts = any(bound and ("%" in bound or "-" in bound) for bound in bounds)
    total = sum(1 for _ in _units(spec)) if counts else sys.maxsize
    start, stop = (
        int(b[:-1]) * total // 100 if b and b.endswith("%") else int(b) if b else None
        for b in bounds
    )
    start, stop, _ = slice(start, stop).indices(total)
    return itertools.islice(_units(spec), start, max(start, stop))


def _units(spec: Spec) -> Iterator[Unit]:
    """The lines of the file, together with those that they should be joined with."""
    lines = _lines(spec.path)
    size = FORMATS[spec.format].lines
    if size is None:
        yield from _by_prompt(lines, spec)
        return
    while unit := list(itertools.islice(lines, size)):
        yield unit


def _by_prompt(lines: Iterator[Line], spec: Spec) -> list[Unit]:
    """Lines of one prompt together, in the order of first lines; a malformed line stays alone."""
    units: dict[object, Unit] = {}
    for line in lines:
        try:
            prompt = _read_row(line, spec, FORMATS[spec.format].row).prompt
            key = tuple(turn["content"] for turn in prompt)
        except DataError:
            key = line[0]
        units.setdefault(key, []).append(line)
    return list(units.values())


def _group(unit: Unit, spec: Spec) -> Group:
    """One group from its lines. Raises DataError."""
    size = FORMATS[spec.format].lines
    first, *others = (_read_row(line, spec, FORMATS[spec.format].row) for line in unit)
    if size is not None and len(unit) < size:
        what = f"expected {size} rows for each prompt, but the file ends after this one"
        raise DataError(spec.path, unit[-1][0], "prompt", what, "no partner")
    for (number, _), other in zip(unit[1:], others, strict=True):
        if other.prompt != first.prompt:
            what = f"expected the prompt of line {unit[0][0]}, found another one"
            raise DataError(spec.path, number, "prompt", what, "no partner")
    joined = (first, *others)
    return Group(
        prompt=first.prompt,
        responses=tuple(r for group in joined for r in group.responses),
        ratings=tuple(r for group in joined for r in group.ratings),
        strength=first.strength,
        source=f"{spec.path}:{unit[0][0]}",
    )


def _read_row(line: Line, spec: Spec, reader: Callable[[dict], T]) -> T:
    """What a reader of rows makes of a line. Raises DataError."""
    number, content = line
    try:
        found = reader(_decode(content))
        content.decode()
    except FieldError as error:
        raise DataError(spec.path, number, error.field, error.what, error.reason) from None
    except UnicodeDecodeError as error:  # In a field that the format does not read.
        what = f"expected UTF-8, found {content[error.start]:#04x} at byte {error.start + 1}"
        raise DataError(spec.path, number, "row", what, "broken Unicode") from None
    return found


def _decode(line: bytes) -> dict:
    """The JSON object of a line. Raises FieldError, for the field "row" where it is not one."""
    try:
        # Broken bytes become lone surrogates, so that the check of each text names its field.
        row = json.loads(line.decode(errors="surrogateescape"))
    except json.JSONDecodeError as error:
        what = f"expected one JSON object, found: {error.msg} at character {error.pos + 1}"
        raise FieldError("row", what, "not JSON") from None
    except (ValueError, RecursionError) as error:  # Endless digits, endless nesting.
        raise FieldError("row", f"expected one JSON object, but {error}", "not JSON") from None
    if not isinstance(row, dict):
        raise FieldError("row", f"expected one JSON object, found {show(row)}", "not JSON")
    return row


def _lines(path: str) -> Iterator[Line]:
    """The lines of a file that are not blank, with their numbers."""
    number = 0
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(locate(path).open("rb"))
            if path.endswith(".gz"):
                file = stack.enter_context(gzip.open(file))
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        what = f"the compressed file is damaged after this line ({error}): fetch it again"
        raise DataError(path, number, "file", what, "damaged file") from None
