"""The kernel for TPUs equals the reference, meets the blocks that it must, and compiles."""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from hs2jax import plan, planned
from hs2jax.models import attention, sharding
from hs2jax.models.kernels import flash

LAYOUTS = 200 if os.environ.get("LONG") else 4  # Of each kind.
B, T = 2, 300  # Three blocks, the last of them with a rest of padding.
TOLERANCE = {"float32": 2e-6, "bfloat16": 1e-2}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Blocks as small as a TPU takes them, so that rows of few tokens have several."""

    def blocks_of(tokens, groups, windowed=False, cap=None, interpret=False):
        count = -(-tokens // 128)
        return flash.Blocks(128, 128, count, count, groups * 128, windowed, cap, interpret)

    monkeypatch.setattr(flash, "blocks_of", blocks_of)


def layout(rng, tokens):
    """Segments, branches and positions [T] of groups as `data.packing` lays them; now and then a
    row of padding, or with padding between two groups."""
    segment, branch, position = np.zeros((3, tokens), np.int32)
    at = number = 0
    while at < tokens and rng.random() < 0.9:
        number += 1
        lengths = rng.integers(1, max(2, tokens // rng.integers(2, 20)), rng.integers(1, 5))
        for r, length in enumerate(lengths):
            stop = min(at + length, tokens)
            segment[at:stop], branch[at:stop] = number, r
            before = lengths[0] if r else 0
            position[at:stop] = before + np.arange(stop - at)
            at = stop
        at += rng.integers(0, 40) * (rng.random() < 0.3)
    return segment, branch, position


def rows(rng, tokens=T):
    """(end, positions, and bool [B, T, S] of who sees whom by the definition)."""
    found = [np.stack(x) for x in zip(*(layout(rng, tokens) for _ in range(B)), strict=True)]
    segment, branch, position = found
    sees = (segment[:, :, None] == segment[:, None]) & (segment[:, None] > 0)
    sees &= (branch[:, None] == 0) | (branch[:, :, None] == branch[:, None])
    sees &= np.tri(tokens, dtype=bool)
    return np.asarray(attention.ends(segment, branch)), position, sees


@functools.partial(jax.jit, static_argnames=("run", "cap", "mesh"))
def value_and_gradients(run, arrays, g, end, positions, window, cap, mesh=None):
    """(attention, its gradients) in float32, 0 where a query sees nothing."""
    real = (end > 0)[:, :, None, None]
    out, back = jax.vjp(lambda *x: run(*x, end, positions, window, cap=cap), *arrays)
    out, *gradients = (x.astype(jnp.float32) for x in (out, *back(jnp.where(real, g, 0))))
    return [jnp.where(real, out, 0), *gradients], out


kernel = functools.partial(attention._kernel, interpret=True)
CASES = [
    # heads, key/value heads, head size, cap, window, dtype
    (4, 2, 80, 5.0, 30, "float32"),
    (3, 1, 64, None, None, "bfloat16"),
    pytest.param(2, 2, 128, None, None, "float32", marks=pytest.mark.long),
    pytest.param(4, 1, 256, 5.0, 30, "bfloat16", marks=pytest.mark.long),
]


@pytest.mark.parametrize(("N", "K", "H", "cap", "window", "dtype"), CASES)
def test_the_kernel_equals_the_reference(N, K, H, cap, window, dtype):
    rng = np.random.default_rng(H)
    for _ in range(LAYOUTS):
        end, positions, _ = rows(rng)
        q, k, v, g = (
            jnp.asarray(rng.normal(size=(B, T, heads, H)), dtype) for heads in (N, K, K, N)
        )
        # Scaled, as they are given: a softmax of one key only has gradients that cancel out.
        q = q * H**-0.5
        given = (q, k, v), g, end, positions, None if window is None else jnp.int32(window)
        ours, out = value_and_gradients(kernel, *given, cap)
        # The reference's own sums are in float32 too.
        wide = jax.tree.map(lambda x: x.astype(jnp.float32), given[:2])
        theirs, _ = value_and_gradients(attention._reference, *wide, *given[2:], cap)
        assert (np.asarray(out)[end == 0] == 0).all()
        for found, expected in zip(ours, theirs, strict=True):
            size = jnp.linalg.norm(expected) + 1e-30
            assert jnp.linalg.norm(found - expected) <= TOLERANCE[dtype] * size


@pytest.mark.parametrize("window", [None, 20])
def test_blocks_that_are_visited_hold_a_visible_pair(window):
    rng, visited, needed = np.random.default_rng(0), 0, 0
    for _ in range(50):
        tokens = 128 * 7 - rng.integers(0, 3)  # Of few lengths, since each is compiled.
        end, positions, sees = rows(rng, tokens)
        sizes = 256, 128, 4, 7, 256
        blocks = flash.Blocks(*sizes, window is not None, None, True)
        found = np.asarray(flash.visits(end, positions, np.int32([window or 0]), blocks))
        if window:
            sees &= positions[:, :, None] - positions[:, None] < window
        sees = np.pad(sees, ((0, 0), (0, 1024 - tokens), (0, 896 - tokens)))
        holds = sees.reshape(B, 4, 256, 7, 128).any(axis=(2, 4))
        assert found[holds].all()
        visited, needed = visited + found.sum(), needed + holds.sum()
        steps = np.asarray(flash._steps(found, blocks.corners(), int(blocks.pairs().sum())))
        for row in range(B):
            done = steps[:2, row, steps[2, row] == 1]
            assert sorted(map(tuple, done.T)) == sorted(zip(*np.nonzero(found[row]), strict=True))
            assert set(steps[0, row]) == set(range(4))  # Each result is written.
            assert (np.diff(steps[0, row]) >= 0).all()
    assert needed == visited if window is None else needed <= visited < 1.5 * needed


def test_devices_have_their_own_rows_and_heads():
    rng = np.random.default_rng(0)
    end, positions, _ = rows(rng)
    q, k, v, g = (rng.normal(size=(B, T, heads, 16)).astype("f") for heads in (4, 2, 2, 4))
    given = (q, k, v), g, end, positions, jnp.int32(50), None
    one, _ = value_and_gradients(kernel, *given)
    mesh = sharding.make_mesh(data=1, fsdp=2, tensor=2, of=jax.devices()[:4])
    with jax.set_mesh(mesh):
        many, _ = value_and_gradients(kernel, *given, mesh=mesh)
    for found, expected in zip(many, one, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_process_may_ask_for_an_implementation(monkeypatch):
    x = jnp.zeros((1, 128, 1, 64))
    monkeypatch.setenv("HS2JAX_ATTENTION", "xla")
    assert attention.chosen("tpu") == "xla"
    text = jax.jit(lambda x: attention.attend(x, x, x, scale=1.0)).trace(x).jaxpr
    assert "flash_attention" not in str(text)
    monkeypatch.setenv("HS2JAX_ATTENTION", "flash")
    with pytest.raises(ValueError, match="no attention 'flash'; there are pallas, xla"):
        attention.attend(x, x, x, scale=1.0)


def test_what_an_implementation_does_not_take_is_named():
    assert [attention.chosen(name) for name in ("tpu", "cpu", "gpu")] == ["pallas", "xla", "xla"]
    x = jnp.zeros((1, 128, 1, 288))
    with pytest.raises(ValueError, match="takes heads of up to 256, not of 288"):
        attention.attend(x, x, x, scale=1.0, implementation="pallas")
    x = x[..., :64].astype(jnp.float16)
    with pytest.raises(ValueError, match="takes float32 and bfloat16, not float16"):
        attention.attend(x, x, x, scale=1.0, implementation="pallas")
    with pytest.raises(ValueError, match="no attention 'cudnn'; there are pallas, xla"):
        attention.attend(x, x, x, scale=1.0, implementation="cudnn")


@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_every_generation_of_tpus_takes_the_kernel(topology, monkeypatch):
    pytest.importorskip("libtpu", reason='the TPU compiler: pip install "hs2jax[tpu]"')
    monkeypatch.undo()  # Blocks of the size that is used.
    place = SingleDeviceSharding(plan.devices(topology)[0])

    def shape(*sizes, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=place)

    def loss(q, k, v, end, positions):
        out = attention.attend(q, k, v, end, positions, scale=0.1, window=300, cap=30.0)
        return out.astype(jnp.float32).sum()

    heads = [shape(1, 600, heads, 128) for heads in (4, 2, 2)]
    masks = [shape(1, 600, dtype=jnp.int32)] * 2
    program = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*heads, *masks).compile()
    assert program.as_text().count('"tpu_custom_call"') == 3


def test_the_share_of_blocks_that_rows_visit_is_that_of_the_fullest():
    T = 256  # Two blocks.
    index = jnp.arange(T)
    whole, halves, empty = jnp.full(T, T), jnp.where(index < T // 2, T // 2, T), jnp.zeros(T)
    for rows, share in (([whole, empty], 1), ([halves, empty], 2 / 3), ([empty], 0)):
        end = jnp.stack(rows).astype(jnp.int32)
        assert planned.share_visited(end, groups=1) == pytest.approx(share)
