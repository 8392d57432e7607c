"""Write a run's numbers: metrics.jsonl, TensorBoard, and a progress bar or log lines; and what is
known of skipped steps, not_finite.jsonl."""

import datetime
import hashlib
import logging
import re
import resource
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import jax
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar
from tqdm import tqdm

from hs2jax import faults, session, workdir

log = logging.getLogger(__name__)


class Metrics:
    """Write rows of {"kind", "step", ...}, and the same numbers by the same names as TensorBoard
    scalars, and to a project of Weights & Biases where one is named. A resumed run leaves out what
    came after its step.

    Of several processes only the first writes and shows anything.
    """

    def __init__(self, folder: Path, *, start: int, total: int, project: str = "", config=None):
        self._first, self._name, self._total = workdir.is_first(), folder.name, total
        if not self._first:
            return
        self._files, self._path = [], folder / "metrics.jsonl"
        for path in (self._path, folder / "not_finite.jsonl"):
            rows = read(path) if start else []
            workdir.write_rows(path, [row for row in rows if row.get("step", total) <= start])
            self._files.append(path.open("a", encoding="utf-8"))
        (folder / "tensorboard").mkdir(exist_ok=True)
        # Not by its SummaryWriter, whose thread dies of a full disk, and whose queue then blocks.
        self._board = EventsWriter(str(folder / "tensorboard" / "events"))
        begin = SessionLog(status=SessionLog.START)  # What was there of later steps is hidden.
        self._board.write_event(Event(step=start + 1, session_log=begin))
        shape = {"initial": start, "desc": folder.name, "unit": "step", "dynamic_ncols": True}
        self._bar = tqdm(total=total, disable=not session.shows_bars(), **shape)
        self._clock, self._wandb = None, None
        if project:
            import wandb

            # A name that stays, so that the same command goes on with the same curves.
            name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
            where = {"project": project, "name": folder.name, "dir": str(folder), "id": name}
            self._wandb = wandb.init(**where, resume="allow", config=config)
        log.info(
            "curves: tensorboard --logdir=%s (pip install tensorboard), or a page of the run so "
            "far: hs2jax report --workdir=%s",
            *(shlex.quote(str(path)) for path in (folder / "tensorboard", folder)),
        )

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Write one row, and its numbers for TensorBoard and others."""
        if not self._first:
            return
        if self._wandb is not None:
            named = {f"{kind}/{name}": value for name, value in values.items()}
            self._wandb.log(named, step=step)
        with faults.naming(self._path):
            self._add(0, {"kind": kind, "step": step, **values})
            for name, value in values.items():
                summary = scalar(f"{kind}/{name}", value)
                self._board.write_event(Event(step=step, wall_time=time.time(), summary=summary))

    def note_skipped(self, step: int, values: Mapping) -> None:
        """Write what is known of a step that was skipped."""
        if self._first:
            with faults.naming(self._path.with_name("not_finite.jsonl")):
                self._add(1, {"kind": "skipped", "step": step, **values})

    def _add(self, number: int, row: Mapping) -> None:
        self._files[number].write(workdir.to_json(row) + "\n")
        self._files[number].flush()

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Show numbers on the bar, or as a line, with the time that is left, where there is no
        terminal."""
        if self._first and self._bar.disable:
            now, left = time.monotonic(), ""
            first, begun = self._clock = self._clock or (step, now)  # When all was compiled.
            if step > first:
                seconds = (now - begun) / (step - first) * (self._total - step)
                left = f", {datetime.timedelta(seconds=round(seconds))} left"
            text = one_line(values)
            log.info("%s step %d of %d%s: %s", self._name, step, self._total, left, text)
        elif self._first:
            self._bar.n = step
            self._bar.set_postfix_str(one_line(values))

    def say(self, text: str) -> None:
        """Say a line that stays, above the bar."""
        if self._first and self._bar.disable:
            log.info("%s", text)
        elif self._first:
            self._bar.write(text, file=self._bar.fp)

    def close(self) -> None:
        if self._first:
            with faults.naming(self._path):
                for each in (*self._files, self._board, self._bar):
                    each.close()
            if self._wandb is not None:
                self._wandb.finish()


def one_line(values: Mapping[str, float]) -> str:
    """Say numbers by name in one line for the terminal."""
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def read(path: Path, kind: str = "") -> list[dict]:
    """Read the rows of a metrics.jsonl, "train" or "validation" ones alone where a kind is given.

    A last line that was cut off by a kill is left out.
    """
    rows = workdir.read_rows(path, torn=True) if path.exists() else []
    return [row for row in rows if kind in ("", row.get("kind"))]


def peak_memory() -> int:
    """Return the most bytes used so far: on the first device, or by this process where it is the
    CPU."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    status = Path("/proc/self/status")  # Linux's getrusage counts who started this process too.
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024)
