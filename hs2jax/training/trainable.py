"""Split a model into what is trained, all of it, its last layers, some paths or LoRA, and the rest.

While it trains, a model's parameters are two nested dicts with different leaves: `trained`, which
has gradients, an optimizer state and checkpoints, and `frozen`, which has none of these and is read
again from the model that the run starts from.
"""

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from hs2jax.models import lora
from hs2jax.models.sharding import path_name, spec_for

LORA = ("lora", "lora_scale")  # What stands beside a decoder's parameters while LoRA trains.


def begin(params, config, mesh=None):
    """Lay parameters out for training: frozen first layers as a stack of their own, and fresh LoRA
    leaves where they are asked for.

    config: the whole config, of which `trainable`, `lora` and `seed` are read. mesh: where the
    parameters live. Raises ValueError naming the key.
    """
    params = {**params, "decoder": dict(params["decoder"])}
    decoder, last = params["decoder"], config.trainable.last_layers
    layers = jax.tree.leaves(decoder["layers"])[0].shape[0]
    if not -1 <= last < layers:
        raise ValueError(
            f"config.trainable.last_layers is {last}; the model has {layers} layers, so it must be "
            f"0 to {layers - 1}, or -1 for all"
        )
    if last >= 0:
        stack, cut = decoder.pop("layers"), layers - last
        decoder["frozen"] = _make(lambda: jax.tree.map(lambda x: x[:cut], stack), mesh)
        if last:
            decoder["layers"] = _make(lambda: jax.tree.map(lambda x: x[cut:], stack), mesh)
    if config.lora.rank:
        if "layers" not in decoder:
            raise ValueError("config.lora.rank: no layer is left for LoRA (trainable.last_layers)")
        key = jax.random.fold_in(jax.random.key(config.seed), 1)  # Not the head's.
        rank, targets = config.lora.rank, config.lora.targets
        shapes = jax.eval_shape(lambda: decoder["layers"])
        params["lora"] = _make(
            lambda: {"layers": lora.init(key, shapes, rank=rank, targets=targets)}, mesh, "lora/"
        )
        params["lora_scale"] = jnp.float32(config.lora.alpha / config.lora.rank)
    return params


def split(params, config):
    """Split into (trained, frozen). A head and LoRA are always trained; LoRA's scale, frozen layers
    and an embedding below frozen layers never, even where it also gives the logits. Of the rest,
    `config.trainable.paths` decides."""
    pattern = config.trainable.paths or ("^$" if config.lora.rank else "")
    never = "^lora_scale$|^decoder/frozen/"
    if "frozen" in params["decoder"]:
        never += "|^decoder/embed$"
    named = {path_name(path): (path, x) for path, x in jax.tree.leaves_with_path(params)}
    able = [name for name in named if not re.search(never, name)]
    chosen = {name for name in able if re.search(pattern, name)}
    if config.trainable.paths and not chosen:
        raise ValueError(
            f"config.trainable.paths is {pattern!r}, which matches none of {', '.join(able)}"
        )
    chosen |= {name for name in able if re.search("^(head|lora)/", name)}
    trained, frozen = {}, {}
    for name, (path, x) in named.items():
        _put(trained if name in chosen else frozen, path, x)
    return trained, frozen


def join(trained, frozen):
    """Put the two back together."""
    if not isinstance(trained, Mapping):
        return trained
    both = {**frozen, **trained}
    return {
        name: join(trained[name], frozen[name]) if name in trained and name in frozen else x
        for name, x in both.items()
    }


@jax.jit
def finish(params):
    """Restore the plain parameters, {"decoder", ...}: LoRA merged, layers in one stack."""
    decoder = dict(params["decoder"])
    others = {name: x for name, x in params.items() if name not in ("decoder", *LORA)}
    if "lora" in params:
        decoder["layers"] = lora.merge(
            decoder["layers"], params["lora"]["layers"], params["lora_scale"]
        )
    if "frozen" in decoder:
        stacks = [decoder.pop("frozen")]
        if "layers" in decoder:
            stacks.append(decoder["layers"])
        decoder["layers"] = jax.tree.map(lambda *parts: jnp.concatenate(parts), *stacks)
    return {"decoder": decoder, **others}


def check_frozen(found: str, expected: str, name: str, workdir) -> None:
    """Raise ValueError unless the parameters that a run does not train are those it began with, by
    their checksums."""
    if found != expected:
        raise ValueError(
            f"{name} is another model than the one that the run in {workdir} began with, and what "
            "that run does not train is not in its folder: bring the model back, or begin again in "
            "another --workdir"
        )


def count(params) -> int:
    """Count the numbers in a tree."""
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))


def _make(function, mesh, prefix: str = ""):
    """Compute `function()` in its place on the mesh; paths start with `prefix`."""
    if mesh is None:
        return jax.jit(function)()
    places = jax.tree.map_with_path(
        lambda path, x: NamedSharding(mesh, spec_for(prefix + path_name(path), x.shape, mesh)),
        jax.eval_shape(function),
    )
    return jax.jit(function, out_shardings=places)()


def _put(tree: dict, path, x) -> None:
    *parents, name = (str(step.key) for step in path)
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[name] = x
