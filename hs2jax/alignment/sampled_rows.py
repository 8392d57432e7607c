"""The rows that `hs2jax sample` writes, less the responses that nothing should be learned from."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

from hs2jax.data import corpora, formats, rows, tables
from hs2jax.data.fields import Row
from hs2jax.data.groups import FieldError, Group
from hs2jax.data.record import Record

OF_EACH = ("responses", "tokens", "finished", *formats.LOGS)  # A list with one for each.


class Sampled(NamedTuple):
    """A row with the responses that are left in it, and the group that it reads as."""

    row: dict
    group: Group


def read(spec: str, *, unfinished: str, on_error: str, record: Record) -> list[Sampled]:
    """Read all rows of "sampled:FILE", or of several joined with "+".

    Responses that say nothing are left out, and with unfinished="drop" those that were cut at the
    most tokens; a row that has no others is, too. on_error: as for `corpora.read`.

    Raises DataError for a malformed row.
    """
    found = []
    for source, line in corpora.raw(spec):
        file, _, number = source.rpartition(":")
        record.rows += 1
        try:
            if (left := _left(tables.decode(line), unfinished, record)) is None:
                continue
            row = Row(left)
            group = formats.FORMATS["sampled"].read(row)
        except FieldError as error:
            malformed = error.at(file, int(number))
            if on_error == "raise":
                raise malformed from None
            record.skip(error.reason, example=str(malformed))
        else:
            record.count(group)
            record.note(row.notes, file)
            found.append(Sampled(left, dataclasses.replace(group, source=source)))
    return found


def finished(spec: str, on_error: str, record: Record) -> Iterator[Group]:
    """Read groups of any data; of sampled responses ("sampled:FILE") those that ended.

    Raises as `read` and `corpora.read` do.
    """
    for part in corpora.split(spec):
        if corpora.parse(part)[0].format == "sampled":
            found = read(part, unfinished="drop", on_error=on_error, record=record)
            yield from (each.group for each in found)
        else:
            yield from corpora.read(part, on_error=on_error, record=record)


def _left(row: dict, unfinished: str, record: Record) -> dict | None:
    """Leave such responses out of a row; None where none is left. What is no list of texts stays,
    for the reader to refuse."""
    lists = {name: row[name] for name in OF_EACH if isinstance(row.get(name), list)}
    count = len(lists.get("responses", ()))
    if not count or any(len(each) != count for each in lists.values()):
        return row
    keep = []
    for i, text in enumerate(lists["responses"]):
        if isinstance(text, str) and rows.is_blank(text):
            record.skip("empty responses")
        elif unfinished == "drop" and "finished" in lists and lists["finished"][i] is False:
            record.skip("unfinished responses")
        else:
            keep.append(i)
    return {**row, **{name: [x[i] for i in keep] for name, x in lists.items()}} if keep else None
