"""Hashes by what is in files: of a model, however it is sharded, of any file, and of the code."""

import functools
import hashlib
import json
import os
from pathlib import Path

import numpy as np

from hs2jax import unchanged
from hs2jax.models.hf import (
    adapters,
    checkpoint_files,
    gguf,
    hub,
    reward_checkpoints,
    tokenizer_files,
)

# What a checkpoint says of how it was written, which changes no number.
UNUSED = ("_name_or_path", "transformers_version")
TOKENIZER_FILES = (*tokenizer_files.FILES, "added_tokens.json", "special_tokens_map.json")


def fingerprint(name: str) -> dict[str, str]:
    """Hash a model, fetched first where it is not here: its "weights", "config" and "tokenizer"
    with its template; of a GGUF file, which holds them all, "file".

    name: as `hub.load` takes it. Raises FileNotFoundError or ValueError for what is no model.
    """
    place = name.removesuffix(reward_checkpoints.LM_HEAD)
    path = hub.resolve(place)
    if path.is_file():
        files = [_noted(each) for each in gguf.parts(path)]
        return {"file": files[0] if len(files) == 1 else _of_json(files)}
    if (path / "result.json").exists():  # A finished run's folder.
        path /= "model"
    elif (path / "best").is_dir():
        files = sorted(each for each in (path / "best").rglob("*") if each.is_file())
        return {"best": _of_json([_noted(each) for each in files])}
    if (adapter := adapters.settings_of(path)) is not None:
        base = fingerprint(adapter.pop("base_model_name_or_path"))
        whole = [_noted(path / adapters.WEIGHTS), adapter]
        return {"adapter": _of_json(whole)} | {f"base {part}": of for part, of in base.items()}
    config = checkpoint_files.read_json(path / "config.json")
    config = {key: value for key, value in config.items() if key not in UNUSED}
    weights = {}
    for file in checkpoint_files.weight_files(path):
        unchanged.note(file)
        weights |= _of_tensors(file, changed(file))
    there = [path / each for each in TOKENIZER_FILES if (path / each).is_file()]
    files = {each.name: _noted(each) for each in there}
    parts = {"weights": weights, "config": [config, name[len(place) :]], "tokenizer": files}
    return {part: _of_json(content) for part, content in parts.items()}


def _noted(path: Path) -> str:
    """Hash a file that must stay as it is until the run ends."""
    unchanged.note(path)
    return of_file(path, changed(path))


def changed(path: Path) -> tuple[int, int, int]:
    """Return what changes when a file does, so that one is hashed once in a process."""
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns


@functools.cache
def _of_tensors(path: Path, changed: tuple[int, int, int]) -> dict[str, str]:
    found = {}
    for name, tensor in checkpoint_files.open_file(path).items():
        array = np.ascontiguousarray(tensor.read())
        head = f"{array.dtype}{array.shape}".encode()
        digest = hashlib.sha256(head + b"\0")
        digest.update(array.reshape(-1).view(np.uint8))  # Other threads go on meanwhile.
        found[name] = digest.hexdigest()
    return found


@functools.cache
def of_file(path: Path, changed: tuple[int, int, int]) -> str:
    """Hash a file by its bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@functools.cache
def code_hash() -> str:
    """Hash this package's code."""
    files = sorted(Path(__file__).parents[2].rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def _of_json(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
