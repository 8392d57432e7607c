"""The format of a file that somebody brings, seen from its first rows."""

import itertools
from typing import NamedTuple

from hs2jax.data import corpora, files, tables
from hs2jax.data.formats import FORMATS
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
    """What a file holds: its format, whether its rows are pairs and say by how much the better
    response is better, and the attributes that are rated."""

    format: str
    pairs: bool
    strengths: bool
    attributes: tuple[str, ...]


def look(path: str) -> Seen:
    """See the format that reads the most of a file's first rows, of several the first of ORDER.

    Raises FileNotFoundError where there is no file, DataError where it is damaged, and ValueError
    that shows the first bad row where no format reads any, with the columns that there are.
    """
    path, rows = _first_rows(path)
    found, faults = {}, {}
    for name in ORDER:
        form, found[name] = FORMATS[name], []
        for number, row in rows:
            try:
                found[name].append(form.group({**row, **form.of_path(path)}))
            except FieldError as error:
                faults.setdefault(name, f"as '{name}', row {number}: '{error.field}' {error.what}")
    best = max(ORDER, key=lambda name: len(found[name]))  # The first of equals.
    if not found[best]:
        columns = ", ".join(dict.fromkeys(name for _, row in rows for name in row))
        raise ValueError(
            f"{path}: no format reads its rows, whose columns are {columns}. Say which column is "
            "which, as in preference{prompt=COLUMN,chosen=COLUMN,rejected=COLUMN}:FILE or "
            "ratings{prompt=COLUMN,response=COLUMN,helpfulness=COLUMN}:FILE "
            f"({faults['preference']}; {faults['ratings']})"
        )
    return _seen(best, found[best])


def look_at_spec(spec: str) -> Seen:
    """See what the first rows of "format{field=column}:path" hold; raises as `look` does."""
    parsed = corpora.parse(spec)[0]
    form, groups = FORMATS[parsed.format], []
    path, rows = _first_rows(parsed.path)
    for number, row in rows:
        try:
            groups.append(form.group({**row, **form.of_path(path)}, parsed.columns))
        except FieldError as error:
            raise error.at(path, number) from None
    return _seen(parsed.format, groups)


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


def _seen(name: str, groups: list[Group]) -> Seen:
    strengths = {abs(group.strength) for group in groups if group.strength}
    rated = (ratings for group in groups for ratings in group.ratings)
    attributes = tuple(dict.fromkeys(attribute for ratings in rated for attribute in ratings))
    return Seen(name, bool(strengths), strengths - {1.0} != set(), attributes)
