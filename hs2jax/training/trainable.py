"""What of a model is trained: all of it, its last layers, some paths, or LoRA and the head.

While it trains, a model's parameters are two nested dicts with different leaves: `trained`, which
has gradients, an optimizer state and checkpoints, and `kept`, which has none of these and is read
again from the model that the run starts from.
"""

import functools
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from hs2jax.models import lora, sharding
from hs2jax.models.sharding import path_name


def begin(params, config, mesh=None):
    """The parameters as they are trained: frozen first layers as a stack of their own, and fresh
    LoRA leaves where they are asked for.

    config: the whole config, of which `trainable`, `lora` and `seed` are read. mesh: where the
    parameters live. Raises ValueError naming the key.
    """
    if config.trainable.last_layers == -1 and not config.lora.rank:
        return params
    arrange = functools.partial(_begin, config=config)
    places = mesh and sharding.shardings(jax.eval_shape(arrange, params), mesh)
    return jax.jit(arrange, out_shardings=places)(params)


def _begin(params, config):
    params = {**params, "decoder": dict(params["decoder"])}
    decoder, last = params["decoder"], config.trainable.last_layers
    layers = jax.tree.leaves(decoder["layers"])[0].shape[0]
    if not -1 <= last <= layers:
        raise ValueError(
            f"config.trainable.last_layers is {last}; it must be -1 (all) to {layers}, the number "
            "of the model's layers"
        )
    if 0 <= last < layers:
        stack = decoder.pop("layers")
        decoder["frozen"] = jax.tree.map(lambda x: x[: layers - last], stack)
        if last:
            decoder["layers"] = jax.tree.map(lambda x: x[layers - last :], stack)
    if config.lora.rank:
        if "layers" not in decoder:
            raise ValueError("config.lora.rank: no layer is left for LoRA (trainable.last_layers)")
        key = jax.random.fold_in(jax.random.key(config.seed), 1)  # Not the head's.
        low = lora.init(key, decoder["layers"], rank=config.lora.rank, targets=config.lora.targets)
        params["lora"] = {"layers": low}
        params["lora_scale"] = jnp.float32(config.lora.alpha / config.lora.rank)
    return params


def split(params, config):
    """(trained, kept). The head and LoRA are always trained; LoRA's scale, frozen layers and an
    embedding below frozen layers never. Of the rest, `config.trainable.paths` decides."""
    pattern = config.trainable.paths or ("^$" if config.lora.rank else "")
    frozen = "frozen" in params["decoder"]

    def is_trained(name: str) -> bool:
        if re.search(r"^(head|lora)/", name):
            return True
        if name == "lora_scale" or name.startswith("decoder/frozen/"):
            return False
        if frozen and name == "decoder/embed":
            return False
        return re.search(pattern, name) is not None

    named = {path_name(path): (path, x) for path, x in jax.tree.leaves_with_path(params)}
    if config.trainable.paths and not any(re.search(pattern, name) for name in named):
        raise ValueError(
            f"config.trainable.paths is {pattern!r}, which matches none of {', '.join(named)}"
        )
    trained, kept = {}, {}
    for name, (path, x) in named.items():
        _put(trained if is_trained(name) else kept, path, x)
    return trained, kept


def join(trained, kept):
    """The two back together."""
    if not isinstance(trained, Mapping):
        return trained
    both = {**kept, **trained}
    return {
        name: join(trained[name], kept[name]) if name in trained and name in kept else x
        for name, x in both.items()
    }


@jax.jit
def finish(params):
    """The plain parameters again, {"decoder", "head"}: LoRA merged, layers in one stack."""
    decoder = dict(params["decoder"])
    if "lora" in params:
        decoder["layers"] = lora.merge(
            decoder["layers"], params["lora"]["layers"], params["lora_scale"]
        )
    if "frozen" in decoder:
        stacks = [decoder.pop("frozen")]
        if "layers" in decoder:
            stacks.append(decoder["layers"])
        decoder["layers"] = jax.tree.map(lambda *parts: jnp.concatenate(parts), *stacks)
    return {"decoder": decoder, "head": params["head"]}


def checksum(params) -> str:
    """Of all bits of all parameters, the same on any number of devices: it tells whether what a
    run left out of its checkpoints is still what it began with."""
    sums = jax.jit(lambda tree: [_bits(x) for x in jax.tree.leaves(tree)])(params)
    return "-".join(f"{int(x):08x}" for x in sums)


def count(params) -> int:
    """How many numbers there are in a tree."""
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))


def _bits(x):
    words = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    return jnp.sum(words, dtype=jnp.uint32)  # Modulo 2^32, so that the order does not matter.


def _put(tree: dict, path, x) -> None:
    *parents, name = (str(step.key) for step in path)
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[name] = x
