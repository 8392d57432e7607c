"""What lies in a run's folder besides checkpoints and metrics."""

import json
import logging
import platform
import resource
import sys
from pathlib import Path

import jax
from jax.experimental import multihost_utils

log = logging.getLogger(__name__)


class NotFiniteError(ValueError):
    """Too many steps in a row gave a loss or gradient that is not finite."""


def claim(workdir: Path, config) -> None:
    """Writes config.json, or sees that a run that has got anywhere has the same config.

    Raises ValueError naming the keys that differ.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    path, now = workdir / "config.json", json.loads(config.to_json_best_effort())
    if not path.exists() or not begun(workdir):
        write_json(path, now)
        return
    old, new = _flat(read_json(path)), _flat(now)
    changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    if changed:
        raise ValueError(
            f"{workdir} holds a run of another config (different: {', '.join(changed)}); give "
            "another --workdir, or remove it"
        )


def begun(workdir: Path) -> bool:
    """Whether a run of this folder has got anywhere, so that its config is settled."""
    saved = any(each.name.isdigit() for each in (workdir / "checkpoints").glob("*"))
    found = ("evaluation.json", "sweep.jsonl", "judge.json", "result.json", "steering.json")
    # Of a file of rows that has not all of them yet.
    growing = any(workdir.glob("*.progress.json"))
    return saved or growing or any((workdir / name).exists() for name in found)


def resume(workdir: Path, config) -> dict | None:
    """Claims a stage's folder, and returns its result.json where it is finished."""
    if jax.process_index() == 0:
        claim(workdir, config)
    if not (workdir / "result.json").exists():
        return None
    log.info("%s is finished", workdir)
    return read_json(workdir / "result.json")


def finish(workdir: Path, result: dict) -> None:
    """Writes a stage's result.json; what the stage has made must be there."""
    if jax.process_index() == 0:
        write_json(workdir / "result.json", result)
    if jax.process_count() > 1:  # The others must not look for the stage's files too early.
        multihost_utils.sync_global_devices("finished")


def note_not_finite(workdir: Path, step: int, rows: list[str], values: dict) -> None:
    """Writes down which rows ("file:line") the batch of this step had."""
    row = {"step": step, "rows": rows, **{name: str(value) for name, value in values.items()}}
    with (workdir / "not_finite.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def environment() -> dict:
    """What a number was obtained with."""
    devices = jax.devices()
    return {
        "device": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def peak_memory() -> int:
    """The most bytes used so far: on the first device, or by this process where it is the CPU."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024)


def write_json(path: Path, value) -> None:
    """Whole or not at all."""
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    scratch.replace(path)


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def _flat(tree: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat
