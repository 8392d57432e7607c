"""Inference: forward passes of reward models and policies, batches of them, and progress.

Axis letters: B rows, T tokens of a row, R response slots, K outputs, D width,
P tokens of a row whose probability is wanted.
"""

import contextlib
import functools
import itertools
import logging
import sys
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from hs2jax.data import loader, packing
from hs2jax.data.chat import Encoded
from hs2jax.data.conversations import join, share
from hs2jax.models import heads, lora, sharding
from hs2jax.models.attention import Layout
from hs2jax.models.config import Config
from hs2jax.models.decoder import Decoder, pick
from hs2jax.models.log_probability import log_probabilities
from hs2jax.models.sharding import to_host

log = logging.getLogger(__name__)


def forward(params, batch, config: Config, *, layout: str, dtype, remat: bool = False):
    """Compute outputs [B, R, K] in float32 of a batch as `data.packing.lay` makes it.

    params: {"decoder", "head"}, and what else `hidden_states` takes. Empty slots hold numbers that
    mean nothing.
    """
    hidden = hidden_states(params, batch, config, layout=layout, dtype=dtype, remat=remat)
    return heads.reward(params["head"], hidden, batch["end_positions"])


def token_log_probabilities(
    params, batch, config: Config, *, layout: str, dtype, remat: bool = False
):
    """The log-probability [B, T] in nats, float32, of each token after those that it can see, of a
    batch as `data.packing.lay` makes it; 0 where a token follows nothing, and in padding.

    params: as `hidden_states` takes them; the decoder's have "lm_head", or "embed" serves as that.
    """
    hidden = hidden_states(params, batch, config, layout=layout, dtype=dtype, remat=remat)
    decoder = params["decoder"]
    follows = batch["predictor_index"] >= 0
    found = log_probabilities(
        pick(hidden, jnp.where(follows, batch["predictor_index"], 0)),
        decoder.get("lm_head", decoder["embed"]),
        batch["tokens"],
        cap=config.final_logit_softcap,
    )
    return jnp.where(follows, found, 0.0)


def hidden_states(params, batch, config: Config, *, layout: str, dtype, remat: bool = False):
    """Hidden states [B, T, D] after the final norm, of a batch as `data.packing.lay` makes it.

    params: {"decoder"}, and while LoRA trains {"lora", "lora_scale"}. A decoder's frozen first
    layers may be a stack of their own, "frozen"; with `states` [B, T, D] in the batch, what they
    give, they are not computed.
    """
    tokens, position = batch["tokens"], batch["positions"]
    (B, T), R = tokens.shape, batch["end_positions"].shape[1]
    who_sees_whom = Layout(batch["segment_ids"], batch["branch_ids"], position)
    if layout == "padded":
        # Cut at the slots, each conversation is a row of its own and causality is mask enough.
        tokens, position = tokens.reshape(B * R, T // R), position.reshape(B * R, T // R)
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
    return hidden.reshape(B, T, -1)


def count_layers(stack) -> int:
    """Count the layers in a stack of parameters; 0 for None."""
    return 0 if stack is None else jax.tree.leaves(stack)[0].shape[0]


predict = jax.jit(forward, static_argnames=("config", "layout", "dtype", "remat"))


BATCH = 256  # Examples whose rows are filled together.
TOKENS = 8192  # That are computed at a time: attention needs memory for each pair in a row.


def choose_row_length(costs: Sequence[int]) -> int:
    """Of a few lengths, since each is compiled, the one whose rows hold these costs with the least
    padding: 128, 192 and their doublings, up to 1024 or to the first that holds the longest."""
    lengths = [128]
    while lengths[-1] < max(*costs, 1024):
        power = 1 << (lengths[-1].bit_length() - 1)
        lengths.append(lengths[-1] * 3 // 2 if lengths[-1] == power else 2 * power)
    batches = [costs[i : i + BATCH] for i in range(0, len(costs), BATCH)]

    def padded(length: int) -> int:
        return length * sum(len(packing.first_fit(batch, length)) for batch in batches)

    fitting = [length for length in lengths if length >= max(costs)]
    return min(fitting, key=lambda length: (padded(length), length))


def plan_evaluation(examples, *, row_length, layout, rows, mesh=None):
    """Plan batches of every tokenised group once, in order, for `run_batches`."""
    return loader.plan(
        examples,
        row_length=row_length,
        layout=layout,
        batch_size=BATCH,
        micro_batch_size=sharding.fit_rows(rows, mesh),
    )


def plan_rows(examples, *, layout, rows: int | None = None, mesh=None) -> loader.Batches:
    """`plan_evaluation` with the length of rows that suits the examples, at least one. rows: how
    many are computed at a time, None for what fits."""
    costs = [packing.cost(e.encoded, layout) for e in examples]
    if layout == "padded":
        costs = [max(costs) * max(len(e.encoded.responses) for e in examples)]
    length = choose_row_length(costs)
    return plan_evaluation(
        examples,
        row_length=length,
        layout=layout,
        rows=min(rows or max(1, TOKENS // length), len(examples)),
        mesh=mesh,
    )


def run_batches(run, batches: loader.Batches, outputs: int, mesh=None) -> list[np.ndarray]:
    """Run `run` (a micro-batch to outputs [B, R, K]) over all batches.

    Returns outputs [responses, K] of each example, on every process.
    """
    found = [np.zeros((len(e.encoded.responses), outputs), np.float32) for e in batches.examples]
    for i in range(len(batches)):
        arrays = batches[i]
        used = -(-len(batches.plan[i]) // batches.micro_batch_size)
        tables = []
        for m in range(used):
            micro = sharding.place_rows({name: x[m] for name, x in arrays.items()}, mesh)
            tables.append(to_host(run(micro)))
        table = np.concatenate(tables)
        for row, slot, example, response in batches.slots(i):
            found[example][response] = table[row, slot]
    return found


def response_log_probabilities(
    params, encoded: Sequence[Encoded], config: Config, *, layout: str, rows, mesh, dtype
) -> list[np.ndarray]:
    """The log-probability of each token of the one response of each, f32 [tokens].

    params: a language model's. Neighbours share what their prompts begin with, where that is less
    work. rows: as for `plan_rows`.
    """
    if not encoded:
        return []
    runs = share(encoded, config.hidden_size)
    batches = plan_rows(
        [join([encoded[i] for i in run]) for run in runs], layout=layout, rows=rows, mesh=mesh
    )
    lengths = [[len(encoded[i].responses[0]) for i in run] for run in runs]
    found: list[list] = [[None] * len(run) for run in runs]
    most = _most_wanted(batches, lengths)
    for i in range(len(batches)):
        arrays = batches[i]
        wanted, places = _wanted(batches, i, arrays["end_positions"], lengths, most)
        arrays["before"] = np.take_along_axis(arrays["predictor_index"], wanted, axis=-1)
        arrays["target"] = np.take_along_axis(arrays["tokens"], wanted, axis=-1)
        tables = []
        for m in range(-(-len(batches.plan[i]) // batches.micro_batch_size)):
            micro = sharding.place_rows({name: x[m] for name, x in arrays.items()}, mesh)
            tables.append(to_host(_of_wanted(params, micro, config, layout, dtype)))
        table = np.concatenate(tables)
        for example, response, row, start, stop in places:
            found[example][response] = table[row, start:stop]
    return list(itertools.chain(*found))


@functools.partial(jax.jit, static_argnames=("config", "layout", "dtype"))
def _of_wanted(params, batch, config: Config, layout: str, dtype):
    """Log-probabilities [B, P] of the tokens "target", after those at "before"."""
    hidden = hidden_states({"decoder": params}, batch, config, layout=layout, dtype=dtype)
    lm_head = params.get("lm_head", params["embed"])
    before = pick(hidden, batch["before"])
    return log_probabilities(before, lm_head, batch["target"], cap=config.final_logit_softcap)


def _most_wanted(batches: loader.Batches, lengths: Sequence[Sequence[int]]) -> int:
    """P: room for the responses' tokens of each row, a few sizes since each is compiled."""
    most = max(sum(sum(lengths[p.example]) for p in row) for rows in batches.plan for row in rows)
    step = -(-batches.shape.length // 4)
    return -(-most // step) * step


def _wanted(batches: loader.Batches, i: int, last: np.ndarray, lengths, most: int):
    """Find where in batch i the responses' tokens lie, and where the numbers for them will.

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


@contextlib.contextmanager
def progress_of(name: str, total: int | None = None, unit: str = "group"):
    """Show progress as a bar, or as lines of the log where there is no terminal.

    Yields a function `show(items, tokens=0)` of what was done since it was called last.
    """
    bar = tqdm(total=total, desc=name, unit=unit, disable=not sys.stderr.isatty())
    begun, done = time.time(), {"items": 0, "tokens": 0}

    def show(items: int, tokens: int = 0) -> None:
        done["items"] += items
        done["tokens"] += tokens
        speed = f"{done['tokens'] / (time.time() - begun):.0f} tokens/s"
        if done["tokens"]:
            bar.set_postfix_str(speed)
        bar.update(items)
        if bar.disable and tokens:
            log.info("%s: %d tokens, %s", name, done["tokens"], speed)
        elif bar.disable and not done["tokens"]:
            log.info("%s: %d %ss", name, done["items"], unit)

    with bar:
        yield show
