"""Scores of responses, each computed once for a model and kept.

A score is kept under what it follows from: the model's parameters to the last bit, its config,
chat template, place of reading and dtype (`model_key`), and the conversation's tokens, which say
the text and what was cut of it. So another model or template never meets a kept score, and an
evaluation that was killed goes on where it was.
"""

import dataclasses
import hashlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hs2jax import session
from hs2jax.data import packing
from hs2jax.data.conversations import in_parts
from hs2jax.data.groups import Group
from hs2jax.data.packing import Example
from hs2jax.data.record import Record
from hs2jax.identity import content_key
from hs2jax.models import sharding
from hs2jax.models.checksum import checksum
from hs2jax.reward_model import RewardModel
from hs2jax.store import Store

log = logging.getLogger(__name__)

VERSION = 1  # To be raised when the way of scoring changes.
WINDOW = 1024  # Groups that are tokenised before the first of them is scored.
TOKENS = 8192  # Of a step on each device: after each, its scores are kept.


class Scored(NamedTuple):
    """A group and what it scores: outputs [responses, K], or None where it was left out; tokens of
    each response; how many tokens its prompt has lost; and the `conversation_key` of each."""

    group: Group
    outputs: np.ndarray | None
    tokens: list[int]
    cut: int
    names: list[str]


def model_key(model: RewardModel) -> str:
    """Hash all that makes a model's scores."""
    parts = {
        "version": VERSION,
        "parameters": checksum(model.params),
        "config": dataclasses.asdict(model.config),
        "outputs": model.outputs,
        "template": model.tokenizer.chat_template,
        "read": model.read,
        "dtype": str(np.dtype(model.dtype)),
    }
    return content_key(parts)


def conversation_key(prompt: np.ndarray, response: np.ndarray) -> str:
    """Hash a conversation's tokens, to 32 hexadecimal digits."""
    tokens = np.concatenate([prompt, response]).astype("<i4").tobytes()
    return hashlib.sha256(tokens).hexdigest()[:32]


def default_folder() -> Path:
    """The folder where scores are kept: beside fetched models."""
    return session.cache_folder() / "scores"


def store_of(model: RewardModel) -> Store:
    """Open the store of what a model has scored: outputs by `conversation_key`."""
    name = f"{model_key(model)}.sqlite"  # Which all processes compute.
    return Store(lambda: default_folder() / name, cache=True)


def stream(
    model: RewardModel,
    groups: Iterable[Group],
    store: Store,
    *,
    max_tokens: int | None = None,
    truncate: bool = True,
    skip: bool = False,
    leave_out: bool = False,
    record: Record | None = None,
    progress: Callable[..., None] = lambda groups, tokens=0: None,
) -> Iterator[Scored]:
    """Score groups as they come, a window at a time, in their order, computing what is not kept.

    max_tokens, truncate, skip: see `RewardModel.encode`. leave_out: leave a group out whose scores
    are not finite, counted in the record and named in the log, instead of raising ValueError; the
    others of its window are kept before. progress: is told, after each step, how many tokens were
    computed, and how many groups a window finished. Raises ValueError as `RewardModel.encode` does.
    """
    record = Record() if record is None else record
    for some in in_parts(groups, WINDOW):
        parts = model.encode(
            some, max_tokens=max_tokens, truncate=truncate, skip=skip, record=record
        )
        _score_unknown(model, list(itertools.chain(*parts)), store, progress)
        progress(len(some))
        named = [_names(examples) for examples in parts]
        every = [[store.get(name) for name in names] for names in named]
        bad = [
            (group.source, example.encoded)
            for group, examples, known in zip(some, parts, every, strict=True)
            if None in known  # The store keeps no others.
            for example in examples
            if not all(name in store for name in _names([example]))
        ]
        if bad:
            text = model.not_finite("outputs", bad)
            if not leave_out:
                raise ValueError(text)
            log.warning("%s", text)
        for group, examples, names, known in zip(some, parts, named, every, strict=True):
            if not examples or None in known:
                if examples:
                    record.skip("not finite", example=f"{group.source}: outputs are not finite")
                yield Scored(group, None, [], 0, [])
                continue
            record.tokens += sum(packing.cost(each.encoded, "shared") for each in examples)
            tokens = [len(r) for example in examples for r in example.encoded.responses]
            cut = max(example.cut for example in examples)
            yield Scored(group, np.array(known, np.float32), tokens, cut, names)


def _names(examples: Sequence[Example]) -> list[str]:
    """The keys of all conversations, in order."""
    return [conversation_key(e.encoded.prompt, r) for e in examples for r in e.encoded.responses]


def _score_unknown(model, examples: Sequence[Example], store: Store, progress) -> None:
    """Score the examples that have a response without a kept score, those of a length together."""
    names = [_names([example]) for example in examples]
    store.share(itertools.chain(*names))
    costs = {
        i: packing.cost(examples[i].encoded, "shared")
        for i, some in enumerate(names)
        if not all(name in store for name in some)
    }
    order = sorted(costs, key=lambda i: (costs[i], i))
    most = TOKENS * sharding.row_devices(model.mesh)
    while len(order):
        # As many as make a step, and one at least.
        ends = np.cumsum([costs[i] for i in order])
        step, order = np.split(order, [max(1, np.searchsorted(ends, most, "right"))])
        tables = model.predict([examples[i] for i in step])
        store.add(
            {
                name: [float(x) for x in row]
                for i, table in zip(step, tables, strict=True)
                for name, row in zip(names[i], table, strict=True)
            }
        )
        progress(0, sum(costs[i] for i in step))
