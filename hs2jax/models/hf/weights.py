"""A table of where each of our parameters lies among Hugging Face's tensors, and its use.

`LEAVES` says, for each leaf of our tree, which tensors hold it and how their axes lie. Reading
and writing both follow that table, so they cannot disagree.

Axis letters: V vocabulary, D width, N query heads, K key/value heads, H head size, F hidden
size; layers are stacked on axis 0.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hs2jax.models.config import Config
from hs2jax.models.sharding import path_name, to_host


class Leaf(NamedTuple):
    """One leaf of our tree and its tensor in a checkpoint, whose name lacks "model.".

    `theirs` holds one word per axis of the tensor; a word of two letters is two of our axes
    laid out as one. A name with "{}" stands for one tensor per layer, stacked here on axis 0.
    `when` names the field or property of `Config` that is true of models with this row.
    """

    path: str
    name: str
    theirs: str
    ours: str
    when: str | None = None


EMBED = "embed_tokens.weight"
UNEMBED = "lm_head.weight"

# "post_attention_layernorm" is two things: in most families what comes before the feed-forward
# layer, in Gemma what comes after attention, before the residual is added.
LEAVES = (
    Leaf("embed", EMBED, "V D", "VD"),
    Leaf("layers/attention/norm", "layers.{}.input_layernorm.weight", "D", "D"),
    Leaf("layers/attention/norm_bias", "layers.{}.input_layernorm.bias", "D", "D", "layer_norm"),
    Leaf("layers/attention/q", "layers.{}.self_attn.q_proj.weight", "NH D", "DNH"),
    Leaf("layers/attention/k", "layers.{}.self_attn.k_proj.weight", "KH D", "DKH"),
    Leaf("layers/attention/v", "layers.{}.self_attn.v_proj.weight", "KH D", "DKH"),
    Leaf("layers/attention/o", "layers.{}.self_attn.o_proj.weight", "D NH", "NHD"),
    Leaf("layers/attention/q_bias", "layers.{}.self_attn.q_proj.bias", "NH", "NH", "qkv_bias"),
    Leaf("layers/attention/k_bias", "layers.{}.self_attn.k_proj.bias", "KH", "KH", "qkv_bias"),
    Leaf("layers/attention/v_bias", "layers.{}.self_attn.v_proj.bias", "KH", "KH", "qkv_bias"),
    Leaf("layers/attention/o_bias", "layers.{}.self_attn.o_proj.bias", "D", "D", "o_bias"),
    Leaf("layers/attention/q_norm", "layers.{}.self_attn.q_norm.weight", "H", "H", "qk_norm"),
    Leaf("layers/attention/k_norm", "layers.{}.self_attn.k_norm.weight", "H", "H", "qk_norm"),
    Leaf(
        "layers/attention/post_norm",
        "layers.{}.post_attention_layernorm.weight",
        "D",
        "D",
        "post_norms",
    ),
    Leaf("layers/mlp/norm", "layers.{}.post_attention_layernorm.weight", "D", "D", "pre_norms"),
    Leaf("layers/mlp/norm", "layers.{}.pre_feedforward_layernorm.weight", "D", "D", "post_norms"),
    Leaf("layers/mlp/norm_bias", "layers.{}.post_attention_layernorm.bias", "D", "D", "layer_norm"),
    Leaf("layers/mlp/gate", "layers.{}.mlp.gate_proj.weight", "F D", "DF", "gated"),
    Leaf("layers/mlp/up", "layers.{}.mlp.up_proj.weight", "F D", "DF"),
    Leaf("layers/mlp/down", "layers.{}.mlp.down_proj.weight", "D F", "FD"),
    Leaf("layers/mlp/gate_bias", "layers.{}.mlp.gate_proj.bias", "F", "F", "gate_bias"),
    Leaf("layers/mlp/up_bias", "layers.{}.mlp.up_proj.bias", "F", "F", "mlp_bias"),
    Leaf("layers/mlp/down_bias", "layers.{}.mlp.down_proj.bias", "D", "D", "mlp_bias"),
    Leaf(
        "layers/mlp/post_norm",
        "layers.{}.post_feedforward_layernorm.weight",
        "D",
        "D",
        "post_norms",
    ),
    Leaf("norm", "norm.weight", "D", "D"),
    Leaf("norm_bias", "norm.bias", "D", "D", "layer_norm"),
    Leaf("lm_head", UNEMBED, "V D", "VD", "has_lm_head"),
)


class Tensor(NamedTuple):
    """A tensor that is not read yet. `read()` gives it in the layout of `transformers`.

    `where` names its file and `name` is its name there, both for error messages.
    """

    where: str
    name: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def leaves_of(config: Config) -> list[Leaf]:
    """The rows of `LEAVES` that a model of this config has."""
    return [leaf for leaf in LEAVES if leaf.when is None or getattr(config, leaf.when)]


def shapes(config: Config) -> dict[str, Any]:
    """The parameter tree as float32 jax.ShapeDtypeStructs."""
    return nest(
        (leaf.path, jax.ShapeDtypeStruct(_our_shape(leaf, config), jnp.float32))
        for leaf in leaves_of(config)
    )


def assemble(tensors: Mapping[str, Tensor], config: Config, shardings: Any = None):
    """The parameter tree in float32 from tensors by name (without "model.").

    `shardings`: a tree of jax.sharding.Sharding with the structure of `shapes(config)`, or
    None for plain arrays on the default device. Only the parts that this process's devices
    hold are read, one leaf at a time.
    Raises ValueError for a tensor that is missing, of another shape, or has no place.
    """
    places = {} if shardings is None else dict(_flatten(shardings))
    check(tensors, config)
    return nest(
        (leaf.path, _load_leaf(leaf, tensors, config, places.get(leaf.path)))
        for leaf in leaves_of(config)
    )


def check(tensors: Mapping[str, Tensor], config: Config) -> None:
    """Raise what `assemble` raises; nothing is read."""
    wanted = {name: leaf for leaf in leaves_of(config) for name in _names(leaf, config)}
    for name, leaf in wanted.items():
        shape = _their_shape(leaf, config)
        if name not in tensors:
            where = next(iter(tensors.values())).where if tensors else "the checkpoint"
            raise ValueError(
                f"{where}: tensor {name} of shape {list(shape)} is missing; "
                "is the checkpoint complete, and does its config belong to it?"
            )
        if tensors[name].shape != shape:
            raise ValueError(
                f"{tensors[name].where}: tensor {tensors[name].name} has shape "
                f"{list(tensors[name].shape)}; the config makes it {list(shape)}"
            )
    for name in tensors:
        # Loading around it would give another model than the one that was saved.
        if name not in wanted:
            raise ValueError(
                f"{tensors[name].where}: tensor {tensors[name].name} has no place in a "
                f"{config.family} model of {config.num_layers} layers with this config"
            )


def load_leaf(path: str, tensors: Mapping[str, Tensor], config: Config, sharding: Any = None):
    """One leaf of what `assemble` gives, of tensors that `check` has seen; nothing else is read."""
    (leaf,) = (leaf for leaf in leaves_of(config) if leaf.path == path)
    return _load_leaf(leaf, tensors, config, sharding)


def _load_leaf(leaf: Leaf, tensors: Mapping[str, Tensor], config: Config, sharding):
    views = [_to_ours(tensors[n].read(), leaf, config) for n in _names(leaf, config)]
    stacked = "{}" in leaf.name

    def read_part(index: tuple[slice, ...]) -> np.ndarray:
        if not stacked:
            # Always a copy: on a CPU, JAX may use the memory it is given, which is the file's.
            return np.array(views[0][index], np.float32, order="C")
        parts = views[index[0]]
        out = np.empty((len(parts), *parts[0][index[1:]].shape), np.float32)
        for row, view in zip(out, parts, strict=True):
            row[...] = view[index[1:]]
        return out

    shape = _our_shape(leaf, config)
    if sharding is None:
        return jnp.asarray(read_part((slice(None),) * len(shape)))
    return jax.make_array_from_callback(shape, sharding, read_part)


def unstack(params: Mapping[str, Any], config: Config) -> Iterator[Tensor]:
    """The way back: every tensor of `params`, `name` without "model.", as transformers has it.

    `read()` fetches one tensor, so one layer of a stacked leaf, as a numpy array.
    Raises ValueError for a leaf that is missing, of another shape, or has no place.
    """
    leaves = {leaf.path: leaf for leaf in leaves_of(config)}
    arrays = dict(_flatten(params))
    for path in sorted(leaves.keys() ^ arrays.keys()):
        fault = "is missing" if path in leaves else "has no place in a checkpoint"
        raise ValueError(f"parameter {path} {fault} of a {config.family} model with this config")
    for path, leaf in leaves.items():
        shape, ours = _their_shape(leaf, config), _our_shape(leaf, config)
        if tuple(arrays[path].shape) != ours:
            raise ValueError(
                f"parameter {path} has shape {list(arrays[path].shape)}; "
                f"the config makes it {list(ours)}"
            )
        for layer, name in enumerate(_names(leaf, config)):
            read = functools.partial(_read_back, arrays[path], leaf, config, layer)
            yield Tensor(f"parameter {path}", name, shape, read)


def _read_back(array, leaf: Leaf, config: Config, layer: int) -> np.ndarray:
    one = array[layer] if "{}" in leaf.name else array
    axes = leaf.theirs.replace(" ", "")
    order = [leaf.ours.index(axis) for axis in axes]
    return np.asarray(one).transpose(order).reshape(_their_shape(leaf, config))


class Spread:
    """A stack of layers that several processes share, as much of an array as an export needs."""

    def __init__(self, array):
        self._array, self.shape = array, array.shape

    def __getitem__(self, layer: int) -> np.ndarray:
        """One layer on the host. All processes must ask for the same one."""
        return to_host(self._array[layer])


def gathered(decoder, config: Config):
    """A decoder's parameters as an export needs them, on the first process; None on the others.

    Where they are spread over several processes, all must call this. Layers are gathered one at a
    time, as the export reads them, so that no host or device needs room for all.
    """

    def gather(path, x):
        if x.is_fully_addressable:
            return x
        return Spread(x) if path_name(path).startswith("layers") else to_host(x)

    decoder = jax.tree.map_with_path(gather, decoder)
    if jax.process_index() == 0:
        return decoder
    for tensor in unstack(decoder, config):
        tensor.read()  # As the first process reads it, in the same order.
    return None


# Layout: from their axes to ours and back.


def _sizes(config: Config) -> dict[str, int]:
    return {
        "V": config.vocab_size,
        "D": config.hidden_size,
        "N": config.num_heads,
        "K": config.num_kv_heads,
        "H": config.head_dim,
        "F": config.intermediate_size,
    }


def _their_shape(leaf: Leaf, config: Config) -> tuple[int, ...]:
    sizes = _sizes(config)
    return tuple(math.prod(sizes[axis] for axis in word) for word in leaf.theirs.split())


def _our_shape(leaf: Leaf, config: Config) -> tuple[int, ...]:
    sizes = _sizes(config)
    stack = (config.num_layers,) if "{}" in leaf.name else ()
    return stack + tuple(sizes[axis] for axis in leaf.ours)


def _to_ours(tensor: np.ndarray, leaf: Leaf, config: Config) -> np.ndarray:
    """A view: nothing is read or copied."""
    sizes, axes = _sizes(config), leaf.theirs.replace(" ", "")
    split = tensor.reshape([sizes[axis] for axis in axes])
    return split.transpose([axes.index(axis) for axis in leaf.ours])


def _names(leaf: Leaf, config: Config) -> list[str]:
    count = config.num_layers if "{}" in leaf.name else 1
    return [leaf.name.format(layer) for layer in range(count)]


def nest(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The tree of ("a/b", x): {"a": {"b": x}}."""
    tree: dict[str, Any] = {}
    for path, value in items:
        *parents, last = path.split("/")
        functools.reduce(lambda node, key: node.setdefault(key, {}), parents, tree)[last] = value
    return tree


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value
