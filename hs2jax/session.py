"""A session on a lent machine, such as a notebook's: what it is to be told, and not to be asked."""

import contextlib
import functools
import hashlib
import importlib.metadata
import logging
import multiprocessing
import os
import platform
import re
import shutil
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

# Packages that a kernel may hold in memory while another version is installed over them.
LOADED = ("numpy", "scipy", "jaxlib", "jax", "flax", "optax", "transformers", "huggingface_hub")
TEMPORARIES = 200e6  # Bytes that should be free for them.
# What makes the TPU compiler send gathers and scatters apart from the computation. Without, it
# waits for each, and makes most of them all-reduces, which send twice as much. Older ones, of jax
# up to 0.8.0, do not know all of them, and refuse what they do not know.
APART = (
    *(
        f"--xla_tpu_enable_sparse_core_collective_offload_{kind}=true"
        for kind in ("all_gather", "2d_all_gather", "3d_all_gather", "reduce_scatter")
    ),
    "--xla_tpu_enable_sparse_core_collective_offload_nd_reduce_scatter=true",
    "--xla_tpu_prefer_async_allgather_to_allreduce=true",
)
COLAB = Path("/content")  # Is gone when Colab's session ends, but for what is mounted there.


def in_notebook() -> bool:
    """Tell whether this process is a notebook's kernel."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


def shows_bars() -> bool:
    """Tell whether who looks on sees a bar that moves: in a terminal and in a notebook."""
    return sys.stderr.isatty() or in_notebook()


def overlap() -> None:
    """Ask the TPU compiler, which reads this as it is loaded, for `APART` in all programs; what the
    environment says comes after, and wins."""
    given = os.environ.get("LIBTPU_INIT_ARGS", "")
    version = re.findall(r"\d+", importlib.metadata.version("jax"))
    if APART[0] not in given and tuple(map(int, version[:3])) >= (0, 8, 1):
        os.environ["LIBTPU_INIT_ARGS"] = " ".join([*APART, given]).strip()


def greet() -> None:
    """Warn a session that imports this package of what would go wrong later in it."""
    found = replaced()
    if not found and in_notebook():
        from hs2jax import accelerators

        found = accelerators.unused()
    if found:
        log.warning(found)


def replaced() -> str | None:
    """Name the packages of which one version is in memory and another one installed."""
    both = []
    for name in LOADED:
        held = getattr(sys.modules.get(name), "__version__", None)
        try:
            there = held and importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if held and held.partition("+")[0] != there.partition("+")[0]:
            both.append(f"{name} {held} is loaded, but {there} is installed by now")
    return f"{'; '.join(both)}: restart this session, then run its cells again" if both else None


def public_first(download: Callable, *names, **options):
    """Download from the hub without a token, and only where that is refused with the user's: Colab
    asks for leave to read its secrets, and until it is answered all stands still. Raises what the
    download raises, and PermissionError where the hub wants a token that is not there."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    with contextlib.suppress(GatedRepoError, RepositoryNotFoundError):
        return download(*names, token=False, **options)
    try:
        return download(*names, **options)
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise PermissionError(
            f"{' '.join(str(error).split())} A token that may read it is looked for in HF_TOKEN, "
            "in what `hf auth login` has left, and in Colab's secret HF_TOKEN"
        ) from error


def cache_folder() -> Path:
    """Find the folder of what is kept for all runs: $HS2JAX_CACHE, or ~/.cache/hs2jax. Raises
    OSError where there is no home folder, or an address is given."""
    path = os.path.expanduser(os.environ.get("HS2JAX_CACHE") or "~/.cache/hs2jax")
    if path.startswith("~") or "://" in path:
        raise OSError(f"{path}: there is no such folder for what is kept; set HS2JAX_CACHE to one")
    return Path(path)


def keep_programs() -> None:
    """Keep compiled programs from start to start: where JAX_COMPILATION_CACHE_DIR says, else in the
    cache's folder. One that refuses something is told, and not used."""
    import jax

    if not jax.config.jax_enable_compilation_cache:
        return
    if not (folder := jax.config.jax_compilation_cache_dir):
        # Programs of one kind of processor may end another's with an illegal instruction.
        model = re.search(r"flags.*", _read(Path("/proc/cpuinfo"))) or [platform.processor()]
        kind = hashlib.sha256(model[0].encode()).hexdigest()[:8]
        try:
            folder = str(cache_folder() / "programs" / kind)
        except OSError as error:
            return log.warning("%s: compiled programs are not kept", error)
    folder = os.path.expanduser(folder)
    jax.config.update("jax_compilation_cache_dir", folder)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder  # For child processes too.
    if why := refusal(folder):
        what = "compiled programs are not kept; JAX_COMPILATION_CACHE_DIR names another folder"
        log.warning("%s %s: %s", folder, why, what)
        jax.config.update("jax_enable_compilation_cache", False)
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"


def refusal(folder: str, seconds: float = 20.0) -> str:
    """Try to write, list, read and delete in a folder, here or in a bucket, and say what of it is
    refused or has no answer within so many seconds; "" where all went well."""
    from etils import epath

    place, now, why = epath.Path(folder) / f".{uuid.uuid4().hex}", "write", ""

    def attempt() -> None:
        nonlocal now, why
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(place.name)
            now = "list"
            if all(each.name != place.name for each in place.parent.iterdir()):
                raise OSError("what was written is not there")
            now = "read"
            place.read_text()
            now = "delete"
            place.unlink()
            now = ""
        except Exception as error:
            why = f"refuses {now} ({' '.join(str(error).split())})"

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    return why or (now and f"does not answer {now} within {seconds:.0f} s")


def warn_of_temporaries() -> None:
    """Warn where the folder of temporary files, to which compilers and TPUs' logs go, is full."""
    try:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return log.warning("there is no folder for temporary files (%s): set TMPDIR to one", error)
    if free < TEMPORARIES:
        log.warning("%s has %.0f MB left: make room, or set TMPDIR", folder, free / 1e6)


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def warn_of_loss(folder: Path) -> None:
    """Warn, once in a session, of a run's folder that goes with it."""
    place = Path(os.path.realpath(folder))
    held = next(each for each in (place, *place.parents) if os.path.ismount(each))
    alone = multiprocessing.parent_process() is None  # A sweep's runs are told of as a sweep.
    if alone and COLAB in (place, *place.parents) and COLAB not in held.parents:
        _say_once(
            f"what is below {COLAB} is lost when the session ends: mount Drive, and give a folder "
            f"in {COLAB}/drive/MyDrive as workdir"
        )


_say_once = functools.cache(log.warning)
