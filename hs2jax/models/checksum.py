"""Checksums of parameters, to see that two trees are the same to the last bit."""

import functools

import jax
import jax.numpy as jnp


def checksum(params, *, rounded: bool = False) -> str:
    """32 bits for each leaf, of all its bits, the same on any number of devices. rounded: of the
    bits that bfloat16 has, so the same whether weights lie in it or in float32."""
    return "-".join(f"{int(x):08x}" for x in _sums(jax.tree.leaves(params), rounded))


@functools.partial(jax.jit, static_argnums=1)
def _sums(leaves, rounded):
    return [_bits(jax.lax.reduce_precision(x, 8, 7) if rounded else x) for x in leaves]


def _bits(x):
    words = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    # Each word is mixed with its place, so that the sum, modulo 2^32, is the same in any order of
    # adding and another for any order of the words.
    for axis in range(x.ndim):
        place = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        words = (words ^ (place * jnp.uint32(0x9E3779B1))) * jnp.uint32(0x85EBCA6B)
        words ^= words >> 15
    return jnp.sum(words, dtype=jnp.uint32)
