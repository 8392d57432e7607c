"""Plans: operations and collectives are counted as they are, and the step is the training's own."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from tiny_models import TINY, random_params, save

from hs2jax import compiled, configs, locks, plan, workdir
from hs2jax.models import sharding
from hs2jax.models.decoder import Decoder
from hs2jax.models.hf import hub, weights
from hs2jax.training import tasks


def config_of(folder, kind="train_reward_model", objective="bradley_terry", **changes):
    config, base = configs.defaults("plan"), configs.defaults(kind)
    base.objective.kind = objective
    base.model.update(name=str(folder), dtype="float32")
    base.data.row_length, base.batch_size, base.micro_batch_size = 64, 20, 8
    config.update({"topology": "v5e:2x2", "group_tokens": 20, "base": base} | changes)
    return config


def test_operations_are_counted_with_the_trips_of_loops():
    def program(x):
        def layer(x, w):
            return jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: x), None

        x, _ = jax.lax.scan(layer, x, jnp.ones((5, 4, 4)))
        bound = jnp.int32(x[0, 0])
        x = jax.lax.fori_loop(0, bound, lambda i, x: x @ jnp.ones((4, 4)), x)
        return jnp.einsum("ij,kj->ik", x, jnp.ones((7, 4)))

    traced = jax.jit(program).trace(jnp.ones((3, 4))).jaxpr.jaxpr
    assert compiled.traced_flops(traced, unknown=2) == 2 * 3 * (5 * 16 + 2 * 16 + 4 * 7)


def test_operations_of_a_forward_pass_are_those_of_the_formula():
    B, T = 3, 64  # Of so few queries attention masks what it computes of all keys.
    params = jax.eval_shape(functools.partial(random_params, TINY))
    tokens = jax.ShapeDtypeStruct((B, T), jnp.int32)
    run = jax.jit(lambda p, t: Decoder(TINY).apply({"params": p}, t, t)[0])
    traced = run.trace(params, tokens).jaxpr.jaxpr
    assert compiled.traced_flops(traced) == TINY.forward_flops(B * T, B * T * T)


def test_collectives_of_a_loop_are_counted_with_its_trips():
    mesh = sharding.make_mesh()
    place = functools.partial(NamedSharding, mesh)

    def program(x, stack):
        def layer(x, w):
            w = jax.lax.with_sharding_constraint(w, place(P()))
            return jnp.tanh(x @ w), None

        return jax.lax.scan(layer, x, stack)[0]

    x = jax.ShapeDtypeStruct((8, 64), jnp.float32, sharding=place(P("fsdp")))
    stack = jax.ShapeDtypeStruct((6, 64, 64), jnp.float32, sharding=place(P(None, "fsdp")))
    text = jax.jit(program).lower(x, stack).compile().as_text()
    (found,) = compiled.collectives(text, mesh.size)
    assert (found.kind, found.dtype, found.devices) == ("all-gather", "f32", 8)
    assert found.bytes * found.times == 6 * 64 * 64 * 4 * 7 / 8


# As the TPU compiler writes them.
TEXT = """
HloModule jit_step

%body.1 (param: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %all-gather-start.1 = (bf16[2,128]{1,0:T(8,128)}, bf16[16,128]{1,0:T(8,128)}) \
all-gather-start(%p), replica_groups=[2,8]<=[16], dimensions={0}
  %all-gather-done.1 = bf16[16,128]{1,0} all-gather-done(%all-gather-start.1)
  %fusion.3 = f32[2,128]{1,0} fusion(%x), kind=kCustom, calls=%scatter.2
}

%condition.1 (param: (s32[], f32[8,128])) -> pred[] {
  %constant.9 = s32[]{:T(128)} constant(80)
  ROOT %lt.17 = pred[]{:T(512)} compare(%get-tuple-element.440, %constant.9), direction=LT
}

%scatter.2 (param_0: f32[16,128]) -> f32[2,128] {
  ROOT %reduce-scatter.1 = f32[2,128]{1,0} reduce-scatter(%param_0), \
replica_groups={{0,1,2,3,4,5,6,7},{8,9,10,11,12,13,14,15}}, to_apply=%add
}

ENTRY %main.5 (p0: f32[8,128]) -> f32[8,128] {
  %while.1 = (s32[]{:T(128)}, f32[8,128]{1,0}) while(%tuple.1), condition=%condition.1, body=%body.1
  ROOT %all-reduce.2 = f32[8,128]{1,0} all-reduce(%y), replica_groups=[1,16]<=[16], to_apply=%add
}
"""


def test_collectives_of_a_slice_are_read_from_its_program():
    found = {each.kind: each for each in compiled.collectives(TEXT, 16)}
    gather, scatter, reduce = (
        found[name] for name in ("all-gather", "reduce-scatter", "all-reduce")
    )
    assert gather == ("all-gather", "bf16", 8, 16 * 128 * 2 * 7 / 8, 80, True)
    assert scatter == ("reduce-scatter", "f32", 8, 16 * 128 * 4 * 7 / 8, 80, False)
    assert reduce == ("all-reduce", "f32", 16, 2 * 8 * 128 * 4 * 15 / 16, 1, False)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("meta-llama/Meta-Llama-3-70B", 70_553_706_496), ("models/nemotron-4-340b-base", 341e9)],
)
def test_published_models_have_their_shapes_without_a_network(name, parameters):
    shapes = jax.tree.leaves(weights.shapes(hub.config_of(name)))
    assert sum(math.prod(x.shape) for x in shapes) == pytest.approx(parameters, rel=1e-3)


@pytest.mark.parametrize(
    ("kind", "objective"), [("train_reward_model", "regression"), ("train_policy", "dpo")]
)
def test_the_step_that_is_planned_runs(tmp_path, kind, objective):
    params = save(tmp_path / "model")
    config = config_of(tmp_path / "model", kind, objective)
    mesh = sharding.make_mesh()
    model = plan.model_of(config.base)
    task = tasks.make(config.base, mesh, model)
    batches = plan.batch_of(config, task, mesh)
    update, state, frozen = plan.step_of(config.base, task, mesh)
    batch = sharding.place_rows(batches[0], mesh, axis=1)
    with jax.set_mesh(mesh):
        program = update.lower(state, frozen, batch).compile()
        size = plan.bytes_on_a_chip((state, frozen, plan.placed(batches[0], mesh)))
        assert program.memory_analysis().argument_size_in_bytes == pytest.approx(size, rel=0.01)
        real = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype, device=x.sharding), state)
        real["params"]["decoder"] = jax.tree.map(
            lambda x, like: jax.device_put(x, like.sharding),
            {name: params[name] for name in state["params"]["decoder"]},
            state["params"]["decoder"],
        )
        _, metrics = program(real, frozen, batch)
    assert np.isfinite(metrics["loss"])
    assert metrics["tokens"] == 20 * 20


def test_plans_that_cannot_be_are_refused(tmp_path):
    save(tmp_path / "model")
    config = config_of(tmp_path / "model", topology="v7:2x2")
    with pytest.raises(ValueError, match=r"config\.topology is .v7:2x2.; expected a TPU slice"):
        plan.plan(config, tmp_path / "run")
    config = config_of(tmp_path / "model", group_tokens=65)
    task = tasks.make(config.base, None, plan.model_of(config.base))
    with pytest.raises(ValueError, match=r"config\.group_tokens is 65; a row has 64"):
        plan.batch_of(config, task, None)


def test_a_slice_is_planned_without_one(tmp_path):
    pytest.importorskip("libtpu", reason='the TPU compiler: pip install "hs2jax[tpu]"')
    save(tmp_path / "model")
    rows = plan.plan(config_of(tmp_path / "model"), tmp_path / "run")
    found = {(row["part"], row["metric"]): row["value"] for row in rows}
    assert 0 < found["memory", "memory"] < found["memory", "memory_left"] < 16 * 2**30
    assert 0 < found["work", "mfu_at_most"] < 1
    assert any(part.startswith("collective/all-gather") for part, _ in found)
    assert plan.plan(config_of(tmp_path / "model"), tmp_path / "run") == rows


def test_a_folder_holds_one_plan(tmp_path):
    save(tmp_path / "model")
    config = config_of(tmp_path / "model")
    assert workdir.claim(tmp_path / "run", config) is None
    locks.release(tmp_path / "run")
    assert workdir.finish(tmp_path / "run", config, {}, []) == []
    assert plan.plan(config, tmp_path / "run") == []  # Nothing is compiled again.
    config.base.batch_size = 40
    with pytest.raises(ValueError, match=r"different: base\.batch_size: 20 -> 40"):
        plan.plan(config, tmp_path / "run")
    config.base.batch_size = 20
    save(tmp_path / "model", dataclasses.replace(TINY, num_layers=2))
    with pytest.raises(ValueError, match=r"different: base.model.name \(config\)"):
        plan.plan(config, tmp_path / "run")
