"""Attention over rows in which several conversations lie side by side.

Axis letters: B rows, T query tokens, S key tokens, N query heads, K key/value heads,
G = N / K query heads to a key/value head, H head size.
"""

import functools
import os
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hs2jax.models import sharding
from hs2jax.models.kernels import flash

ASKED = "HS2JAX_ATTENTION"  # A name of IMPLEMENTATIONS, for all programs of a process.
# Finite, so that a query that sees nothing gives an average instead of NaN.
MASKED = -1e30

# The axis of the positions in a cache's keys [B, K, H, S] and values [B, K, S, H]. Keys lie so
# because the product of one query with them is then twice as fast on CPU.
POSITIONS = {"k": 3, "v": 2}


def ends(segment_ids, branch_ids):
    """int32 [B, T]: the index behind the last token that sees each token, which is all that there
    is to say of who sees whom: a query at index q sees a key at index k where `k <= q < end[k]`.

    segment_ids: the group that a token belongs to, from 1; 0 is padding, which nothing sees.
    branch_ids: 0 in the prompt, r in the r-th response of the group. A group lies together, its
    prompt first, then one response after another. So a prompt is seen to the group's end, and a
    response's token to the end of its response.
    """
    index = jnp.arange(1, segment_ids.shape[1] + 1)

    def behind(*ids):
        changes = [x != jnp.pad(x[:, 1:], ((0, 0), (0, 1)), constant_values=-1) for x in ids]
        last = jnp.where(functools.reduce(jnp.logical_or, changes), index, len(index))
        return jax.lax.cummin(last, axis=1, reverse=True)

    end = jnp.where(branch_ids == 0, behind(segment_ids), behind(segment_ids, branch_ids))
    return jnp.where(segment_ids == 0, 0, end).astype(jnp.int32)


def visible(end) -> jax.Array:
    """Bool [B, T, S]: a query sees the keys that have begun and not ended."""
    index = jnp.arange(end.shape[1])[:, None]
    return (index >= index.T) & (index < end[:, None])


def attend(
    q, k, v, end=None, positions=None, *, scale: float, window=None, cap=None, implementation=None
):
    """Softmax attention; scores, softmax and sums in float32.

    q [B, T, N, H]; k and v [B, T, K, H]; returns [B, T, N, H] in q's dtype.
    end int32 [B, T]: see `ends`. None means plain causal order by index: enough for right-padded
    rows that hold one conversation each, where a real token never sees the padding behind it.
    positions int32 [B, T] count a window; None is the index. What a query in padding gets means
    nothing.
    `scale` multiplies the scores. `cap` c makes them c tanh(score / c), as in Gemma 2.
    `window`: a token sees those keys only that are fewer than so many positions back; an int, or
    an int32 scalar where it differs between layers; None for no window.
    implementation: a name of IMPLEMENTATIONS; None for HS2JAX_ATTENTION's of the environment, or
    without it the first that takes these arrays on the platform that the program is lowered for.
    Raises ValueError where the named one does not.
    """
    implementation = implementation or os.environ.get(ASKED) or None
    heads, shared = q.shape[2], k.shape[2]
    if heads % shared:
        raise ValueError(f"{heads} query heads do not divide among {shared} key/value heads")
    given = q * scale, k, v, end, positions, window
    if implementation is not None:
        if implementation not in IMPLEMENTATIONS:
            names = ", ".join(IMPLEMENTATIONS)
            raise ValueError(f"there is no attention {implementation!r}; there are {names}")
        if said := IMPLEMENTATIONS[implementation].refuses(q):
            raise ValueError(f"the attention {implementation!r} takes {said}")
        return IMPLEMENTATIONS[implementation].run(*given, cap=cap)
    by_platform = {
        each.platform: functools.partial(each.run, cap=cap)
        for each in IMPLEMENTATIONS.values()
        if not each.refuses(q)
    }
    return jax.lax.platform_dependent(*given, **by_platform)


def chosen(platform: str) -> str:
    """Name what `attend` takes on a platform, but for arrays that this refuses."""
    if asked := os.environ.get(ASKED):
        return asked
    every = IMPLEMENTATIONS.items()
    return next(name for name, each in every if each.platform in (platform, "default"))


def _reference(q, k, v, end, positions, window, *, cap):
    """Attention in products that XLA compiles for any platform.

    A token sees earlier indices only. So the queries go in four chunks, each against the keys up to
    its own end, which leaves three eighths of the work undone.
    """
    B, T, N, H = q.shape
    K = k.shape[2]
    # Heads before tokens, so that the products need no copies of their own.
    q = q.reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)
    k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
    mask = jnp.tril(jnp.ones((T, T), bool))[None] if end is None else visible(end)
    if window is not None:
        # Positions, not indices: in a shared row another branch may lie between the two.
        at = jnp.arange(T)[None] if positions is None else positions
        mask &= at[:, :, None] - at[:, None, :] < window
    mask = mask[:, None, None]
    chunk = max(64, -(-T // 4))
    out = []
    for start in range(0, T, chunk):
        stop = min(start + chunk, T)
        logits = jnp.einsum(
            "BKGTH,BKSH->BKGTS",
            *(q[:, :, :, start:stop], k[:, :, :stop]),
            preferred_element_type=jnp.float32,
        )
        probs = _softmax(softcap(logits, cap), mask[..., start:stop, :stop]).astype(v.dtype)
        out.append(jnp.einsum("BKGTS,BKSH->BKGTH", probs, v[:, :, :stop]))
    return jnp.concatenate(out, axis=3).transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


def _kernel(q, k, v, end, positions, window, *, cap, interpret=False):
    """Attention by `kernels.flash`. The compiler cannot divide a kernel among devices: each has the
    rows and heads that it has of all else."""
    rows = q.shape[:2]
    end = jnp.full(rows, rows[1], jnp.int32) if end is None else end
    if positions is None:
        positions = jnp.broadcast_to(jnp.arange(rows[1], dtype=jnp.int32), rows)

    def run(q, k, v, end, positions, window):
        return flash.attend(*(q, k, v, end, positions), window=window, cap=cap, interpret=interpret)

    return sharding.on_each(run, q, k, v, end, positions, window)


class Implementation(NamedTuple):
    """A way to compute attention. platform: that it is for, "default" for all others; head_dim: the
    longest head that it takes, and dtypes: those that it takes, None for any."""

    run: Callable
    platform: str = "default"
    head_dim: int | None = None
    dtypes: tuple[str, ...] | None = None

    def refuses(self, q) -> str | None:
        """Say what it takes in place of such queries; None where it takes them."""
        if self.head_dim and q.shape[-1] > self.head_dim:
            return f"heads of up to {self.head_dim}, not of {q.shape[-1]}"
        if self.dtypes and q.dtype.name not in self.dtypes:
            return f"{' and '.join(self.dtypes)}, not {q.dtype.name}"
        return None


# All take every mask, window, cap and grouping of heads. cuDNN's, on GPUs, would take none of the
# masks of rows in which several conversations lie.
IMPLEMENTATIONS = {
    "pallas": Implementation(_kernel, "tpu", 256, ("float32", "bfloat16")),
    "xla": Implementation(_reference),
}


def contain(k, v):
    """Make a value [B, T, K, H] that is not finite 0, and its key NaN: the mask hides scores, but 0
    times NaN is NaN, also for queries that do not see it."""
    whole = jnp.isfinite(v).all(axis=-1, keepdims=True)
    return jnp.where(whole, k, jnp.nan), jnp.where(whole, v, 0)


def softcap(logits, cap: float | None):
    """c tanh(logits / c), as in Gemma 2; the logits themselves where there is no cap."""
    return logits if cap is None else cap * jnp.tanh(logits / cap)


@jax.custom_vjp
def _softmax(logits, mask):
    """Softmax of float32 logits over those that the mask shows, at least one in each row.

    Its gradient is written out because it needs no mask: what is hidden has the probability 0.
    """
    return jax.nn.softmax(jnp.where(mask, logits, MASKED), axis=-1)


def _softmax_forward(logits, mask):
    probs = _softmax(logits, mask)
    return probs, probs


def _softmax_backward(probs, g):
    weighted = probs * g
    return weighted - probs * jnp.sum(weighted, axis=-1, keepdims=True), None


_softmax.defvjp(_softmax_forward, _softmax_backward)


def put_at(cache, x, position, axis):
    """The cache with x [B, K, H] in it, for each row at its position [B] along that axis, 3 as in
    keys or 2 as in values."""
    B, K, H = x.shape
    S = cache.shape[axis]

    def chosen(cache, x, position):
        here = jnp.expand_dims(jnp.arange(S) == position[:, None], (1, 5 - axis))
        return jnp.where(here, jnp.expand_dims(x, axis), cache)

    def scattered(cache, x, position):
        # With rows and heads as one axis it is done in place.
        flat = cache.reshape(B * K, *cache.shape[2:])
        row, at = jnp.arange(B * K), jnp.repeat(position, K)
        index = (row, slice(None), at) if axis == 3 else (row, at)
        return flat.at[index].set(x.reshape(B * K, H)).reshape(cache.shape)

    if cache.dtype != jnp.bfloat16:
        return scattered(cache, x, position)
    # XLA's scatter on CPU takes all of a bfloat16 array to float32 and back.
    return jax.lax.platform_dependent(cache, x, position, cpu=chosen, default=scattered)


def attend_cached(
    q, prompts, cache, begun, position, *, scale: float, window=None, cap: float | None = None
):
    """`attend` for one token of each row, which sees its row's prompt, and what lies in the row's
    own cache up to its position.

    q [B, 1, N, H]. prompts: {"k" [P, K, H, S], "v" [P, K, S, H]}, each of B / P neighbouring rows,
    whose queries are one product; begun int32 [B]: how many tokens of it they see. cache: {"k"
    [B, K, H, R], "v" [B, K, R, H]}, whose first token follows the prompt. position int32 [B].
    Returns [B, 1, N, H] in q's dtype.
    """
    B, _, N, H = q.shape
    (P, K, _, S), R = prompts["k"].shape, cache["k"].shape[3]
    G, rows = N // K, B // P

    def product(axes, x, y):
        return jnp.einsum(axes, x, y, preferred_element_type=jnp.float32)

    def by_prompt(x):
        return x.reshape(P, rows, K, G, -1).swapaxes(1, 2).reshape(P, K, rows * G, -1)

    def by_row(x):
        return x.reshape(P, K, rows, G, -1).swapaxes(1, 2).reshape(B, K, G, -1)

    q = q.reshape(B, K, G, H) * scale
    of_prompt = by_row(product("PKMH,PKHS->PKMS", by_prompt(q), prompts["k"]))
    own = product("BKGH,BKHR->BKGR", q, cache["k"])
    begun, position = begun[:, None], position[:, None]
    mask = [jnp.arange(S) < begun, begun + jnp.arange(R) <= position]
    if window is not None:
        mask[0] &= position - jnp.arange(S) < window
        mask[1] &= position - begun - jnp.arange(R) < window
    logits = softcap(jnp.concatenate([of_prompt, own], axis=-1), cap)
    logits = jnp.where(jnp.concatenate(mask, axis=1)[:, None, None], logits, MASKED)
    probs = jax.nn.softmax(logits, axis=-1).astype(q.dtype)
    z = by_row(product("PKMS,PKSH->PKMH", by_prompt(probs[..., :S]), prompts["v"]))
    z += product("BKGR,BKRH->BKGH", probs[..., S:], cache["v"])
    return z.astype(q.dtype).reshape(B, 1, N, H)
