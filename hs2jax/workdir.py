"""A run's folder: claimed, resumed, stored, finished.

    config.json    the config, with its kind
    run.json       what the run is (see `identity`), and whether it has made something of it
    run.lock       who is at work here
    results.jsonl  what came out, one tidy table (see `row`)
    result.json    what does not fit into rows; the last file of a run, so that it marks the end

Of several processes, which must see the same folder, the first one writes.
"""

import hashlib
import json
import logging
import os
import pickle
import platform
import resource
import sqlite3
import sys
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from flax.serialization import msgpack_restore, msgpack_serialize
from jax.experimental import multihost_utils

from hs2jax import config_rules, identity, locks, stopping

log = logging.getLogger(__name__)


# Kinds whose folders hold those of other runs, or are written at once.
UNCLAIMED = ("recipe", "sweep", "best_of_n")


# A run's folder ---------------------------------------------------------------------------------


def claim(workdir: Path, config) -> dict | None:
    """Claim a folder for a run, and return its result.json where it is finished.

    Until the run has settled, the folder takes any config; then only those of the same identity
    (see `identity`). Raises ValueError where the folder is another run's, naming what differs, is
    no run's, or another process is at work in it.
    """
    found = identity.of(config)
    _agree(workdir, config, found)
    if is_first():
        check(workdir, config, found)
        locks.hold(workdir)
        check(workdir, config, found)  # Another process may have been at work until now.
        _check_dtype(workdir, config)
        write_json(workdir / "config.json", json.loads(config.to_json_best_effort()))
        if not _settled(workdir):
            record = {"kind": config.kind, "settled": False, "identity": found}
            write_json(workdir / "run.json", record | {"free": identity.free(config)})
    barrier("claimed")
    if not finished(workdir):
        return None
    log.info("%s is finished", workdir)
    if is_first():
        locks.release(workdir)
    return read_json(workdir / "result.json")


def _agree(workdir: Path, config, found: identity.Identity) -> None:
    """See that all processes have one config, code and contents, and one folder.

    Raises ValueError on each of them, on those that differ naming what does.
    """
    if jax.process_count() == 1:
        return
    mark = workdir / f".{from_first(uuid.uuid4().hex)}"
    if is_first():
        workdir.mkdir(parents=True, exist_ok=True)
        mark.touch()
    barrier("the start")
    mine = found | {"config": content_key(config.to_dict()), "jax": jax.__version__}
    mine |= {"hs2jax's code": identity.code_hash(), "--workdir": "another folder"}
    if mark.exists():
        mine["--workdir"] = "process 0's"
    wrong = stopping.gather("; ".join(identity.differences(from_first(mine), mine)))
    if is_first():
        mark.unlink()
    if any(wrong.values()):
        each = (f"process {number} ({text})" for number, text in wrong.items() if text)
        raise ValueError(f"the same command and data are needed on all hosts: {', '.join(each)}")


def check(workdir: Path, config, found: identity.Identity | None = None) -> None:
    """See that a folder is free for a run, or its own. Writes nothing.

    found: the identity of the run, where it is known. Raises ValueError as `claim` does.
    """
    check_place(workdir, config.kind)
    if not _settled(workdir):
        return
    old = read_json(workdir / "run.json")
    if "identity" not in old:
        raise ValueError(f"{workdir} holds a run of an earlier version; give another --workdir")
    changed = identity.differences(old["identity"], found or identity.of(config))
    if changed:
        raise ValueError(
            f"{workdir} holds another run (different: {'; '.join(changed)}).{_advice(workdir)} "
            "Give another --workdir, or remove it"
        )
    if changed := identity.differences(old["free"], identity.free(config)):
        log.info("the same run, but perhaps for the order of sums: %s", "; ".join(changed))


def check_place(workdir: Path, kind: str) -> None:
    """See that a folder is new, empty, or one of a run of this kind. Raises ValueError."""
    names = {path.name for path in workdir.iterdir()} if workdir.is_dir() else set()
    names = {name for name in names if not name.startswith(".")} - {"lost+found"}
    if names and not names & {"config.json", "run.json", locks.NAME}:
        raise ValueError(
            f"{workdir} is not a run's folder: there is {min(names)} in it, but no run.json; give "
            "another --workdir"
        )
    there = read_json(workdir / "config.json").get("kind") if "config.json" in names else kind
    if there is None:
        raise ValueError(f"{workdir} is a model's folder, not a run's; give another --workdir")
    made = _settled(workdir) or finished(workdir) or any(workdir.glob("checkpoints/[0-9]*"))
    if made and there != kind:
        raise ValueError(
            f"{workdir} holds a run of kind {there!r}, not {kind!r}; give another --workdir"
        )
    if made and "run.json" not in names and kind not in UNCLAIMED:
        raise ValueError(f"{workdir} holds a run of an earlier version; give another --workdir")


def take(workdir: Path, config) -> None:
    """Take a folder for runs in folders below it, which claim their own: a recipe's or sweep's.

    Alone it opens no device, which a sweep leaves to its runs."""
    if not stopping.joined() or is_first():
        check_place(workdir, config.kind)
        write_json(workdir / "config.json", json.loads(config.to_json_best_effort()))


def _check_dtype(workdir: Path, config) -> None:
    """See that a dtype that the platform decides is what it was. Raises ValueError."""
    flat = config_rules.flat(config)
    if _settled(workdir) and "" in (flat.get("model.dtype"), flat.get("dtype")):
        before, now = read_json(workdir / "run.json")["environment"], environment()
        if ("(cpu)" in before["device"]) != ("(cpu)" in now["device"]):
            raise ValueError(
                f"{workdir} was computed on {before['device']}, and this is {now['device']}: the "
                'dtype "" means float32 on a CPU and bfloat16 elsewhere; give the one or other'
            )


def _advice(workdir: Path) -> str:
    if not finished(workdir):
        return ""
    return (
        " It is finished: to train further, start another run from its model/; kept scores of an "
        "evaluation are used again."
    )


def settle(workdir: Path) -> None:
    """Note that a run has made something: from now on its folder takes no other run."""
    claimed = (workdir / "run.json").exists()  # A recipe's folder is not.
    if is_first() and claimed and not _settled(workdir):
        record = read_json(workdir / "run.json")
        record |= {"settled": True, "environment": environment()}
        write_json(workdir / "run.json", record)


def _settled(workdir: Path) -> bool:
    path = workdir / "run.json"
    return path.exists() and read_json(path).get("settled", True)


def finish(workdir: Path, config, result: Mapping, rows: Sequence[Mapping]) -> list[dict]:
    """Write results.jsonl, then result.json, and return the rows. Nothing may come after it but
    the page; all that the run makes must be there.

    result: what does not fit into rows; kind, config and environment are added.
    """
    rows = [{"kind": config.kind, **each} for each in rows]
    if is_first():
        settle(workdir)
        write_rows(workdir / "results.jsonl", rows)
        head = {"kind": config.kind, **result, "environment": environment()}
        write_json(workdir / "result.json", head | {"config": config.to_dict()})
        locks.release(workdir)
    barrier("finished")  # The others must not look for the run's files too early.
    return rows


def finished(workdir: Path) -> bool:
    return (workdir / "result.json").exists()


def row(
    set: str,
    part: str,
    metric: str,
    value: float | None,
    interval: Sequence[float] | None = None,
    n: int | None = None,
    **more,
) -> dict:
    """Make a row of results.jsonl.

    set: what it is of: a data set, a policy, an arm of a sweep; "" for the whole run.
    part: of the set, a path whose first name is a family: "section/Chat", "attribute/helpfulness",
        "strength/2", "layer/7"; "" for all of it.
    value: a finite number or None. interval: its 95% interval. n: how many values it is made from.
    more: `method` (an aggregation or baseline), `reference` (the value that the interval is held
        against) and `better` ("higher" | "lower") for a verdict, `against` (what a paired
        difference is taken to), `p`, `step`, `headline` (True: shown in the terminal).
    """
    low, high = (None, None) if interval is None else map(float, interval)
    value = None if value is None or not np.isfinite(value) else float(value)
    head = {"set": set, "part": part, "metric": metric, "value": value, "low": low, "high": high}
    return head | {"n": None if n is None else int(n)} | more


# Processes --------------------------------------------------------------------------------------


def is_first() -> bool:
    """Tell whether this process is the one that writes for all."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait for all processes."""
    if jax.process_count() > 1:
        with stopping.waiting(name):
            multihost_utils.sync_global_devices(name)


def from_first(value):
    """Give every process what the first one has: anything that can be pickled."""
    if jax.process_count() == 1:
        return value
    content = pickle.dumps(value if is_first() else None)
    with stopping.waiting("process 0's word"):
        size = int(multihost_utils.broadcast_one_to_all(np.int64(len(content))))
        padded = np.zeros(size, np.uint8)
        if is_first():
            padded[:] = np.frombuffer(content, np.uint8)
        return pickle.loads(multihost_utils.broadcast_one_to_all(padded).tobytes())


# Kept work --------------------------------------------------------------------------------------


def content_key(*parts) -> str:
    """Hash what something follows from, to 32 hexadecimal digits: JSON values and arrays."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:32]


class Store:
    """What was computed, by the key of what it follows from, kept on disk: a table of SQLite.

    Values are of None, numbers, texts, lists, dicts with texts as keys, and arrays, which keep
    their dtype. What `add` was given is there as a whole or, after a kill, not at all. Several
    processes of one machine may add at once. Values that are not finite are not kept. Of several
    hosts the first one has the file; what the others have is in memory.
    """

    def __init__(self, path: Path):
        self.path, place = path, ":memory:"
        if is_first():
            path.parent.mkdir(parents=True, exist_ok=True)
            place = path
        self._table = sqlite3.connect(place, timeout=3600, check_same_thread=False)
        self._table.execute("CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, value BLOB)")

    def __contains__(self, key: str) -> bool:
        return self._find("1", key) is not None

    def get(self, key: str, default=None):
        """Return what is kept under a key, or the default."""
        found = self._find("value", key)
        return default if found is None else msgpack_restore(found[0])

    def add(self, entries: Mapping[str, object]) -> list[str]:
        """Keep entries. Returns the keys of those that are not finite."""
        refused = [key for key, value in entries.items() if not _is_finite(value)]
        kept = [
            (key, msgpack_serialize(value, in_place=True))  # As a copy, dicts would be sorted.
            for key, value in entries.items()
            if key not in refused
        ]
        with self._table:
            self._table.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?)", kept)
        return refused

    def share(self, keys: Iterable[str]) -> None:
        """Give every process what the first one has under these keys, so that all compute the
        same."""
        if jax.process_count() > 1:
            known = from_first({key: self.get(key) for key in keys if key in self})
            if not is_first():
                self.add(known)

    def remove(self) -> None:
        """Take the file away, where it only served to make another one."""
        self._table.close()
        if is_first():
            self.path.unlink(missing_ok=True)

    def _find(self, column: str, key: str) -> tuple | None:
        return self._table.execute(f"SELECT {column} FROM kept WHERE key = ?", (key,)).fetchone()


def _is_finite(value) -> bool:
    numbers = (x for x in jax.tree.leaves(value) if isinstance(x, np.ndarray | float))
    return all(np.isfinite(x).all() for x in numbers)


# Files ------------------------------------------------------------------------------------------


def write_json(path: Path, value) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def write_rows(path: Path, rows: Iterable[Mapping]) -> None:
    """Write JSON lines, whole or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_rows(path: Path) -> list[dict]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    except OSError as error:  # A full disk does not say where.
        scratch.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def note_not_finite(workdir: Path, step: int, rows: list[str], values: dict) -> None:
    """Write down which rows ("file:line") the batch of this step had."""
    row = {"step": step, "rows": rows, **{name: str(value) for name, value in values.items()}}
    with (workdir / "not_finite.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


# The machine ------------------------------------------------------------------------------------


def environment() -> dict:
    """Say what a number was obtained with."""
    devices = jax.devices()
    return {
        "device": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def peak_memory() -> int:
    """Return the most bytes used so far: on the first device, or by this process where it is the
    CPU."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024)
