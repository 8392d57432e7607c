"""What a compiled program does is counted as it is: operations, collectives, cycles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from tiny_models import TINY, random_params

from hs2jax import compiled, roofline
from hs2jax.models import sharding
from hs2jax.models.decoder import Decoder, stationary


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


def test_operations_of_kernels_are_those_of_their_grid_on_each_device():
    def kernel(x, y, out):
        out[...] = jnp.dot(x[...], y[...])

    def product(x, y):
        like = jax.ShapeDtypeStruct((8, 8), jnp.float32)
        rows, all = pl.BlockSpec((4, 8), lambda i: (i, 0)), pl.BlockSpec((8, 8), lambda i: (0, 0))
        how = {"grid": (2,), "in_specs": (rows, all), "out_specs": rows, "interpret": True}
        return pl.pallas_call(kernel, like, **how)(x, y) @ y

    split = jax.shard_map(
        product,
        mesh=sharding.make_mesh(),
        in_specs=(P("fsdp"), P()),
        out_specs=P("fsdp"),
        check_vma=False,
    )
    traced = jax.jit(split).trace(jnp.ones((64, 8)), jnp.ones((8, 8))).jaxpr.jaxpr
    assert compiled.traced_flops(traced, kernels=True) == 2 * 64 * 8 * 8
    assert compiled.traced_flops(traced) == 2 * 2 * 64 * 8 * 8


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


@pytest.mark.parametrize("axes", ["BTD,DF->BTF", "BTF,FD->BTD"])
def test_tokens_go_to_weights_that_are_larger(axes):
    mesh, (rows, D, F) = sharding.make_mesh(fsdp=4, tensor=2), (8, 64, 512)
    shape, lies = (
        ((D, F), P("fsdp", "tensor")) if axes.endswith("F") else ((F, D), P("tensor", "fsdp"))
    )
    normal = np.random.default_rng(0).normal
    x, w = normal(size=(rows, 1, shape[0])), normal(size=shape)
    with jax.set_mesh(mesh):
        run = jax.jit(functools.partial(stationary, axes, lies))
        given = (
            jax.device_put(x.astype(np.float32), NamedSharding(mesh, P("fsdp"))),
            jax.device_put(w.astype(np.float32), NamedSharding(mesh, lies)),
        )
        program = run.lower(*given).compile()
        np.testing.assert_allclose(program(*given), x @ w, atol=1e-4)
    found = compiled.collectives(program.as_text(), mesh.size)
    assert sum(each.bytes for each in found) <= 2 * 4 * rows * (D + F)


# As the TPU compiler writes them.
TEXT = """
HloModule jit_step

%body.1 (param: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %all-gather-start.1 = (bf16[2,128]{1,0:T(8,128)}, bf16[16,128]{1,0:T(8,128)}) \
all-gather-start(%p), replica_groups=[2,8]<=[16], dimensions={0}
  %fusion.2 = bf16[8,128] fusion(%z), calls=%fused, backend_config={"estimated_cycles":"9"}
  %all-gather-done.1 = bf16[16,128]{1,0} all-gather-done(%all-gather-start.1)
  %call-start.3 = ((f32[16,128]), f32[2,128]) call-start(%x), to_apply=%scatter.2
  %call-done.3 = f32[2,128]{1,0} call-done(%call-start.3)
}

%condition.1 (param: (s32[], f32[8,128])) -> pred[] {
  %constant.9 = s32[]{:T(128)} constant(80)
  ROOT %lt.17 = pred[]{:T(512)} compare(%get-tuple-element.440, %constant.9), direction=LT
}

%scatter.2 (param_0: f32[16,128]) -> f32[2,128] {
  ROOT %reduce-scatter.1 = f32[2,128]{1,0} reduce-scatter(%param_0), \
replica_groups=mesh['axis_0'=2,'axis_1'=8] {'axis_1'}, to_apply=%add
}

ENTRY %main.5 (p0: f32[8,128]) -> f32[8,128] {
  %while.1 = (s32[]{:T(128)}, f32[8,128]{1,0}) while(%tuple.1), condition=%condition.1, body=%body.1
  %scatter.1 = f32[8] scatter(%z), backend_config={"estimated_cycles":"9223372036854775807"}
  ROOT %all-reduce.2 = f32[8,128]{1,0} all-reduce(%y), \
replica_groups={{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}}, to_apply=%add
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


def test_cycles_of_a_slice_are_counted_with_the_trips_of_loops():
    assert compiled.cycles(TEXT) == 80 * 9


@pytest.mark.parametrize(
    ("topology", "devices", "kind", "links"),
    [
        ("v5p:4x4x4", 64, "all-gather", 6),  # Rings of four.
        ("v5p:4x4x4", 4, "all-gather", 2),  # Of which this has one.
        ("v5p:2x2x4", 16, "reduce-scatter", 4),
        ("v6e:8x8", 64, "all-gather", 2),  # No rings.
        ("v6e:16x16", 256, "all-reduce", 4),
        ("v6e:16x16", 256, "collective-permute", 2),
    ],
)
def test_collectives_use_the_links_that_there_are(topology, devices, kind, links):
    chip = roofline.of(topology)[0]
    moved = [compiled.Collective(kind, "bf16", devices, chip.link * 1e9, 3, False)]
    times = roofline.times(topology, int(1e15), 0, int(2e9), moved)
    assert times.links == pytest.approx(3 / links)
    assert times.total == pytest.approx(2 / chip.clock + 3 / links)
    hidden = roofline.times(topology, int(1e15), 0, int(2e9), [moved[0]._replace(overlaps=True)])
    assert hidden.total == pytest.approx(max(2 / chip.clock, 3 / links))
    # Kernels multiply at half of the peak, and of another compiler all is at the peak.
    assert roofline.times(topology, 200, 100, 0, []).total == pytest.approx(1.5 * times.peak / 5e12)
