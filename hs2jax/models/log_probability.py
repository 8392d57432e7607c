"""Log-probabilities of tokens, without ever holding the logits of the whole vocabulary.

Axis letters: B rows, T tokens, D width, V vocabulary, C a chunk of it.
"""

import functools

import jax
import jax.numpy as jnp

from hs2jax.models.attention import softcap

CHUNK = 4096  # Entries of the vocabulary whose logits are held at a time.


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def log_probabilities(
    hidden,
    lm_head,
    targets,
    cap: float | None = None,
    chunk: int = CHUNK,
    temperature: float = 1.0,
):
    """log softmax(lm_head @ hidden / temperature)[target], float32 [B, T].

    hidden [B, T, D], after the final norm; lm_head [V, D]; targets int32 [B, T], from 0 to V - 1.
    cap: c in c tanh(logit / c), as in Gemma 2, before the temperature. The products are in hidden's
    dtype, sums and softmax in float32.

    Memory beyond the arguments is B T chunk numbers for any vocabulary. Gradients need no more, and
    the table's own size: they compute each chunk's logits again.
    """
    return _forward(hidden, lm_head, targets, cap, chunk, temperature)[0]


def _forward(hidden, lm_head, targets, cap, chunk, temperature):
    def add(seen, rows, first):
        """(log of the sum of exponentials, target's logit) with those of one chunk."""
        total, own = seen
        logits = _logits(hidden, rows, cap) / temperature
        total = jnp.logaddexp(total, jax.nn.logsumexp(logits, axis=-1))
        at = targets - first
        here = (at >= 0) & (at < len(rows))
        picked = jnp.take_along_axis(logits, jnp.where(here, at, 0)[..., None], axis=-1)[..., 0]
        return (total, jnp.where(here, picked, own)), None

    start = jnp.full(targets.shape, -jnp.inf), jnp.zeros(targets.shape)
    (total, own), _ = _over_chunks(add, start, lm_head, chunk)
    return own - total, (hidden, lm_head, targets, total)


def _backward(cap, chunk, temperature, saved, g):
    hidden, lm_head, targets, total = saved

    def add(of_hidden, rows, first):
        """The gradients of hidden states, with those of one chunk, and of the chunk's rows."""
        logits = _logits(hidden, rows, cap)
        own = jax.nn.one_hot(targets - first, len(rows))
        of_logits = g[..., None] * (own - jnp.exp(logits / temperature - total[..., None]))
        of_logits /= temperature
        if cap is not None:
            of_logits *= 1 - jnp.square(logits / cap)
        of_logits = of_logits.astype(hidden.dtype)
        of_hidden += _product("BTC,CD->BTD", of_logits, rows.astype(hidden.dtype))
        return of_hidden, _product("BTC,BTD->CD", of_logits, hidden).astype(rows.dtype)

    start = jnp.zeros(hidden.shape)
    of_hidden, of_lm_head = _over_chunks(add, start, lm_head, chunk)
    return of_hidden.astype(hidden.dtype), of_lm_head, None


log_probabilities.defvjp(_forward, _backward)


def _logits(hidden, rows, cap):
    return softcap(_product("BTD,CD->BTC", hidden, rows.astype(hidden.dtype)), cap)


def _product(axes, x, y):
    # Without the precision, accelerators would multiply float32 in bfloat16 or TF32.
    return jnp.einsum(
        axes, x, y, preferred_element_type=jnp.float32, precision=jax.lax.Precision.HIGHEST
    )


def _over_chunks(add, seen, lm_head, chunk):
    """Scan `add(seen, rows [C, D], first)` over the vocabulary; the last chunk may be shorter.

    Returns what was seen, and the chunks' results as one array, None where they are None.
    """
    V, D = lm_head.shape
    whole = V // chunk * chunk
    parts = lm_head[:whole].reshape(-1, chunk, D), jnp.arange(0, whole, chunk)
    seen, found = jax.lax.scan(lambda seen, part: add(seen, *part), seen, parts)
    found = None if found is None else found.reshape(whole, D)
    if whole < V:
        seen, last = add(seen, lm_head[whole:], whole)
        found = None if found is None else jnp.concatenate([found, last])
    return seen, found
