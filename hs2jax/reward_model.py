"""A reward model as one holds it in a notebook: load, score, save.

    model = RewardModel.load("runs/quickstart/preference/model")
    model.score([[{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]])

Axis letters: B rows, T tokens of a row, R response slots, K outputs.
"""

import dataclasses
import functools
import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hs2jax.data import templates
from hs2jax.data.conversations import encode, group_conversations
from hs2jax.data.groups import Group
from hs2jax.data.packing import Example
from hs2jax.data.record import Record
from hs2jax.inference import plan_rows, predict, run_batches, to_host
from hs2jax.models import heads, sharding
from hs2jax.models.config import Config
from hs2jax.models.hf import hub
from hs2jax.models.hf.weights import gathered

log = logging.getLogger(__name__)


class Score(NamedTuple):
    """A response's score: each output by name, and one scalar, None without weights for it."""

    outputs: dict[str, float]
    reward: float | None


@dataclasses.dataclass
class RewardModel:
    """A decoder with a reward head.

    params: {"decoder": ..., "head": {"kernel" [D, K], "bias" [K] if there is one}}. outputs: names
    of the K outputs. weights: how the outputs make one scalar, or None. mesh: where the parameters
    live, None for the default device. dtype: of the computation; the head is always float32.
    template: name of the chat template that the tokenizer holds, "own" for its own. read: at which
    token scores are read, see `data.chat.encode`.
    """

    config: Config
    params: dict[str, Any]
    tokenizer: Any
    outputs: tuple[str, ...]
    weights: dict[str, float] | None = None
    mesh: jax.sharding.Mesh | None = None
    dtype: Any = jnp.float32
    template: str = "own"
    read: str = "end_of_turn"

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
    ) -> "RewardModel":
        """Load a reward model, or a language model with a new head.

        name: a folder, a GGUF file, a hub id or a short name; with "#lm_head[0]" behind it, a
        language model whose row 0 of lm_head gives the reward. outputs: names of a new head's
        outputs, for a checkpoint that has no head; a head that is there must have just these
        outputs where they are given. bias and seed: of a new head. template: one of
        `data.templates`; "" is what belongs to the checkpoint. dtype: of the computation; None is
        float32 on CPU and bfloat16 elsewhere.

        Raises ValueError where there is no head and no outputs are named, or they disagree.
        """
        if any((Path(name) / mark).exists() for mark in ("best", "result.json")):
            raise ValueError(f"{name} is the folder of a run; its model is {Path(name) / 'model'}")
        loaded = hub.load(name, mesh)
        if loaded.tokenizer is None:
            raise ValueError(f"{name}: there is no tokenizer beside the model")
        head, found = loaded.head, tuple(loaded.outputs)
        if head is None:
            if not outputs:
                raise ValueError(
                    f"{name} has no reward head: it is a language model. Train one with "
                    "`hs2jax train`, or name the outputs of a new head, or, if its reward is in "
                    f"row 0 of lm_head, write {name}#lm_head[0]"
                )
            log.info("%s has no reward head: a new one, for %s", name, ", ".join(outputs))
            head = heads.init_reward(
                jax.random.key(seed), loaded.config.hidden_size, len(outputs), bias=bias
            )
            found = tuple(outputs)
        elif outputs and tuple(outputs) != found:
            raise ValueError(
                f"{name} has a reward head with the outputs {found}, not {tuple(outputs)}; "
                "leave the outputs empty to go on with its head"
            )
        weights = loaded.weights if weights is None else weights
        if mesh is not None:
            head = jax.device_put(head, sharding.shardings(head, mesh))
        if dtype is None:
            dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
        config, decoder, read = loaded.config, dict(loaded.params), loaded.read
        if config.has_lm_head:  # Never used here, so not to be kept, trained or decayed.
            config = dataclasses.replace(config, language_head=False)
            del decoder["lm_head"]
        if template:
            loaded.tokenizer.chat_template, read = templates.choose(template)
        params = {"decoder": decoder, "head": head}
        weights = None if weights is None else dict(weights)
        template = template or loaded.template
        model = cls(config, params, loaded.tokenizer, found, weights, mesh, dtype, template, read)
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
        record: Record | None = None,
    ) -> list[Score]:
        """Score conversations, each a list of messages that ends with the assistant's.

        Neighbours with the same prompt share its computation. rows: how many rows of tokens are
        computed at a time, None for what fits; scores do not depend on it. truncate: cut prompts
        from the left where a conversation is longer than the model's positions, counted in
        `record`, instead of raising ValueError.
        """
        scalar = self.scalar_weights(weights)
        outputs = self.score_groups(
            group_conversations(conversations),
            layout=layout,
            rows=rows,
            truncate=truncate,
            record=record,
        )
        return [
            Score(
                dict(zip(self.outputs, map(float, row), strict=True)),
                None if scalar is None else float(row @ scalar),
            )
            for table in outputs
            for row in table
        ]

    def score_groups(
        self,
        groups: Sequence[Group],
        *,
        layout="shared",
        rows: int | None = None,
        truncate: bool = False,
        skip: bool = False,
        record: Record | None = None,
    ) -> list[np.ndarray | None]:
        """Compute outputs [responses, K] of each group; see `score`.

        skip: None for a group with a conversation that is too long or that the chat template
        refuses, counted in `record`, instead of raising ValueError.
        """
        parts = self.encode(groups, truncate=truncate, skip=skip, record=record)
        tables = iter(self.predict(list(itertools.chain(*parts)), layout=layout, rows=rows))
        return [np.concatenate([next(tables) for _ in some]) if some else None for some in parts]

    def encode(
        self,
        groups: Sequence[Group],
        *,
        max_tokens: int | None = None,
        truncate: bool = False,
        skip: bool = False,
        record: Record | None = None,
    ) -> list[list[Example]]:
        """Turn groups into tokens, as `data.conversations.encode` makes them. See `score_groups`.

        max_tokens: of a conversation; None: the model's positions.
        """
        return encode(
            self.tokenizer,
            groups,
            longest=min(max_tokens or self.config.max_seq_len, self.config.max_seq_len),
            read=self.read,
            truncate=truncate,
            skip=skip,
            record=record,
        )

    def predict(self, examples: Sequence[Example], *, layout="shared", rows: int | None = None):
        """Compute outputs [responses, K] of each tokenised group, a list of numpy arrays."""
        if not examples:
            return []
        batches = plan_rows(examples, layout=layout, rows=rows, mesh=self.mesh)
        run = functools.partial(
            predict, self.params, config=self.config, layout=layout, dtype=self.dtype
        )
        return run_batches(run, batches, len(self.outputs), self.mesh)

    def save(self, folder) -> None:
        """Export weights, config and tokenizer as a folder that `transformers` loads.

        Where the parameters are spread over several processes, all must call this; the first one
        writes.
        """
        head = jax.tree.map(to_host, self.params["head"])
        decoder = gathered(self.params["decoder"], self.config)
        if decoder is None:
            return
        hub.save(
            folder,
            config=self.config,
            params=decoder,
            tokenizer=self.tokenizer,
            head=head,
            outputs=self.outputs,
            weights=self.weights,
            template=self.template,
            read=self.read,
        )
