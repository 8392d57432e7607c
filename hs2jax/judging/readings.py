"""Readings of many requests, made in chunks that are kept as files, so that a killed run goes on.

A chunk is a file that is named after what it follows from: the model to the last bit, its dtype and
chat template, and the texts of its requests. So another model or prompt never meets it, and data
may grow at their end.
"""

import dataclasses
import hashlib
import json
import logging
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from hs2jax.data.conversations import in_parts
from hs2jax.data.record import Record
from hs2jax.judging import written
from hs2jax.judging.judge import Judge, Reading
from hs2jax.judging.prompts import Request
from hs2jax.models.checksum import checksum

log = logging.getLogger(__name__)

VERSION = 1  # To be raised when the way of reading changes.
CHUNK = 64  # Requests that are read, and kept, at a time.


def judge_key(judge: Judge) -> str:
    """A hash of all that makes a judge's readings besides the texts, 32 hexadecimal digits."""
    model = judge.model
    parts = {
        "version": VERSION,
        "parameters": checksum(model.params),
        "config": dataclasses.asdict(model.config),
        "template": model.tokenizer.chat_template,
        "tokenizer": _of_tokenizer(model.tokenizer),
        "dtype": str(np.dtype(model.dtype)),
    }
    return _hash(parts)


def _of_tokenizer(tokenizer) -> str:
    """All that makes token ids of a text, added tokens and BOS included."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend.to_str() if backend else json.dumps(tokenizer.get_vocab(), sort_keys=True)


def kept(
    judge: Judge,
    requests: Iterable[Request],
    folder: Path | None,
    *,
    states: bool = False,
    record: Record | None = None,
    condition: str = "forced",
    progress: Callable[[int], None] = lambda _: None,
) -> Iterator[Reading | None]:
    """The reading of each request, in order; None where it is too long or, in a condition where the
    judge writes (see `Judge.read`), where it wrote no score: counted in `record`.

    folder: where chunks are kept; None keeps nothing. Of several processes the first one writes,
    and a chunk that one of them cannot read is computed by all, together.
    progress: called with the number of requests that were done last. Requests are only taken as
    they are needed; all have equally many answers.
    """
    key = judge_key(judge) if folder is not None else ""
    for part in in_parts(requests, CHUNK):
        made_of = [key, states, part]
        if condition != "forced":
            made_of += [condition, written.LONGEST[condition]]
        path = folder and folder / f"{_hash(made_of)}.npz"
        found = _load(path) if path else None
        if found is None:
            found = judge.read(part, states=states, skip=True, condition=condition)
            if path and jax.process_index() == 0:
                _save(path, found)
        if record is not None and condition == "forced":
            record.too_long += found.count(None)
        elif record is not None and None in found:
            record.skip(written.NO_SCORE, rows=found.count(None))
        progress(len(part))
        yield from found


def kept_array(key: str, folder: Path, made_of, make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array that follows from a judge, given by its `judge_key`, and from texts: as it was kept,
    or else made and kept now."""
    path = folder / f"{_hash([key, made_of])}.npy"
    try:
        found = np.load(path)
    except (OSError, ValueError, EOFError):
        found = None
    if _there(found):
        return found
    found = make()
    if jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".tmp.npy")
        np.save(scratch, found)
        scratch.replace(path)
    return found


def _there(found) -> bool:
    """Whether every process has something: whoever computes needs the others, who must not go on
    with what only they have."""
    there = np.asarray(found is not None)
    if jax.process_count() > 1:
        there = multihost_utils.process_allgather(there)
    return bool(there.all())


def _hash(parts) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _load(path: Path) -> list[Reading | None] | None:
    """What was kept; None where there is nothing or it is broken, on one process or more."""
    found = _read(path) if path.exists() else None
    return found if _there(found) else None


def _read(path: Path) -> list[Reading | None] | None:
    try:
        with np.load(path) as file:
            counts, arrays = file["questions"], {n: file[n] for n in file if n != "questions"}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s cannot be read, so it is computed again: %s", path, error)
        return None
    ends = np.cumsum(counts)[:-1]
    parts = {name: np.split(x, ends) for name, x in arrays.items()}
    states = parts.get("states", [None] * len(counts))
    return [
        Reading(logits, seen) if count else None
        for count, logits, seen in zip(counts, parts["logits"], states, strict=True)
    ]


def _save(path: Path, found: list[Reading | None]) -> None:
    """Whole or not at all."""
    there = [reading for reading in found if reading is not None]
    if not there:
        return
    arrays = {
        name: np.concatenate([getattr(reading, name) for reading in there])
        for name in ("logits", "states")
        if getattr(there[0], name) is not None
    }
    counts = [0 if reading is None else len(reading.logits) for reading in found]
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp.npz")
    np.savez(scratch, questions=np.asarray(counts), **arrays)
    scratch.replace(path)
