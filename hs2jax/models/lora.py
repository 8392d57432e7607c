"""LoRA: low-rank additions to the decoder's projections (Hu et al., arXiv 2106.09685).

A projection with weights W gets a product a b of rank r: x W + scale x a b, scale = alpha / r.
Axis letters: L layers, I the weights' input axes as one, O their output axes as one, r rank.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

INPUTS = {"q": 1, "k": 1, "v": 1, "o": 2, "gate": 1, "up": 1, "down": 1}
"""The projections, and how many axes of their weights, after the layers', are summed over."""


def init(key, layers: Mapping[str, Any], *, rank: int, targets: str):
    """Fresh leaves for a stack of layers: {"attention": {"q": {"a", "b"}, ...}, ...}.

    layers: weights (or their shapes), stacked on axis 0. targets: regex of the paths within the
    stack, such as "attention/(q|v)". a is normal with variance 1 / (input size), b is zero, so
    that the model is at first what it was.
    Raises ValueError where no projection matches.
    """
    able = [(path, x) for path, x in sorted(flatten_dict(layers).items()) if path[-1] in INPUTS]
    chosen = [(path, x) for path, x in able if re.search(targets, "/".join(path))]
    if not chosen:
        names = ", ".join("/".join(path) for path, _ in able)
        raise ValueError(f"config.lora.targets is {targets!r}, which matches none of {names}")
    leaves = {}
    for n, (path, x) in enumerate(chosen):
        count, into = x.shape[0], x.shape[1 : 1 + INPUTS[path[-1]]]
        out_of = x.shape[1 + len(into) :]
        draw = jax.random.normal(jax.random.fold_in(key, n), (count, *into, rank), jnp.float32)
        leaves[path] = {
            "a": draw / math.sqrt(math.prod(into)),
            "b": jnp.zeros((count, rank, *out_of), jnp.float32),
        }
    return unflatten_dict(leaves)


def scaled(tree, scale):
    """The leaves as the decoder wants them, which knows of no scale: b is multiplied by it."""
    return jax.tree.map_with_path(lambda path, x: scale * x if path[-1].key == "b" else x, tree)


def merge(layers, tree, scale):
    """The stack's weights with the products added, in float32."""
    if not isinstance(layers, Mapping):
        a = tree["a"].reshape(layers.shape[0], -1, tree["a"].shape[-1])
        b = tree["b"].reshape(layers.shape[0], a.shape[-1], -1)
        product = jnp.einsum("LIr,LrO->LIO", a, b, precision=jax.lax.Precision.HIGHEST)
        return layers + (scale * product).reshape(layers.shape)
    return {name: merge(x, tree[name], scale) if name in tree else x for name, x in layers.items()}
