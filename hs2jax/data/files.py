"""Find the files of a data spec, and read the rows in them, whatever their form is."""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

import huggingface_hub
from etils import epath

from hs2jax.data.groups import DataError, FieldError, show

# The number of a row, from 1 (of a data set: its index, from 0), and its bytes, JSON, or what these
# say already.
Line = tuple[int, object]
T = TypeVar("T")

MINI = Path(__file__).parent / "mini"
HUB = "hf://"
HUB_FILE = re.compile(
    r"hf://datasets/([^/@]+/[^/@]+)(?:@(refs/(?:convert/\w+|pr/\d+)|[^/]+))?/(.+)"
)
BATCH = 256  # Rows of a Parquet file that are in memory at once, besides its compressed pages.


def locate(path: str) -> epath.Path:
    """Find the file of a spec: "mini/NAME" is bundled with the package, and
    "hf://datasets/OWNER/NAME/PATH", or NAME@REVISION, is fetched from the hub unless it has been
    before. A "/" in a revision is written "%2F", but in the hub's own refs/pr/NUMBER and
    refs/convert/NAME. Raises FileNotFoundError where the hub does not give it.
    """
    if path.startswith(HUB):
        return _fetch(path)
    if path.startswith("mini/"):
        return epath.Path(MINI / path[len("mini/") :])
    return epath.Path(path).expanduser()


def expand(path: str) -> list[str]:
    """Return the path, or, sorted, all that match it where it has a "*", which stands for any part
    of the name of a file or folder. Raises FileNotFoundError where nothing is there, and ValueError
    for a path that cannot be understood.
    """
    if "*" not in path:
        file = locate(path)
        if not file.exists():
            raise FileNotFoundError(f"there is no file {file}")
        if file.is_dir():
            raise FileNotFoundError(f"{file} is a folder: name its files, as in {file}/*.jsonl")
        return [path]
    if path.startswith(HUB):
        raise ValueError(f"'{path}' has a '*': of files on the hub each must be named, joined by +")
    if "**" in path:
        raise ValueError(f"'{path}' has a '**': write a '*' for each folder, as in FOLDER/*/*.json")
    start, slash, _ = path[: path.index("*")].rpartition("/")
    start += slash
    folder = locate(start or ".")
    matches = (each for each in folder.glob(path[len(start) :]) if not each.is_dir())
    found = sorted(f"{start}{each.relative_to(folder)}" for each in matches)
    if not found:
        raise FileNotFoundError(f"no file matches {path} (in {folder})")
    return found


def lines(file: epath.Path, name: str) -> Iterator[Line]:
    """Read the rows of a file, with their numbers from 1: lines of a .jsonl or .jsonl.gz file that
    are not blank, items of a .json file that holds one list, rows of a .parquet file. Raises
    DataError, with `name` as the file's name, where it is damaged.
    """
    if file.name.endswith(".parquet"):
        return _parquet(file, name)
    if file.name.removesuffix(".gz").endswith(".json"):
        return _json(file, name)
    return ((number, line) for number, line in _text(file, name) if line.strip())


def decode(line: object) -> dict:
    """Decode a line to a JSON object. Raises FieldError, for the field "row", where it is none."""
    row = line
    try:
        if isinstance(line, bytes):
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


def read_object(path: str) -> dict:
    """Read the object in a .json file, here, in a bucket or on the hub as in a data spec.

    Raises FileNotFoundError, and DataError where the file holds no JSON object.
    """
    expand(path)
    try:
        return decode(locate(path).read_bytes())
    except FieldError as error:
        raise DataError(path, 1, "file", error.what, error.reason) from None


def parse_rows(path: str, rows: Iterable[object], parse: Callable[[dict, str], T]) -> list[T]:
    """Parse each row of a file, given with its source, "path:number" (from 1).

    parse: raises FieldError. Raises DataError, also where there is no row.
    """
    parsed = []
    for number, row in enumerate(rows, 1):
        try:
            parsed.append(parse(decode(row), f"{path}:{number}"))
        except FieldError as error:
            raise error.at(path, number) from None
    if not parsed:
        raise DataError(path, 1, "file", "expected at least one row, found none", "empty list")
    return parsed


def _fetch(path: str) -> epath.Path:
    """Fetch a file of a data set of the hub, or find it in the hub's cache."""
    match = HUB_FILE.fullmatch(path)
    if not match:
        raise ValueError(f"'{path}' is not hf://datasets/OWNER/NAME/PATH or .../NAME@REVISION/PATH")
    repository, revision, file = match.groups()
    revision = unquote(revision or "main")
    try:
        found = huggingface_hub.hf_hub_download(
            repository, file, repo_type="dataset", revision=revision, etag_timeout=5
        )
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"the hub did not give {file} of the data set {repository} at revision '{revision}' "
            f"({error}). Check these names, and log in where it asks for it (hf auth login). Or "
            "fetch the file elsewhere, and give its path instead of hf://"
        ) from error
    return epath.Path(found)


def _text(file: epath.Path, name: str) -> Iterator[tuple[int, bytes]]:
    """Read the lines of a file, compressed or not, with their numbers from 1."""
    number = 0
    try:
        with file.open("rb") as stream:
            lines = gzip.GzipFile(fileobj=stream) if file.name.endswith(".gz") else stream
            for number, line in enumerate(lines, 1):
                yield number, line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        what = f"the compressed file is damaged after this line ({error}): fetch it again"
        raise DataError(name, number, "file", what, "damaged file") from None


def _json(file: epath.Path, name: str) -> Iterator[Line]:
    """Read the items of a list of rows; a .json file that holds no list has a row in each line."""
    found = list(_text(file, name))
    content = b"".join(line for _, line in found)
    if not content.lstrip().startswith(b"["):
        yield from ((number, line) for number, line in found if line.strip())
        return
    try:
        items = json.loads(content.decode(errors="surrogateescape"))
    except (ValueError, RecursionError) as error:
        what = f"expected a list of JSON objects, found: {error}"
        raise DataError(name, 1, "file", what, "damaged file") from None
    yield from enumerate(items, 1)


def _parquet(file: epath.Path, name: str) -> Iterator[Line]:
    """Read the rows of a Parquet file, in batches."""
    import pyarrow.parquet  # Slow to import, and only few data sets need it.

    number = 0
    try:
        with file.open("rb") as stream:
            table = pyarrow.parquet.ParquetFile(stream, page_checksum_verification=True)
            for batch in table.iter_batches(BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        what = f"the Parquet file is damaged after this row ({error}): fetch it again"
        raise DataError(name, number, "file", what, "damaged file") from None
