"""A run's folder: what is kept survives a kill, and a settled folder takes no other
config."""

import subprocess
import sys
import threading

import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from hs2jax import workdir
from hs2jax.workdir import Store, content_key

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
        from hs2jax import workdir
        store = workdir.Store(pathlib.Path({str(path)!r}))
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


def config(**settings):
    return ml_collections.ConfigDict({"kind": "evaluate", "data": "a", **settings})


def test_a_folder_takes_another_config_until_something_is_made(tmp_path):
    assert workdir.claim(tmp_path, config()) is None
    assert workdir.claim(tmp_path, config(data="b")) is None
    workdir.settle(tmp_path, config(data="b"))
    assert workdir.claim(tmp_path, config(data="b")) is None
    with pytest.raises(ValueError, match=r"holds a run of another config \(different: data\)"):
        workdir.claim(tmp_path, config(data="c"))


def test_a_folder_with_checkpoints_of_an_earlier_version_takes_no_other_config(tmp_path):
    workdir.write_json(tmp_path / "config.json", {"data": "a"})
    (tmp_path / "checkpoints" / "20").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"different: kind"):
        workdir.claim(tmp_path, config())


def test_a_finished_run_gives_its_result_again(tmp_path):
    workdir.claim(tmp_path, config())
    rows = [workdir.row("mini", "", "accuracy", 0.75, (0.5, 0.875), 8, reference=0.5)]
    made = workdir.finish(tmp_path, config(), {"seconds": 1.0}, rows)
    assert made == workdir.read_rows(tmp_path / "results.jsonl")
    assert made[0]["kind"] == "evaluate"
    assert (made[0]["low"], made[0]["high"], made[0]["n"]) == (0.5, 0.875, 8)
    found = workdir.claim(tmp_path, config())
    assert found["seconds"] == 1.0
    assert found["config"] == config().to_dict()
    with pytest.raises(ValueError, match="different: data"):
        workdir.claim(tmp_path, config(data="b"))


def test_a_value_that_is_not_finite_becomes_none():
    assert workdir.row("", "", "loss", float("nan"))["value"] is None
