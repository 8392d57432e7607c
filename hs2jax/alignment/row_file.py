"""A file of rows that is written as they come, so that a killed stage goes on where it was."""

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

import jax

from hs2jax import folder

log = logging.getLogger(__name__)


class RowFile:
    """JSON lines, NAME.unfinished until the last of them is there.

    Beside it NAME.progress.json holds how many bytes count (what a kill left behind them is cut
    off) and `counts`, what the stage has counted so far; both are {} or 0 in the beginning. Of
    several processes, which must see the same folder, the first one writes.
    """

    def __init__(self, path: Path):
        self.path = path
        self._unfinished = path.with_name(path.name + ".unfinished")
        self._progress = path.with_name(path.name + ".progress.json")
        self.counts: dict = {}
        if self._progress.exists():
            noted = folder.read_json(self._progress)
            length = self._unfinished.stat().st_size if self._unfinished.exists() else -1
            if path.exists() or length >= noted["bytes"]:
                self.counts = noted["counts"]
                if not path.exists() and jax.process_index() == 0:
                    os.truncate(self._unfinished, noted["bytes"])
            else:  # A disk that lost what it was given.
                log.warning("%s is damaged: all of it is made again", self._unfinished)
        if not self.counts and jax.process_index() == 0:
            self._unfinished.unlink(missing_ok=True)

    def add(self, rows: Iterable[dict], counts: dict) -> None:
        """Appends rows. counts: what has been counted with them, instead of what was before."""
        self.counts = counts
        if jax.process_index() != 0:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._unfinished.open("ab") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())  # Before the note that counts on it.
            length = file.tell()
        folder.write_json(self._progress, {"bytes": length, "counts": counts})

    def finish(self) -> None:
        """Gives the file its name. `counts` stay until `forget_progress`."""
        if jax.process_index() == 0 and not self.path.exists():
            self._unfinished.rename(self.path)

    def remove(self) -> None:
        """Takes the file away, where it only served to make another one."""
        if jax.process_index() == 0:
            self.path.unlink(missing_ok=True)
        self.forget_progress()

    def forget_progress(self) -> None:
        """To be called when all that was made of `counts` is written."""
        if jax.process_index() == 0:
            self._progress.unlink(missing_ok=True)
