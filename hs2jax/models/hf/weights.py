"""A table of where each of our parameters lies among Hugging Face's tensors, and its use.

Axis letters: V vocabulary, D width, N query heads, K key/value heads, H head size, F hidden
size; layers are stacked on axis 0.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from hs2jax.models.config import Config
from hs2jax.models.decoder import held_dtype
from hs2jax.models.sharding import to_host


class Leaf(NamedTuple):
    """One leaf of our tree and its tensor in a checkpoint, whose name lacks "model.".

    `theirs` has a word per axis of the tensor; one of two letters is two of our axes as one. A name
    with "{}" stands for one tensor per layer, stacked here on axis 0. `when` names what is true in
    the `Config` of models with this row; of two rows of one path the later is theirs.
    """

    path: str
    name: str
    theirs: str
    ours: str
    when: str = ""

    @property
    def stacked(self) -> bool:
        """True for a leaf that holds one tensor per layer."""
        return "{}" in self.name

    def names(self, config: Config) -> list[str]:
        """The names of its tensors: one, or one per layer."""
        return [self.name.format(i) for i in range(config.num_layers if self.stacked else 1)]

    def shape(self, config: Config) -> tuple[int, ...]:
        """The leaf's shape."""
        return (config.num_layers,) * self.stacked + _sizes(self.ours, config)

    def their_shape(self, config: Config) -> tuple[int, ...]:
        """The shape of each of its tensors."""
        return tuple(math.prod(_sizes(word, config)) for word in self.theirs.split())

    def to_ours(self, tensor: np.ndarray, config: Config) -> np.ndarray:
        """View a tensor in our layout: nothing is read or copied."""
        axes = self.theirs.replace(" ", "")
        order = [axes.index(axis) for axis in self.ours]
        return tensor.reshape(_sizes(axes, config)).transpose(order)

    def to_theirs(self, array, config: Config, layer: int) -> np.ndarray:
        """Fetch one tensor of the leaf's array, in the layout of `transformers`. Of an array that
        processes share, all must ask for the same one."""
        one = to_host(array[layer] if self.stacked else array)
        order = [self.ours.index(axis) for axis in self.theirs.replace(" ", "")]
        return one.transpose(order).reshape(self.their_shape(config))


SIZES = {
    "V": "vocab_size",
    "D": "hidden_size",
    "N": "num_heads",
    "K": "num_kv_heads",
    "H": "head_dim",
    "F": "intermediate_size",
}


def _sizes(axes: str, config: Config) -> tuple[int, ...]:
    return tuple(getattr(config, SIZES[axis]) for axis in axes)


def full_name(name: str) -> str:
    """A tensor's name in files, with "model." """
    return name if name == UNEMBED else f"model.{name}"


def _layer(path: str, name: str, theirs: str, ours: str, when: str = "") -> Leaf:
    return Leaf(f"layers/{path}", f"layers.{{}}.{name}", theirs, ours, when)


EMBED = "embed_tokens.weight"
UNEMBED = "lm_head.weight"

# "post_attention_layernorm" is two things: in most families what comes before the feed-forward
# layer, in Gemma what comes after attention, before the residual is added.
LEAVES = (
    Leaf("embed", EMBED, "V D", "VD"),
    _layer("attention/norm", "input_layernorm.weight", "D", "D"),
    _layer("attention/norm_bias", "input_layernorm.bias", "D", "D", "layer_norm"),
    _layer("attention/q", "self_attn.q_proj.weight", "NH D", "DNH"),
    _layer("attention/k", "self_attn.k_proj.weight", "KH D", "DKH"),
    _layer("attention/v", "self_attn.v_proj.weight", "KH D", "DKH"),
    _layer("attention/o", "self_attn.o_proj.weight", "D NH", "NHD"),
    _layer("attention/q_bias", "self_attn.q_proj.bias", "NH", "NH", "qkv_bias"),
    _layer("attention/k_bias", "self_attn.k_proj.bias", "KH", "KH", "qkv_bias"),
    _layer("attention/v_bias", "self_attn.v_proj.bias", "KH", "KH", "qkv_bias"),
    _layer("attention/o_bias", "self_attn.o_proj.bias", "D", "D", "o_bias"),
    _layer("attention/q_norm", "self_attn.q_norm.weight", "H", "H", "qk_norm"),
    _layer("attention/k_norm", "self_attn.k_norm.weight", "H", "H", "qk_norm"),
    _layer("attention/post_norm", "post_attention_layernorm.weight", "D", "D", "post_norms"),
    _layer("mlp/norm", "post_attention_layernorm.weight", "D", "D"),
    _layer("mlp/norm", "pre_feedforward_layernorm.weight", "D", "D", "post_norms"),
    _layer("mlp/norm_bias", "post_attention_layernorm.bias", "D", "D", "layer_norm"),
    _layer("mlp/gate", "mlp.gate_proj.weight", "F D", "DF", "gated"),
    _layer("mlp/up", "mlp.up_proj.weight", "F D", "DF"),
    _layer("mlp/down", "mlp.down_proj.weight", "D F", "FD"),
    _layer("mlp/gate_bias", "mlp.gate_proj.bias", "F", "F", "gated mlp_bias"),
    _layer("mlp/up_bias", "mlp.up_proj.bias", "F", "F", "mlp_bias"),
    _layer("mlp/down_bias", "mlp.down_proj.bias", "D", "D", "mlp_bias"),
    _layer("mlp/post_norm", "post_feedforward_layernorm.weight", "D", "D", "post_norms"),
    Leaf("norm", "norm.weight", "D", "D"),
    Leaf("norm_bias", "norm.bias", "D", "D", "layer_norm"),
    Leaf("lm_head", UNEMBED, "V D", "VD", "has_lm_head"),
)


class Tensor(NamedTuple):
    """A tensor that is not read yet: `read()` gives it in the layout of `transformers`. `where` and
    `name` are its file and its name there, for error messages."""

    where: str
    name: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def leaves_of(config: Config) -> dict[str, Leaf]:
    """The rows of `LEAVES` that a model of this config has, by path."""
    return {x.path: x for x in LEAVES if all(getattr(config, y) for y in x.when.split())}


def shapes(config: Config, dtype=jnp.float32) -> dict[str, Any]:
    """The parameter tree as jax.ShapeDtypeStructs. dtype: see `assemble`."""
    found = {
        path: jax.ShapeDtypeStruct(leaf.shape(config), held_dtype(path, dtype))
        for path, leaf in leaves_of(config).items()
    }
    return unflatten_dict(found, sep="/")


def assemble(
    tensors: Mapping[str, Tensor], config: Config, shardings: Any = None, dtype=jnp.float32
):
    """The parameter tree from tensors by name (without "model."), in float32, or as weights that
    are not trained lie for products in `dtype` (see `decoder.held_dtype`).

    `shardings`: a tree of jax.sharding.Sharding as `shapes(config)` is one, or None for plain
    arrays on the default device. Only what this process's devices hold is read, leaf by leaf.
    Raises ValueError for a tensor that is missing, of another shape, not finite, or has no place.
    """
    check(tensors, config)
    places = {} if shardings is None else flatten_dict(shardings, sep="/")
    found = {x: load_leaf(x, tensors, config, places.get(x), dtype) for x in leaves_of(config)}
    return unflatten_dict(found, sep="/")


def check(tensors: Mapping[str, Tensor], config: Config) -> None:
    """Raise what `assemble` raises; nothing is read."""
    leaves = leaves_of(config).values()
    wanted = {name: leaf.their_shape(config) for leaf in leaves for name in leaf.names(config)}
    for name, shape in wanted.items():
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
    for name, tensor in tensors.items():
        # Loading around it would give another model than the one that was saved.
        if name not in wanted:
            raise ValueError(
                f"{tensor.where}: tensor {tensor.name} has no place in a {config.family} model of "
                f"{config.num_layers} layers with this config"
            )


def load_leaf(
    path: str,
    tensors: Mapping[str, Tensor],
    config: Config,
    sharding: Any = None,
    dtype=jnp.float32,
):
    """One leaf of what `assemble` gives, of tensors that `check` has seen; nothing else is read.
    Raises ValueError for a tensor that is not finite."""
    leaf = leaves_of(config)[path]
    theirs = [tensors[name] for name in leaf.names(config)]
    views = [leaf.to_ours(tensor.read(), config) for tensor in theirs]

    def read_part(index: tuple[slice, ...]) -> np.ndarray:
        if not leaf.stacked:
            # Always a copy: on a CPU, JAX may use the memory it is given, which is the file's.
            return finite(np.array(views[0][index], np.float32, order="C"), theirs[0])
        parts = views[index[0]]
        out = np.empty((len(parts), *parts[0][index[1:]].shape), np.float32)
        for row, view, tensor in zip(out, parts, theirs[index[0]], strict=True):
            row[...] = view[index[1:]]
            finite(row, tensor)
        return out

    shape, dtype = leaf.shape(config), held_dtype(path, dtype)
    if sharding is None:
        return jnp.asarray(read_part((slice(None),) * len(shape)), dtype)
    narrow = lambda index: read_part(index).astype(dtype, copy=False)  # noqa: E731
    return jax.make_array_from_callback(shape, sharding, narrow)


def finite(numbers: np.ndarray, tensor: Tensor) -> np.ndarray:
    """Return the numbers of a tensor. Raises ValueError with its name where some are not finite."""
    if count := numbers.size - np.count_nonzero(np.isfinite(numbers)):
        raise ValueError(
            f"{tensor.where}: tensor {tensor.name} has {count} numbers that are not finite (NaN or "
            "infinity): is the checkpoint whole, and did its training go well?"
        )
    return numbers


def unstack(params: Mapping[str, Any], config: Config) -> Iterator[Tensor]:
    """The way back: every tensor of `params`, `name` without "model.", as transformers has it.

    `read()` fetches one tensor, so one layer of a stacked leaf, as a numpy array.
    Raises ValueError for a leaf that is missing, of another shape, or has no place.
    """
    leaves, arrays = leaves_of(config), flatten_dict(params, sep="/")
    for path in sorted(leaves.keys() ^ arrays.keys()):
        fault = "is missing" if path in leaves else "has no place in a checkpoint"
        raise ValueError(f"parameter {path} {fault} of a {config.family} model with this config")
    for path, leaf in leaves.items():
        if tuple(arrays[path].shape) != leaf.shape(config):
            raise ValueError(
                f"parameter {path} has shape {list(arrays[path].shape)}; "
                f"the config makes it {list(leaf.shape(config))}"
            )
        for layer, name in enumerate(leaf.names(config)):
            read = functools.partial(leaf.to_theirs, arrays[path], config, layer)
            yield Tensor(f"parameter {path}", name, leaf.their_shape(config), read)


def gathered(decoder, config: Config):
    """A decoder's parameters as an export needs them, on the first process; None on the others. All
    processes that share them must call this. Layers are gathered one at a time, as they are read.
    """
    decoder = {name: x if name == "layers" else to_host(x) for name, x in decoder.items()}
    if jax.process_index() == 0:
        return decoder
    for tensor in unstack(decoder, config):
        tensor.read()  # As the first process reads it, in the same order.
    return None
