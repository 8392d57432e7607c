"""Scores of responses, each computed once for a model and kept.

A score is kept under what it follows from: the model's parameters to the last bit, its config,
chat template, place of reading and dtype (`model_key`), and the conversation's tokens, which say
the text and what was cut of it. So another model or template never meets a kept score, and an
evaluation that was killed goes on where it was.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from hs2jax.data import packing
from hs2jax.data.conversations import in_parts
from hs2jax.data.groups import Group
from hs2jax.data.packing import Example
from hs2jax.data.record import Record
from hs2jax.models import hub
from hs2jax.models.checksum import checksum
from hs2jax.reward_model import RewardModel

VERSION = 1  # To be raised when the way of scoring changes.
WINDOW = 1024  # Groups that are tokenised before the first of them is scored.
TOKENS = 8192  # Of a step: after each, its scores are kept.


class Scored(NamedTuple):
    """A group and what it scores: outputs [responses, K], or None where it was left out; tokens of
    each response, and how many tokens its prompt has lost."""

    group: Group
    outputs: np.ndarray | None
    tokens: list[int]
    cut: int


def model_key(model: RewardModel) -> str:
    """A hash of all that makes a model's scores, 32 hexadecimal digits."""
    parts = {
        "version": VERSION,
        "parameters": checksum(model.params),
        "config": dataclasses.asdict(model.config),
        "outputs": model.outputs,
        "template": model.tokenizer.chat_template,
        "read": model.read,
        "dtype": str(np.dtype(model.dtype)),
    }
    return _hash(json.dumps(parts, sort_keys=True, default=str).encode())


def conversation_key(prompt: np.ndarray, response: np.ndarray) -> str:
    """A hash of a conversation's tokens, 32 hexadecimal digits."""
    return _hash(np.concatenate([prompt, response]).astype("<i4").tobytes())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def default_folder() -> Path:
    """Where scores are kept: beside fetched models."""
    return hub.cache_folder() / "scores"


class Cache:
    """What a model has scored: a file of JSON lines, [conversation, [outputs]], only appended to.

    Several evaluations may append to one file at once; a kill may cut a line short.
    """

    def __init__(self, key: str, folder: Path | None = None):
        self.path = (folder or default_folder()) / f"{key}.jsonl"
        self._known: dict[str, list[float]] = {}
        if jax.process_index() == 0 and self.path.exists():
            for line in self.path.read_bytes().splitlines():
                try:
                    name, outputs = json.loads(line)
                except ValueError:
                    continue
                self._known[name] = outputs

    def get(self, name: str) -> list[float] | None:
        return self._known.get(name)

    def remember(self, found: dict[str, list[float]]) -> None:
        self._known.update(found)

    def add(self, found: dict[str, list[float]]) -> None:
        """Keeps what was computed, in the file too."""
        self.remember(found)
        if jax.process_index() != 0:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A line of its own even where the last one was cut short, and all at once: pieces of two
        # evaluations that append together could make a line with a wrong number.
        text = "\n" + "".join(json.dumps(entry) + "\n" for entry in found.items())
        with self.path.open("ab", buffering=0) as file:
            file.write(text.encode())


def stream(
    model: RewardModel,
    groups: Iterable[Group],
    cache: Cache,
    *,
    max_tokens: int | None = None,
    truncate: bool = True,
    skip: bool = False,
    record: Record | None = None,
    progress: Callable[[int, int], None] = lambda tokens, groups: None,
) -> Iterator[Scored]:
    """Scores groups as they come, a window at a time, in their order; what is kept is not computed.

    max_tokens, truncate, skip: see `RewardModel.encode`. progress: is told, after each step, how
    many tokens were computed, and how many groups a window finished.
    Raises ValueError for a group whose scores are not finite, and as `RewardModel.encode` does.
    """
    record = Record() if record is None else record
    for some in in_parts(groups, WINDOW):
        parts = model.encode(
            some, max_tokens=max_tokens, truncate=truncate, skip=skip, record=record
        )
        _score_unknown(model, list(itertools.chain(*parts)), cache, progress)
        progress(0, len(some))
        for group, examples in zip(some, parts, strict=True):
            if not examples:
                yield Scored(group, None, [], 0)
                continue
            outputs = np.array([cache.get(name) for name in _names(examples)], np.float32)
            if not np.isfinite(outputs).all():
                raise ValueError(
                    f"{group.source}: the model's outputs are not finite numbers: "
                    f"{outputs.tolist()}. Are its parameters whole, and does its dtype suffice?"
                )
            yield Scored(
                group,
                outputs,
                [len(r) for example in examples for r in example.encoded.responses],
                max(example.cut for example in examples),
            )


def _names(examples: Sequence[Example]) -> list[str]:
    """The keys of all conversations, in order."""
    return [conversation_key(e.encoded.prompt, r) for e in examples for r in e.encoded.responses]


def _score_unknown(model, examples: Sequence[Example], cache: Cache, progress) -> None:
    """Scores the examples that have a response without a kept score, those of a length together."""
    names = [_names([example]) for example in examples]
    if jax.process_count() > 1:
        _share(cache, sorted(set(itertools.chain(*names))), len(model.outputs))
    costs = {
        i: packing.cost(examples[i].encoded, "shared")
        for i, some in enumerate(names)
        if any(cache.get(name) is None for name in some)
    }
    order = sorted(costs, key=lambda i: (costs[i], i))
    while len(order):
        # As many as make a step, and one at least.
        ends = np.cumsum([costs[i] for i in order])
        step, order = np.split(order, [max(1, np.searchsorted(ends, TOKENS, "right"))])
        tables = model.predict([examples[i] for i in step])
        cache.add(
            {
                name: [float(x) for x in row]
                for i, table in zip(step, tables, strict=True)
                for name, row in zip(names[i], table, strict=True)
            }
        )
        progress(sum(costs[i] for i in step), 0)


def _share(cache: Cache, names: list[str], outputs: int) -> None:
    """Gives every process what the first one's file holds, so that all compute the same."""
    known = np.array([cache.get(name) is not None for name in names])
    table = [cache.get(name) or [0.0] * outputs for name in names]
    known, table = multihost_utils.broadcast_one_to_all((known, np.array(table, np.float32)))
    cache.remember({name: table[i].tolist() for i, name in enumerate(names) if known[i]})
