"""A store gives back what was added, whole or not at all, and what cannot be used ends no run."""

import re
import sqlite3
import subprocess
import sys
import threading

import jax.numpy as jnp
import numpy as np
import pytest

from hs2jax import session
from hs2jax.identity import content_key
from hs2jax.store import Store

ENTRIES = {
    "a": [1.5, -2.0],
    "b": {"text": "ünïcode\n", "states": np.arange(6, dtype=np.float32).reshape(2, 3)},
    "c": {"states": np.asarray(jnp.ones((2, 2), jnp.bfloat16)), "empty": np.zeros((0, 3))},
}


def same(found, expected):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            same(found[name], value)
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    else:
        assert found == expected


def test_entries_are_there_when_opened_again(tmp_path):
    store = Store(tmp_path / "kept.sqlite")
    for key, value in ENTRIES.items():
        assert store.add({key: value}) == []
    for each in (store, Store(tmp_path / "kept.sqlite")):
        for key, value in ENTRIES.items():
            same(each.get(key), value)
        assert each.get("d") is None
        assert "d" not in each


def test_what_was_half_written_when_a_run_was_killed_is_not_there(tmp_path):
    path = tmp_path / "kept.sqlite"
    Store(path).add({"a": ENTRIES["a"]})
    code = f"""if True:
        import os, pathlib
        from hs2jax.store import Store
        store = Store(pathlib.Path({str(path)!r}))
        store._table.execute("INSERT INTO kept VALUES ('b', x'c0')")
        os._exit(1)
    """
    assert subprocess.run([sys.executable, "-c", code]).returncode == 1
    opened = Store(path)
    assert [key in opened for key in "ab"] == [True, False]
    opened.add({"b": ENTRIES["b"]})
    same(Store(path).get("b"), ENTRIES["b"])


@pytest.mark.parametrize("bad", [float("nan"), [1.0, float("inf")], {"x": np.array([np.nan])}])
def test_what_is_not_finite_is_never_kept(tmp_path, bad):
    store = Store(tmp_path / "kept.sqlite")
    assert store.add({"bad": bad, "good": [1.0]}) == ["bad"]
    assert "bad" not in store
    assert Store(tmp_path / "kept.sqlite").get("good") == [1.0]


def torn(path):
    Store(path).add({str(i): [float(i)] * 99 for i in range(99)})
    content = path.read_bytes()
    path.write_bytes(content[:4096] + bytes(len(content) - 4096))


def locked(path):
    Store(path)
    code = "import sqlite3, sys, time; table = sqlite3.connect(sys.argv[1]); "
    code += "table.execute('BEGIN EXCLUSIVE'); print(flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    other.stdout.readline()
    return other


BROKEN = {
    "a foreign file": (lambda path: path.write_text("what is this? " * 99), "not a database"),
    "a torn file": (torn, "malformed"),
    "another table": (
        lambda path: sqlite3.connect(path).execute("CREATE TABLE kept (a TEXT)"),
        "no column named|no such column",
    ),
    "a folder": (lambda path: path.mkdir(), "unable to open"),
    "a file for its folder": (lambda path: path.parent.write_text(""), "File exists|a file"),
    "a file above": (lambda path: path.parent.parent.write_text(""), "Not a directory|File exists"),
    "too long a name": (lambda path: path.with_name("x" * 300), "unable to open|too long"),
    "a lock": (locked, "process [0-9]+ has it locked"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_cache_that_cannot_be_used_is_told_once_and_done_without(
    tmp_path, monkeypatch, caplog, case
):
    monkeypatch.setattr("hs2jax.store.PATIENCE", 0.1)
    break_it, words = BROKEN[case]
    path = tmp_path / "a" / "b" / "kept.sqlite"
    path.parent.parent.mkdir()
    if " for " not in case:
        path.parent.mkdir()
    if "above" in case:
        path.parent.rmdir()
        path.parent.parent.rmdir()
    made = break_it(path)
    path = made if case == "too long a name" else path
    try:
        store = Store(lambda: path, cache=True)
        for key in ("1", "new"):
            assert store.get(key) in (None, [1.0] * 99)
            store.add({key: [1.0] * 99})
            assert key in store
            assert store.get(key) == [1.0] * 99
        (said,) = (record.getMessage() for record in caplog.records)
        assert str(tmp_path) in said
        assert re.search(words, said)
        if case != "a torn file":  # Of which some pages may be read.
            with pytest.raises(OSError, match=re.escape(str(tmp_path))):
                Store(path).add({"1": [1.0]})
    finally:
        if case == "a lock":
            made.kill()
            made.wait()


def append(path, name):
    store = Store(path)
    for i in range(40):
        store.add({f"{name}{i}": {"x": np.full(i, i, np.int32), "name": name}})


def test_two_stores_of_one_file_may_append_at_once(tmp_path):
    path = tmp_path / "kept.sqlite"
    writers = [threading.Thread(target=append, args=(path, name)) for name in "ab"]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    store = Store(path)
    for name in "ab":
        for i in range(40):
            same(store.get(f"{name}{i}"), {"x": np.full(i, i, np.int32), "name": name})


def test_a_key_follows_from_every_part():
    keys = {
        content_key("a", 1),
        content_key("a", "1"),
        content_key("a1"),
        content_key(["a", 1]),
        content_key(np.array([1, 2], np.int32)),
        content_key(np.array([1, 2], np.int64)),
        content_key(np.array([[1], [2]], np.int32)),
    }
    assert len(keys) == 7
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})


@pytest.mark.parametrize("place", ["~nobody-here/cache", "gs://bucket/cache"])
def test_without_a_place_for_what_is_kept_a_run_goes_on(monkeypatch, caplog, place):
    monkeypatch.setenv("HS2JAX_CACHE", place)
    store = Store(lambda: session.cache_folder() / "kept.sqlite", cache=True)
    store.add({"a": 1.0})
    assert store.get("a") == 1.0
    assert f"{place}: there is no such folder" in caplog.text
    assert "set HS2JAX_CACHE" in caplog.text
