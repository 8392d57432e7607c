"""Read the rows in a file of any kind. Bytes say which kind it is, whatever the file is called."""

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence

from etils import epath

from hs2jax import unchanged
from hs2jax.data import fields
from hs2jax.data.groups import Cell, DataError, FieldError, show

# The number of a row, from 1 (of a data set: its index, from 0), and its bytes, JSON, or what these
# say already.
Line = tuple[int, object]

BATCH = 256  # Rows of a Parquet or Arrow file that are in memory at once, besides its pages.
ENCODINGS = {  # By how a text begins, the longest first: byte order marks, or half of "{" or "[".
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xef\xbb\xbf": "utf-8-sig",
    **dict.fromkeys((b"\xff\xfe", b"\xfe\xff"), "utf-16"),
    **dict.fromkeys((b"{\0", b"[\0"), "utf-16-le"),
    **dict.fromkeys((b"\0{\0", b"\0[\0"), "utf-16-be"),
}
NAMED = {  # By how a file begins: its kind, and the line that makes one of it that can be read.
    b"PK\x03\x04": ("a zip archive (.zip, .xlsx, .npz)", "unzip FILE, or save a sheet as CSV"),
    b"\xd0\xcf\x11\xe0": ("an old Excel or Word file", "save it as CSV"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "7z x FILE"),
    b"FEA1": ("an old Feather file", "pandas.read_feather('FILE').to_parquet('NEW.parquet')"),
    b"\x89HDF": ("an HDF5 file", "pandas.read_hdf('FILE').to_parquet('NEW.parquet')"),
    **dict.fromkeys(
        (b"\x80\x03", b"\x80\x04", b"\x80\x05"),
        ("a Python pickle", "pandas.read_pickle('FILE').to_parquet('NEW.parquet')"),
    ),
    b"SQLite format 3": ("a database", "sqlite3 -csv -header FILE 'select * from TABLE' > NEW.csv"),
    b"version https://git-lfs": ("a pointer of Git LFS, without the data", "git lfs pull"),
    b"<": ("a web page or XML", "curl -L -O LINK (on the hub with /resolve/ in place of /blob/)"),
}
OF_CELLS = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
BY = re.compile(r"sep=(.)", re.IGNORECASE)  # The first line of a table that Excel wrote.
BETWEEN = re.compile(r"[\s,]*")  # Values of JSON that follow one another.
TURN = ("role", "from", "content", "value")  # A list of such objects is a conversation, no table.
TURNS = ({"role", "content"}, {"from", "value"})


def lines(file: epath.Path, name: str) -> Iterator[Line]:
    """Read the rows of a file or of a folder that `datasets.save_to_disk` wrote, with their numbers
    from 1: JSON lines that are not blank, the items of a JSON list (by itself, the one list of an
    object, or the one that is named behind the file, as in FILE/train), of a JSON table by columns,
    of objects or lists one after the other, of a CSV or TSV file with a header, of a Parquet or
    Arrow (Feather) file. All but the latter may be compressed.

    Raises DataError, with `name` as the file's name, where it is damaged or something else.
    """
    if file.is_dir():
        state = json.loads((file / "state.json").read_text())
        parts = (file / part["filename"] for part in state["_data_files"])
        yield from enumerate((row for part in parts for _, row in lines(part, name)), 1)
        return
    if file.parent.is_file():
        yield from enumerate(_named(file, name), 1)
        return
    with file.open("rb") as stream:
        start = stream.read(265)
    cut = file.name.lower().endswith(".parquet") and b"PAR1".startswith(start)
    if cut or start.startswith((b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")):
        yield from _columnar(file, name, start)
        return
    text = ((number, line) for number, line in text_lines(file, name) if line.strip())
    head = list(itertools.islice(text, 2))
    said = [_try(line) for _, line in head]
    text = itertools.chain(head, text)
    if len(said) == 1 and isinstance(said[0], dict):
        table = _table(said[0], name)
        yield from text if table is None else enumerate(table, 1)
    elif any(isinstance(each, dict) for each in said) or not said:
        yield from text
    else:
        # With blank lines, which a cell of a table may have.
        whole = b"".join(line for _, line in text_lines(file, name))
        yield from enumerate(_whole(whole, said, name), 1)


def decode(line: object) -> dict:
    """Decode a line to a JSON object; a list of turns is one with `messages`. Raises FieldError,
    for the field "row", where it is none."""
    row = line
    try:
        if isinstance(line, bytes):
            # Broken bytes become lone surrogates, so that the check of each text names its field.
            text = line.decode(errors="surrogateescape").rstrip().removesuffix(",")
            row = json.loads(text, object_pairs_hook=_object)
    except FieldError:
        raise
    except (ValueError, RecursionError) as error:  # Also endless digits, endless nesting.
        of_json = isinstance(error, json.JSONDecodeError)
        found = f"{error.msg} at character {error.pos + 1}" if of_json else error
        raise FieldError("row", f"expected one JSON object, found: {found}", "not JSON") from None
    if _is_talk(row):
        row = {"messages": row}
    if not isinstance(row, dict):
        raise FieldError("row", f"expected one JSON object, found {show(row)}", "not JSON")
    return row


def _is_talk(value: object) -> bool:
    turns = value if isinstance(value, list) else ()
    return any(isinstance(turn, dict) and any(t <= turn.keys() for t in TURNS) for turn in turns)


def _object(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise FieldError(twice, "stands twice in one object, expected once", "two of one field")
    return found


def _damaged(name: str, what: str, number: int = 1) -> DataError:
    return DataError(name, number, "file", what, "damaged file")


def _zstd(stream) -> io.BufferedReader:
    import pyarrow

    return io.BufferedReader(pyarrow.CompressedInputStream(stream, "zstd"))


COMPRESSED = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
    b"\x28\xb5\x2f\xfd": _zstd,
}


def text_lines(file: epath.Path, name: str) -> Iterator[tuple[int, bytes]]:
    """Read the lines of a file, with their numbers from 1, uncompressed and as UTF-8."""
    unchanged.check(file)
    number = 0
    try:
        with file.open("rb") as stream:
            start = stream.read(265)
            stream.seek(0)
            plain = stream
            while ways := [way for magic, way in COMPRESSED.items() if start.startswith(magic)]:
                plain = ways[0](plain)
                start = plain.peek(265)[:265]
            _refuse(start, name)
            for mark, encoding in ENCODINGS.items():
                if start.startswith(mark):
                    # What is broken stays so, for the check of each text to name its field.
                    broken = "surrogateescape" if encoding == "utf-8-sig" else "surrogatepass"
                    plain = io.TextIOWrapper(plain, encoding, broken, newline="\n")
                    plain = (line.encode(errors=broken) for line in plain)
                    break
            for number, line in enumerate(plain, 1):
                yield number, line
    except UnicodeError as error:
        what = f"begins as {encoding} does, and is broken after this line ({error.reason})"
        raise _damaged(name, what, number) from None
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and plain is stream:
            raise  # The disk's, not the file's.
        what = f"the compressed file is damaged after this line ({error}): fetch it again"
        raise _damaged(name, what, number) from None
    unchanged.check(file)


def _refuse(start: bytes, name: str) -> None:
    """Name a file that is of no kind of rows, by how it begins."""
    found = [of for magic, of in NAMED.items() if start.lstrip().lower().startswith(magic.lower())]
    if start[257:262] == b"ustar":
        found = [("a tar archive", "tar -xf FILE")]
    if start.startswith((b"PAR1", b"ARROW1")):
        found = [("a compressed Parquet or Arrow file", "gunzip FILE")]
    if found:
        what, way = found[0]
        _expected(name, what, way)


def _try(line: bytes | str) -> object:
    """Decode JSON, of whatever kind; an Exception where it is none."""
    try:
        return json.loads(line.decode(errors="surrogateescape"))
    except (ValueError, RecursionError) as error:
        return error


def _whole(content: bytes, said: list, name: str) -> Iterable:
    """Read the rows of a text of which neither of the first two lines is a row."""
    text = content.decode(errors="surrogateescape").strip()
    start = text[0]
    if all(isinstance(each, str) for each in said):
        return _expected(name, "lines of texts that hold a row each", "jq -c fromjson FILE")
    if text.startswith(("{'", "[{'")):
        way = "[print(json.dumps(ast.literal_eval(line))) for line in open('FILE')]"
        return _expected(name, "rows as Python prints them", way)
    if start in "[{":
        return _json(text, name)
    header = text.splitlines()[0]
    cells = {by: next(csv.reader([header], delimiter=by), []) for by in "\t,;|"}
    delimiter = max(cells, key=lambda by: len(cells[by]))
    several = len(cells[delimiter]) > 1 or name.lower().endswith(OF_CELLS)
    if (line := BY.match(header)) and (rest := content.partition(b"\n")[2]).strip():
        return _separated(rest, line[1], name)
    if several and start != "|" and header.replace("\t", "").isprintable():
        return _separated(content, delimiter, name)
    kinds = "JSON lines, JSON, Parquet, Arrow, or CSV or TSV with a header"
    raise _damaged(name, f"expected {kinds}, found {show(text[:40])}: it may be damaged")


def _expected(name: str, what: str, way: str):
    raise _damaged(name, f"is {what}. This gives one that can be read: {way}")


def _json(text: str, name: str) -> Iterable:
    """Read a list of rows, a table, or objects that follow one another."""
    decoder, found, place = json.JSONDecoder(object_pairs_hook=_object), [], 0
    try:
        while place < len(text):
            value, place = decoder.raw_decode(text, place)
            found.append(value)
            place = BETWEEN.match(text, place).end()
    except FieldError as error:
        raise error.at(name, len(found) + 1) from None
    except (ValueError, RecursionError) as error:
        what = "a list of JSON objects" if text[0] == "[" else "JSON objects"
        raise _damaged(name, f"expected {what}, found: {error}") from None
    if len(found) == 1 and isinstance(found[0], dict):
        rows = _table(found[0], name)
        return found if rows is None else rows
    rows = (each if isinstance(each, list) and not _is_talk(each) else [each] for each in found)
    return itertools.chain.from_iterable(rows)


def _table(found: dict, name: str) -> list | None:
    """Take the rows out of the one object of a file; None where it is a row itself."""
    columns = list(found.values())
    if all(isinstance(each, dict) for each in columns) and len(columns) > 1:
        keys = list(columns[0])
        if keys and all(key.isdigit() for key in keys) and all(list(c) == keys for c in columns):
            columns = [list(column.values()) for column in columns]
        elif _are_rows(found):
            return [{"id": key, **row} for key, row in found.items()]
    lists = [each for each in columns if isinstance(each, list)]
    talks = any(isinstance(x, dict) and not x.keys().isdisjoint(TURN) for c in lists for x in c)
    if talks or not lists:
        return None
    alike = len({len(each) for each in lists}) == 1 and len(lists) == len(columns) > 1
    objects = {k: v for k, v in found.items() if _has_rows(v)}
    if alike and lists[0] and not objects:
        return [dict(zip(found, row, strict=True)) for row in zip(*lists, strict=True)]
    if len(objects) > 1 and len(objects) == len(lists):
        sizes = ", ".join(f"'{key}' ({len(rows)} rows)" for key, rows in objects.items())
        first = max(objects, key=lambda key: len(objects[key]))
        raise _damaged(name, f"has the lists {sizes}: name one, {name}/{first}")
    named = {"train", "data", "rows", "examples", "validation", "val", "test", "items"}
    if len(objects) == 1 and (len(found) == 1 or objects.keys() <= named):
        return next(iter(objects.values()))
    return None


def _are_rows(found: dict[str, dict]) -> bool:
    """See whether objects are rows by their ids: of one kind, and no fields by their names."""
    first, *rest = found.values()
    alike = all(row.keys() == first.keys() for row in rest)
    fieldless = not any(map(fields.looks, found))
    return alike and len(first) > 1 and fieldless and first.keys().isdisjoint(TURN)


def _named(file: epath.Path, name: str) -> list:
    """Take the rows out of the object of a file where they have a name."""
    try:
        found = decode(b"".join(line for _, line in text_lines(file.parent, name)))
    except FieldError as error:
        raise _damaged(name, error.what) from None
    rows = found.get(file.name)
    rows = _table(rows, name) if isinstance(rows, dict) else rows
    if not _has_rows(rows):
        has = ", ".join(key for key, rows in found.items() if isinstance(rows, list | dict))
        raise _damaged(name, f"expected rows under {file.name!r}; the file has {has}")
    return rows


def _has_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(x, dict) for x in value)


def _separated(content: bytes, delimiter: str, name: str) -> Iterator[dict]:
    """Read rows of cells behind a header; an empty cell is none."""
    csv.field_size_limit(sys.maxsize)
    text = io.StringIO(content.decode(errors="surrogateescape"), newline="")
    reader, number = csv.reader(text, delimiter=delimiter, strict=True), 0
    try:
        # A column without a name is an index where it is the first.
        header = [cell.strip() or f"column {i}" * (i > 1) for i, cell in enumerate(next(reader), 1)]
        _once(header, name)
        for number, cells in enumerate(filter(any, reader), 1):
            if len(cells) != len(header):
                what = f"row {number} has {len(cells)} cells, and the header {len(header)}"
                raise _damaged(name, what, number)
            named = zip(header, cells, strict=True)
            yield {column: Cell(cell) if cell else None for column, cell in named if column}
    except csv.Error as error:
        raise _damaged(name, f"the table is damaged after this row ({error})", number) from None


def _once(columns: Sequence[str], name: str) -> None:
    if len(set(columns)) < len(columns):
        raise _damaged(name, f"the header names a column twice: {', '.join(columns)}")


def _columnar(file: epath.Path, name: str, start: bytes) -> Iterator[Line]:
    """Read the rows of a Parquet or Arrow file, in batches."""
    import pyarrow.ipc  # Slow to import, and only few data sets need it.
    import pyarrow.parquet

    unchanged.check(file)
    number, kind = 0, "Arrow" if start.startswith((b"ARROW1", b"\xff")) else "Parquet"
    try:
        with file.open("rb") as stream:
            if kind == "Parquet":
                table = pyarrow.parquet.ParquetFile(stream, page_checksum_verification=True)
                names, batches = table.schema_arrow.names, table.iter_batches(BATCH)
            elif start.startswith(b"ARROW1"):
                table = pyarrow.ipc.open_file(stream)
                batches = map(table.get_batch, range(table.num_record_batches))
                names = table.schema.names
            else:
                batches = pyarrow.ipc.open_stream(stream)
                names = batches.schema.names
            _once(names, name)
            starts = ((batch, at) for batch in batches for at in range(0, len(batch), BATCH))
            rows = (row for batch, at in starts for row in batch.slice(at, BATCH).to_pylist())
            for number, row in enumerate(rows, 1):
                yield number, row
    except DataError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        what = f"the {kind} file is damaged after this row ({error}): fetch it again"
        raise _damaged(name, what, number) from None
    unchanged.check(file)
