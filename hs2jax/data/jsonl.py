"""Lines of .jsonl and .jsonl.gz files, and the JSON object in each."""

import contextlib
import gzip
import json
import zlib
from collections.abc import Iterator

from etils import epath

from hs2jax.data.groups import DataError, FieldError, show

# The number of a row, from 1 (of a data set: its index, from 0), and the row: its bytes, JSON, or
# the row itself, where it comes from a table.
Line = tuple[int, bytes | dict]


def lines(file: epath.Path, name: str) -> Iterator[Line]:
    """Read the lines of a file that are not blank, with their numbers from 1.

    Raises DataError, with `name` as the file's name, where a compressed file is damaged.
    """
    number = 0
    try:
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(file.open("rb"))
            if file.name.endswith(".gz"):
                stream = stack.enter_context(gzip.open(stream))
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        what = f"the compressed file is damaged after this line ({error}): fetch it again"
        raise DataError(name, number, "file", what, "damaged file") from None


def decode(line: bytes | dict) -> dict:
    """Decode a line to a JSON object. Raises FieldError, for the field "row", where it is none."""
    if isinstance(line, dict):
        return line
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
