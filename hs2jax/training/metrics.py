"""Write a run's numbers: metrics.jsonl, TensorBoard, and a progress bar or log lines."""

import json
import logging
import sys
from pathlib import Path

from tensorboardX import SummaryWriter
from tqdm import tqdm

log = logging.getLogger(__name__)


class Metrics:
    """Write rows of {"kind", "step", ...}. A resumed run leaves out what came after its step.

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
        """Write one row; its numbers become TensorBoard scalars too."""
        if self._file is None:
            return
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def show(self, step: int, values: dict) -> None:
        """Show numbers on the bar, or as a line where there is no terminal."""
        text = one_line(values)
        if self._bar is not None:
            self._bar.n = step
            self._bar.set_postfix_str(text)
        elif self._file is not None:
            log.info("%s step %d of %d: %s", self._name, step, self._total, text)

    def say(self, text: str) -> None:
        """Say a line that stays, above the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif self._file is not None:
            log.info("%s", text)

    def close(self) -> None:
        for thing in (self._file, self._board, self._bar):
            if thing is not None:
                thing.close()


def one_line(values: dict) -> str:
    """Say numbers by name in one line for the terminal."""
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def read(path: Path, kind: str = "") -> list[dict]:
    """Read the rows of a metrics.jsonl, "train" or "validation" ones alone where a kind is given.

    A last line that was cut off by a kill is left out.
    """
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return [row for row in rows if kind in ("", row["kind"])]
