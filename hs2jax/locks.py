"""Locks on folders: one process at a time, and what a dead one leaves behind is no lock."""

import contextlib
import fcntl
import logging
import os
import platform
import time
from pathlib import Path
from typing import TextIO

log = logging.getLogger(__name__)

NAME = "run.lock"
_locks: dict[Path, TextIO] = {}  # Of this process. The system lets go of them when it ends.


def hold(workdir: Path) -> None:
    """Lock a folder for this process; what a dead holder leaves is no lock.

    Raises ValueError that names the holder.
    """
    path = (workdir / NAME).resolve()
    if path in _locks:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.seek(0)
        raise ValueError(
            f"{workdir} is in use by {file.read().strip() or 'another process'}; wait for it, stop "
            "it, or give another --workdir"
        ) from error
    except OSError as error:
        log.warning("%s: no locks here (%s); see that no other process uses it", workdir, error)
    if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino:
        return hold(workdir)  # Its last holder took it away in between.
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()} since {now}\n")
    file.flush()
    _locks[path] = file


def held(workdir: Path) -> bool:
    """Tell whether this process holds a folder."""
    return (workdir / NAME).resolve() in _locks


def release(workdir: Path) -> None:
    """Let go of a folder."""
    if file := _locks.pop((workdir / NAME).resolve(), None):
        Path(file.name).unlink(missing_ok=True)
        file.close()


@contextlib.contextmanager
def locked(path: Path):
    """Let one process of this machine in at a time."""
    with path.open("a") as file:
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
