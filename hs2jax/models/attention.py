"""Attention over rows in which several conversations lie side by side.

Axis letters: B rows, T query tokens, S key tokens, N query heads, K key/value heads,
G = N / K query heads to a key/value head, H head size.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# Finite, so that a query that sees nothing gives an average instead of NaN.
MASKED = -1e30

# The axis of the positions in a cache's keys [B, K, H, S] and values [B, K, S, H]. Keys lie so
# because the product of one query with them is then twice as fast on CPU.
POSITIONS = {"k": 3, "v": 2}


class Layout(NamedTuple):
    """The tree of conversations in a row, which says who sees whom. Each is int32 [B, T].

    segment_ids: the group that a token belongs to, from 1; 0 is padding.
    branch_ids: 0 in the prompt, r in the r-th response of the group.
    positions: counts from 0 in each group and goes on from the prompt's end in every branch.
    """

    segment_ids: jax.Array
    branch_ids: jax.Array
    positions: jax.Array


def visible(layout: Layout) -> jax.Array:
    """Bool [B, T, S]: a query sees earlier keys of its segment, in the prompt or its branch."""
    seg, branch, pos = layout
    same_segment = seg[:, :, None] == seg[:, None, :]
    not_later = pos[:, None, :] <= pos[:, :, None]
    on_path = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
    return same_segment & not_later & on_path


def attend(q, k, v, layout: Layout | None, *, scale: float, window=None, cap: float | None = None):
    """Softmax attention; scores, softmax and sums in float32.

    q [B, T, N, H]; k and v [B, T, K, H]; returns [B, T, N, H] in q's dtype.
    `layout` None means plain causal order by index: enough for right-padded rows that hold
    one conversation each, where a real token never sees the padding behind it.
    `scale` multiplies the scores. `cap` c makes them c tanh(score / c), as in Gemma 2.
    `window`: a token sees those keys only that are fewer than so many positions back; an int, or
    an int32 scalar where it differs between layers; None for no window.

    In every layout a token sees earlier indices only. So the queries go in four chunks, each
    against the keys up to its own end, which leaves three eighths of the work undone.
    """
    B, T, N, H = q.shape
    K = k.shape[2]
    if N % K:
        raise ValueError(f"{N} query heads do not divide among {K} key/value heads")
    # Heads before tokens, so that the products need no copies of their own.
    q = (q * scale).reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)
    k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
    mask = jnp.tril(jnp.ones((T, T), bool))[None] if layout is None else visible(layout)
    if window is not None:
        # Positions, not indices: in a shared row another branch may lie between the two.
        at = jnp.arange(T)[None] if layout is None else layout.positions
        mask &= at[:, :, None] - at[:, None, :] < window
    mask = mask[:, None, None]
    chunk = max(64, -(-T // 4))
    out = []
    for start in range(0, T, chunk):
        end = min(start + chunk, T)
        logits = jnp.einsum(
            "BKGTH,BKSH->BKGTS",
            *(q[:, :, :, start:end], k[:, :, :end]),
            preferred_element_type=jnp.float32,
        )
        probs = _softmax(softcap(logits, cap), mask[..., start:end, :end]).astype(v.dtype)
        out.append(jnp.einsum("BKGTS,BKSH->BKGTH", probs, v[:, :, :end]))
    return jnp.concatenate(out, axis=3).transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


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


def attend_cached(q, k, v, position, *, scale: float, window=None, cap: float | None = None):
    """`attend` for one token of each row, which sees what lies in its row up to its own position.

    q [B, 1, N, H]; k [B, K, H, S] and v [B, K, S, H], whose index in S is the position; position
    int32 [B]. Returns [B, 1, N, H] in q's dtype.
    """
    B, _, N, H = q.shape
    K, _, S = k.shape[1:]
    back = position[:, None] - jnp.arange(S)
    mask = back >= 0
    if window is not None:
        mask &= back < window
    q = q.reshape(B, K, N // K, H) * scale
    logits = jnp.einsum("BKGH,BKHS->BKGS", q, k, preferred_element_type=jnp.float32)
    logits = jnp.where(mask[:, None, None], softcap(logits, cap), MASKED)
    probs = jax.nn.softmax(logits, axis=-1)
    z = jnp.einsum("BKGS,BKSH->BKGH", probs.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return z.astype(q.dtype).reshape(B, 1, N, H)
