"""Weight arithmetic between a reward model and the one it was trained from (ExPO).

Zheng et al., "Weak-to-Strong Extrapolation Expedites Alignment" (arXiv 2404.16792), as
HelpSteer2-Preference uses it (arXiv 2410.01257). Models are merged one leaf at a time: each pair of
leaves is read, merged and forgotten, so that of two models only one is ever in memory.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from hs2jax.models import sharding
from hs2jax.models.config import Config
from hs2jax.models.hf import hub, weights
from hs2jax.models.hf.tokenizer_files import PAD, template_of


class Source(NamedTuple):
    """A reward model whose parameters are not read yet.

    name: for error messages. shapes: its parameters, {"decoder": ..., "head": ...}, as
    ShapeDtypeStructs. leaf: reads one of them in float32 onto its place, by its path such as
    "decoder/layers/attention/q". weights: how its outputs make one scalar, or None. The rest is as
    in `hub.Loaded`.
    """

    name: str
    config: Config
    outputs: tuple[str, ...]
    weights: dict[str, float] | None
    template: str
    read: str
    tokenizer: Any
    shapes: dict[str, Any]
    leaf: Callable[[str], jax.Array]


def expo(initial, trained, factor):
    """initial + factor * (trained - initial), for each leaf of two trees of parameters, in float32.

    Factor 0 gives the bits of `initial` and 1 those of `trained`; above 1 it extrapolates. This is
    gamma of arXiv 2410.01257, 1 + alpha in the notation of arXiv 2404.16792.
    Raises ValueError where the trees or the shapes of their leaves differ.
    """

    def between(path, a, b):
        if a.shape != b.shape:
            raise ValueError(
                f"{sharding.path_name(path)}: shape {list(a.shape)} cannot be merged with "
                f"{list(b.shape)}"
            )
        a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
        # Rounding would leave neither end as it was.
        between_them = jnp.where(factor == 1, b, a + factor * (b - a))
        return jnp.where(factor == 0, a, between_them)

    return jax.tree.map_with_path(between, initial, trained)


_expo = jax.jit(expo)


def merge(initial: Source, trained: Source, factor: float):
    """The parameters {"decoder", "head"} of `expo`, on the places of the sources' leaves.

    Never more is in memory than these parameters and one leaf of each source.
    """

    def one(path, _):
        name = sharding.path_name(path)
        # The pair must be gone before the next is read, which otherwise would not wait.
        return jax.block_until_ready(_expo(initial.leaf(name), trained.leaf(name), factor))

    return jax.tree.map_with_path(one, initial.shapes)


def open_source(name: str, mesh=None) -> Source:
    """A reward model by name: a folder, or a name on the hub, also one with "#lm_head[0]".

    mesh: where its leaves are put; None is the default device.
    Raises ValueError where it has no reward head or no tokenizer, or is not complete.
    """
    found, tensors = hub.open_model(name)
    if found.head is None:
        raise ValueError(f"{name} has no reward head: it is a language model")
    if found.tokenizer is None:
        raise ValueError(f"{name}: there is no tokenizer beside the model")
    weights.check(tensors, found.config)
    shapes = reward_shapes(found.config, len(found.outputs), bias="bias" in found.head)
    where = places(shapes, mesh)

    def leaf(path: str):
        room, _, rest = path.partition("/")
        if room == "head":
            return put(found.head[rest], where[path])
        return weights.load_leaf(rest, tensors, found.config, where[path])

    return Source(
        name=name,
        config=without_lm_head(found.config),
        outputs=found.outputs,
        weights=found.weights,
        template=found.template,
        read=found.read,
        tokenizer=found.tokenizer,
        shapes=shapes,
        leaf=leaf,
    )


def reward_shapes(config: Config, outputs: int, *, bias: bool):
    """The parameters of a reward model with a decoder of this config, as ShapeDtypeStructs."""
    head = {"kernel": jax.ShapeDtypeStruct((config.hidden_size, outputs), jnp.float32)}
    if bias:
        head["bias"] = jax.ShapeDtypeStruct((outputs,), jnp.float32)
    return {"decoder": weights.shapes(without_lm_head(config)), "head": head}


def without_lm_head(config: Config) -> Config:
    """The config of a decoder without the vocabulary's output weights, which no reward needs."""
    return dataclasses.replace(config, language_head=False) if config.has_lm_head else config


def places(shapes, mesh) -> dict[str, Any]:
    """Map each leaf's path to its place: a NamedSharding, or None without a mesh."""
    return {
        sharding.path_name(path): mesh
        and NamedSharding(mesh, sharding.spec_for(sharding.path_name(path), x.shape, mesh))
        for path, x in jax.tree.leaves_with_path(shapes)
    }


def put(x, where):
    """A leaf on its place; None leaves it where it is."""
    return x if where is None else jax.device_put(x, where)


def check_alike(initial: Source, trained: Source) -> None:
    """Raise ValueError that names all in which two models differ besides their parameters."""
    found = _differences(initial, trained)
    if found:
        listed = "".join(f"\n  {what}: {a!r} and {b!r}" for what, a, b in found)
        raise ValueError(
            f"{initial.name} and {trained.name} cannot be merged, since they differ in{listed}\n"
            "The second must be trained from the first"
        )


def _differences(a: Source, b: Source) -> list[tuple[str, Any, Any]]:
    names = [field.name for field in dataclasses.fields(Config)]
    if a.read == b.read != "last":
        # Which token fills up rows says something only where reading passes over it.
        names.remove("pad_id")
    pairs = [(name, getattr(a.config, name), getattr(b.config, name)) for name in names]
    pairs += [
        (name, getattr(a, name), getattr(b, name)) for name in ("outputs", "template", "read")
    ]
    pairs.append(("the head's bias", "bias" in a.shapes["head"], "bias" in b.shapes["head"]))
    found = [pair for pair in pairs if pair[1] != pair[2]]
    if template_of(a.tokenizer) != template_of(b.tokenizer):
        found.append(("the text of the chat template", "one", "another"))
    if _vocabulary(a.tokenizer) != _vocabulary(b.tokenizer):
        found.append(("the tokenizer's vocabulary", "one", "another"))
    return found


def _vocabulary(tokenizer) -> dict[str, int]:
    words = tokenizer.get_vocab()
    words.pop(PAD, None)  # Only in an export, and never in a text.
    return words
