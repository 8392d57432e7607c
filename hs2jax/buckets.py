"""Files and folders of Google's buckets, gs://BUCKET/PATH, fetched into the cache."""

import contextlib
import fnmatch
import functools
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import fsspec

from hs2jax import session

log = logging.getLogger(__name__)

SCHEME = "gs://"
VERSION = ("generation", "crc32c", "size")  # What tells one version of an object from another.


def fetch(address: str, allow: Sequence[str] = ("*",)) -> Path:
    """Fetch a file, or a folder's files whose names match one of the patterns `allow`; returns
    where they are on this machine. What is in the cache in this version is not fetched again.

    Raises FileNotFoundError where nothing is there or may be read, and ImportError without the
    extra `gs`.
    """
    files, found = _list(address)
    root = _name(address)
    within = {name: name[len(root) :].strip("/") for name in found}  # "" of a file.
    fits = [x for x, y in within.items() if not y or any(fnmatch.fnmatch(y, a) for a in allow)]
    found = {name: found[name] for name in fits}
    if not found:
        raise FileNotFoundError(f"{address} has none of {', '.join(allow)}")
    key = hashlib.sha256(json.dumps([root, sorted(found.items())]).encode()).hexdigest()[:16]
    place = session.cache_folder() / "buckets" / key
    here = place / Path(root).name
    if here.exists():
        return here
    log.info("fetching %s: %d files", address, len(found))
    scratch = place.with_name(f".{key}-{os.getpid()}")
    try:
        for name in found:
            target = scratch / Path(root).name / within[name]
            target.parent.mkdir(parents=True, exist_ok=True)
            files.get_file(name, str(target))
        files.invalidate_cache()
        if any(_version(files.info(name)) != version for name, version in found.items()):
            raise OSError(f"{address} was changed while it was fetched; try again")
        with contextlib.suppress(OSError):  # Another process was first, with the same files.
            scratch.rename(place)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return here


def glob(pattern: str) -> list[str]:
    """List the addresses of the files that match a pattern with "*", sorted."""
    return sorted(f"{SCHEME}{name}" for name in _list(pattern)[1])


def _name(address: str) -> str:
    return address.removeprefix(SCHEME).rstrip("/")


def _list(address: str) -> tuple[fsspec.AbstractFileSystem, dict[str, list]]:
    """Find the files that an address or pattern names, or that are below a folder, with their
    versions: without a token, and only where that is refused with the user's own."""
    name, why = _name(address), {}
    for token in ("anon", None):
        files = _system(token)
        files.invalidate_cache()
        try:
            found = (files.glob if "*" in name else files.find)(name, detail=True)
        except Exception as error:  # Of many classes, by what lies between.
            why[token] = f"{'with a' if token is None else 'without'} token: {error}"
            continue
        if found:
            real = {x.strip("/"): info for x, info in found.items() if info["type"] == "file"}
            return files, {x: _version(info) for x, info in real.items()}
    said = "; ".join(why.values()) or "nothing is there"
    raise FileNotFoundError(
        f"{address}: {said}. Is the name right? What is not public needs leave to list and read, "
        "and `gcloud auth application-default login`"
    )


@functools.cache
def _system(token: str | None) -> fsspec.AbstractFileSystem:
    return fsspec.filesystem("gs", token=token)


def _version(info: dict) -> list:
    return [str(info[key]) for key in VERSION if key in info]
