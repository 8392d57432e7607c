"""The format of a file that somebody brings, seen from its first rows."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from hs2jax.data import corpora, files, tables
from hs2jax.data.fields import Map
from hs2jax.data.formats import FORMATS, NO_MAP
from hs2jax.data.groups import FieldError, Group

LOOKED_AT = 50  # Rows.
# The likelier first: of published data, whose rows say by their fields what they are, then general
# ones, then those of benchmarks.
ORDER = (
    *("helpsteer2_preference", "helpsteer3", "helpsteer", "hh_rlhf", "preference", "ratings"),
    *("conversations", "instructions", "responses", "reward_bench", "reward_bench_2", "rm_bench"),
    *("judge_bench", "llmbar", "pandalm", "summeval", "biggen"),
)


class Seen(NamedTuple):
    """What a file holds: its specification, "format:path"; whether its rows are pairs, and say by
    how much the better response is better; and the attributes that are rated."""

    spec: str
    pairs: bool
    strengths: bool
    attributes: tuple[str, ...]


def look(data: str) -> Seen:
    """See what a file holds by its first rows. data: its path, or "format{field=column}:path"; of
    a path, the format is the one that reads most of the rows, of several the first of ORDER.

    Raises FileNotFoundError where there is no file, DataError where it is damaged or a row is not
    of the format that is named, and ValueError that shows the first bad row where no format reads
    any, with the columns that there are.
    """
    if corpora.BEGINS.match(data):
        spec = corpora.parse(data)[0]
        path, rows = _first_rows(spec.path)
        groups, faults = _groups(spec.format, path, rows, spec.columns)
        if faults:
            number, error = faults[0]
            raise error.at(path, number)
        return _seen(data, groups)
    path, rows = _first_rows(data)
    found = {name: _groups(name, path, rows) for name in ORDER}
    best = max(ORDER, key=lambda name: len(found[name][0]))  # The first of equals.
    if not found[best][0]:
        columns = ", ".join(dict.fromkeys(name for _, row in rows for name in row))
        first = ((name, *found[name][1][0]) for name in ("preference", "ratings"))
        wrong = "; ".join(
            f"as '{x}', row {n}: '{error.field}' {error.what}" for x, n, error in first
        )
        raise ValueError(
            f"{path}: no format reads its rows, whose columns are {columns}. Say which column is "
            "which, as in preference{prompt=COLUMN,chosen=COLUMN,rejected=COLUMN}:FILE or "
            f"ratings{{prompt=COLUMN,response=COLUMN,helpfulness=COLUMN}}:FILE ({wrong})"
        )
    return _seen(f"{best}:{data}", found[best][0])


def _groups(
    name: str, path: str, rows: Sequence[tuple[int, dict]], columns: Map = NO_MAP
) -> tuple[list[Group], list[tuple[int, FieldError]]]:
    """Read rows by a format: their groups, and those that are none of it, by number."""
    form, groups, faults = FORMATS[name], [], []
    for number, row in rows:
        try:
            groups.append(form.group({**row, **form.of_path(path)}, columns))
        except FieldError as error:
            faults.append((number, error))
    return groups, faults


def _first_rows(path: str) -> tuple[str, list[tuple[int, dict]]]:
    """Read the first rows of the first file that a path names, with their numbers."""
    (path, *_), rows = files.expand(path), []
    for number, line in itertools.islice(tables.lines(files.locate(path), path), LOOKED_AT):
        try:
            rows.append((number, tables.decode(line)))
        except FieldError as error:
            raise error.at(path, number) from None
    if not rows:
        raise ValueError(f"{path}: there is no row in it")
    return path, rows


def _seen(spec: str, groups: list[Group]) -> Seen:
    strengths = {abs(group.strength) for group in groups if group.strength}
    rated = (ratings for group in groups for ratings in group.ratings)
    attributes = tuple(dict.fromkeys(attribute for ratings in rated for attribute in ratings))
    return Seen(spec, bool(strengths), strengths - {1.0} != set(), attributes)
