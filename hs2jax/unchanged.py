"""Files from which the identity of a run was found must be the same when it reads them, which may
be hours later."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_noted: dict[str, tuple[int, int] | None] | None = None  # None outside of a run.


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Let a run be at work in this block."""
    global _noted
    before, _noted = _noted, {}
    try:
        yield
    finally:
        _noted = before


def note(path: Path) -> None:
    """Note how a file is, for as long as the run is at work."""
    if _noted is not None:
        place = os.path.abspath(path)
        _noted.setdefault(place, _found(place))


def check(path: Path) -> None:
    """See that a file, or all that were noted of a folder, is as it was. Raises ValueError."""
    place = os.path.abspath(path)
    for name, before in (_noted or {}).items():
        if (name == place or name.startswith(f"{place}/")) and _found(name) != before:
            raise ValueError(
                f"{name} has changed since this run began (its size, or the time of its last "
                "change), and nothing is made of both; with the same content the same command goes "
                "on, else bring that back, or give another --workdir"
            )


def _found(place: str) -> tuple[int, int] | None:
    try:
        there = os.stat(place)
    except OSError:
        return None
    return there.st_size, there.st_mtime_ns
