"""Locks on folders: one process at a time, and what a dead one leaves behind is no lock.

The system lets go of a process's locks when it ends. Where it does not know of the holder, as on a
file system that several machines share and some keep no common locks on, or none at all, the holder
gives signs of life: the time at which its file was changed.
"""

import contextlib
import fcntl
import functools
import logging
import os
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from hs2jax import faults, unchanged

log = logging.getLogger(__name__)

NAME = "run.lock"
BEAT = 5.0  # Seconds between two signs of life.
BEATS = 4  # Without one, after which a holder counts as dead.
_locks: dict[Path, TextIO] = {}  # Of this process.


def hold(workdir: Path) -> None:
    """Lock a folder for this process; what a dead holder leaves is no lock.

    Raises ValueError that names the holder.
    """
    path = _path(workdir)
    if path in _locks:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    file, locked = path.open("a+", encoding="utf-8"), True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise _in_use(workdir, file) from None
    except OSError:
        locked = False  # There are no locks here.
    file.seek(0)
    holder, _, machine = file.read().partition("\n")
    if holder and not (locked and machine.strip() == _machine()):
        log.info("seeing for %.0f s if %s, which has %s, is alive", BEAT * BEATS, holder, workdir)
        if _beats(file):
            raise _in_use(workdir, file)
    if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino:
        return hold(workdir)  # Its last holder took it away in between.
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    _locks[path] = file
    with faults.naming(path):
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()} since {now}\n{_machine()}\n")
        file.flush()
    if len(_locks) == 1:
        threading.Thread(target=_beat, daemon=True).start()


def _path(workdir: Path) -> Path:
    return Path(os.path.realpath(workdir / NAME))


def _in_use(workdir: Path, file: TextIO) -> ValueError:
    file.seek(0)
    holder = file.readline().strip() or "another process"
    return ValueError(
        f"{workdir} is in use by {holder}; wait for it, stop it, or give another --workdir"
    )


def _machine() -> str:
    """Name this machine since it was started: containers of one have the same locks."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else platform.node()


def _beat() -> None:
    """Give signs of life for as long as this process holds a folder."""
    while _locks:
        for file in list(_locks.values()):
            with contextlib.suppress(OSError, ValueError):  # It was let go of.
                os.utime(file.fileno())
        time.sleep(BEAT)


def _beats(file: TextIO) -> bool:
    """Tell whether a holder gives a sign of life within BEATS."""
    # Not by opening it again: to close that would let go of a lock of this process.
    before = os.fstat(file.fileno()).st_mtime_ns
    for _ in range(BEATS):
        time.sleep(BEAT)
        if os.fstat(file.fileno()).st_mtime_ns != before:
            return True
    return False


def held(workdir: Path) -> bool:
    """Tell whether this process holds a folder."""
    return _path(workdir) in _locks


def check_there(path: Path) -> None:
    """See that the folder that this process holds, and that a path is in, was not lost under it:
    a file that is written would make it again, in part. Raises FileNotFoundError."""
    place = os.path.realpath(path)
    for lock in list(_locks):
        folder = lock.parent
        there = lock.exists() or (folder / "run.json").exists()
        if f"{place}/".startswith(f"{folder}/") and not there:
            raise FileNotFoundError(
                f"{folder}: the folder of this run is gone; bring it back, and the same command "
                "goes on"
            )


def release(workdir: Path) -> None:
    """Let go of a folder."""
    if file := _locks.pop(_path(workdir), None):
        with contextlib.suppress(OSError):  # What is wrong has been told by whoever wrote.
            Path(file.name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            file.close()


def released(verb: Callable[..., list[dict]]) -> Callable[..., list[dict]]:
    """Make verb(config, folder) let go of its folder when it ends, well or with an error, and read
    only what is as it was when it began."""

    @functools.wraps(verb)
    def run(config, folder: Path | str) -> list[dict]:
        try:
            with unchanged.watched():
                return verb(config, folder)
        finally:
            release(Path(folder))

    return run


@contextlib.contextmanager
def locked(path: Path):
    """Let one process of this machine in at a time."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: waiting for %s", path.parent, holders(path) or "another process")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def holders(path: Path) -> str:
    """Say which processes of this machine have locked a file, "" where the system does not tell."""
    try:
        inode, table = path.stat().st_ino, Path("/proc/locks").read_text()
    except OSError:
        return ""
    found = {line.split()[4] for line in table.splitlines() if f":{inode} " in line}
    return ", ".join(f"process {number}" for number in sorted(found - {str(os.getpid())}))
