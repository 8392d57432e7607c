"""The plan of a run on a TPU slice: its own programs, compiled for the slice without one.

    hs2jax plan --config=helpsteer2_regression:llama3_70b --topology=v5p:4x4x4 --workdir=runs/plan

Neither devices nor weights are needed, but the TPU compiler is: `pip install "hs2jax[tpu]"`. It
takes some minutes. What is compiled is what the config's verb runs, on groups of
`config.group_tokens` tokens (see `planned`); memory is the compiler's, times are those of a
roofline (see `roofline`).
"""

import itertools
import logging
import math
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from hs2jax import compiled, config_rules, configs, locks, plan_rows, planned, roofline, workdir
from hs2jax.models import sharding
from hs2jax.models.hf import hub
from hs2jax.plan_rows import GIB, Program
from hs2jax.planned import Step

log = logging.getLogger(__name__)


@locks.released
def plan(config, folder: Path | str) -> list[dict]:
    """Compile a run's programs for a slice; returns the rows of results.jsonl, at once where the
    folder has them.

    Raises ValueError for a config that cannot be, and RuntimeError where there is no compiler.
    """
    folder, base = Path(folder), config.base
    configs.check(config)
    configs.check(base, "config.base", reading=False)
    if (done := workdir.claim(folder, config)) is not None:
        return done
    chips = devices(config.topology)
    tried = search(config, chips) if config.search else {(): compile_all(config, chips)}
    best = min(tried, key=lambda each: plan_rows.cost(config, tried[each]))
    found, others = changed(config, best), tried if config.search else {}
    rows = plan_rows.rows_of(found, tried[best]) + plan_rows.candidate_rows(found, others)
    said = plan_rows.words(found, tried[best], others)
    for each in said:
        log.info("%s: %s", each["label"], each["sentence"])
    result = {"model": {"name": f"{base.model.name} on {config.topology}"}, "said": said}
    return workdir.finish(folder, config, result, rows)


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
            no_compiler = 'the TPU compiler is not here: pip install "hs2jax[tpu]"'
            raise RuntimeError(f"{no_compiler} ({said})") from error
        refused = f"config.topology is {topology!r}, which the compiler refuses"
        raise ValueError(f"{refused}: {said}") from error


# Compiling ----------------------------------------------------------------------------------------


def compile_all(config, chips: Sequence) -> list[Program]:
    """Compile all programs of a plan's run for the chips of its slice."""
    mesh, found = sharding.make_mesh(**config.base.mesh, of=chips), []
    for one in planned.steps(config, mesh):
        log.info("compiling %s for %d chips of %s", one.name, mesh.size, config.topology)
        with tempfile.TemporaryDirectory() as dump:
            traced = trace(one, mesh)
            try:
                program = traced.lower().compile({"xla_dump_to": dump})
            except jax.errors.JaxRuntimeError as error:
                found.append(too_large(one, error))
            else:
                used = compiled.allocated(Path(dump))
                found.append(measured(one, traced, program, config.topology, used))
    return found


def trace(one: Step, mesh):
    """Trace a program as its verb runs it."""
    with jax.set_mesh(mesh):
        return one.run.trace(*one.given, **one.settings)


def too_large(one: Step, error: jax.errors.JaxRuntimeError) -> Program:
    """Read how much memory a program needs that does not fit; raises any other error again."""
    needs = re.search(r"Used ([\d.]+)G of [\d.]+G hbm", str(error))
    if needs is None:
        raise error
    held = {name: bytes_on_a_chip(tree) for name, tree in one.holds.items()}
    beside = sum(held.values()) - bytes_on_a_chip(one.given)
    return Program(one, {"memory": int(float(needs[1]) * GIB) + beside} | held, 0, [], None)


def measured(one: Step, traced, program, topology: str, used: int | None = None) -> Program:
    """Read what a compiled program does. used: bytes of a chip that it needs with its arguments and
    results, None for what it says itself, which may be too much."""
    held = {name: bytes_on_a_chip(tree) for name, tree in one.holds.items()}
    analysis, text, jaxpr = program.memory_analysis(), program.as_text(), traced.jaxpr.jaxpr
    made = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    own = used - analysis.argument_size_in_bytes if used else analysis.temp_size_in_bytes + made
    held["temporaries"] = own
    moved = compiled.collectives(text, math.prod(roofline.of(topology)[1]), one.trips)
    flops, kernels = (
        compiled.traced_flops(jaxpr, one.trips, kernels=only) for only in (False, True)
    )
    cycles, skipped = compiled.cycles(text, one.trips), round(kernels * (1 - one.visited))
    times = roofline.times(topology, flops - skipped, kernels - skipped, cycles, moved)
    return Program(one, {"memory": sum(held.values())} | held, flops, moved, times)


def bytes_on_a_chip(tree: Any) -> int:
    """Count the bytes of arrays of which one chip has a part."""
    arrays = [x for x in jax.tree.leaves(tree) if hasattr(x, "dtype")]
    places = [getattr(x, "sharding", None) for x in arrays]
    shapes = [p.shard_shape(x.shape) if p else x.shape for x, p in zip(arrays, places, strict=True)]
    return sum(math.prod(n) * x.dtype.itemsize for n, x in zip(shapes, arrays, strict=True))


# Searching ----------------------------------------------------------------------------------------

# What is kept of a layer for the backward pass, from least to most: `model.remat`, `model.keeps`.
KEPT = (True, ""), (True, "attention,up"), (True, "q,k,v,attention,o,gate,up"), (False, "")


def search(config, chips: Sequence) -> dict[tuple, list[Program]]:
    """Compile what may be fastest, by changes of the config; not what needs still more memory than
    what does not fit."""
    rows = planned.training(config, sharding.make_mesh(**config.base.mesh, of=chips)).rows[0]
    found: dict[tuple, list[Program]] = {}
    full: list[tuple[int, int, int]] = []
    for tensor, each, kept in candidates(config.base, len(chips), rows):
        if any(n == tensor and x <= each and y <= kept for n, x, y in full):
            continue
        remat, keeps = KEPT[kept]
        changes = (
            *(("mesh.tensor", tensor), ("micro_batch_size", len(chips) // tensor * each)),
            *(("model.remat", remat), ("model.keeps", keeps)),
        )
        found[changes] = programs = compile_all(changed(config, changes), chips)
        over, cost = plan_rows.cost(config, programs)
        full += [(tensor, each, kept)] if over else []
        log.info("%s: %.4g %s", plan_rows.as_flags(changes, ""), cost, "bytes" if over else "s")
    return found


def candidates(base, chips: int, rows: int) -> list[tuple[int, int, int]]:
    """List what is tried: the axis that divides heads, one to four rows at a time on each part of
    the rest, as far as a batch has them, and what is kept of a layer, by its index in KEPT."""
    heads = hub.config_of(base.model.name).num_kv_heads
    return [
        (tensor, each, kept)
        for tensor, each, kept in itertools.product((1, 2, 4, 8), (1, 2, 4), range(len(KEPT)))
        if heads % tensor == chips % tensor == 0
        and (each == 1 or chips // tensor * each < 2 * rows)
    ]


def changed(config, changes: tuple):
    """A plan's config with changes of its base; what is left of the chips shares a copy."""
    own = {f"base.{key}": value for key, value in changes}
    own |= {"base.mesh.data": 1, "base.mesh.fsdp": -1} if changes else {}
    return config_rules.changed(config, own)
