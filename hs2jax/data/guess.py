"""The format of a file that somebody brings, seen from its first rows."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from hs2jax.data import corpora, files, formats, nearest, tables
from hs2jax.data.groups import FieldError, Group
from hs2jax.data.record import Record

LOOKED_AT = 50  # Rows.


class Seen(NamedTuple):
    """What a file holds: its specification, "format:path"; whether its rows are pairs, and say by
    how much the better response is better; and the attributes that are rated."""

    spec: str
    pairs: bool
    strengths: bool
    attributes: tuple[str, ...]


def look(data: str) -> Seen:
    """See what a file holds by its first rows. data: its path, or "format{field=column}:path"; of
    a path, the format is the one that reads most of the rows, of several the first of FORMATS.

    Raises FileNotFoundError where there is no file, DataError where it is damaged, and ValueError
    that shows the first bad row where no row is of the format, or none of any.
    """
    if corpora.BEGINS.match(data):
        record = Record()
        groups = corpora.read(data, on_error="skip", record=record)
        seen = _seen(data, list(itertools.islice(groups, LOOKED_AT)))
        if not record.groups:
            raise ValueError(next(iter(record.skipped_examples), f"{data}: there is no row in it"))
        return seen
    (path, *_), rows = files.expand(data), []
    for number, line in itertools.islice(tables.lines(files.locate(path), path), LOOKED_AT):
        try:
            rows.append(tables.decode(line))
        except FieldError as error:
            raise error.at(path, number) from None
    if not rows:
        raise ValueError(f"{path}: there is no row in it")
    found = {}
    for name in formats.FORMATS:
        fits = (nearest.fit(name, row, path) for row in rows)
        found[name] = [fit.group for fit in fits if fit.group]
    best = max(found, key=lambda name: len(found[name]))  # The first of equals.
    if not found[best]:
        columns = ", ".join(dict.fromkeys(name for row in rows for name in row))
        name, (_, error, _) = nearest.format_of(rows[0], path)
        raise ValueError(
            f"{path}: no format reads its rows, whose columns are {columns}. Say which column is "
            "which, as in preference{prompt=COLUMN,chosen=COLUMN,rejected=COLUMN}:FILE or "
            f"ratings{{prompt=COLUMN,response=COLUMN,helpfulness=COLUMN}}:FILE (as '{name}', the "
            f"first row: {error})"
        )
    return _seen(f"{best}:{data}", found[best])


def _seen(spec: str, groups: Sequence[Group]) -> Seen:
    strengths = {abs(group.strength) for group in groups if group.strength}
    rated = (ratings for group in groups for ratings in group.ratings)
    attributes = tuple(dict.fromkeys(attribute for ratings in rated for attribute in ratings))
    return Seen(spec, bool(strengths), strengths - {1.0} != set(), attributes)
