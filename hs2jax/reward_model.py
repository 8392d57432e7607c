"""A reward model as one holds it in a notebook: load, score, save.

    model = RewardModel.load("runs/quickstart/preference/model")
    model.score([[{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]])

Axis letters: B rows, T tokens of a row, R response slots, K outputs.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from hs2jax.data import loader
from hs2jax.data.groups import Group
from hs2jax.models import heads, hub, sharding
from hs2jax.models.attention import Layout
from hs2jax.models.config import Config
from hs2jax.models.decoder import Decoder


class Score(NamedTuple):
    """What a response scores: each output by name, and one scalar, None without weights for it."""

    outputs: dict[str, float]
    reward: float | None


def forward(params, batch, config: Config, *, layout: str, dtype, remat: bool = False):
    """Outputs [B, R, K] in float32 of a batch as `data.packing.lay` makes it.

    params: {"decoder", "head"}. Empty slots hold numbers that mean nothing.
    """
    tokens, position, last = batch["tokens"], batch["position"], batch["last"]
    (B, T), R = tokens.shape, last.shape[1]
    who_sees_whom = Layout(batch["segment"], batch["branch"], position)
    if layout == "padded":
        # Cut at the slots, each conversation is a row of its own and causality is mask enough.
        slot = T // R
        tokens, position = tokens.reshape(B * R, slot), position.reshape(B * R, slot)
        last = jnp.maximum(last - slot * jnp.arange(R), 0).reshape(B * R, 1)
        who_sees_whom = None
    decoder = Decoder(config, dtype=dtype, remat=remat)
    hidden, _ = decoder.apply({"params": params["decoder"]}, tokens, position, who_sees_whom)
    return heads.reward(params["head"], hidden, last).reshape(B, R, -1)


predict = jax.jit(forward, static_argnames=("config", "layout", "dtype", "remat"))


@dataclasses.dataclass
class RewardModel:
    """A decoder with a reward head.

    params: {"decoder": ..., "head": {"kernel" [D, K], "bias" [K] if there is one}}. outputs: names
    of the K outputs. weights: how the outputs make one scalar, or None. mesh: where the parameters
    live, None for the default device. dtype: of the computation; the head is always float32.
    """

    config: Config
    params: dict[str, Any]
    tokenizer: Any
    outputs: tuple[str, ...]
    weights: dict[str, float] | None = None
    mesh: jax.sharding.Mesh | None = None
    dtype: Any = jnp.float32

    @classmethod
    def load(
        cls,
        name,
        *,
        outputs: Sequence[str] = (),
        bias: bool = False,
        weights: Mapping[str, float] | None = None,
        seed: int = 0,
        mesh=None,
        dtype=None,
    ) -> "RewardModel":
        """Loads a reward model, or a language model with a new head.

        name: a folder, a GGUF file, a hub id or a short name. outputs: names of a new head's
        outputs, for a checkpoint that has no head; a head that is there must have just these
        outputs where they are given. bias and seed: of a new head. dtype: of the computation;
        None is float32 on CPU and bfloat16 elsewhere.

        Raises ValueError where there is no head and no outputs are named, or they disagree.
        """
        placed = None
        if mesh is not None:

            def placed(config, shapes):
                return sharding.shardings(shapes, mesh)

        loaded = hub.load(name, placed)
        if loaded.tokenizer is None:
            raise ValueError(f"{name}: there is no tokenizer beside the model")
        head, found = loaded.head, tuple(loaded.outputs)
        if head is None:
            if not outputs:
                raise ValueError(
                    f"{name} has no reward head: it is a language model. Train one with "
                    "`hs2jax train`, or name the outputs of a new head"
                )
            head = heads.init_reward(
                jax.random.key(seed), loaded.config.width, len(outputs), bias=bias
            )
            found = tuple(outputs)
        elif outputs and tuple(outputs) != found:
            raise ValueError(
                f"{name} has a reward head with the outputs {found}, not {tuple(outputs)}; "
                "leave the outputs empty to go on with its head"
            )
        if weights is None:
            weights = loaded.hf_config.get("hs2jax", {}).get("weights")
        if mesh is not None:
            head = jax.device_put(head, sharding.shardings(head, mesh))
        if dtype is None:
            dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
        params = {"decoder": loaded.params, "head": head}
        model = cls(loaded.config, params, loaded.tokenizer, found, mesh=mesh, dtype=dtype)
        model.weights = None if weights is None else dict(weights)
        model.scalar_weights(model.weights)
        return model

    def scalar_weights(self, weights: Mapping[str, float] | None = None) -> np.ndarray | None:
        """Weights [K] that make the outputs one reward: given, recorded, or 1 for a lone output."""
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
        rows: int = 4,
        truncate: bool = False,
    ) -> list[Score]:
        """Scores conversations, each a list of messages that ends with the assistant's.

        Neighbours with the same prompt share its computation. rows: how many rows of tokens are
        computed at a time; scores do not depend on it. truncate: cut prompts from the left where a
        conversation is longer than the model's positions, instead of raising ValueError.
        """
        scalar = self.scalar_weights(weights)
        outputs = self.score_groups(
            group_conversations(conversations), layout=layout, rows=rows, truncate=truncate
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
        self, groups: Sequence[Group], *, layout="shared", rows: int = 4, truncate: bool = False
    ) -> list[np.ndarray]:
        """Outputs [responses, K] of each group; see `score`."""
        longest = self.config.max_positions
        slots = max((len(group.responses) for group in groups), default=1)
        prepared = loader.prepare(
            groups,
            self.tokenizer,
            attributes=(),
            # Padded slots are what measures each conversation by itself.
            row_length=longest * slots,
            layout="padded",
            too_long="truncate" if truncate else "skip",
        )
        if len(prepared.groups) < len(groups):
            kept = {id(group) for group in prepared.groups}
            lost = [g.source or str(i) for i, g in enumerate(groups) if id(g) not in kept]
            raise ValueError(
                f"longer than the model's {longest} positions: {', '.join(lost[:5])}"
                + ("; truncate=True cuts prompts from the left" if not truncate else "")
            )
        return self.predict(prepared, layout=layout, rows=rows)

    def predict(self, prepared: loader.Prepared, *, layout="shared", rows: int = 4):
        """Outputs [responses, K] of each prepared group, a list of numpy arrays."""
        if not prepared.examples:
            return []
        longest = max(loader.packing.cost(e.encoded, layout) for e in prepared.examples)
        if layout == "padded":
            longest *= max(len(e.encoded.responses) for e in prepared.examples)
        # A few lengths only, since each is compiled: 128 and its doublings.
        row_length = 128
        while row_length < longest:
            row_length *= 2
        batches = plan_evaluation(
            prepared, row_length=row_length, layout=layout, rows=rows, mesh=self.mesh
        )
        run = functools.partial(
            predict, self.params, config=self.config, layout=layout, dtype=self.dtype
        )
        return run_batches(run, batches, len(self.outputs), self.mesh)

    def save(self, folder) -> None:
        """Exports weights, config and tokenizer as a folder that `transformers` loads."""
        hub.save(
            folder,
            config=self.config,
            params=self.params["decoder"],
            tokenizer=self.tokenizer,
            head=self.params["head"],
            outputs=self.outputs,
            weights=self.weights,
        )


def score_stream(model: RewardModel, groups: Iterable[Group], *, weights=None, truncate=False):
    """Scores groups as they come, 64 at a time. Yields a dict for each: source, prompt, responses,
    outputs (a dict for each response) and rewards (None without weights)."""
    scalar = model.scalar_weights(weights)
    groups = iter(groups)
    while some := list(itertools.islice(groups, 64)):
        for group, table in zip(some, model.score_groups(some, truncate=truncate), strict=True):
            yield {
                "source": group.source,
                "prompt": list(group.prompt),
                "responses": list(group.responses),
                "outputs": [
                    dict(zip(model.outputs, map(float, row), strict=True)) for row in table
                ],
                "rewards": None if scalar is None else [float(row @ scalar) for row in table],
            }


def group_conversations(conversations) -> list[Group]:
    """Conversations as groups, neighbours with the same prompt together. Raises ValueError."""
    groups: list[Group] = []
    for i, conversation in enumerate(conversations):
        try:
            turns = tuple({"role": m["role"], "content": m["content"]} for m in conversation)
        except (KeyError, TypeError):
            raise ValueError(
                f"conversation {i} must be a list of messages with 'role' and 'content'"
            ) from None
        if not turns or turns[-1]["role"] != "assistant":
            raise ValueError(f"conversation {i} must end with an assistant's message to be scored")
        prompt, response = turns[:-1], turns[-1]["content"]
        if groups and groups[-1].prompt == prompt:
            groups[-1] = dataclasses.replace(
                groups[-1], responses=(*groups[-1].responses, response)
            )
        else:
            groups.append(Group(prompt, (response,), source=f"conversation {i}"))
    return groups


def plan_evaluation(prepared, *, row_length, layout, rows, mesh=None):
    """Batches of every prepared group once, in order, for `run_batches`."""
    devices = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    rows = -(-rows // devices) * devices
    return loader.plan(
        prepared.examples,
        row_length=row_length,
        layout=layout,
        batch_size=256,
        micro_rows=rows,
        process=jax.process_index(),
        processes=jax.process_count(),
    )


def run_batches(run, batches: loader.Batches, outputs: int, mesh=None) -> list[np.ndarray]:
    """Runs `run` (a micro-batch to outputs [B, R, K]) over all batches.

    Returns outputs [responses, K] of each example, on every process.
    """
    found = [np.zeros((len(e.encoded.responses), outputs), np.float32) for e in batches.examples]
    for i in range(len(batches)):
        arrays = batches[i]
        used = -(-len(batches.plan[i]) // batches.micro_rows)
        tables = []
        for m in range(used):
            micro = sharding.place_rows({name: x[m] for name, x in arrays.items()}, mesh)
            tables.append(_to_host(run(micro)))
        table = np.concatenate(tables)
        for row, slot, example, response in batches.slots(i):
            found[example][response] = table[row, slot]
    return found


def _to_host(array) -> np.ndarray:
    if array.is_fully_addressable:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
