"""The plan of a training on a TPU slice: its own step, compiled for the slice without one.

    hs2jax plan --config=helpsteer2_regression:llama3_70b --topology=v5p:4x4x4 --workdir=runs/plan

Neither devices nor weights are needed, but the TPU compiler is: `pip install "hs2jax[tpu]"`. It
takes a minute or some. What is compiled is what `hs2jax train` runs, on a batch of groups of
`config.group_tokens` tokens; memory is the compiler's. Times are no predictions: they are what the
slice needs at the least, if products run at the chip's peak, or all links are busy.
"""

import logging
import math
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hs2jax import compiled, configs, locks, workdir
from hs2jax.data import loader
from hs2jax.data.chat import Encoded
from hs2jax.data.groups import Pair
from hs2jax.data.packing import Example
from hs2jax.language_model import LanguageModel
from hs2jax.models import heads, sharding
from hs2jax.models.hf import hub, weights
from hs2jax.reward_model import RewardModel
from hs2jax.training import optimizer, step, tasks, trainable
from hs2jax.workdir import row

log = logging.getLogger(__name__)
GIB = 2**30


class Chip(NamedTuple):
    """A chip's published numbers: bfloat16 TFLOP/s, memory in GiB, and GB/s of all its links."""

    teraflops: float
    memory: float
    links: float


# https://cloud.google.com/tpu/docs/system-architecture-tpu-vm; v6e leaves 31.25 of its 32 GiB.
CHIPS = {
    "v4": Chip(275, 32, 300),
    "v5e": Chip(197, 16, 200),
    "v5p": Chip(459, 95, 600),
    "v6e": Chip(918, 31.25, 448),
}


@locks.released
def plan(config, folder: Path | str) -> list[dict]:
    """Compile a training's step for a slice; returns the rows of results.jsonl, at once where the
    folder has them.

    Raises ValueError for a config that cannot be, and RuntimeError where there is no compiler.
    """
    folder, base = Path(folder), config.base
    configs.check(config)
    configs.check(base, "config.base", reading=False)
    if workdir.claim(folder, config):
        return workdir.read_rows(folder / "results.jsonl")
    chip = CHIPS[config.topology.split(":")[0]]
    mesh = sharding.make_mesh(**base.mesh, of=devices(config.topology))
    task = tasks.make(base, mesh, model_of(base))
    batches = batch_of(config, task, mesh)
    update, state, frozen = step_of(base, task, mesh)
    batch = placed(batches[0], mesh)
    log.info("compiling for %d chips of %s", mesh.size, config.topology.split(":")[0])
    with jax.set_mesh(mesh), tempfile.TemporaryDirectory() as dump:
        traced = update.trace(state, frozen, batch)
        program = traced.lower().compile({"xla_dump_to": dump})
        used = compiled.temporaries(Path(dump))
    arguments = program.memory_analysis().argument_size_in_bytes
    memory = {
        "memory": arguments + (used or program.memory_analysis().temp_size_in_bytes),
        "parameters": bytes_on_a_chip(state["params"]) + bytes_on_a_chip(frozen),
        "optimizer": bytes_on_a_chip(state["optimizer"]),
        "batch": bytes_on_a_chip(batch),
    }
    memory["temporaries"] = memory["memory"] - arguments
    moved = compiled.collectives(program.as_text(), mesh.size, batches.micro_batches)
    done = compiled.traced_flops(traced.jaxpr.jaxpr, batches.micro_batches)
    rows = [
        *memory_rows(memory, chip),
        *work_rows(config, task.model.config, batches, mesh, chip, done, moved),
        *collective_rows(moved),
        row("", "disk", "checkpoint_bytes", trainable.nbytes(state)),
        row("", "disk", "export_bytes", trainable.nbytes((state["params"], frozen))),
    ]
    result = {"devices": mesh.size, "mesh": dict(mesh.shape), "rows": len(batches.plan[0])}
    return workdir.finish(folder, config, result, rows)


# The step -----------------------------------------------------------------------------------------


def devices(topology: str) -> list:
    """The chips of a slice such as "v5p:4x4x4", which are not there. Raises RuntimeError without a
    TPU compiler, and ValueError for a slice that it does not know."""
    from jax.experimental import topologies

    # Else it asks the machine that it is on, and waits for its answer.
    alone = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
    os.environ.update({"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", **alone})
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except Exception as error:  # What libtpu raises for all that it cannot.
        said = " ".join(str(error).split())
        if "libtpu" in said or "not found" in said.lower():
            raise RuntimeError(
                f'the TPU compiler is not here: pip install "hs2jax[tpu]" ({said})'
            ) from error
        raise ValueError(
            f"config.topology is {topology!r}, which the compiler refuses: {said}"
        ) from error


def model_of(base):
    """The model of a training with shapes in place of its parameters: nothing is loaded."""
    config = hub.config_of(base.model.name)
    dtype = configs.dtype(base.model.dtype) or jnp.bfloat16
    if base.kind == "train_policy":
        return LanguageModel(config, weights.shapes(config), None, dtype=dtype)
    config, outputs = config.without_lm_head(), tuple(base.model.outputs)
    head = jax.eval_shape(
        lambda: heads.init_reward(
            jax.random.key(0), config.hidden_size, len(outputs), bias=base.model.bias
        )
    )
    params = {"decoder": weights.shapes(config), "head": head}
    return RewardModel(config, params, None, outputs, dtype=dtype)


def batch_of(config, task: tasks.Task, mesh) -> loader.Batches:
    """A batch of groups of so many tokens: half of them the prompt's, and two responses."""
    base, tokens, columns = config.base, config.group_tokens, len(task.columns)
    if tokens > base.data.row_length:
        raise ValueError(
            f"config.group_tokens is {tokens}; a row has {base.data.row_length} "
            "(config.base.data.row_length)"
        )
    ids = np.ones(tokens, np.int32)
    half, quarter = tokens // 2, tokens // 4
    learned = np.zeros(half, bool) if base.kind == "train_policy" else None
    encoded = Encoded(ids[:half], (ids[:quarter], ids[: tokens - half - quarter]), learned, (0, 0))
    rated = np.ones((2, columns), np.float32), np.ones((2, columns), bool)
    return loader.plan(
        [Example(encoded, *rated, [Pair(0, 1, 1.0)])] * base.batch_size,
        row_length=base.data.row_length,
        layout=base.data.layout,
        batch_size=base.batch_size,
        micro_batch_size=sharding.fit_rows(base.micro_batch_size, mesh),
    )


def step_of(base, task: tasks.Task, mesh):
    """The jitted step of a training, and the shapes of its state and frozen parameters in their
    places."""

    def begin(params):
        return trainable.split(trainable.begin(params, base), base)

    params, frozen = jax.eval_shape(begin, task.params)
    tx, _ = optimizer.make(base.optimizer, steps=1000)
    state = jax.eval_shape(lambda params: step.init_state(params, tx), params)
    places = sharding.shardings(state, mesh)
    update = step.make(
        task.model.config,
        task.objective,
        tx,
        forward=task.forward,
        layout=base.data.layout,
        dtype=task.model.dtype,
        remat=base.model.remat,
        shardings=places,
    )
    frozen = sharding.placed_shapes(frozen, sharding.shardings(frozen, mesh))
    return update, sharding.placed_shapes(state, places), frozen


def placed(batch: dict[str, np.ndarray], mesh):
    place = NamedSharding(mesh, P(None, sharding.ROWS))
    return {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for name, x in batch.items()
    }


def bytes_on_a_chip(tree: Any) -> int:
    """Count the bytes of arrays of which one chip has a part."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


# Rows ---------------------------------------------------------------------------------------------


def memory_rows(memory: dict[str, int], chip: Chip) -> list[dict]:
    """Rows of a chip's memory in bytes: what is used against what it has, and its parts."""
    left = chip.memory * GIB - memory["memory"]
    fits = {"better": "higher", "reference": 0.0, "headline": True}
    whole = {"headline": True}
    return [
        row("", "memory", "memory", memory["memory"], **whole),
        row("", "memory", "memory_left", left, **fits),
        *(row("", "memory", name, memory[name]) for name in memory if name != "memory"),
    ]


def work_rows(config, model, batches: loader.Batches, mesh, chip: Chip, done: int, moved):
    """Rows of what a step computes and the least time that it takes. The model's operations are
    those of the groups' tokens, three forward passes; the program's hold padding, what is computed
    again for the backward pass, and what masks hide."""
    base, tokens = config.base, config.group_tokens
    groups, rows = base.batch_size, len(batches.plan[0])
    computed = batches.micro_batches * batches.micro_batch_size
    useful = 3 * groups * model.forward_flops(tokens, tokens * (tokens + 1) // 2)
    at_peak = mesh.size * chip.teraflops * 1e12
    times = {
        "compute_seconds": done / at_peak,
        "link_seconds": sum(each.bytes * each.times for each in moved) / (chip.links * 1e9),
    }
    least = max(times.values())
    return [
        row("", "work", "padding", 1 - groups * tokens / (computed * base.data.row_length)),
        row("", "work", "rows", computed, n=rows),
        row("", "work", "model_flops", useful),
        row("", "work", "program_flops", done),
        *(row("", "work", name, value) for name, value in times.items()),
        row("", "work", "seconds_at_least", least, headline=True),
        row("", "work", "mfu_at_most", useful / at_peak / least, headline=True),
        row("", "work", "groups_per_second_at_most", groups / least, headline=True),
    ]


def collective_rows(moved: list[compiled.Collective]) -> list[dict]:
    """Rows of the collectives by kind and type: bytes that a chip sends in a step, how often, and
    the share of the bytes whose collective is not waited for where it begins."""
    by_kind: dict[str, list[compiled.Collective]] = {}
    for each in moved:
        by_kind.setdefault(f"{each.kind} {each.dtype}", []).append(each)
    rows = []
    for kind, some in sorted(by_kind.items()):
        total = sum(each.bytes * each.times for each in some)
        apart = sum(each.bytes * each.times for each in some if each.overlaps)
        times = sum(each.times for each in some)
        rows += [
            row("", f"collective/{kind}", "sent_bytes", total, n=times),
            row("", f"collective/{kind}", "overlapping", apart / total if total else None),
        ]
    return rows
