"""A reward model as one holds it in a notebook: load, score, save.

    model = RewardModel.load("runs/quickstart/preference/model")
    model.score([[{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]])

Axis letters: B rows, T tokens of a row, R response slots, K outputs.
"""

import dataclasses
import functools
import itertools
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from hs2jax.data.conversations import SHARED, encode, group_conversations, in_parts, join
from hs2jax.data.groups import Group
from hs2jax.data.packing import Example
from hs2jax.data.record import Record
from hs2jax.inference import plan_rows, predict, run_batches
from hs2jax.model import Model, check_names, load
from hs2jax.models import heads, sharding

log = logging.getLogger(__name__)


class Score(NamedTuple):
    """A response's score: each output by name, and one scalar, None without weights for it."""

    outputs: dict[str, float]
    reward: float | None


@dataclasses.dataclass(repr=False)
class RewardModel(Model):
    """A decoder with a reward head; see `Model`.

    params: {"decoder": ..., "head": {"kernel" [D, K], "bias" [K] if there is one}}. outputs: names
    of the K outputs. weights: how the outputs make one scalar, or None.
    """

    outputs: tuple[str, ...]
    weights: dict[str, float] | None = None

    @classmethod
    def load(
        cls,
        name,
        *,
        outputs: Sequence[str] = (),
        bias: bool = False,
        weights: Mapping[str, float] | None = None,
        template: str = "",
        seed: int = 0,
        mesh=None,
        dtype=None,
        masters: bool = False,
        untrained: bool = True,
    ) -> "RewardModel":
        """Load a reward model, or a language model with a new head.

        name: a folder, a GGUF file, a hub id or a short name; with "#lm_head[0]" behind it, a
        language model whose row 0 of lm_head gives the reward. outputs: names of a new head's
        outputs; a head that is there must have just these where they are given. bias and seed: of
        a new head. template: one of `data.templates`; "" is the checkpoint's. dtype: of the
        computation; None is float32 on CPU and bfloat16 elsewhere. masters: the weights lie in
        float32, to be trained or saved as they are, and not in dtype (see `Model`). untrained: a
        new head is warned of. Raises ValueError where there is no head and no outputs are named, or
        they disagree.
        """
        if any((Path(name) / mark).exists() for mark in ("run.json", "result.json")):
            raise ValueError(f"{name} is the folder of a run; its model is {Path(name) / 'model'}")
        loaded, common = load(name, template=template, mesh=mesh, dtype=dtype, masters=masters)
        head, outputs = loaded.head, tuple(outputs)
        if head is None:
            if not outputs:
                raise ValueError(
                    f"{name} has no reward head: it is a language model. Train one with "
                    "`hs2jax train`, or name the outputs of a new head, or, if its reward is in "
                    f"row 0 of lm_head, write {name}#lm_head[0]"
                )
            new = f"{name} has no reward head: it gets a new one, for {', '.join(outputs)}"
            if untrained:
                warnings.warn(f"{new}, of random numbers, as are its scores", stacklevel=2)
            log.info(new)
            width = loaded.config.hidden_size
            head = heads.init_reward(jax.random.key(seed), width, len(outputs), bias=bias)
        elif outputs not in ((), loaded.outputs):
            raise ValueError(
                f"{name} has a reward head with the outputs {loaded.outputs}, not {outputs}; "
                "leave the outputs empty to go on with its head"
            )
        if mesh is not None:
            head = jax.device_put(head, sharding.shardings(head, mesh))
        decoder = dict(loaded.params)
        decoder.pop("lm_head", None)  # Never used here, so not to be kept, trained or decayed.
        model = cls(
            loaded.config.without_lm_head(),
            {"decoder": decoder, "head": head},
            loaded.tokenizer,
            outputs or loaded.outputs,
            loaded.weights if weights is None else dict(weights),
            **common,
        )
        model.scalar_weights()  # Raises where the weights name outputs that are not there.
        return model

    def scalar_weights(self, weights: Mapping[str, float] | None = None) -> np.ndarray | None:
        """Find weights [K] that make the outputs one reward: given, recorded, or 1 of one."""
        weights = self.weights if weights is None else weights
        if weights is None:
            return np.ones(1, np.float32) if len(self.outputs) == 1 else None
        unknown = sorted(set(weights) - set(self.outputs))
        if unknown or not weights:
            raise ValueError(f"weights for {unknown}, but the outputs are {list(self.outputs)}")
        return np.asarray([weights.get(name, 0.0) for name in self.outputs], np.float32)

    def score(
        self,
        conversations: Sequence[Sequence[Mapping[str, str]]],
        *,
        weights: Mapping[str, float] | None = None,
        layout: str = "shared",
        rows: int | None = None,
        truncate: bool = False,
        skip: bool = False,
        record: Record | None = None,
    ) -> list[Score | None]:
        """Score conversations, each a list of messages that ends with the assistant's.

        Neighbours with the same prompt share its computation. rows: how many rows of tokens are
        computed at a time, None for what fits; scores do not depend on it. truncate: cut prompts
        from the left where a conversation is longer than the model's positions. skip: None for a
        conversation that is malformed, too long or refused by the chat template, instead of raising
        ValueError with its number. What is cut or left out is counted in `record`. What is not
        finite stays so, and is named in the log.
        """
        groups = group_conversations(conversations, skip=skip, record=record)
        options = {"truncate": truncate, "skip": skip, "record": record}
        return self.score_each(groups, weights=weights, layout=layout, rows=rows, **options)

    def score_each(
        self, groups: Sequence[Group | None], *, weights=None, layout="shared", rows=None, **options
    ) -> list[Score | None]:
        """Score groups of one response each as `score` does conversations. options: see `encode`.
        A group that is None stays None."""
        scalar = self.scalar_weights(weights)
        parts = iter(self.encode([group for group in groups if group], **options))
        every = [next(parts) if group else [] for group in groups]
        kept = [i for i, part in enumerate(every) if part]
        # A prompt that was cut for its response is no other's.
        runs = itertools.groupby(kept, lambda i: (groups[i].prompt, every[i][0].cut and -1 - i))
        examples = [
            join([every[i][0].encoded for i in some])
            for _, run in runs
            for some in in_parts(run, SHARED)
        ]
        found: list[Score | None] = [None] * len(groups)
        tables = self.predict(examples, layout=layout, rows=rows)
        computed = []
        for i, row in zip(kept, itertools.chain(*tables), strict=True):
            outputs = dict(zip(self.outputs, map(float, row), strict=True))
            found[i] = Score(outputs, None if scalar is None else float(row @ scalar))
            computed.append((groups[i].source, every[i][0].encoded, row))
        self.warn_of("outputs", computed)
        return found

    def score_groups(
        self, groups: Sequence[Group], *, layout="shared", rows: int | None = None, **options
    ) -> list[np.ndarray | None]:
        """Compute outputs [responses, K] of each group, None for one that is left out. What is not
        finite stays so, and is named in the log. options: see `encode`; the others: see `score`."""
        check_names(options, "RewardModel.score_groups", self.encode, encode)
        parts = self.encode(groups, **options)
        tables = iter(self.predict(list(itertools.chain(*parts)), layout=layout, rows=rows))
        computed, found = [], []
        for group, some in zip(groups, parts, strict=True):
            of_parts = [next(tables) for _ in some]
            computed += [(group.source, e.encoded, x) for e, x in zip(some, of_parts, strict=True)]
            found.append(np.concatenate(of_parts) if some else None)
        self.warn_of("outputs", computed)
        return found

    def encode(
        self, groups: Sequence[Group], *, max_tokens: int | None = None, **options
    ) -> list[list[Example]]:
        """Turn groups into tokens; options (truncate, skip, record) and what is returned: see
        `data.conversations.encode`. max_tokens: of a conversation; None: the model's positions."""
        positions = self.config.max_seq_len
        longest = min(max_tokens or positions, positions)
        options |= {"read": self.read, "vocab_size": self.config.vocab_size}
        return encode(self.tokenizer, groups, longest=longest, **options)

    def predict(self, examples: Sequence[Example], *, layout="shared", rows: int | None = None):
        """Compute outputs [responses, K] of each tokenised group, a list of numpy arrays."""
        if not examples:
            return []
        run, batches = self.program(examples, layout=layout, rows=rows)
        return run_batches(run, batches, len(self.outputs), self.mesh)

    def program(self, examples: Sequence[Example], *, layout="shared", rows: int | None = None):
        """Find what `predict` runs: (a function of a micro-batch, batches of them)."""
        batches = plan_rows(examples, layout=layout, rows=rows, mesh=self.mesh)
        settings = {"config": self.config, "layout": layout, "dtype": self.dtype}
        return functools.partial(predict, self.params, **settings), batches

    def save(self, folder) -> None:
        """Export weights, config and tokenizer as a folder that `transformers` loads. Where the
        parameters are spread over several processes, all must call this; the first one writes."""
        head = jax.tree.map(sharding.to_host, self.params["head"])
        named = {"head": head, "outputs": self.outputs, "weights": self.weights}
        self._export(folder, self.params["decoder"], **named)
