"""Faults in words for people: one line that says what was wrong, where, and what to do."""

import errno
import re

from absl import flags

# What lowers the use of memory, in the order in which it costs least.
MEMORY = (
    "out of memory. What helps, in the order in which it costs least: a lower "
    "config.micro_batch_size, config.model.remat=True, a lower config.data.row_length, more devices"
)
DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "the file system is read-only",
}


def told(error: Exception) -> str:
    """Say what an exception means, of whatever class it is, in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in DISK:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{DISK[error.errno]}; the same command goes on once there is room"
    if full := re.search(r"No space left on device|Disk quota exceeded", text):
        # Of libraries that write themselves, such as checkpoints.
        return f"{full[0]}: {text[:300]}; the same command goes on once there is room"
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return MEMORY
    if backend := re.search(r"Unable to initialize backend '(\w+)'", text):
        return (
            f"JAX cannot use {backend[1]!r}, which JAX_PLATFORMS or the installed plugins name: "
            f"{text.partition(': ')[2]}. Unset JAX_PLATFORMS, or set it to cpu"
        )
    if isinstance(error, ImportError):
        return f"{text}: pip install {(error.name or 'it').partition('.')[0]}"
    if isinstance(error, UnicodeDecodeError):
        return f"a text is not UTF-8: {text}"
    if isinstance(error, ValueError | OSError | flags.Error):
        return str(error)
    return f"{type(error).__name__}: {text} (a fault of hs2jax; --traceback shows where)"
