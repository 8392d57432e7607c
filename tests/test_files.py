"""Rows are the same rows in every form of file, and a damaged file never gives a wrong one."""

import bz2
import contextlib
import datetime
import gzip
import json
import lzma

import huggingface_hub
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hs2jax.data import corpora, files
from hs2jax.data.groups import DataError
from hs2jax.data.record import Record


def rows_of(n):
    return [{"prompt": f"p{i}", "chosen": "yes", "rejected": "no"} for i in range(n)]


def as_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_parquet(rows, path, **options):
    """Small row groups, so that there is more than one."""
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, path, row_group_size=100, **options)


def read(path, **options):
    return list(corpora.read(f"preference:{path}", **options))


def content(groups):
    return [(group.prompt, group.responses, group.strength) for group in groups]


@pytest.mark.parametrize(
    "text",
    ["[", "[,]", "[%s", "[%s,", "[%s,]", "[%s %s]", "[%s, nonsense]", "[%s] nonsense", "[" * 9999],
)
def test_a_damaged_list_gives_no_row_and_cannot_be_skipped(text, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(text.replace("%s", json.dumps(rows_of(1)[0])))
    for options in ({}, {"on_error": "skip", "record": Record()}):
        with pytest.raises(DataError, match="field 'file': expected a list of JSON objects"):
            read(path, **options)


def test_what_is_no_row_in_a_list_is_named_by_its_number(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([rows_of(1)[0], 3, rows_of(1)[0]], indent=1))
    with pytest.raises(DataError, match="row 2, field 'row': expected one JSON object"):
        read(tmp_path / "rows.json")
    broken = json.dumps(rows_of(2)).encode().replace(b"p1", b"p\xff")
    (tmp_path / "rows.json").write_bytes(broken)
    with pytest.raises(DataError, match="row 2, field 'prompt': expected Unicode"):
        read(tmp_path / "rows.json")
    record = Record()
    groups = read(tmp_path / "rows.json", on_error="skip", record=record)
    assert content(groups) == content(read_lines(tmp_path, rows_of(1)))
    assert record.skipped == {"broken Unicode": 1}


def read_lines(folder, rows):
    (folder / "expected.jsonl").write_bytes(as_lines(rows))
    return read(folder / "expected.jsonl")


def as_stream(rows, path):
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_stream(path, table.schema) as out:
        out.write_table(table, max_chunksize=100)


def as_feather(rows, path):
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_file(path, table.schema) as out:
        out.write_table(table, max_chunksize=100)


def as_saved(rows, folder):
    """A folder of `datasets.save_to_disk`, of two files."""
    folder.mkdir()
    for i, part in enumerate((rows[:150], rows[150:])):
        as_stream(part, folder / f"{i}.arrow")
    state = {"_data_files": [{"filename": f"{i}.arrow"} for i in range(2)]}
    (folder / "state.json").write_text(json.dumps(state))


def as_cells(rows, delimiter):
    lines = [rows[0], *(row.values() for row in rows)]
    return "\r\n".join(delimiter.join(f'"{cell}"' for cell in line) for line in lines).encode()


def by_columns(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


# Of each kind of file: a name, and how rows become its bytes, or a file at a path.
KINDS = {
    "rows.json": lambda rows: json.dumps(rows).encode(),
    "indented.json.gz": lambda rows: gzip.compress(json.dumps(rows, indent=2).encode()),
    "lines.json": as_lines,
    "object.json": lambda rows: json.dumps({"version": 1, "data": rows}).encode(),
    "columns.jsonl": lambda rows: json.dumps(by_columns(rows)).encode(),
    "pandas.json": lambda rows: json.dumps(
        {name: dict(enumerate(column)) for name, column in by_columns(rows).items()}
    ).encode(),
    "pretty.jsonl": lambda rows: "\n".join(json.dumps(row, indent=1) for row in rows).encode(),
    "commas.jsonl": lambda rows: as_lines(rows).replace(b"}\n", b"},\n"),
    "lists.jsonl": lambda rows: b"".join(b"[%s]\n" % as_lines([row]).strip() for row in rows),
    "mac.jsonl": lambda rows: as_lines(rows).replace(b"\n", b"\r"),
    "crlf.txt": lambda rows: as_lines(rows).replace(b"\n", b"\r\n"),
    "mark.jsonl": lambda rows: b"\xef\xbb\xbf" + as_lines(rows),
    "wide.jsonl": lambda rows: as_lines(rows).decode().encode("utf-16"),
    "wide-be": lambda rows: as_lines(rows).decode().encode("utf-16-be"),
    "wide.txt.gz": lambda rows: gzip.compress(as_cells(rows, "\t").decode().encode("utf-16")),
    "twice-gz.jsonl": lambda rows: gzip.compress(gzip.compress(as_lines(rows))),
    "no-gz.jsonl.gz": as_lines,
    "rows.bz2": lambda rows: bz2.compress(as_lines(rows)),
    "rows.xz": lambda rows: lzma.compress(as_lines(rows)),
    "rows.jsonl.zst": lambda rows: pyarrow.compress(as_lines(rows), "zstd", asbytes=True),
    "rows.csv": lambda rows: as_cells(rows, ","),
    "rows.tab": lambda rows: as_cells(rows, "\t"),
    "excel.csv": lambda rows: b"\xef\xbb\xbf" + as_cells(rows, ";") + b"\r\n;;",
    "sep.csv": lambda rows: b"\xef\xbb\xbfsep=;\r\n" + as_cells(rows, ";"),
    "by-id.json": lambda rows: json.dumps({f"q{i}": row for i, row in enumerate(rows)}).encode(),
    "bars.txt": lambda rows: as_cells(rows, "|").replace(b'"prompt"', b'"prompt "'),
    "comma,.csv": lambda rows: as_cells([{**row, "a,b,c": ""} for row in rows], ";"),
    "nameless.csv": lambda rows: as_cells(rows, ",").replace(b"\r\n", b",\r\n") + b",",
    "pandas.csv": lambda rows: b"," + as_cells(rows, ",").replace(b"\r\n", b"\r\n7,"),
    "rows.PARQUET": as_parquet,
    "parquet.jsonl": as_parquet,
    "rows.feather": as_feather,
    "rows.arrow": as_stream,
    "saved": as_saved,
}


@pytest.mark.parametrize("name", KINDS)
def test_all_kinds_hold_the_same_groups(name, tmp_path):
    # More than a batch; texts that need quotes, and are numbers and of several bytes.
    rows = [{**row, "chosen": f"{i}"} for i, row in enumerate(rows_of(300))]
    rows[0]["chosen"], rows[1]["chosen"] = "Oak, 'or'\nelm; na\u00efve.", "4"
    make, path = KINDS[name], tmp_path / name
    if make in (as_parquet, as_feather, as_stream, as_saved):
        make(rows, path)
    else:
        path.write_bytes(make(rows))
    expected, found = read_lines(tmp_path, rows), read(path)
    assert content(found) == content(expected)
    assert [group.source for group in read(f"{path}[-3:]")] == [g.source for g in found[-3:]]
    if "line" not in corpora.row_unit(str(path)):
        assert found[1].source == f"{path}:2"


@pytest.mark.parametrize(("indent", "made"), [(None, list), (1, list), (None, by_columns)])
def test_a_list_of_a_file_is_named_behind_it(tmp_path, indent, made):
    path, rows = tmp_path / "data.json", rows_of(5)
    path.write_text(json.dumps({"train": made(rows[:3]), "test": made(rows[3:])}, indent=indent))
    assert content(read(f"{path}/train")) == content(read_lines(tmp_path, rows[:3]))
    (last,) = read(f"{path}/test[-1:]")
    assert (last.prompt[0]["content"], last.source) == (rows[4]["prompt"], f"{path}/test:2")
    with pytest.raises(DataError, match="expected rows under 'dev'; the file has train, test"):
        read(f"{path}/dev")
    (tmp_path / "rows.jsonl").write_bytes(as_lines(rows))
    with pytest.raises(DataError, match="expected one JSON object"):
        read(f"{tmp_path}/rows.jsonl/train")


ROW = json.dumps(rows_of(1)[0])
# Of files that cannot be read: their bytes, and what is said of them.
OTHERS = {
    b"PK\x03\x04...": "a zip archive .* unzip FILE, or save a sheet as CSV",
    b"\xd0\xcf\x11\xe0...": "an old Excel or Word file",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n": "Git LFS.* git lfs pull",
    b"<!DOCTYPE html>\n<html>": "a web page.*/resolve/",
    b"\n<head><title>404, not found": "a web page.*/resolve/",
    b"\x80\x05\x95...": "a Python pickle.*to_parquet",
    gzip.compress(b"name".ljust(257, b"\0") + b"ustar\0", mtime=0): "a tar archive.*tar -xf",
    gzip.compress(b"PAR1...", mtime=0): "gunzip",
    f"{json.dumps(ROW)}\n{json.dumps(ROW)}".encode(): "texts that hold a row each.*fromjson",
    f'{{"train": [{ROW}, {ROW}], "test": [{ROW}]}}'.encode(): r"'train' \(2 rows\).*/train",
    b"{'prompt': 'p'}\n{'prompt': 'q'}": "as Python prints them.*literal_eval",
    b"prompt,chosen,rejected\na,b,c\nd\n": "row 2 has 1 cells, and the header 3",
    b'prompt,chosen\na,"b\n': "the table is damaged",
    b"prompt,prompt \na,b": "a column twice",
    b"|prompt|chosen|\n|---|---|\n|a|b|": "expected JSON lines, JSON, Parquet",
    ROW.encode("utf-16")[:-1]: "utf-16.*broken",
    bz2.compress(as_lines(rows_of(999)))[:99]: "the compressed file is damaged",
    gzip.compress(as_lines(rows_of(999)), mtime=0)[:99]: "the compressed file is damaged",
    b"prompt: yes\nchosen: no\n": "expected JSON lines, JSON, Parquet",
    b"\x00\x01\x02,\x03": "expected JSON lines, JSON, Parquet",
}


@pytest.mark.parametrize("start", OTHERS)
def test_other_files_are_named_and_never_skipped(start, tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(start)
    for options in ({}, {"on_error": "skip", "record": Record()}):
        with pytest.raises(DataError, match=f"field 'file': .*{OTHERS[start]}"):
            read(tmp_path / "rows.jsonl", **options)


def test_a_folder_of_splits_is_named(tmp_path):
    (tmp_path / "dataset_dict.json").write_text("{}")
    (tmp_path / "test").mkdir()
    with pytest.raises(
        FileNotFoundError, match=f"holds the splits test: name one, {tmp_path}/test"
    ):
        read(tmp_path)


def test_a_column_that_is_there_twice_is_named(tmp_path):
    table = pyarrow.table([["a"], ["b"], ["c"], ["d"]], ["prompt", "chosen", "rejected", "prompt"])
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="a column twice: prompt, chosen, rejected, prompt"):
        read(tmp_path / "rows.parquet")


TALK = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]


@pytest.mark.parametrize("text", [json.dumps([TALK] * 2), 2 * f"{json.dumps(TALK)}\n"])
def test_conversations_without_a_name_are_read(text, tmp_path):
    (tmp_path / "talks.json").write_text(text)
    for group in corpora.read(f"conversations:{tmp_path}/talks.json[1:]"):
        assert (group.prompt[0]["content"], group.responses) == ("Hi", ("Hello",))
        assert group.source.endswith("talks.json:2")


def test_cells_of_a_table_are_texts_or_numbers_as_their_fields_are(tmp_path):
    (tmp_path / "rows.csv").write_text("prompt,chosen,rejected,strength\n2+2?,4,5,2.0\n1,2,3,\n")
    found = content(read(tmp_path / "rows.csv"))
    assert [(responses, strength) for _, responses, strength in found] == [
        (("4", "5"), -2.0),
        (("2", "3"), -1.0),
    ]
    wrong = [f"2+2?,4,5,{value}" for value in ("much", "1_0", "1,5", "50%")]
    wrong += [f"{value},4,5,1" for value in ("nan", "<NA>", "#NAME?")]
    said = "(expected a|is missing or empty)|5 cells"
    for row, field in zip(wrong, ["strength"] * 4 + ["prompt"] * 3, strict=True):
        (tmp_path / "rows.csv").write_text(f"prompt,chosen,rejected,strength\n{row}\n")
        with pytest.raises(DataError, match=f"field '{field}': {said}"):
            read(tmp_path / "rows.csv")


def test_parquet_keeps_messages_and_refuses_what_is_no_text(tmp_path):
    turns = [{"role": "user", "content": "Hi"}]
    row = {"prompt": turns, "chosen": "Hello.", "rejected": "No.", "when": None}
    bad = [{**row, "chosen": b"Hello."}, {**row, "chosen": datetime.date(2024, 1, 1)}]
    as_parquet([{**row, "when": datetime.date(2024, 1, 1)}], tmp_path / "rows.parquet")
    (group,) = read(tmp_path / "rows.parquet")
    assert group.prompt == tuple(turns)
    for each in bad:
        as_parquet([each], tmp_path / "rows.parquet")
        with pytest.raises(DataError, match=r"row 1, field 'chosen'.*found "):
            read(tmp_path / "rows.parquet")
    as_parquet([{**row, "chosen": "  "}], tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"row 1, field 'chosen'.*empty"):
        read(tmp_path / "rows.parquet")


@given(st.data())
def test_a_damaged_parquet_file_gives_no_wrong_row(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "rows.parquet"
    rows = rows_of(250)
    as_parquet(rows, path, write_page_checksum=True)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"row \d+, field 'file': the Parquet file is damaged"):
            read(path, on_error="skip", record=Record())
        return
    path.write_bytes(whole[:cut] + bytes([whole[cut] ^ 0xFF]) + whole[cut + 1 :])
    with contextlib.suppress(DataError):
        # The checksum of a page, or the footer, tells; or the byte says nothing of the rows.
        assert content(read(path)) == content(read_lines(path.parent, rows))


def test_a_star_stands_for_all_files_that_match_in_sorted_order(tmp_path, monkeypatch):
    for name in ("b/2.jsonl", "a/1.jsonl", "a/10.jsonl", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(as_lines(rows_of(3)))
    (tmp_path / "a" / "folder.jsonl").mkdir()

    def names(path):
        return [group.source.rpartition(":")[0] for group in read(f"{path}[:1]")]

    assert names(f"{tmp_path}/a/*.jsonl") == [f"{tmp_path}/a/1.jsonl", f"{tmp_path}/a/10.jsonl"]
    everything = [f"{tmp_path}/{name}" for name in ("a/1.jsonl", "a/10.jsonl", "b/2.jsonl")]
    assert names(f"{tmp_path}/*/*.jsonl") == everything
    monkeypatch.chdir(tmp_path)
    assert names("*/1*.jsonl") == ["a/1.jsonl", "a/10.jsonl"]
    assert len(read("*/1*.jsonl[1:] + preference:a/1.jsonl[0:1]")) == 2 + 2 + 1
    with pytest.raises(FileNotFoundError, match=r"no file matches .*/d\*\.jsonl"):
        read(f"{tmp_path}/d*.jsonl")
    with pytest.raises(ValueError, match=r"has a '\*\*'"):
        read(f"{tmp_path}/**/*.jsonl")
    with pytest.raises(FileNotFoundError, match=r"is a folder: name its files"):
        read(f"{tmp_path}/a")
    assert {"mini/train.jsonl", "mini/validation.jsonl"} <= set(files.expand("mini/*.jsonl"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that holds one file; what was asked of it."""
    (tmp_path / "rows.jsonl").write_bytes(as_lines(rows_of(2)))
    asked = []

    def download(repository, file, *, repo_type, revision, **options):
        asked.append((repository, file, repo_type, revision))
        if file != "data/rows.jsonl":
            raise huggingface_hub.errors.LocalEntryNotFoundError("the file is not in the cache")
        return str(tmp_path / "rows.jsonl")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


@pytest.mark.parametrize(
    ("name", "revision"),
    [
        ("o/n", "main"),
        ("o/n@168d848", "168d848"),
        ("o/n@refs%2Fpr%2F1", "refs/pr/1"),
        ("o/n@refs/pr/1", "refs/pr/1"),
        ("o/n@refs/convert/parquet", "refs/convert/parquet"),
    ],
)
def test_files_of_the_hub(name, revision, hub):
    path = f"hf://datasets/{name}/data/rows.jsonl"
    groups = read(path)
    assert [group.source for group in groups] == [f"{path}:1", f"{path}:2"]
    assert read(f"{path}[1:]") == groups[1:]
    assert set(hub) == {("o/n", "data/rows.jsonl", "dataset", revision)}


def test_a_file_that_the_hub_does_not_give(hub):
    with pytest.raises(FileNotFoundError) as raised:
        read("hf://datasets/owner/name@v2/data/absent.parquet")
    for part in ("data/absent.parquet", "owner/name", "'v2'", "not in the cache", "give its path"):
        assert part in str(raised.value)
    with pytest.raises(ValueError, match=r"OWNER/NAME/PATH"):
        read("hf://owner/name/data/rows.jsonl")
    with pytest.raises(ValueError, match=r"has a '\*'"):
        read("hf://datasets/owner/name/data/*.jsonl")
    assert len(hub) == 1


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "rows.jsonl").write_bytes(as_lines(rows_of(3)))
    assert len(read("~/rows.jsonl")) == len(read("~/r*.jsonl")) == 3
