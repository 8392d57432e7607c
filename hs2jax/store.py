"""Kept work: what was computed, by the key of what it follows from, in a table of SQLite."""

import contextlib
import errno
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from flax.serialization import msgpack_restore, msgpack_serialize

from hs2jax import faults, locks
from hs2jax.workdir import from_first, is_first

log = logging.getLogger(__name__)

PATIENCE = 10.0  # Seconds to wait for another process that writes.
_CREATE = "CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, value BLOB)"
_INSERT = "INSERT OR REPLACE INTO kept VALUES (?, ?)"
_SELECT = "SELECT value FROM kept WHERE key = ?"


class Store:
    """What was computed, by the key of what it follows from, kept on disk: a table of SQLite.

    Values are of None, numbers, texts, lists, dicts with texts as keys, and arrays, which keep
    their dtype. What `add` was given is there as a whole or, after a kill, not at all. Several
    processes of one machine may add at once. Values that are not finite are not kept. Of several
    hosts the first one has the file; what the others have is in memory.

    Raises OSError that names the file where the disk does not give or take it. A `cache` does not:
    that is said once, and what is computed from then on is kept in memory.
    """

    def __init__(self, path: Path | Callable[[], Path], *, cache: bool = False):
        """path: of a cache, a function that finds it, which may fail too."""
        self.path, self._cache, self._lost = path, cache, False
        self._spare: dict[str, bytes] = {}  # What the disk did not take.
        self._table = None
        with self._watched():
            place = ":memory:"
            if is_first():
                self.path = place = path() if callable(path) else path
                place.parent.mkdir(parents=True, exist_ok=True)
            self._table = sqlite3.connect(place, timeout=PATIENCE, check_same_thread=False)
            self._table.execute(_CREATE)

    def __contains__(self, key: str) -> bool:
        return self._find(key) is not None

    def get(self, key: str, default=None):
        """Return what is kept under a key, or the default."""
        found = self._find(key)
        return default if found is None else msgpack_restore(found)

    def add(self, entries: Mapping[str, object]) -> list[str]:
        """Keep entries. Returns the keys of those that are not finite."""
        refused = [key for key, value in entries.items() if not _is_finite(value)]
        kept = {
            key: msgpack_serialize(value, in_place=True)  # As a copy, dicts would be sorted.
            for key, value in entries.items()
            if key not in refused
        }
        with self._watched():
            if not self._lost:
                with self._table:
                    self._table.executemany(_INSERT, kept.items())
                return refused
        self._spare |= kept
        return refused

    def share(self, keys: Iterable[str]) -> None:
        """Give every process what the first one has under these keys, so that all compute the
        same."""
        if jax.process_count() > 1:
            known = from_first({key: self.get(key) for key in keys if key in self})
            if not is_first():
                self.add(known)

    def _find(self, key: str) -> bytes | None:
        found = self._spare.get(key)
        with self._watched():
            if found is None and self._table:
                # The value too, so that what cannot be read is not there.
                query = self._table.execute(_SELECT, (key,))
                (found,) = query.fetchone() or (None,)
        return found

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            fault = _fault(error, self.path)
            if not self._cache:
                raise fault from error
            if not self._lost:
                log.warning("%s. This run goes on without what is kept there", faults.told(fault))
            self._lost = True
            if self._table:
                self._table.execute("PRAGMA busy_timeout = 0")  # Waiting once is enough.


def _fault(error: Exception, path: Path) -> OSError:
    """Say what failed at which file, and what to do."""
    name = getattr(error, "sqlite_errorname", "")
    if isinstance(error, OSError):
        return error
    if name == "SQLITE_FULL":
        return OSError(errno.ENOSPC, "No space left on device", str(path))
    if name == "SQLITE_BUSY":
        who = locks.holders(path) or "another process"
        return OSError(f"{path}: {who} has it locked; wait for it or stop it")
    if name in ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR"):
        return OSError(f"{path}: {error}; take it away, and what it held is computed again")
    return OSError(f"{path}: {error}; see that the folder is there and can be written to")


def _is_finite(value) -> bool:
    numbers = (x for x in jax.tree.leaves(value) if isinstance(x, np.ndarray | float))
    return all(np.isfinite(x).all() for x in numbers)
