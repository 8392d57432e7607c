"""What frozen layers give, computed once and kept on disk.

Where only the last layers of a model train, those below give the same states in every epoch, and
in every run that freezes the same ones: they need to be computed only once.
"""

import dataclasses
import functools
import hashlib
import logging
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from hs2jax.data import loader, packing
from hs2jax.models import hub, sharding
from hs2jax.models.attention import Layout
from hs2jax.models.checksum import checksum
from hs2jax.models.decoder import Decoder
from hs2jax.prediction import count_layers, plan_evaluation, to_host

log = logging.getLogger(__name__)

VERSION = 1  # Goes up when the decoder computes anything otherwise than before.


def attach(batches: loader.Batches, params, config, *, dtype, mesh) -> loader.Batches:
    """The batches with the states of their examples below the trained layers.

    params: the decoder's, of which the stack "frozen" is computed. The states are in a file named
    by a hash of all that they depend on, in the folder of fetched models. Its size is the examples'
    tokens x width x the size of `dtype`; it may be deleted whenever no run uses it.
    Raises ValueError on several hosts, and where a group is too long for one row.
    """
    if jax.process_count() > 1:
        raise ValueError("config.trainable.cache works on one host only; set it to False")
    if batches.parts:
        raise ValueError(
            "config.trainable.cache does not work where a group lies in several rows; set it to "
            "False, or config.data.row_length to what the longest group takes"
        )
    lengths = [packing.cost(example.encoded, batches.layout) for example in batches.examples]
    name = _name(batches, params, config, dtype)
    path = hub.cache_folder() / "states" / f"{name}.npy"
    starts = np.cumsum([0, *lengths])
    if not path.exists():
        log.info("computing what the frozen layers give for %d tokens: %s", starts[-1], path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Another name until it is whole, and of this process: others may do the same.
        scratch = path.with_name(f".{path.stem}-{os.getpid()}.npy")
        _compute(scratch, starts, batches, params, config, dtype, mesh)
        scratch.replace(path)
    states = np.load(path, mmap_mode="r").view(jnp.dtype(dtype))
    return dataclasses.replace(batches, states=np.split(states, starts[1:-1]))


def _compute(path: Path, starts, batches: loader.Batches, params, config, dtype, mesh) -> None:
    """Writes the states [tokens of all examples, D]."""
    run = jax.jit(functools.partial(_below, config=config, dtype=dtype))
    plan = plan_evaluation(
        batches.examples,
        row_length=batches.shape.length,
        layout=batches.layout,
        rows=batches.micro_rows,
        mesh=mesh,
    )
    # NumPy's files do not know bfloat16: its bits are kept as what they are.
    kept_as = np.uint16 if jnp.dtype(dtype).itemsize == 2 else np.dtype(dtype)
    shape = (int(starts[-1]), config.width)
    out = np.lib.format.open_memmap(path, mode="w+", dtype=kept_as, shape=shape)
    for i in range(len(plan)):
        arrays = plan[i]
        for m in range(-(-len(plan.plan[i]) // plan.micro_rows)):
            micro = sharding.place_rows({name: x[m] for name, x in arrays.items()}, mesh)
            rows = plan.plan[i][m * plan.micro_rows :]
            with jax.set_mesh(mesh):
                tables = to_host(run(params, micro)).view(kept_as)
            for table, numbers in zip(tables, rows, strict=False):
                for e, start, stop in plan.spans(numbers):
                    out[starts[e] : starts[e + 1]] = table[start:stop]
    out.flush()


def _below(params, batch, *, config, dtype):
    """States [B, T, D] that enter the first trained layer; what is above is pruned by jit."""
    decoder = Decoder(config, dtype=dtype, frozen=count_layers(params["frozen"]))
    layout = Layout(batch["segment"], batch["branch"], batch["position"])
    with jax.default_matmul_precision("highest" if dtype == jnp.float32 else None):
        _, out = decoder.apply({"params": params}, batch["tokens"], batch["position"], layout)
    return out["frozen"]


def _name(batches: loader.Batches, params, config, dtype) -> str:
    """A hash of all that the states depend on, to their last bits."""
    ids = [ids for e in batches.examples for ids in (e.encoded.prompt, *e.encoded.responses)]
    # What was exported from the same model may have one more token, for padding, and all that a
    # config says of the vocabulary does not matter here.
    used = params["embed"][: 1 + max((int(each.max(initial=0)) for each in ids), default=0)]
    same = {"vocab_size": 0, "bos_id": None, "eos_ids": (), "pad_id": None}
    same |= {"tied": False, "language_head": False}
    device = jax.devices()[0]
    what = [
        VERSION,
        checksum({"embed": used, "frozen": params["frozen"]}),
        dataclasses.replace(config, **same),
        str(jnp.dtype(dtype)),
        (batches.layout, batches.shape.length, batches.micro_rows),
        (device.platform, device.device_kind, jax.device_count()),
    ]
    digest = hashlib.sha256(repr(what).encode())
    for example in batches.examples:
        digest.update(len(example.encoded.responses).to_bytes(4, "little"))
    for each in ids:
        digest.update(len(each).to_bytes(4, "little"))
        digest.update(each.tobytes())
    return digest.hexdigest()[:32]
