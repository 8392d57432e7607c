"""A language model as one holds it in a notebook: load, and ask how likely a response is.

    model = LanguageModel.load("smollm2-135m-instruct")
    talk = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    model.log_probability([talk])

Axis letters: B rows, T tokens of a row, P tokens of a row whose probability is wanted, D width,
V vocabulary.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hs2jax.data.chat import Encoded
from hs2jax.data.conversations import encode, group_conversations, join, share
from hs2jax.data.loader import Batches
from hs2jax.data.record import Record
from hs2jax.models import hub, sharding
from hs2jax.models.config import Config
from hs2jax.models.decoder import pick
from hs2jax.models.log_probability import log_probabilities
from hs2jax.prediction import hidden_states, plan_rows, to_host


class LogProbability(NamedTuple):
    """log P(response | prompt) in nats: of the whole, and of each of its tokens, f32 [tokens], the
    last of which ends the turn."""

    total: float
    tokens: np.ndarray


@dataclasses.dataclass
class LanguageModel:
    """A decoder with its vocabulary's output weights.

    params: the decoder's, with "unembed" [V, D], or without where "embed" serves as that. mesh:
    where the parameters live, None for the default device. dtype: of the computation; softmax is
    always float32. name: as it was loaded.
    """

    config: Config
    params: dict[str, Any]
    tokenizer: Any
    name: str = ""
    mesh: jax.sharding.Mesh | None = None
    dtype: Any = jnp.float32

    @classmethod
    def load(cls, name, *, mesh=None, dtype=None) -> "LanguageModel":
        """Loads a folder, a GGUF file, a hub id or a short name.

        dtype: of the computation; None is float32 on CPU and bfloat16 elsewhere. Of a reward model
        that still has its output weights, the language model is loaded and the head left.
        Raises ValueError where the checkpoint has no output weights or no tokenizer.
        """
        loaded = hub.load(name, mesh and (lambda _, shapes: sharding.shardings(shapes, mesh)))
        if not loaded.config.language_head:
            raise ValueError(
                f"{name} is a reward model without a language model's output weights; name the "
                "language model that it was made from"
            )
        if loaded.tokenizer is None:
            raise ValueError(f"{name}: there is no tokenizer beside the model")
        if dtype is None:
            dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
        return cls(loaded.config, dict(loaded.params), loaded.tokenizer, str(name), mesh, dtype)

    def log_probability(
        self,
        conversations: Sequence[Sequence[Mapping[str, str]]],
        *,
        layout: str = "shared",
        rows: int | None = None,
        truncate: bool = False,
        skip: bool = False,
        record: Record | None = None,
    ) -> list[LogProbability | None]:
        """How likely the response of each conversation is, after all that comes before it.

        conversations: each a list of messages that ends with the assistant's, the response.
        Neighbours share what their prompts begin with, where that is less work. rows: how many
        rows of tokens are computed at a time, None for what fits; results do not depend on it.
        truncate, skip: as for `RewardModel.score_groups`, but for each conversation by itself:
        one that is skipped is None.
        """
        # Each by itself: what of its tokens is the prompt's must not depend on its neighbours.
        alone = []
        for group in group_conversations(conversations):
            for response in group.responses:
                source = f"conversation {len(alone)}"
                alone.append(dataclasses.replace(group, responses=(response,), source=source))
        parts = encode(
            self.tokenizer,
            alone,
            longest=self.config.max_positions,
            truncate=truncate,
            skip=skip,
            record=record,
        )
        kept = [i for i, some in enumerate(parts) if some]
        found: list[LogProbability | None] = [None] * len(parts)
        encoded = [_preceded(parts[i][0].encoded) for i in kept]
        tables = self._of_responses(encoded, layout, rows)
        for i, tokens in zip(kept, tables, strict=True):
            found[i] = LogProbability(float(tokens.sum(dtype=np.float64)), tokens)
        return found

    def _of_responses(self, encoded: Sequence[Encoded], layout, rows) -> list[np.ndarray]:
        """The log-probability of each token of the one response of each."""
        if not encoded:
            return []
        runs = share(encoded, self.config.width)
        batches = plan_rows(
            [join([encoded[i] for i in run]) for run in runs],
            layout=layout,
            rows=rows,
            mesh=self.mesh,
        )
        lengths = [[len(encoded[i].responses[0]) for i in run] for run in runs]
        found: list[list] = [[None] * len(run) for run in runs]
        most = _most_wanted(batches, lengths)
        for i in range(len(batches)):
            arrays = batches[i]
            wanted, places = _wanted(batches, i, arrays["last"], lengths, most)
            arrays["before"] = np.take_along_axis(arrays["source"], wanted, axis=-1)
            arrays["target"] = np.take_along_axis(arrays["tokens"], wanted, axis=-1)
            tables = []
            for m in range(-(-len(batches.plan[i]) // batches.micro_rows)):
                micro = sharding.place_rows({name: x[m] for name, x in arrays.items()}, self.mesh)
                tables.append(
                    to_host(_of_wanted(self.params, micro, self.config, layout, self.dtype))
                )
            table = np.concatenate(tables)
            for example, response, row, start, stop in places:
                found[example][response] = table[row, start:stop]
        return list(itertools.chain(*found))


def _preceded(encoded: Encoded) -> Encoded:
    """With a token in the prompt: where all of it was cut, the response's first, which follows
    nothing and so has no probability."""
    if len(encoded.prompt):
        return encoded
    (response,) = encoded.responses
    return Encoded(response[:1], (response[1:],))


@functools.partial(jax.jit, static_argnames=("config", "layout", "dtype"))
def _of_wanted(params, batch, config: Config, layout: str, dtype):
    """Log-probabilities [B, P] of the tokens "target", after those at "before"."""
    hidden = hidden_states({"decoder": params}, batch, config, layout=layout, dtype=dtype)
    unembed = params.get("unembed", params["embed"])
    before = pick(hidden, batch["before"])
    return log_probabilities(before, unembed, batch["target"], cap=config.final_cap)


def _most_wanted(batches: Batches, lengths: Sequence[Sequence[int]]) -> int:
    """P: room for the responses' tokens of each row, a few sizes since each is compiled."""
    most = max(sum(sum(lengths[e]) for e in row) for rows in batches.plan for row in rows)
    step = -(-batches.shape.length // 4)
    return -(-most // step) * step


def _wanted(batches: Batches, i: int, last: np.ndarray, lengths, most: int):
    """Where in batch i the responses' own tokens lie, and where the numbers for them will.

    last: [M, B, R] of the batch. Returns indices int32 [M, B, P], 0 where nothing is wanted, and
    (example, response, row, start, stop) for each response.
    """
    M, B, _ = last.shape
    wanted, places = np.zeros((M * B, most), np.int32), []
    last, used = last.reshape(M * B, -1), [0] * (M * B)
    for row, slot, example, response in batches.slots(i):
        start, end = used[row], last[row, slot] + 1
        used[row] = stop = start + lengths[example][response]
        wanted[row, start:stop] = np.arange(end - lengths[example][response], end)
        places.append((example, response, row, start, stop))
    return wanted.reshape(M, B, most), places
