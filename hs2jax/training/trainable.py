"""Split a model into what is trained, all of it, its last layers, some paths or LoRA, and the rest.

While it trains, a model's parameters are two nested dicts with different leaves: `trained`, and
`frozen`, which is in no checkpoint and is read again from the model that the run starts from.
"""

import re

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from hs2jax.models import lora
from hs2jax.models.decoder import hold
from hs2jax.models.sharding import shardings


def masters(config) -> bool:
    """Tell whether weights of the decoder are trained, which must be loaded in float32 for that."""
    return not config.lora.rank or bool(config.trainable.paths)


def begin(params, config, mesh=None):
    """Lay parameters out for training: frozen first layers as a stack of their own, and fresh LoRA
    leaves where they are asked for.

    config: the whole config, of which `trainable`, `lora` and `seed` are read. mesh: where the
    parameters live. Raises ValueError naming the key.
    """
    params = {**params, "decoder": dict(params["decoder"])}
    decoder, last = params["decoder"], config.trainable.last_layers
    layers = len(jax.tree.leaves(decoder["layers"])[0])
    if last >= layers:
        raise ValueError(
            f"config.trainable.last_layers is {last}; the model has {layers} layers, so it must be "
            f"0 to {layers - 1}, or -1 for all"
        )
    if last >= 0:
        stack, cut = decoder.pop("layers"), layers - last
        decoder["frozen"] = _make(lambda stack: jax.tree.map(lambda x: x[:cut], stack), mesh, stack)
        if last:
            decoder["layers"] = _make(
                lambda stack: jax.tree.map(lambda x: x[cut:], stack), mesh, stack
            )
    if rank := config.lora.rank:
        if "layers" not in decoder:
            raise ValueError("config.lora.rank: no layer is left for LoRA (trainable.last_layers)")
        key = jax.random.fold_in(jax.random.key(config.seed), 1)  # Not the head's.
        shapes, targets = jax.eval_shape(lambda: decoder["layers"]), config.lora.targets
        low = lambda: lora.init(key, shapes, rank=rank, targets=targets)  # noqa: E731
        params |= _make(lambda: {"lora": {"layers": low()}}, mesh)
        params["lora_scale"] = jnp.float32(config.lora.alpha / rank)
    return params


def split(params, config, dtype=jnp.float32):
    """Split into (trained, frozen), in float32 and as weights lie for products in `dtype`. A head
    and LoRA are always trained; LoRA's scale, frozen layers and an embedding below frozen layers
    never, even where it also gives the logits. Of the rest, `config.trainable.paths` decides."""
    pattern = config.trainable.paths or ("^$" if config.lora.rank else "")
    never = "^lora_scale$|^decoder/frozen/"
    if "frozen" in params["decoder"]:
        never += "|^decoder/embed$"
    flat = flatten_dict(params, sep="/")
    able = [name for name in flat if not re.search(never, name)]
    chosen = {name for name in able if re.search(pattern, name)}
    if config.trainable.paths and not chosen:
        raise ValueError(
            f"config.trainable.paths is {pattern!r}, which matches none of {', '.join(able)}"
        )
    chosen |= {name for name in able if re.search("^(head|lora)/", name)}
    sides = ({k: x for k, x in flat.items() if (k in chosen) == side} for side in (True, False))
    sides = [unflatten_dict(side, sep="/") for side in sides]
    for side, held in zip(sides, (jnp.float32, dtype), strict=True):
        if "decoder" in side:
            side["decoder"] = hold(side["decoder"], held)
    return tuple(sides)


def join(trained, frozen):
    """Put the two back together."""
    return unflatten_dict(flatten_dict(frozen) | flatten_dict(trained))


def finish(params):
    """Restore the plain parameters, {"decoder", ...}: LoRA merged, layers in one stack; the same
    arrays where they are so already."""
    return _finish(params) if "lora_scale" in params or "frozen" in params["decoder"] else params


@jax.jit
def _finish(params):
    params = dict(params)
    decoder, scale = dict(params.pop("decoder")), params.pop("lora_scale", None)
    if low := params.pop("lora", None):
        decoder["layers"] = lora.merge(decoder["layers"], low["layers"], scale)
    if "frozen" in decoder:
        stacks = [decoder.pop(name) for name in ("frozen", "layers") if name in decoder]
        decoder["layers"] = jax.tree.map(lambda *parts: jnp.concatenate(parts), *stacks)
    return {"decoder": decoder, **params}


def count(params) -> int:
    """Count the numbers in a tree."""
    return sum(x.size for x in jax.tree.leaves(params))


def nbytes(params) -> int:
    """Count the bytes of a tree of arrays or their shapes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params))


def _make(function, mesh, *given):
    """Compute `function(*given)` in its place on the mesh. Arrays that it closed over would have to
    be whole on every host."""
    places = mesh and shardings(jax.eval_shape(function, *given), mesh)
    return jax.jit(function, out_shardings=places)(*given)
