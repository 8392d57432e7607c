"""What a run's folder takes of the disk, and whether all that the run made is still there."""

import contextlib
import logging
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from hs2jax.models.hf import fingerprint

log = logging.getLogger(__name__)

# What runs make for others to use, each kind some of it.
MADE = ("samples.jsonl", "annotated.jsonl", "groups.jsonl", "selected.jsonl", "model")
ROWS = "results.jsonl"


def size(place: Path) -> int:
    """Sum the bytes of the files of a folder, or of a file; 0 where nothing is."""
    return sum(each.lstat().st_size for each in _files(place))


def check_room(workdir: Path, most: int, left: int) -> None:
    """Say how many bytes a run will write at most at a time, and leave; see that they fit.

    Raises ValueError.
    """
    has, free = size(workdir), shutil.disk_usage(workdir).free
    needs, after, room = (f"{x / 1e6:,.1f} MB" for x in (most, left, free))
    log.info("%s: up to %s of disk, %s when finished; %s are free", workdir, needs, after, room)
    if most > free + has:
        raise ValueError(
            f"{workdir}: the run needs {needs} of disk, and {room} are free; make room, or give "
            "another --workdir"
        )


def remove(workdir: Path, spent: Iterable[str]) -> None:
    """Remove files and folders of a finished run, where they are there and can be removed."""
    for name in spent:
        shutil.rmtree(workdir / name, ignore_errors=True)
        with contextlib.suppress(OSError):
            (workdir / name).unlink()


def record(workdir: Path, spent: Iterable[str]) -> dict:
    """Say of a run that ends how many bytes it leaves, without `spent`, and what `lost` looks for:
    a hash of its rows, and the sizes of the files that it made, but for a model's card, which is
    for people to write in."""
    files = [path for name in (*MADE, "items", "weights.json") for path in _files(workdir / name)]
    return {
        "bytes": size(workdir) - sum(size(workdir / name) for name in spent),
        "rows_hash": _hash(workdir / ROWS),
        "made": {
            str(path.relative_to(workdir)): path.stat().st_size
            for path in files
            if path.suffix != ".md"
        },
    }


def lost(workdir: Path, known: Mapping) -> Path | None:
    """Find a file of a finished run that is gone, or not as the run left it, by its `record`."""
    if "rows_hash" in known and known["rows_hash"] != _hash(workdir / ROWS):
        return workdir / ROWS
    for name, length in known.get("made", {}).items():
        path = workdir / name
        if not path.is_file() or path.stat().st_size != length:
            return path
    return None


def _files(place: Path) -> list[Path]:
    return sorted(each for each in (place, *place.rglob("*")) if each.is_file())


def _hash(path: Path) -> str | None:
    return fingerprint.of_file(path, fingerprint.changed(path)) if path.exists() else None
