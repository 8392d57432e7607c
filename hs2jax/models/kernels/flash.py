"""Flash attention for TPUs in Pallas, forward and backward, over `end`: a query at index q sees a
key at index k where `k <= q < end[k]`, and with a window those fewer than so many positions back.

Blocks of queries meet blocks of keys in a list of steps that is made from `end`: a pair of blocks
of which no query sees a key is in no list, and costs nothing. A block of queries holds those of all
heads that share a key/value head. Scores lie transposed, keys by queries: then all that belongs to
a query, its maximum and its sum, is a row, and no product of the backward pass of keys and values
needs a transposed copy.

FlashAttention-2 (arXiv 2307.08691); `end` is FlashMask's column form (arXiv 2410.01359).

Axis letters: B rows, T tokens, N query heads, K key/value heads, G = N / K, H head size; I blocks
of queries, J blocks of keys, M = G times the queries of a block, S keys, Z steps.
"""

import functools
from typing import NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.interpreters import mlir

# Finite, so that the exponential of -inf less it is 0: a query that sees nothing gets zeros.
LOWEST = -1e30
LANES = 128


class Blocks(NamedTuple):
    """All that is known when a kernel is compiled. queries, keys: tokens of a block; count_queries,
    count_keys: how many blocks there are; width: M."""

    queries: int
    keys: int
    count_queries: int
    count_keys: int
    width: int
    windowed: bool
    cap: float | None
    interpret: bool

    def pairs(self) -> np.ndarray:
        """Bool [I, J]: the pairs of blocks that causality alone leaves."""
        i, j = np.ogrid[: self.count_queries, : self.count_keys]
        return j * self.keys < (i + 1) * self.queries

    def corners(self) -> np.ndarray:
        """Bool [I, J]: of each block the pair next to the diagonal, which stands in a list of steps
        in any case, so that each block of results is begun and written."""
        corners, pairs = np.zeros((self.count_queries, self.count_keys), bool), self.pairs()
        corners[np.arange(self.count_queries), pairs.sum(axis=1) - 1] = True
        corners[pairs.argmax(axis=0), np.arange(self.count_keys)] = True
        return corners


def blocks_of(tokens: int, groups: int, windowed=False, cap=None, interpret=False) -> Blocks:
    """Choose blocks for rows of so many tokens and G: scores of a pair take 2 MiB at most, while
    a block of queries has a few lanes only to be filled up."""

    def fit(most: int) -> tuple[int, int]:
        count = -(-tokens // most)
        return -(-tokens // (count * LANES)) * LANES, count

    queries, of_queries = fit(max(1024 // groups // LANES, 1) * LANES)
    keys, of_keys = fit(min(max(2**19 // (groups * queries) // LANES, 1), 4) * LANES)
    sizes = queries, keys, of_queries, of_keys, groups * queries
    return Blocks(*sizes, windowed, cap, interpret)


def visits(end, positions, window, blocks: Blocks):
    """Bool [B, I, J]: the pairs of blocks that are visited, those of which some query may see some
    key. Without a window it does see it; by positions a pair may be near and hidden by the branch.

    end, positions int32 [B, T]; window int32 [1].
    """
    end, positions = (_pad(x, 1, blocks.count_keys * blocks.keys) for x in (end, positions))
    first = jnp.arange(blocks.count_queries)[:, None] * blocks.queries
    index = jnp.arange(end.shape[1])
    # A key is seen by the queries from its own index to its end.
    seen = (index < first + blocks.queries) & (end[:, None] > first) & (end > index)[:, None]
    if blocks.windowed:
        total = blocks.count_queries * blocks.queries
        nearest = jnp.where(end > 0, positions, jnp.iinfo(jnp.int32).max)
        nearest = _pad(nearest[:, :total], 1, total, jnp.iinfo(jnp.int32).max)
        nearest = nearest.reshape(*nearest.shape[:1], blocks.count_queries, -1).min(axis=2)
        seen &= nearest[:, :, None] < positions[:, None] + window
    return seen.reshape(*seen.shape[:2], blocks.count_keys, blocks.keys).any(axis=3)


def _steps(visited, corners, most: int):
    """int32 [3, B, Z]: for each step the block whose result is made, the block that is met, and
    whether they are to be computed.

    visited bool [B, outer, inner]; corners bool [outer, inner]: see `Blocks`. most: Z.
    """
    inner = visited.shape[2]
    visited, taken = (x.reshape(len(x), -1) for x in (visited, visited | corners))
    order = jnp.argsort(~taken, axis=1, stable=True)[:, :most]
    # Steps behind the last stay at it: nothing is fetched for them.
    step, count = jnp.arange(most), taken.sum(axis=1, keepdims=True)
    order = jnp.take_along_axis(order, jnp.minimum(step, count - 1), axis=1)
    works = jnp.take_along_axis(visited, order, axis=1) & (step < count)
    return jnp.stack([order // inner, order % inner, works]).astype(jnp.int32)


def attend(q, k, v, end, positions, *, window=None, cap: float | None = None, interpret=False):
    """Softmax attention of scaled queries; scores, softmax and sums in float32.

    q [B, T, N, H]; k and v [B, T, K, H]; end and positions int32 [B, T]; window an int or an int32
    scalar; returns [B, T, N, H] in q's dtype. A query that sees nothing gets zeros, and gives none
    but zero gradients. interpret: run on any device, slowly.
    """
    blocks = blocks_of(q.shape[1], q.shape[2] // k.shape[2], window is not None, cap, interpret)
    window = jnp.asarray(0 if window is None else window, jnp.int32).reshape(1)
    return _attend(blocks, q, k, v, end, positions, window)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(blocks, q, k, v, *masks):
    return _forward(blocks, q, k, v, *masks)[0]


def _forward(blocks, q, k, v, *masks):
    by_row = len(q), k.shape[2], blocks.count_queries, 1, blocks.width
    made = _like(q), jax.ShapeDtypeStruct(by_row, jnp.float32)
    how = _how(_run_forward, blocks, made, q, 2)
    out, total = (checkpoint_name(x, "attention") for x in _lowered.bind(q, k, v, *masks, **how))
    return out, (q, k, v, *masks, out, total)


def _backward(blocks, saved, g):
    made = tuple(map(_like, saved[:3]))
    how = _how(_run_backward, blocks, made, g, 7)
    return *_lowered.bind(*saved, g, **how), None, None, None


_attend.defvjp(_forward, _backward)


def _how(run, blocks: Blocks, made, q, products: int):
    """The parameters of `_lowered`; products: how many of two blocks it takes. Their operations are
    as they are if causality alone leaves blocks out, and are said since they are not traced."""
    B, T, N, H = q.shape
    pairs = min(int(blocks.pairs().sum()) * blocks.queries * blocks.keys, T * T)
    cost = pl.CostEstimate(2 * products * B * N * H * pairs, B * N * pairs, 0)
    return {"run": run, "blocks": blocks, "made": made, "cost_estimate": cost}


def _like(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


# A function of blocks and arrays that is traced where it is lowered: in programs for other
# platforms it is a branch that is left out, and to trace it takes as long as to trace a model.
_lowered = jax.extend.core.Primitive("flash_attention")
_lowered.multiple_results = True
_lowered.def_impl(lambda *given, run, blocks, **_: run(blocks, *given))
_lowered.def_abstract_eval(
    lambda *_, made, **__: [jax.core.ShapedArray(x.shape, x.dtype) for x in made]
)
mlir.register_lowering(_lowered, mlir.lower_fun(_lowered.impl, multiple_results=True))


def _run_forward(blocks: Blocks, q, k, v, *masks):
    laid = _by_query(blocks, q, k.shape[2]), _by_key(blocks, k), _by_key(blocks, v)
    row = jax.ShapeDtypeStruct((*laid[0].shape[:3], 1, blocks.width), jnp.float32)
    scratch = [(1, blocks.width), (1, blocks.width), (q.shape[3], blocks.width)]
    made = [_like(laid[0]), row]
    out, total = _call(_forward_kernel, blocks, 0, masks, made, scratch, *laid)
    return _by_token(blocks, out, q.shape), total


def _run_backward(blocks: Blocks, q, k, v, end, positions, window, out, total, g):
    K, H = k.shape[2:]
    mean = jnp.sum(g.astype(jnp.float32) * out.astype(jnp.float32), axis=3, keepdims=True)
    laid = _by_query(blocks, q, K), _by_key(blocks, k), _by_key(blocks, v)
    rows = total, _by_query(blocks, mean, K).swapaxes(3, 4)
    given = end, positions, window
    laid = *laid, _by_query(blocks, g, K), *rows
    (dq,) = _call(_query_kernel, blocks, 0, given, [_like(laid[0])], [(blocks.width, H)], *laid)
    made, scratch = [_like(laid[1]), _like(laid[2])], [(blocks.keys, H)] * 2
    dk, dv = _call(_key_kernel, blocks, 1, given, made, scratch, *laid)
    by_token = (x.swapaxes(1, 2)[:, : k.shape[1]] for x in (dk, dv))
    return _by_token(blocks, dq, q.shape), *by_token


def _by_query(blocks: Blocks, x, K: int):
    """[B, T, N, ...] -> [B, K, I, M, ...]."""
    B, _, N = x.shape[:3]
    x = _pad(x, 1, blocks.count_queries * blocks.queries)
    x = x.reshape(B, blocks.count_queries, blocks.queries, K, N // K, *x.shape[3:])
    x = x.transpose(0, 3, 1, 4, 2, *range(5, x.ndim))
    return x.reshape(*x.shape[:3], blocks.width, *x.shape[5:])


def _by_token(blocks: Blocks, x, shape):
    """[B, K, I, M, H] -> [B, T, N, H], of such a shape."""
    B, T, N, H = shape
    x = x.reshape(*x.shape[:3], -1, blocks.queries, H).transpose(0, 2, 4, 1, 3, 5)
    return x.reshape(B, -1, N, H)[:, :T]


def _by_key(blocks: Blocks, x):
    """[B, T, K, H] -> [B, K, S, H]."""
    return _pad(x, 1, blocks.count_keys * blocks.keys).swapaxes(1, 2)


def _pad(x, axis: int, length: int, value=0):
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, max(0, length - x.shape[axis]))
    return jnp.pad(x, widths, constant_values=value)


def _call(kernel, blocks: Blocks, outer: int, masks, made, scratch, q, k, v, *of_queries):
    """Run a kernel over a list of steps, in which the blocks of queries are the outer ones (outer
    0) or those of keys (1); made: the shapes of its results, which are as these; scratch: shapes in
    float32."""
    B, K, _, M, H = q.shape
    end, positions, window = masks
    visited, corners = visits(end, positions, window, blocks), blocks.corners()
    if outer:
        visited, corners = visited.swapaxes(1, 2), corners.T
    steps = _steps(visited, corners, int(blocks.pairs().sum()))

    def query(*shape):
        return pl.BlockSpec(
            (None, None, None, *shape), lambda b, h, z, s, _: (b, h, s[outer, b, z], 0, 0)
        )

    def key(*shape):
        return pl.BlockSpec(
            (None, None, *shape), lambda b, h, z, s, _: (b, h, s[1 - outer, b, z], 0)
        )

    own = [query(*x.shape[3:]) for x in made] if outer == 0 else [key(blocks.keys, H)] * len(made)
    # Of heads in a group each has the queries' positions.
    at = _by_query(blocks, jnp.repeat(positions[:, :, None], M // blocks.queries, axis=2), 1)
    return pl.pallas_call(
        functools.partial(kernel, blocks, outer),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(B, K, steps.shape[2]),
            in_specs=[
                pl.BlockSpec((None, None, 1, M), lambda b, h, z, s, _: (b, s[outer, b, z], 0, 0)),
                pl.BlockSpec(
                    (None, blocks.keys, 2), lambda b, h, z, s, _: (b, s[1 - outer, b, z], 0)
                ),
                query(M, H),
                *(key(blocks.keys, H) for _ in range(2)),
                *(query(*x.shape[3:]) for x in of_queries),
            ],
            out_specs=own,
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
        ),
        out_shape=made,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary")
        ),
        interpret=blocks.interpret,
        name=kernel.__name__.strip("_"),
    )(
        *(steps, window, at[:, 0, :, None]),
        *(_pad(jnp.stack([end, positions], axis=2), 1, k.shape[2]), q, k, v, *of_queries),
    )


# Kernels ------------------------------------------------------------------------------------------


def _dot(a, b, axes, precise):
    """a and b multiplied and summed over an axis of each, in float32."""
    return jax.lax.dot_general(
        *(a, b, (((axes[0],), (axes[1],)), ((), ()))),
        precision=jax.lax.Precision.HIGHEST if precise else None,
        preferred_element_type=jnp.float32,
    )


class _Step(NamedTuple):
    """One step of a kernel. begins, ends: it is the first, the last of its result's block; works:
    scores are to be computed; query, key: indices of the first ones of the blocks that meet."""

    begins: jax.Array
    ends: jax.Array
    works: jax.Array
    query: jax.Array
    key: jax.Array


def _step(blocks: Blocks, outer: int, steps) -> _Step:
    b, z, last = pl.program_id(0), pl.program_id(2), pl.num_programs(2) - 1
    own, met = steps[0, b, z], steps[1, b, z]
    begins = (z == 0) | (steps[0, b, jnp.maximum(z - 1, 0)] != own)
    ends = (z == last) | (steps[0, b, jnp.minimum(z + 1, last)] != own)
    query, key = (own, met) if outer == 0 else (met, own)
    works = steps[2, b, z] == 1
    return _Step(begins, ends, works, query * blocks.queries, key * blocks.keys)


def _scores(blocks: Blocks, step: _Step, window, positions, keys, q, k):
    """Scores [keys, M], -inf where hidden; and the cap's derivative there, 1 without a cap."""
    logits, slope = _dot(k, q, (1, 1), k.dtype == jnp.float32), 1.0
    if blocks.cap is not None:
        bent = jnp.tanh(logits / blocks.cap)
        logits, slope = blocks.cap * bent, 1 - bent * bent
    # Heads of a group lie one after another, each with all queries of the block.
    query = jax.lax.broadcasted_iota(jnp.int32, (1, q.shape[0]), 1) % blocks.queries
    query += step.query
    key = step.key + jax.lax.broadcasted_iota(jnp.int32, (k.shape[0], 1), 0)
    seen = (key <= query) & (query < keys[:, 0:1])
    if blocks.windowed:
        seen &= positions[...] < keys[:, 1:2] + window[0]
    return jnp.where(seen, logits, -jnp.inf), slope


def _forward_kernel(
    blocks, outer, steps, window, positions, keys, q, k, v, out, total, highest, summed, mixed
):
    step = _step(blocks, outer, steps)

    @pl.when(step.begins)
    def _():
        highest[...] = jnp.full_like(highest, LOWEST)
        summed[...] = jnp.zeros_like(summed)
        mixed[...] = jnp.zeros_like(mixed)

    @pl.when(step.works)
    def _():
        logits, _ = _scores(blocks, step, window, positions, keys, q[...], k[...])
        high = jnp.maximum(highest[...], jnp.max(logits, axis=0, keepdims=True))
        weights, fade = jnp.exp(logits - high), jnp.exp(highest[...] - high)
        highest[...] = high
        summed[...] = fade * summed[...] + jnp.sum(weights, axis=0, keepdims=True)
        values = v[...]
        mix = _dot(values, weights.astype(values.dtype), (0, 0), values.dtype == jnp.float32)
        mixed[...] = fade * mixed[...] + mix

    @pl.when(step.ends)
    def _():
        whole = jnp.where(summed[...] == 0, 1.0, summed[...])
        out[...] = (mixed[...] / whole).T.astype(out.dtype)
        total[...] = highest[...] + jnp.log(whole)


def _gradients(blocks, step, window, positions, keys, q, k, v, g, total, mean):
    """Probabilities and gradients of the scaled logits, [keys, M] in float32."""
    logits, slope = _scores(blocks, step, window, positions, keys, q, k)
    probs = jnp.exp(logits - total[...])
    along = _dot(v, g, (1, 1), v.dtype == jnp.float32)
    return probs, probs * (along - mean[...]) * slope


def _query_kernel(
    blocks, outer, steps, window, positions, keys, q, k, v, g, total, mean, dq, summed
):
    step = _step(blocks, outer, steps)

    @pl.when(step.begins)
    def _():
        summed[...] = jnp.zeros_like(summed)

    @pl.when(step.works)
    def _():
        near = (blocks, step, window, positions, keys)
        _, slopes = _gradients(*near, q[...], k[...], v[...], g[...], total, mean)
        summed[...] += _dot(slopes.astype(k.dtype), k[...], (0, 0), k.dtype == jnp.float32)

    @pl.when(step.ends)
    def _():
        dq[...] = summed[...].astype(dq.dtype)


def _key_kernel(
    blocks, outer, steps, window, positions, keys, q, k, v, g, total, mean, dk, dv, sum_k, sum_v
):
    step = _step(blocks, outer, steps)

    @pl.when(step.begins)
    def _():
        sum_k[...] = jnp.zeros_like(sum_k)
        sum_v[...] = jnp.zeros_like(sum_v)

    @pl.when(step.works)
    def _():
        near = (blocks, step, window, positions, keys)
        probs, slopes = _gradients(*near, q[...], k[...], v[...], g[...], total, mean)
        sum_v[...] += _dot(probs.astype(g.dtype), g[...], (1, 0), g.dtype == jnp.float32)
        sum_k[...] += _dot(slopes.astype(q.dtype), q[...], (1, 0), q.dtype == jnp.float32)

    @pl.when(step.ends)
    def _():
        dk[...] = sum_k[...].astype(dk.dtype)
        dv[...] = sum_v[...].astype(dv.dtype)
