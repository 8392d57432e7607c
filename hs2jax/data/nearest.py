"""The format that reads a row, or comes nearest to it."""

from typing import NamedTuple

from hs2jax.data.fields import take
from hs2jax.data.formats import FORMATS, NO_MAP, PROMPTS
from hs2jax.data.groups import FieldError, Group


class Fit(NamedTuple):
    """The group of a row by a format, or the error; and how many of its columns are read."""

    group: Group | None
    error: FieldError | None
    columns: int


def fit(name: str, row: dict, path: str) -> Fit:
    """Read a row of the file at a path by a format, with all its labels."""
    form = FORMATS[name]
    one, group, error = take({**row, **form.of_path(path)}, NO_MAP, form.own), None, None
    try:
        group = form.read(one, labels=True)
    except FieldError as found:
        error = found
    return Fit(group, error, len(one.read & row.keys()))


def format_of(row: dict, path: str) -> tuple[str, Fit]:
    """Find the format that reads a row, or else most of its columns; the first of equals."""
    # Any row with a prompt has prompts.
    fits = {name: fit(name, row, path) for name in FORMATS if name != PROMPTS or len(row) == 1}
    best = max(fits, key=lambda name: (fits[name].group is not None, fits[name].columns))
    return best, fits[best]
