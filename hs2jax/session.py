"""A session on a lent machine, such as a notebook's: what it is to be told, and not to be asked."""

import contextlib
import functools
import importlib.metadata
import logging
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

# Packages that a kernel may hold in memory while another version is installed over them.
LOADED = ("numpy", "scipy", "jaxlib", "jax", "flax", "optax", "transformers", "huggingface_hub")
COLAB = Path("/content")  # Is gone when Colab's session ends, but for what is mounted there.


def in_notebook() -> bool:
    """Tell whether this process is a notebook's kernel."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


def shows_bars() -> bool:
    """Tell whether who looks on sees a bar that moves: in a terminal and in a notebook."""
    return sys.stderr.isatty() or in_notebook()


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
