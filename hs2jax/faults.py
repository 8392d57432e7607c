"""Faults in words for people: one line that says what was wrong, where, and what to do."""

import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from absl import flags

# What lowers the use of memory, in the order in which it costs least: of trainings, where the first
# two change no result, and of other verbs.
TRAINING = "a lower config.micro_batch_size, config.model.remat=True, "
TRAINING += "config.optimizer.mu_dtype=bfloat16, a lower config.data.row_length, more devices"
OTHER = "no other program on the device, bfloat16 as dtype, a lower config.max_tokens or "
OTHER += "config.max_new_tokens, more devices"
# The extra of this package with which a module comes.
EXTRAS = {"torch": "parity", "hypothesis": "test", "pytest": "test", "wandb": "wandb"}
EXTRAS |= {"gcsfs": "gs"}
EXTRAS |= dict.fromkeys(("pandas", "nbclient", "nbformat"), "notebooks")
EXTRAS |= dict.fromkeys(("fastapi", "uvicorn", "prometheus_client"), "serve")
# What the system says of a write that it refuses, for people; others by their own words.
DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file would be larger than is allowed here",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk has failed",
    errno.ENOTCONN: "what was mounted there is gone",
    errno.ESTALE: "what was mounted there is gone",
}


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of the disk in this block name this path, where it names none, or another file
    beside it. A full disk does not say where, and libraries in other languages have texts of their
    own for it."""
    try:
        yield
    except Exception as error:
        number, known = system_number(error), getattr(error, "filename", None)
        if not number or (known and Path(known).parent != path.parent):
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def system_number(error: Exception) -> int | None:
    """Find the system's number of an error, also in the texts of libraries in other languages."""
    said = re.search(r"os[ _]error(?:_code)?[:=]? ?'?(\d+)", str(error), re.IGNORECASE)
    in_words = (number for number in DISK if os.strerror(number) in str(error))
    return getattr(error, "errno", None) or (int(said[1]) if said else next(in_words, None))


def answer_interrupts(verb: str) -> None:
    """Answer Ctrl-C with a line until `stopping` does: an exception would come out of the imports
    until then as anything."""
    told = f"hs2jax {verb}: stopped by SIGINT; the same command goes on\n".encode()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: (os.write(2, told), os._exit(75)))


def answer_callbacks() -> None:
    """Say nothing of what callbacks of a checkpoint raise whose write has failed, which is told:
    C++ calls them after the end of the loop that they belong to, and Python prints it all."""

    def hook(raised) -> None:
        if str(raised.exc_value) != "Event loop is closed":
            sys.__unraisablehook__(raised)

    sys.unraisablehook = hook


@contextlib.contextmanager
def unread() -> Iterator[None]:
    """Lose what is printed in this block where nobody reads it any more, as behind `| head`."""
    try:
        with contextlib.suppress(BrokenPipeError):
            yield
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:  # What is left would be written at the end of Python.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_xla_flags() -> None:
    """See that XLA can read XLA_FLAGS, with which it would abort this process. Raises ValueError
    that names what it cannot."""
    flags = os.environ.get("XLA_FLAGS")
    if flags and "jax" not in sys.modules:
        read = "from jaxlib import xla_client; xla_client.CompileOptions()"
        tried = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True)
        if tried.returncode and (said := re.search(r"_flags\S*\] (.*)", tried.stderr)):
            raise ValueError(f"the environment's XLA_FLAGS is {flags!r}: {said[1]}")


def told(error: Exception, verb: str = "train") -> str:
    """Say what an exception of a verb means, of whatever class it is, in one line."""
    text = " ".join(str(error).split())
    named = isinstance(error, OSError) and error.errno and error.filename
    if (number := system_number(error)) in DISK:
        where = error.filename if named else text[:300]
        return f"{where}: {DISK[number]}; once that is mended, the same command goes on"
    if named:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        helps = TRAINING if verb in ("train", "run", "sweep") else OTHER
        return f"out of memory. What helps, in the order in which it costs least: {helps}"
    if "Unable to initialize backend" in text or _of_backends(error):
        platforms = os.environ.get("JAX_PLATFORMS", "")
        extra = {"cuda": "cuda", "gpu": "cuda", "tpu": "tpu"}.get(platforms)
        install = (
            f', or install what JAX needs for it (pip install "hs2jax[{extra}]")' if extra else ""
        )
        xla = os.environ.get("XLA_FLAGS")
        also = f"; or XLA_FLAGS, which is {xla!r}" if xla else ""
        return (
            f"JAX finds no such device (JAX_PLATFORMS is {platforms!r}): {text or 'none here'}. "
            f"Unset JAX_PLATFORMS, or set it to cpu{install}{also}"
        )
    if isinstance(error, ImportError):
        said = re.search(r"nstall [`'\"]?(\w+)", text)
        module = (error.name or (said[1] if said else "it")).partition(".")[0]
        extra = f'"hs2jax[{EXTRAS[module]}]"' if module in EXTRAS else module
        return f"{text}: pip install {extra}"
    if isinstance(error, UnicodeDecodeError):
        return f"a text is not UTF-8: {text}"
    if isinstance(error, ValueError | OSError | flags.Error):
        return text
    return f"{type(error).__name__}: {text} (a fault of hs2jax; --traceback shows where)"


def _of_backends(error: Exception) -> bool:
    """Tell whether JAX raised this while it looked for devices; of some it has no words."""
    *_, last = [None, *traceback.extract_tb(error.__traceback__)]
    return last is not None and "xla_bridge" in last.filename
