"""Rows are the same rows in every form of file, and a damaged file never gives a wrong one."""

import contextlib
import datetime
import gzip
import json

import huggingface_hub
import pyarrow
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
    ["[", "[,]", "[%s", "[%s,", "[%s,]", "[%s %s]", "[%s, nonsense]", "[%s] [%s]", "[" * 100_000],
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


def test_all_forms_hold_the_same_groups(tmp_path):
    rows = rows_of(700)  # More than a batch of Parquet.
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "lines.json").write_bytes(as_lines(rows))
    (tmp_path / "rows.json.gz").write_bytes(gzip.compress(json.dumps(rows, indent=2).encode()))
    as_parquet(rows, tmp_path / "rows.parquet")
    expected = read_lines(tmp_path, rows)
    for name in ("rows.json", "lines.json", "rows.json.gz", "rows.parquet"):
        found = read(tmp_path / name)
        assert content(found) == content(expected)
        assert [group.source for group in found[:2]] == [f"{tmp_path / name}:{i}" for i in (1, 2)]
        part = read(f"{tmp_path / name}[-3:]")
        assert content(part) == content(expected[-3:])
        assert part[0].source == f"{tmp_path / name}:698"


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
