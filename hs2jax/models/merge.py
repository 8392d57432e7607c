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

from hs2jax.models import sharding
from hs2jax.models.hf import hub, weights
from hs2jax.models.hf.tokenizer_files import PAD, template_of
from hs2jax.models.sharding import path_name


class Source(NamedTuple):
    """A reward model whose parameters are not read yet.

    name: for error messages. model: a `hub.Loaded`, or what has its config, outputs, weights,
    template, read and tokenizer. shapes: its parameters, {"decoder": ..., "head": ...}, as
    ShapeDtypeStructs. leaf: reads one of them in float32 onto its place, by its path such as
    "decoder/layers/attention/q".
    """

    name: str
    model: Any
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
                f"{path_name(path)}: shape {list(a.shape)} cannot be merged with {list(b.shape)}"
            )
        a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
        # Rounding would leave neither end as it was.
        return jnp.where(factor == 0, a, jnp.where(factor == 1, b, a + factor * (b - a)))

    return jax.tree.map_with_path(between, initial, trained)


_expo = jax.jit(expo)


def merge(initial: Source, trained: Source, factor: float):
    """The parameters {"decoder", "head"} of `expo`, on the places of the sources' leaves.

    Never more is in memory than these parameters and one leaf of each source.
    """

    def one(path, _):
        name = path_name(path)
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
    config, head = found.config.without_lm_head(), found.head
    shapes = {"decoder": weights.shapes(config), "head": jax.eval_shape(lambda: head)}
    places = jax.tree.leaves_with_path(sharding.shardings(shapes, mesh)) if mesh else ()
    where = {path_name(path): place for path, place in places}

    def leaf(path: str):
        room, _, rest = path.partition("/")
        if room == "head":
            return jax.device_put(head[rest], where.get(path))
        return weights.load_leaf(rest, tensors, found.config, where.get(path))

    return Source(name, dataclasses.replace(found, config=config), shapes, leaf)


def check_alike(initial: Source, trained: Source) -> None:
    """Raise ValueError that names all in which two models differ besides their parameters."""
    a, b = _described(initial), _described(trained)
    if a["read"] == b["read"] != "last":
        # Which token fills up rows says something only where reading passes over it.
        a["pad_id"] = b["pad_id"]
    found = [f"{what}: {a[what]!r} and {b[what]!r}" for what in a if a[what] != b[what]]
    long = {
        "the text of the chat template": template_of,
        # PAD is only in an export, and never in a text.
        "the tokenizer's vocabulary": lambda tokenizer: tokenizer.get_vocab() | {PAD: None},
    }
    ours, theirs = initial.model.tokenizer, trained.model.tokenizer
    found += [what for what, read in long.items() if read(ours) != read(theirs)]
    if found:
        raise ValueError(
            f"{initial.name} and {trained.name} cannot be merged, since they differ in "
            f"{'; '.join(found)}. The second must be trained from the first"
        )


def _described(source: Source) -> dict[str, Any]:
    named = {name: getattr(source.model, name) for name in ("outputs", "template", "read")}
    bias = {"the head's bias": "bias" in source.shapes["head"]}
    return vars(source.model.config) | named | bias
