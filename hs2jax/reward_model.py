"""A reward model as one holds it in a notebook: load, score, save.

    model = RewardModel.load("runs/quickstart/preference/model")
    model.score([[{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]])

Axis letters: B rows, T tokens of a row, R response slots, K outputs.
"""

import dataclasses
import functools
import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from hs2jax.data import loader, templates
from hs2jax.data.groups import Group
from hs2jax.data.record import Record
from hs2jax.models import heads, hub, leaves, lora, sharding
from hs2jax.models.attention import Layout
from hs2jax.models.config import Config
from hs2jax.models.decoder import Decoder

log = logging.getLogger(__name__)

SHARED = 8  # Responses of one prompt that are scored in one row.


class Score(NamedTuple):
    """What a response scores: each output by name, and one scalar, None without weights for it."""

    outputs: dict[str, float]
    reward: float | None


def forward(params, batch, config: Config, *, layout: str, dtype, remat: bool = False):
    """Outputs [B, R, K] in float32 of a batch as `data.packing.lay` makes it.

    params: {"decoder", "head"}, and while LoRA trains {"lora", "lora_scale"}. A decoder's frozen
    first layers may be a stack of their own, "frozen"; with `states` [B, T, D] in the batch, what
    they give, they are not computed. Empty slots hold numbers that mean nothing.
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
    frozen = params["decoder"].get("frozen")
    decoder = Decoder(config, dtype=dtype, remat=remat, frozen=count_layers(frozen))
    variables = {"params": params["decoder"]}
    if "lora" in params:
        variables["lora"] = lora.scaled(params["lora"], params["lora_scale"])
    # Who asks for float32 on an accelerator gets it in the products too.
    with jax.default_matmul_precision("highest" if dtype == jnp.float32 else None):
        hidden, _ = decoder.apply(
            variables, tokens, position, who_sees_whom, entered=batch.get("states")
        )
    return heads.reward(params["head"], hidden, last).reshape(B, R, -1)


def count_layers(stack) -> int:
    """How many layers a stack of parameters holds; 0 for None."""
    return 0 if stack is None else jax.tree.leaves(stack)[0].shape[0]


predict = jax.jit(forward, static_argnames=("config", "layout", "dtype", "remat"))


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
        """Loads a reward model, or a language model with a new head.

        name: a folder, a GGUF file, a hub id or a short name; with "#lm_head[0]" behind it, a
        language model whose row 0 of lm_head gives the reward. outputs: names of a new head's
        outputs, for a checkpoint that has no head; a head that is there must have just these
        outputs where they are given. bias and seed: of a new head. template: one of
        `data.templates`; "" is what belongs to the checkpoint. dtype: of the computation; None is
        float32 on CPU and bfloat16 elsewhere.

        Raises ValueError where there is no head and no outputs are named, or they disagree.
        """
        if (Path(name) / "best").is_dir():
            raise ValueError(f"{name} is the folder of a run; its model is {Path(name) / 'model'}")
        loaded = hub.load(name, mesh and (lambda _, shapes: sharding.shardings(shapes, mesh)))
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
        config, decoder, read = loaded.config, dict(loaded.params), loaded.read
        if config.has_unembed:  # Never used here, so not to be kept, trained or decayed.
            config = dataclasses.replace(config, language_head=False)
            del decoder["unembed"]
        if template:
            loaded.tokenizer.chat_template, read = templates.choose(template)
        params = {"decoder": decoder, "head": head}
        weights = None if weights is None else dict(weights)
        template = template or loaded.template
        model = cls(config, params, loaded.tokenizer, found, weights, mesh, dtype, template, read)
        model.scalar_weights()  # Raises where the weights name outputs that are not there.
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
        record: Record | None = None,
    ) -> list[Score]:
        """Scores conversations, each a list of messages that ends with the assistant's.

        Neighbours with the same prompt share its computation. rows: how many rows of tokens are
        computed at a time; scores do not depend on it. truncate: cut prompts from the left where a
        conversation is longer than the model's positions, counted in `record`, instead of raising
        ValueError.
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
        rows: int = 4,
        truncate: bool = False,
        skip: bool = False,
        record: Record | None = None,
    ) -> list[np.ndarray | None]:
        """Outputs [responses, K] of each group; see `score`.

        skip: None for a group with a conversation that is too long or that the chat template
        refuses, counted in `record`, instead of raising ValueError.
        """
        longest = self.config.max_positions
        # A row that holds a hundred responses would not fit into memory. Where prompts are cut,
        # each conversation goes alone, so that its score does not depend on the others' length.
        together = 1 if truncate else SHARED
        parts = [
            (i, dataclasses.replace(group, responses=some, ratings=(), strength=None))
            for i, group in enumerate(groups)
            for some in in_parts(group.responses, together)
        ]
        place = {id(part): i for i, part in parts}  # What is prepared are the very same groups.
        prepared = loader.prepare(
            [part for _, part in parts],
            self.tokenizer,
            read=self.read,
            attributes=(),
            row_length=longest * SHARED,
            max_tokens=longest,
            layout=layout,
            too_long="truncate" if truncate else "skip",
            on_error="skip" if skip else "raise",
            record=record,
        )
        tables: list[list[np.ndarray]] = [[] for _ in groups]
        for part, table in zip(
            prepared.groups, self.predict(prepared, layout=layout, rows=rows), strict=True
        ):
            tables[place[id(part)]].append(table)
        whole = [sum(map(len, t)) == len(g.responses) for t, g in zip(tables, groups, strict=True)]
        if not all(whole) and not skip:
            lost = [g.source or str(i) for i, g in enumerate(groups) if not whole[i]]
            raise ValueError(
                f"longer than the model's {longest} positions: {', '.join(lost[:5])}"
                + ("" if truncate else "; prompts can be cut from the left (truncate)")
            )
        return [
            np.concatenate(t) if all_of_it else None
            for t, all_of_it in zip(tables, whole, strict=True)
        ]

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
            prepared,
            row_length=row_length,
            layout=layout,
            rows=min(rows, len(prepared.examples)),
            mesh=self.mesh,
        )
        run = functools.partial(
            predict, self.params, config=self.config, layout=layout, dtype=self.dtype
        )
        return run_batches(run, batches, len(self.outputs), self.mesh)

    def save(self, folder) -> None:
        """Exports weights, config and tokenizer as a folder that `transformers` loads.

        Where the parameters are spread over several processes, all must call this; the first one
        writes. Layers are gathered one at a time, so that no host or device needs room for all.
        """

        def gathered(path, x):
            if x.is_fully_addressable:
                return x
            return (
                Spread(x) if sharding.path_name(path).startswith("decoder/layers") else to_host(x)
            )

        params = jax.tree.map_with_path(gathered, self.params)
        if jax.process_index() != 0:
            for tensor in leaves.unstack(params["decoder"], self.config):
                tensor.read()  # As the first process reads it, in the same order.
            return
        hub.save(
            folder,
            config=self.config,
            params=params["decoder"],
            tokenizer=self.tokenizer,
            head=params["head"],
            outputs=self.outputs,
            weights=self.weights,
            template=self.template,
            read=self.read,
        )


def in_parts(things: Iterable, size: int):
    """Tuples of at most `size`, in order."""
    things = iter(things)
    while part := tuple(itertools.islice(things, size)):
        yield part


def parse_weights(text: str) -> dict[str, float] | None:
    """Weights as written in configs and on the command line, "helpfulness=0.65,verbosity=-0.4"."""
    if not text:
        return None
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {name.strip(): float(value) for name, value in pairs}
    except ValueError:
        raise ValueError(f"weights are {text!r}; expected name=number,name=number") from None


def score_stream(
    model: RewardModel,
    groups: Iterable[Group],
    *,
    weights=None,
    truncate=False,
    skip=False,
    record=None,
):
    """Scores groups as they come, 64 at a time. Yields a dict for each: source, prompt, responses,
    outputs (a dict for each response) and rewards (None without weights). See `score_groups`."""
    scalar = model.scalar_weights(weights)
    for some in in_parts(groups, 64):
        tables = model.score_groups(some, truncate=truncate, skip=skip, record=record)
        for group, table in zip(some, tables, strict=True):
            if table is None:
                continue
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
    return loader.plan(
        prepared.examples,
        row_length=row_length,
        layout=layout,
        batch_size=256,
        micro_rows=sharding.fit_rows(rows, mesh),
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
            tables.append(to_host(run(micro)))
        table = np.concatenate(tables)
        for row, slot, example, response in batches.slots(i):
            found[example][response] = table[row, slot]
    return found


class Spread:
    """A stack of layers that several processes share, as much of an array as an export needs."""

    def __init__(self, array):
        self._array, self.shape = array, array.shape

    def __getitem__(self, layer: int) -> np.ndarray:
        """One layer on the host. All processes must ask for the same one."""
        return to_host(self._array[layer])


def to_host(array) -> np.ndarray:
    """An array as numpy on every process, wherever its parts are."""
    if array.is_fully_addressable:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
