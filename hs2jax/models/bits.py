"""Layers in a scan that keep what they need for the backward pass as bits.

XLA on CPU has no bfloat16 but in products: for each layer that is put to a stack in bfloat16, it
takes all of the stack to float32 and back, and before the backward pass once more. Stacks of the
same bits as integers are left alone.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

TRAINED = ("params", "lora")  # The collections that may have gradients.


class Bits(NamedTuple):
    """A bfloat16 array, as uint16 of its shape."""

    bits: jax.Array


def _kept(x):
    return Bits(jax.lax.bitcast_convert_type(x, jnp.uint16)) if x.dtype == jnp.bfloat16 else x


def _given(x):
    if isinstance(x, Bits):
        return jax.lax.bitcast_convert_type(x.bits, jnp.bfloat16)
    return x


def call(layer, *args):
    """Call a layer; `run` does the same, and keeps no bfloat16 for the backward pass."""
    return layer(*args)


def _forward(layer, *args):
    out, backward = nn.vjp(call, layer, *args, vjp_variables=TRAINED)
    return out, jax.tree.map(_kept, backward)


def _backward(backward, g):
    return jax.tree.map(_given, backward, is_leaf=lambda x: isinstance(x, Bits))(g)


run = nn.custom_vjp(call, _forward, _backward, TRAINED)
