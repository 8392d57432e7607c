"""Keys and values of prompts and of what follows them, so that a token is computed by itself.

Axis letters: B rows, P prompts, S positions in the cache, K key/value heads, H head size, L layers.
"""

import functools

import jax
import jax.numpy as jnp

from hs2jax.models import sharding
from hs2jax.models.attention import POSITIONS
from hs2jax.models.config import Config
from hs2jax.models.decoder import Decoder, Layer, constants, enter, exact_products, hold, normalize


def bucket(length: int) -> int:
    """The next of few lengths, since each is compiled: 64, 96 and their doublings."""
    power = 64
    while power < length:
        power *= 2
    return power * 3 // 4 if length <= power * 3 // 4 and power > 64 else power


def cache_shapes(config: Config, B: int, S: int, mesh, dtype) -> list[dict]:
    """An empty cache of B rows with room for S tokens, as shapes in their places."""
    K, H = config.num_kv_heads, config.head_dim
    arrays = {"k": (B, K, H, S), "v": (B, K, S, H)}
    one = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in arrays.items()}
    return [sharding.row_shapes(one, mesh)] * config.num_layers


@functools.partial(jax.jit, static_argnames=("layers", "dtype"))
def unstack(params, layers, dtype):
    """(all but the layers, the layers as a list), weights in the dtype of the computation: a copy,
    which takes as much memory again and saves cutting it out of the stacks for each token."""
    params = hold(params, dtype)
    stack = params.pop("layers")
    return params, [jax.tree.map(lambda x, i=i: x[i], stack) for i in range(layers)]


@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def prefill(params, tokens, config: Config, dtype):
    """Compute keys and values {"k" [L, P, K, H, S], "v" [L, P, K, S, H]} of prompts [P, S],
    whatever follows their ends."""
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    with exact_products(dtype):
        _, changed = Decoder(config, dtype=dtype).apply(
            {"params": params}, tokens, position, mutable=["cache"]
        )
    return changed["cache"]["layers"]["attention"]


@functools.partial(jax.jit, donate_argnames="layer")
def copy_prompts(layer, computed, i, source, target):
    """The prompts `source` [P] of layer i of computed, put into places `target` [P], those below P,
    of its cache. One program for all layers: there is one for each length of prompts and cache."""

    def put(name, into, of):
        axis = POSITIONS[name]
        place = (target, *[slice(None)] * (axis - 1), slice(of.shape[axis]))
        return into.at[place].set(of[source], mode="drop")

    return {name: put(name, layer[name], computed[name][i]) for name in layer}


@functools.partial(jax.jit, static_argnames="S")
def lengthen(cache, S):
    def pad(name, x):
        widths = [(0, 0)] * 4
        widths[POSITIONS[name]] = (0, S - x.shape[POSITIONS[name]])
        return jnp.pad(x, widths)

    return [{name: pad(name, x) for name, x in layer.items()} for layer in cache]


def decode(config: Config, params, layers, prompts, cache, tokens, begun, position, dtype):
    """One token of each row: (hidden [B, D] after the final norm, the cache with the tokens in it).

    params: the decoder's; layers: its stack as a list, a tree of parameters for each. prompts,
    cache: lists of what `attention.attend_cached` takes in a layer. tokens, begun, position: int32
    [B]. Lists, and no scan: it would copy each layer's weights and cache out of the stacks and back
    in for every token.
    """
    room = sum(x[0]["v"].shape[POSITIONS["v"]] for x in (prompts, cache))
    per_layer, broadcast = constants(config, room)
    x, position = enter(config, params["embed"], tokens[:, None], dtype), position[:, None]
    kept = []
    for i, layer in enumerate(layers):
        of_layer = jax.tree.map(lambda rows, i=i: rows[i], per_layer)
        (x, _), changed = Layer(config).apply(
            {"params": layer}
            | {"prompts": {"attention": prompts[i]}, "cache": {"attention": cache[i]}},
            *(x, of_layer, broadcast, position, begun, None),
            mutable=["cache"],
        )
        kept.append(changed["cache"]["attention"])
    return normalize(config, x[:, 0], params["norm"], params.get("norm_bias")), kept
