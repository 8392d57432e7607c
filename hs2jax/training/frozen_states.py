"""Compute what frozen layers give once, and keep it on disk.

Where only the last layers of a model train, those below give the same states in every epoch, and
in every run that freezes the same ones.
"""

import dataclasses
import functools
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from hs2jax import session
from hs2jax.data import loader, records
from hs2jax.identity import content_key
from hs2jax.inference import not_finite, plan_evaluation, run_decoder, run_rows
from hs2jax.models.checksum import checksum
from hs2jax.store import Store

log = logging.getLogger(__name__)

VERSION = 2  # Goes up when the decoder computes anything in another way.


def attach(
    batches: loader.Batches, sources: Sequence[str], params, config, *, dtype, mesh
) -> loader.Batches:
    """Give batches the states [tokens, D] of their examples below the trained layers.

    sources: of the examples. params: the decoder's, of which the stack "frozen" is computed. The
    states are in a store named by a hash of all that they depend on, in the folder of fetched
    models. Raises ValueError on several hosts, where a group is too long for one row, and for
    states that are not finite.
    """
    if jax.process_count() > 1:
        raise ValueError("config.trainable.cache works on one host only; set it to False")
    if batches.split:
        raise ValueError(
            "config.trainable.cache does not work where a group lies in several rows; set it to "
            "False, or config.data.row_length to what the longest group takes"
        )
    name = _name(batches, params, config, dtype)
    store = Store(lambda: session.cache_folder() / "states" / f"{name}.sqlite", cache=True)
    numbers = range(len(batches.examples))
    if not all(str(e) in store for e in numbers):
        log.info("computing what the frozen layers give: %s", _room(store, batches, config, dtype))
        if bad := _compute(store, batches, params, config, dtype, mesh):
            named = [(sources[e], batches.examples[e].encoded) for e in bad]
            what, where = "the states of frozen layers", {"dtype": dtype, "mesh": mesh}
            text = not_finite(what, {"decoder": params}, named, config, **where)
            raise ValueError(f"config.trainable.cache: {text}")
    return dataclasses.replace(batches, states=lambda e: store.get(str(e)))


def _room(store: Store, batches: loader.Batches, config, dtype) -> str:
    """Say where the states go, and how many bytes they take of how many."""
    layout = "separate" if batches.layout == "padded" else batches.layout
    tokens = int(records.table(batches.examples).costs(layout).sum())
    size = tokens * config.hidden_size * jnp.dtype(dtype).itemsize
    if not isinstance(store.path, Path):  # There is no such place, which the store has told.
        return f"{size / 1e6:,.1f} MB of memory"
    free = shutil.disk_usage(store.path.parent).free
    over = "; the rest is kept in memory" if size > free else ""
    return f"{store.path}, {size / 1e6:,.1f} MB; {free / 1e6:,.1f} MB are free{over}"


def _compute(store: Store, batches: loader.Batches, params, config, dtype, mesh) -> list[int]:
    """Compute and keep the states of all examples. Returns those that are not finite."""
    bad: list[int] = []

    @jax.jit
    def run(params, batch):
        """States [B, T, D] that enter the first trained layer; jit prunes what is above."""
        return run_decoder({"decoder": params}, batch, config, dtype=dtype)[1]["frozen"]

    plan = plan_evaluation(
        batches.examples,
        row_length=batches.shape.length,
        layout=batches.layout,
        rows=batches.micro_batch_size,
        mesh=mesh,
    )
    with jax.set_mesh(mesh):
        for i, table in enumerate(run_rows(functools.partial(run, params), plan, mesh)):
            found = {}
            for row, pieces in zip(table, plan.plan[i], strict=False):
                for e, start, stop in plan.spans(pieces):
                    found[str(e)] = row[start:stop]
            bad += map(int, store.add({e: x for e, x in found.items() if e not in store}))
    return bad


def _name(batches: loader.Batches, params, config, dtype) -> str:
    """Hash all that the states depend on, to their last bits."""
    ids = [ids for e in batches.examples for ids in (e.encoded.prompt, *e.encoded.responses)]
    # What was exported from the same model may have one more token, for padding, and all that a
    # config says of the vocabulary does not matter here.
    used = params["embed"][: 1 + max((int(each.max(initial=0)) for each in ids), default=0)]
    same = {"vocab_size": 0, "bos_id": None, "eos_ids": (), "pad_id": None}
    same |= {"tied": False, "language_head": False}
    device = jax.devices()[0]
    return content_key(
        VERSION,
        checksum({"embed": used, "frozen": params["frozen"]}),
        repr(dataclasses.replace(config, **same)),
        str(jnp.dtype(dtype)),
        [batches.layout, batches.shape.length, batches.micro_batch_size],
        [device.platform, device.device_kind, jax.device_count()],
        [len(example.encoded.responses) for example in batches.examples],
        *ids,
    )
