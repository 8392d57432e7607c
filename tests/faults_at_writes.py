"""Faults at the writes of a run, found by wrapping the file layer: Python's files and folders,
SQLite, TensorStore, tokenizers. Whatever changes something below a folder is a point."""

import builtins
import contextlib
import errno
import functools
import io
import os
import sqlite3
import threading
from pathlib import Path

import pytest
import tensorstore
from orbax.checkpoint._src.futures.future import _SignalingThread
from transformers import PreTrainedTokenizerFast

# A write, and what the system says; once, or from then on as on a full disk; a write of which the
# first half is there when the process dies; death.
FAULTS = ("EIO", "EACCES", "ENOSPC", "torn", "killed")
# Functions of `os` that change something, and which argument is the path.
CHANGING = {"mkdir": 0, "rename": 1, "replace": 1, "unlink": 0, "remove": 0, "rmdir": 0}
CHANGING |= {"truncate": 0, "link": 1, "symlink": 1}
FREEING = ("unlink", "remove", "rmdir", "rename", "replace")  # A full disk does not refuse these.
SQLITE = {
    "ENOSPC": ("SQLITE_FULL", "database or disk is full"),
    "EIO": ("SQLITE_IOERR", "disk I/O error"),
    "EACCES": ("SQLITE_READONLY", "attempt to write a readonly database"),
}


class Killed(BaseException):
    """The end of a process that is killed: it writes nothing more."""


class Layer:
    """The file layer below `root`, of which the nth point fails, or the first whose path has the
    text `nth` in it.

    Attributes:
        points: "KIND PATH" of each. seen: the paths.
        failed: the first point that failed, "KIND PATH".
        dead: the process was killed.
    """

    def __init__(self, root: Path, fault: str = "", nth: int | str = 0):
        self.root, self.fault, self.nth = str(root), fault, nth
        self.points, self.seen, self.failed, self.dead = [], set(), "", False
        self._lock, self._tables = threading.RLock(), []

    def point(self, kind: str, path) -> str:
        """Count a point. Returns the fault that is due there, "" for none; or raises Killed."""
        path = os.path.abspath(os.fsdecode(path))
        if not path.startswith(self.root):
            return ""
        with self._lock:
            if self.dead:
                raise Killed
            self.points.append(f"{kind} {path}")
            self.seen.add(path)
            now = len(self.points)
            if isinstance(self.nth, str):
                self.nth = now if self.nth in path else self.nth
            if isinstance(self.nth, str):
                return ""
            due = now == self.nth or (0 < self.nth < now and self.fault != "EIO")
            if not due or (self.fault == "ENOSPC" and kind in FREEING):
                return ""
            self.failed = self.failed or self.points[-1]
            self.dead = self.fault in ("torn", "killed")
            if self.dead and (self.fault, kind) != ("torn", "write"):
                raise Killed
            return self.fault

    def fail(self, kind: str, path, of=OSError) -> None:
        """Count a point, and raise the system's error where one is due."""
        if fault := self.point(kind, path):
            number = getattr(errno, fault)
            text = os.strerror(number)
            if of is OSError:  # An open file does not say which one it is.
                raise OSError(number, text, *([] if kind == "write" else [str(path)]))
            raise of(f"{text} (os error {number})")

    def open(self, file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, **more):
        """Stand in for Python's `open`."""
        if isinstance(file, int) or not set(mode) & set("wax+"):
            return _OPEN(file, mode, buffering, encoding, errors, newline, **more)
        self.fail("open", file)
        raw = _File(file, mode.replace("t", "").replace("b", ""), **more)
        raw.layer = self
        if buffering == 0:
            return raw
        buffered = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    def connect(self, place, *arguments, **options):
        """Stand in for `sqlite3.connect`."""
        table = sqlite3.Connection.__new__(_Table)
        table.layer, table.place = self, place
        table.__init__(place, *arguments, **options)
        self._tables.append(table)
        return table

    def end(self) -> None:
        """End what a killed process would not go on with."""
        for table in self._tables if self.dead else ():
            table.close()


_OPEN = io.open


class _File(io.FileIO):
    layer: Layer

    def write(self, data):
        if self.layer.dead:
            return len(data)
        if self.layer.fault != "torn":
            self.layer.fail("write", self.name)
        elif self.layer.point("write", self.name):
            super().write(memoryview(data).cast("B")[: len(data) // 2])
            raise Killed
        return super().write(data)


class _Table(sqlite3.Connection):
    layer: Layer

    def _point(self):
        if fault := self.layer.point("sqlite", self.place):
            name, text = SQLITE[fault]
            error = sqlite3.OperationalError(text)
            error.sqlite_errorname = name
            raise error

    def execute(self, text, *values):
        if not text.startswith(("SELECT", "PRAGMA")):
            self._point()
        return super().execute(text, *values)

    def executemany(self, *arguments):
        self._point()
        return super().executemany(*arguments)

    def __exit__(self, kind, *error):
        if kind is None:
            try:
                self._point()
            except BaseException:
                self.rollback()
                raise
        return super().__exit__(kind, *error)


@contextlib.contextmanager
def faults(root: Path, fault: str = "", nth: int | str = 0):
    """Let the file layer of this process fail at its nth point below a folder. Gives the Layer."""
    layer, before = Layer(root, fault, nth), set(threading.enumerate())

    def changing(name, argument):
        call = getattr(os, name)

        def changed(*arguments, dir_fd=None, **options):
            path = arguments[argument]
            if dir_fd is not None:
                path = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path)
                options["dir_fd"] = dir_fd
            layer.fail(name, path)
            return call(*arguments, **options)

        return changed

    def opened(path, flags, *arguments, call=os.open, **options):
        if flags & (os.O_WRONLY | os.O_RDWR):
            layer.fail("open", path)
        return call(path, flags, *arguments, **options)

    def stored(spec, *arguments, call=tensorstore.open, **options):
        text = spec.to_json() if isinstance(spec, tensorstore.Spec) else spec
        creates = options.get("create") or getattr(spec, "create", False)
        at = str(text).find(layer.root)
        if creates and at >= 0:
            layer.fail("array", str(text)[at:].partition("'")[0], ValueError)
        return call(spec, *arguments, **options)

    def tokenized(self, folder, *arguments, call=PreTrainedTokenizerFast.save_pretrained, **more):
        layer.fail("tokenizer", Path(folder) / "tokenizer.json", Exception)
        return call(self, folder, *arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        for name, argument in CHANGING.items():
            patch.setattr(os, name, changing(name, argument))
        for module in (io, builtins):
            patch.setattr(module, "open", layer.open)
        patch.setattr(os, "open", opened)
        patch.setattr(sqlite3, "connect", layer.connect)
        patch.setattr(tensorstore, "open", stored)
        # Some wait for minutes for another one that has failed, and the tests' end for them.
        signaling = functools.partialmethod(_SignalingThread.__init__, daemon=True)
        patch.setattr(_SignalingThread, "__init__", signaling)
        patch.setattr(PreTrainedTokenizerFast, "save_pretrained", tokenized)
        try:
            yield layer
        finally:
            layer.nth = 0  # What is still open may be closed.
            layer.end()
            for each in set(threading.enumerate()) - before:
                if "save" in each.name:  # A checkpoint, in the background.
                    threading.Thread.join(each, 5)
