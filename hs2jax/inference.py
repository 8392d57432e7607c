"""Inference: forward passes of reward models and policies, batches of them, and progress.

Axis letters: B rows, T tokens of a row, R response slots, K outputs, D width,
P tokens of a row whose probability is wanted.
"""

import contextlib
import functools
import itertools
import logging
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from hs2jax import session, stopping
from hs2jax.data import loader, packing, records
from hs2jax.data.chat import Encoded
from hs2jax.data.conversations import join, share, unrated
from hs2jax.data.record import Record
from hs2jax.models import heads, lora, sharding
from hs2jax.models.attention import ends
from hs2jax.models.config import Config
from hs2jax.models.decoder import Decoder, Probe, exact_products, pick
from hs2jax.models.log_probability import log_probabilities
from hs2jax.models.sampler import bucket

log = logging.getLogger(__name__)


def forward(params, batch, config: Config, *, layout: str, dtype, remat: bool = False):
    """Compute outputs [B, R, K] in float32 of a batch as `data.packing.lay` makes it.

    params: {"decoder", "head"}, and what else `run_decoder` takes. Empty slots hold numbers that
    mean nothing.
    """
    hidden, _ = run_decoder(params, batch, config, layout=layout, dtype=dtype, remat=remat)
    return heads.reward(params["head"], hidden, batch["end_positions"])


def token_log_probabilities(
    params,
    batch,
    config: Config,
    *,
    layout: str,
    dtype,
    remat: bool = False,
    temperature: float = 1.0,
):
    """The log-probability [B, T] in nats, float32, of each token after those that it can see, of a
    batch as `data.packing.lay` makes it; 0 where a token follows nothing, and in padding. Where
    the batch says which tokens are "learned", these alone have logits, and the others 0.

    params: as `run_decoder` takes them; the decoder's have "lm_head", or "embed" serves as that.
    temperature: that the logits are divided by.
    """
    hidden, _ = run_decoder(params, batch, config, layout=layout, dtype=dtype, remat=remat)
    decoder, before, targets = params["decoder"], batch["predictor_index"], batch["tokens"]
    if "learned" in batch:
        index = jnp.minimum(batch["learned"], targets.shape[1] - 1)
        before, targets = (jnp.take_along_axis(x, index, axis=1) for x in (before, targets))
    with jax.named_scope("head"):
        found = log_probabilities(
            pick(hidden, jnp.maximum(before, 0)),
            decoder.get("lm_head", decoder["embed"]),
            targets,
            cap=config.final_logit_softcap,
            temperature=temperature,
        )
    found = jnp.where(before >= 0, found, 0.0)
    if "learned" in batch:
        nothing = jnp.zeros(batch["tokens"].shape)
        put = jax.vmap(lambda row, at, x: row.at[at].set(x, mode="drop"))
        found = put(nothing, batch["learned"], found)
    return found


def run_decoder(
    params, batch, config, *, layout="shared", dtype, remat=False, probe: Probe | None = None
):
    """Run a batch as `data.packing.lay` makes it: hidden states [B, T, D] after the final norm, and
    what else `Decoder` returns.

    params: {"decoder"}, and while LoRA trains {"lora", "lora_scale"}. A decoder's frozen first
    layers may be a stack of their own, "frozen"; with `states` [B, T, D] in the batch, what they
    give, they are not computed.
    """
    tokens, position = batch["tokens"], batch["positions"]
    (B, T), R = tokens.shape, batch["end_positions"].shape[1]
    end = ends(batch["segment_ids"], batch["branch_ids"])
    if layout == "padded":
        # Cut at the slots, each conversation is a row of its own and causality is mask enough.
        tokens, position = tokens.reshape(B * R, T // R), position.reshape(B * R, T // R)
        end = None
    frozen = jax.tree.leaves(params["decoder"].get("frozen"))
    count = frozen[0].shape[0] if frozen else 0
    decoder = Decoder(config, dtype=dtype, remat=remat, frozen=count)
    variables = {"params": params["decoder"]}
    if "lora" in params:
        variables["lora"] = lora.scaled(params["lora"], params["lora_scale"])
    with exact_products(dtype):
        hidden, out = decoder.apply(
            variables, tokens, position, end, probe, entered=batch.get("states")
        )
    return hidden.reshape(B, T, -1), out


predict = jax.jit(forward, static_argnames=("config", "layout", "dtype", "remat"))
predict_tokens = jax.jit(
    token_log_probabilities,
    static_argnames=("config", "layout", "dtype", "remat", "temperature"),
)


BATCH = 256  # Examples whose rows are filled together.
TOKENS = 8192  # Of each device at a time: attention needs memory for each pair in a row.


def choose_row_length(costs: Sequence[int]) -> int:
    """Of a few lengths, since each is compiled, the one whose rows hold these costs with the least
    padding: 128, 192 and their doublings, up to 1024 or to the first that holds the longest."""
    lengths = [128]
    while lengths[-1] < max(*costs, 1024):
        lengths.append(bucket(lengths[-1] + 1))

    def padded(length: int) -> int:
        return length * sum(map(len, packed(costs, length)))

    fitting = [length for length in lengths if length >= max(costs)]
    return min(fitting, key=lambda length: (padded(length), length))


def packed(costs: Sequence[int], length: int) -> list[list[list[int]]]:
    """Pack examples of these costs into rows, a batch at a time: the rows of each batch."""
    batches = (costs[i : i + BATCH] for i in range(0, len(costs), BATCH))
    return [packing.first_fit(batch, length) for batch in batches]


def plan_evaluation(
    examples, *, row_length, layout, rows, mesh=None, here=None, record: Record | None = None
):
    """Plan batches of every tokenised group once, in order, for `run_batches`. here: see
    `loader.Batches`. record: counts tokens and padding."""
    return loader.plan(
        examples,
        row_length=row_length,
        layout=layout,
        batch_size=BATCH,
        micro_batch_size=sharding.fit_rows(rows, mesh),
        here=here,
        record=record,
    )


def plan_rows(examples, *, layout, rows: int | None = None, mesh=None) -> loader.Batches:
    """`plan_evaluation` with the length of rows that suits the examples, at least one. rows: how
    many are computed at a time at most, None for what fits; no more than are filled."""
    table = records.table(examples)
    costs = table.costs(layout).tolist()
    if layout == "padded":
        costs = [max(costs) * int(table.examples["responses"].max())]
    length = choose_row_length(costs)
    rows = rows or max(1, TOKENS * sharding.row_devices(mesh) // length)
    filled = len(examples) if layout == "padded" else max(map(len, packed(costs, length)))
    rows = -(-filled // -(-filled // rows))  # Parts of like size, so that few rows are padding.
    return plan_evaluation(examples, row_length=length, layout=layout, rows=rows, mesh=mesh)


def run_rows(run, batches: loader.Batches, mesh=None):
    """Yield, for each batch, what `run` makes of its micro-batches, [rows, ...], on every
    process. Raises Stopped between two of them, where a signal has asked for it."""
    for i in range(len(batches)):
        stopping.check()
        arrays, tables = batches[i], []
        for m in range(-(-int(batches.plan.rows[i]) // batches.micro_batch_size)):
            micro = sharding.place_rows({name: x[m] for name, x in arrays.items()}, mesh)
            with sharding.within(mesh):
                tables.append(sharding.to_host(run(micro)))
        yield np.concatenate(tables)


def run_batches(run, batches: loader.Batches, outputs: int, mesh=None) -> list[np.ndarray]:
    """Run `run` (a micro-batch to outputs [B, R, K]) over all batches.

    Returns outputs [responses, K] of each example, on every process.
    """
    counts = records.table(batches.examples).examples["responses"].tolist()
    found = [np.zeros((count, outputs), np.float32) for count in counts]
    for i, table in enumerate(run_rows(run, batches, mesh)):
        for row, slot, example, response in batches.slots(i):
            found[example][response] = table[row, slot]
    return found


def response_log_probabilities(
    params,
    encoded: Sequence[Encoded],
    config: Config,
    *,
    layout: str,
    rows,
    mesh,
    dtype,
    temperature: float = 1.0,
) -> list[np.ndarray]:
    """The log-probability of each token of the one response of each, f32 [tokens].

    params: a language model's. encoded: as for a policy. Neighbours share what their prompts begin
    with, where that is less work. rows: as for `plan_rows`.
    """
    if not encoded:
        return []
    runs = share(encoded, config.hidden_size)
    joined = [join([encoded[i] for i in run]) for run in runs]
    batches = plan_rows(joined, layout=layout, rows=rows, mesh=mesh)
    settings = {"config": config, "layout": layout, "dtype": dtype, "temperature": temperature}
    run = functools.partial(predict_tokens, {"decoder": params}, **settings)
    found = [[None] * len(run) for run in runs]
    for i, table in enumerate(run_rows(run, batches, mesh)):
        mask = batches[i]["loss_mask"].reshape(-1, table.shape[1])
        rest = table[mask[: len(table)]]  # Row by row, and in each slot by slot.
        for *_, example, response in batches.slots(i):
            length = len(encoded[runs[example][response]].responses[0])
            found[example][response], rest = np.split(rest, [length])
    return list(itertools.chain(*found))


# Numbers that are not finite ----------------------------------------------------------------------


def not_finite(
    what: str, params, named: Sequence[tuple[str, Encoded]], config: Config, *, dtype, mesh=None
) -> str:
    """Say that what was computed of conversations, one at least, each by its name, is not finite,
    and where that began in the first: the layer by the number that tensors have, and the token."""
    (first, encoded), *others = named
    found = places_not_finite(params, [encoded], config, dtype=dtype, mesh=mesh)
    text = f"{first}: {what} are not finite numbers, first {found.get(0, 'behind the final norm')}"
    if others:
        more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        text += f"; nor are those of {', '.join(name for name, _ in others[:NAMED])}{more}"
    return f"{text}. Are its parameters whole, and does its dtype suffice?"


NAMED = 5  # Conversations, at most, that a message names beside the first.


def places_not_finite(
    params, every: Sequence[Encoded], config: Config, *, dtype, mesh=None
) -> dict[int, str]:
    """Find where each conversation's states are first not finite, by number, of those that are not:
    the embedding, a layer or the final norm, and the first such token. params: as for
    `run_decoder`. It takes a pass in which all layers' states are looked at, a row at a time."""
    examples = [unrated(one.prompt, one.responses) for one in every]
    batches, found = plan_rows(examples, layout="shared", rows=1, mesh=mesh), {}
    run = functools.partial(_finite_states, params, config=config, dtype=dtype)
    for i, table in enumerate(run_rows(run, batches, mesh)):
        for row, pieces in zip(table, batches.plan[i], strict=False):
            for example, start, stop in batches.spans(pieces):
                bad = ~row[:, start:stop]
                if bad.any():
                    stage = int(bad.any(axis=1).argmax())
                    place = {0: "the embedding", len(bad) - 1: "the final norm"}
                    where = place.get(stage, f"layer {stage - 1}")
                    found[example] = f"in {where} at token {bad[stage].argmax()} of {stop - start}"
    return found


@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def _finite_states(params, batch, *, config, dtype):
    """Tell which states are finite, bool [B, L + 2, T]: of the embedding, each layer and the final
    norm."""
    at = jnp.broadcast_to(jnp.arange(batch["tokens"].shape[1]), batch["tokens"].shape)
    hidden, out = run_decoder(params, batch, config, dtype=dtype, probe=Probe(at))
    states = jnp.concatenate([out["probe"], hidden[None]])
    return jnp.isfinite(states).all(axis=-1).swapaxes(0, 1)


# Progress -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def progress_of(name: str, total: int | None = None, unit: str = "group"):
    """Show progress as a bar, or as lines of the log where there is no terminal.

    Yields a function `show(items, tokens=0)` of what was done since it was called last.
    """
    bar = tqdm(total=total, desc=name, unit=unit, disable=not session.shows_bars())
    begun, done = time.monotonic(), {"items": 0, "tokens": 0}

    def show(items: int, tokens: int = 0) -> None:
        done["items"] += items
        done["tokens"] += tokens
        seconds = max(time.monotonic() - begun, 1e-9)
        speed = f"{done['tokens'] / seconds:.0f} tokens/s" if done["tokens"] else ""
        bar.set_postfix_str(speed)
        bar.update(items)
        if bar.disable:
            log.info("%s: %d %ss %s", name, done["items"], unit, speed)

    with bar:
        yield show
