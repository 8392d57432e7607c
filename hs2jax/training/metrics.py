"""Where a run's numbers go: metrics.jsonl, TensorBoard, and a progress bar or log lines."""

import json
import logging
import sys
from pathlib import Path

from tensorboardX import SummaryWriter
from tqdm import tqdm

log = logging.getLogger(__name__)


class Metrics:
    """Writes rows of {"kind", "step", ...}. A resumed run leaves out what came after its step.

    Only one process of a run should make one with a folder; the others pass None and write nothing.
    """

    def __init__(self, folder: Path | None, *, start: int, total: int, name: str):
        self._file = self._board = None
        if folder is not None:
            path = folder / "metrics.jsonl"
            rows = [row for row in read(path) if row["step"] <= start] if start else []
            scratch = path.with_suffix(".tmp")
            scratch.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            scratch.replace(path)
            self._file = path.open("a", encoding="utf-8")
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)
        self._bar = None
        if folder is not None and sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=start, desc=name, unit="step", dynamic_ncols=True)
        self._total, self._name = total, name

    def write(self, kind: str, step: int, values: dict) -> None:
        """One row; numbers in nested dicts become TensorBoard scalars named by their path."""
        if self._file is None:
            return
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        for name, value in _scalars(values, kind):
            self._board.add_scalar(name, value, step)

    def show(self, step: int, values: dict) -> None:
        """The numbers that matter now: on the bar, or as a line where there is no terminal."""
        text = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar is not None:
            self._bar.n = step
            self._bar.set_postfix_str(text)
        elif self._file is not None:
            log.info("%s step %d of %d: %s", self._name, step, self._total, text)

    def say(self, text: str) -> None:
        """A line that stays, above the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif self._file is not None:
            log.info("%s", text)

    def close(self) -> None:
        for thing in (self._file, self._board, self._bar):
            if thing is not None:
                thing.close()


def read(path: Path) -> list[dict]:
    """The rows of a metrics.jsonl. A last line that was cut off by a kill is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def _scalars(values: dict, prefix: str):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _scalars(value, f"{prefix}/{name}")
        elif isinstance(value, int | float):
            yield f"{prefix}/{name}", value
