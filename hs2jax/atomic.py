"""Files that are there as a whole or not at all, whatever happens while they are written."""

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from hs2jax import faults, locks

SCRATCH = ".hs2jax-*.tmp"  # Files that are not whole.


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a name to write a file under, which takes its place at the end of this block.

    Raises OSError that names it.
    """
    locks.check_there(path)
    with faults.naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Processes of several hosts may write the same at once.
        scratch = path.with_name(SCRATCH.replace("*", f"{platform.node()}-{os.getpid()}"))
        try:
            yield scratch
            scratch.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                scratch.unlink()
            raise


@contextlib.contextmanager
def writing(path: Path) -> Iterator[TextIO]:
    """Open a file for a text, through links, which stay; a device as it is.

    Raises OSError that names it.
    """
    with faults.naming(path):
        place = Path(os.path.realpath(path)) if path.is_symlink() else path
        plain = place.is_file() or not place.exists()
        with (
            whole(place) if plain else contextlib.nullcontext(place) as name,
            name.open("w", encoding="utf-8") as file,
        ):
            yield file
