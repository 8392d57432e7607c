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
from hs2jax.models.decoder import Decoder
from hs2jax.reward_model import count_layers, plan_evaluation, to_host
from hs2jax.training import trainable

log = logging.getLogger(__name__)


def attach(batches: loader.Batches, params, config, *, dtype, mesh) -> loader.Batches:
    """The batches with the states of their examples below the trained layers.

    params: the decoder's, of which the stack "frozen" is computed. The states are in a file named
    by a hash of all that they depend on, in the folder of fetched models. Its size is the examples'
    tokens x width x the size of `dtype`; it may be deleted whenever no run uses it.
    Raises ValueError on several hosts.
    """
    if jax.process_count() > 1:
        raise ValueError("config.trainable.cache works on one host only; set it to False")
    lengths = [packing.cost(example.encoded, batches.layout) for example in batches.examples]
    name = _name(batches, params, config, dtype)
    path = hub.cache_folder() / "states" / f"{name}.npy"
    if not path.exists():
        log.info("computing what the frozen layers give for %d tokens: %s", sum(lengths), path)
        _write(path, _compute(batches, params, config, dtype, mesh))
    states = np.load(path, mmap_mode="r").view(jnp.dtype(dtype))
    ends = np.cumsum(lengths)
    return dataclasses.replace(batches, states=np.split(states, ends[:-1]))


def _compute(batches: loader.Batches, params, config, dtype, mesh) -> np.ndarray:
    """States [tokens of all examples, D]."""
    run = jax.jit(functools.partial(_below, config=config, dtype=dtype))
    plan = plan_evaluation(
        loader.Prepared([], batches.examples),
        row_length=batches.shape.length,
        layout=batches.layout,
        rows=batches.micro_rows,
        mesh=mesh,
    )
    found = []
    for i in range(len(plan)):
        arrays = plan[i]
        for m in range(-(-len(plan.plan[i]) // plan.micro_rows)):
            micro = sharding.place_rows({name: x[m] for name, x in arrays.items()}, mesh)
            rows = plan.plan[i][m * plan.micro_rows :]
            with jax.set_mesh(mesh):
                tables = to_host(run(params, micro))
            for states, numbers in zip(tables, rows, strict=False):
                found += [(e, states[start:stop]) for e, start, stop in plan.spans(numbers)]
    return np.concatenate([states for _, states in sorted(found, key=lambda pair: pair[0])])


def _below(params, batch, *, config, dtype):
    """States [B, T, D] that enter the first trained layer; what is above is pruned by jit."""
    decoder = Decoder(config, dtype=dtype, frozen=count_layers(params["frozen"]))
    layout = Layout(batch["segment"], batch["branch"], batch["position"])
    with jax.default_matmul_precision("highest" if dtype == jnp.float32 else None):
        _, out = decoder.apply({"params": params}, batch["tokens"], batch["position"], layout)
    return out["frozen"]


def _name(batches: loader.Batches, params, config, dtype) -> str:
    """A hash of the weights, the settings and the tokens."""
    below = {name: params[name] for name in ("embed", "frozen")}
    what = [trainable.checksum(below), repr(config), str(jnp.dtype(dtype)), batches.layout]
    digest = hashlib.sha256("|".join(what).encode())
    for example in batches.examples:
        for ids in (example.encoded.prompt, *example.encoded.responses):
            digest.update(len(ids).to_bytes(4, "little"))
            digest.update(ids.tobytes())
    return digest.hexdigest()[:32]


def _write(path: Path, states: np.ndarray) -> None:
    """Whole or not at all, whoever else does the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.stem}-{os.getpid()}.npy")
    # NumPy's files do not know bfloat16: its bits are kept as what they are.
    np.save(scratch, states.view(np.uint16) if states.itemsize == 2 else states)
    scratch.replace(path)
