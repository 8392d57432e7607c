"""The decoder: one Linen file, plain einsum, layers stacked on axis 0.

Axis letters: B rows, T tokens, D width, N query heads, K key/value heads, H head size,
F hidden size of the MLP, V vocabulary, L layers, P probed positions, S probed tokens, r rank of
LoRA.

    hidden, out = Decoder(config).apply({"params": params}, tokens, position, end)

Parameters are a plain nested dict; `models.sharding` places them by their paths.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from hs2jax.models import bits
from hs2jax.models.attention import POSITIONS, attend, attend_cached, contain, put_at
from hs2jax.models.config import Config
from hs2jax.models.sharding import (
    ROWS,
    constrain,
    constrain_rows,
    gather,
    layer_spec,
    one_device,
    path_name,
)

INIT = nn.initializers.normal(0.02)


ACTIVATIONS = {
    "silu": nn.silu,
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
    "relu2": lambda x: jnp.square(nn.relu(x)),  # Squared ReLU, of Nemotron-4.
}


def exact_products(dtype):
    """The context in which who asks for float32 on an accelerator gets it in the products too."""
    return jax.default_matmul_precision("highest" if dtype == jnp.float32 else None)


def held_dtype(path: str, dtype):
    """The type in which weights that are not trained lie, for products in `dtype`: that one, which
    changes nothing of what is computed; norms are computed in float32, and lie so."""
    return jnp.float32 if "norm" in path.rpartition("/")[2] else dtype


def hold(params, dtype):
    """A decoder's parameters as they lie where they are not trained."""
    return jax.tree.map_with_path(
        lambda path, x: x.astype(held_dtype(path_name(path), dtype)), params
    )


def norm(module, name, x):
    """`normalize` x with the module's weights `name`, and with their bias where there is one."""
    c = module.config
    start = nn.initializers.zeros if c.norm_plus_one else nn.initializers.ones
    weight, bias = module.param(name, start, x.shape[-1:]), None
    if c.layer_norm:
        bias = module.param(f"{name}_bias", nn.initializers.zeros, x.shape[-1:])
    return normalize(c, x, weight, bias)


def normalize(config: Config, x, weight, bias=None):
    """Normalise x over its last axis in float32: a root mean square norm, or LayerNorm."""
    weight, y = weight.astype(jnp.float32), x.astype(jnp.float32)
    if config.layer_norm:
        y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + config.norm_epsilon)
    y = y * (1 + weight if config.norm_plus_one else weight)
    if bias is not None:
        y = y + bias.astype(jnp.float32)
    return y.astype(x.dtype)


def rotate(x, position, frequency):
    """Rotary position embedding of x [B, T, N, H] at position [B, T], half-split as in Llama.

    frequency [R / 2]: the first R numbers of each head are rotated, the others stay.
    """
    angle = position[:, :, None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    half = angle.shape[-1]
    first, second, rest = jnp.split(x.astype(jnp.float32), [half, 2 * half], axis=-1)
    out = [first * cos - second * sin, second * cos + first * sin, rest]
    return jnp.concatenate(out, axis=-1).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def project(axes, place, x, w):
    """einsum of activations with weights, for example "BTD,DF->BTF", in x's dtype.

    place: how the weights are split (`sharding.layer_spec`). They are gathered as they are used,
    in x's dtype, and their gradient is summed up over rows and devices in float32, straight into
    its parts. Left alone, JAX rounds each device's sum to x's dtype, XLA keeps all of the total on
    every device, and on CPU it writes large transposed copies.
    """
    return _product(axes, x, gather(w.astype(x.dtype), place))


def _product(axes, x, y, dtype=None):
    """einsum in x's dtype, or with sums that stay in a wider one."""
    # einsum sums over axes in the order of their letters: named as they lie, none is transposed.
    names = dict.fromkeys(filter(str.isalpha, axes))
    axes = axes.translate({ord(name): chr(ord("A") + i) for i, name in enumerate(names)})
    if x.dtype == jnp.float32:  # The backward pass is traced where `exact_products` has ended.
        return jnp.einsum(axes, x, y, precision=jax.lax.Precision.HIGHEST)
    if dtype is not None:
        return jnp.einsum(axes, x, y, preferred_element_type=dtype)

    def wide(x, y):
        return jnp.einsum(axes, x, y, preferred_element_type=jnp.float32).astype(x.dtype)

    # XLA on CPU multiplies bfloat16 as such only into float32; else it takes twice as long. What is
    # rounded is the same sum.
    plain = functools.partial(jnp.einsum, axes)
    return jax.lax.platform_dependent(x, y, cpu=wide, default=plain)


def _project_forward(axes, place, x, w):
    return project(axes, place, x, w), (x, w)


def _project_backward(axes, place, saved, g):
    x, w = saved
    inputs, out = axes.split("->")
    of_x, of_w = inputs.split(",")
    dx = _product(f"{out},{of_w}->{of_x}", g, gather(w.astype(g.dtype), place))
    # With rows and tokens as one axis, XLA on CPU copies no transpose of x.
    if x.dtype == jnp.float32 and one_device():
        x, g = (each.reshape(-1, *each.shape[2:]) for each in (x, g))
        of_x, out = of_x[1:], out[1:]
    dw = constrain(_product(f"{of_x},{out}->{of_w}", x, g, jnp.float32), place)
    # The TPU compiler would add up a norm's gradient within this product, which halves its speed.
    return jax.lax.optimization_barrier(dx), dw.astype(w.dtype)


project.defvjp(_project_forward, _project_backward)


def stationary(axes, place, x, w):
    """`project` one token of each row, without a gradient, to float32: there is less of all tokens
    than of the weights. So these stay where they are, tokens go to them, and sums come back."""
    inputs, out = axes.split("->")
    of_x, of_w = inputs.split(",")
    where = dict(zip(of_w, place or (), strict=place is not None))

    def lie(y, names, rows, without=None):
        axes = (None if where.get(name) == without else where.get(name) for name in names[1:])
        return constrain(y, place and P(rows, *axes))

    y = _product(axes, lie(x, of_x, "data"), w.astype(x.dtype), jnp.float32)
    return lie(lie(y, out, "data"), out, ROWS, "fsdp")


def linear(module, name, axes, x, shape, bias=False):
    """`project` x with the weights `name` of the module, with their bias where they have one, and
    with their LoRA where there is one.

    LoRA (arXiv 2106.09685) is a leaf of the same name in the collection "lora": {"a", "b"}, a of
    the weights' input axes and r, b of r and the output axes.
    """
    place, w = layer_spec(name, shape), module.param(name, INIT, shape)
    y = (stationary if x.shape[1] == 1 else project)(axes, place, x, w).astype(x.dtype)
    y = checkpoint_name(y, name)
    if bias:
        # The output axes, which follow the rows and tokens.
        y = y + module.param(f"{name}_bias", nn.initializers.zeros, y.shape[2:]).astype(x.dtype)
    if not module.has_variable("lora", name):
        return y
    low = module.get_variable("lora", name)
    inputs, out = axes.split("->")
    of_x, of_w = inputs.split(",")
    summed, kept = (re.sub(f"[{axes}]", "", of_w) for axes in (out, of_x))
    narrow = re.sub(f"[{summed}]", "", of_x) + "r"
    a, b = (layer_spec(f"lora/{part}", low[part].shape) for part in "ab")
    z = project(f"{of_x},{summed}r->{narrow}", a, x, low["a"])
    return y + project(f"{narrow},r{kept}->{out}", b, z, low["b"])


class Probe(NamedTuple):
    """Positions and columns to read in every layer, so that no layer's states are kept.

    at: int32 [B, P]. columns: [S, D], the unembedding's rows of the tokens whose logits are wanted;
    None: the states themselves. norm: the final norm's parameters {"norm" [D], "norm_bias" [D] if
    there is one}, only with columns.
    """

    at: jax.Array
    columns: jax.Array | None = None
    norm: Mapping[str, jax.Array] | None = None


def look(config: Config, x, probe: Probe | None):
    """Read the residual stream x [B, T, D] with a probe: its states [B, P, D], or logits
    [2, B, P, S] (see `lens`); None without a probe."""
    if probe is None:
        return None
    state = pick(x, probe.at)
    return state if probe.columns is None else lens(config, state, probe.columns, probe.norm)


def lens(config: Config, state, columns, norm: Mapping[str, jax.Array]):
    """Logits [2, ..., S] of states [..., D]: the unembedding of the state as it is, and of the
    state after the final norm. In float32, as the model's own head (without Gemma 2's cap)."""
    normed = normalize(config, state, norm["norm"], norm.get("norm_bias"))
    both = jnp.stack([state, normed]).astype(jnp.float32)
    return jnp.einsum("...D,SD->...S", both, columns.astype(jnp.float32), precision="highest")


class Attention(nn.Module):
    """Attention with its norms. Where the collection "cache" is mutable, keys and values are left
    there. Where the collection "prompts" has some, x is one token [B, 1, D] of each row, which is
    put to the cache and sees both, see `attention.attend_cached`; then `end` is `begun`.
    """

    config: Config

    @nn.compact
    def __call__(self, x, position, end, frequency, window):
        c = self.config
        D, N, K, H = c.hidden_size, c.num_heads, c.num_kv_heads, c.head_dim

        y = norm(self, "norm", x)
        q = linear(self, "q", "BTD,DNH->BTNH", y, (D, N, H), c.qkv_bias)
        k = linear(self, "k", "BTD,DKH->BTKH", y, (D, K, H), c.qkv_bias)
        v = linear(self, "v", "BTD,DKH->BTKH", y, (D, K, H), c.qkv_bias)
        if c.qk_norm:
            q, k = norm(self, "q_norm", q), norm(self, "k_norm", k)
        q, k = rotate(q, position, frequency), rotate(k, position, frequency)
        k, v = contain(k, v)
        sees = {"scale": c.attention_scale, "window": window, "cap": c.attn_logit_softcap}
        if self.has_variable("prompts", "k"):
            prompts, at = self.variables["prompts"], position[:, 0] - end
            cache = {"k": self.put("k", k, at), "v": self.put("v", v, at)}
            z = attend_cached(q, prompts, cache, end, position[:, 0], **sees)
        else:
            if self.is_mutable_collection("cache"):
                self.put_variable("cache", "k", k.transpose(0, 2, 3, 1))
                self.put_variable("cache", "v", v.swapaxes(1, 2))
            z = attend(q, k, v, end, position, **sees)
        out = linear(self, "o", "BTNH,NHD->BTD", z, (N, H, D), c.o_bias)
        return x + (norm(self, "post_norm", out) if c.post_norms else out)

    def put(self, name, x, position):
        """x [B, 1, K, H] put into the cache at position [B]; returns all of it."""
        cache = put_at(self.get_variable("cache", name), x[:, 0], position, POSITIONS[name])
        self.put_variable("cache", name, cache)
        return cache


class Mlp(nn.Module):
    config: Config

    @nn.compact
    def __call__(self, x):
        c = self.config
        D, F = c.hidden_size, c.intermediate_size
        act = ACTIVATIONS[c.activation]

        y = norm(self, "norm", x)
        if c.gated:
            gate = act(linear(self, "gate", "BTD,DF->BTF", y, (D, F), c.mlp_bias))
            y = gate * linear(self, "up", "BTD,DF->BTF", y, (D, F), c.mlp_bias)
        else:
            y = act(linear(self, "up", "BTD,DF->BTF", y, (D, F), c.mlp_bias))
        out = linear(self, "down", "BTF,FD->BTD", y, (F, D), c.mlp_bias)
        return x + (norm(self, "post_norm", out) if c.post_norms else out)


class Layer(nn.Module):
    """One layer. `per_layer` is what differs between layers, `broadcast` what does not: "frequency"
    and "window" are each in one of the two."""

    config: Config

    @nn.compact
    def __call__(self, x, per_layer, broadcast, position, end, probe):
        x = constrain_rows(x)
        x = Attention(self.config, name="attention")(x, position, end, **per_layer, **broadcast)
        x = Mlp(self.config, name="mlp")(x)
        return x, look(self.config, x, probe)


def constants(config: Config, tokens: int):
    """(per_layer, broadcast) for rows of so many tokens: what layers are given besides parameters.

    per_layer: arrays with one row per layer, so that a part of the layers gets a slice of them.
    broadcast: what is the same in all layers.
    """
    per_layer, broadcast = {}, {"window": None}
    frequency = config.frequencies()
    (per_layer if frequency.ndim == 2 else broadcast)["frequency"] = frequency
    # A window as long as the rows hides nothing, and costs nothing.
    if any(config.sliding) and config.sliding_window < tokens:
        if all(config.sliding):
            broadcast["window"] = config.sliding_window
        else:
            del broadcast["window"]
            windows = np.where(config.sliding, config.sliding_window, tokens)
            per_layer["window"] = windows.astype(np.int32)
    return per_layer, broadcast


class Decoder(nn.Module):
    """Tokens to hidden states.

    tokens, position: int32 [B, T]. end: who sees whom, int32 [B, T] of `attention.ends`, or None
    for plain causal order.
    probe: what is looked at in every layer, or None.
    Returns (hidden, out): hidden [B, T, D] after the final norm, in `dtype`; out["probe"] (only
    with a probe): what it sees after the embedding and after each layer, before the final norm,
    [L + 1, B, P, D] or [L + 1, 2, B, P, S]; out["frozen"] [B, T, D]: what enters the first layer
    that is not frozen. remat: compute each layer again in the backward pass, all of it or but for
    some of `config.KEPT`, "attention,up".

    The first `frozen` layers are a stack of their own, "frozen", which no gradient enters. Its
    result may be given as `entered` [B, T, D]; then nothing below is computed.
    """

    config: Config
    dtype: Any = jnp.float32
    remat: bool | str = False
    frozen: int = 0

    @nn.compact
    def __call__(self, tokens, position, end=None, probe=None, entered=None):
        c = self.config
        embed = self.param("embed", INIT, (c.vocab_size, c.hidden_size))
        if c.has_lm_head:
            self.param("lm_head", INIT, (c.vocab_size, c.hidden_size))
        per_layer, broadcast = constants(c, tokens.shape[1])
        along = (broadcast, position, end, probe)
        seen = []
        if entered is None:
            x = enter(c, embed, tokens, self.dtype)
            if probe is not None:
                seen.append(look(c, x, probe)[None])
            if self.frozen:
                x, more = self.stack("frozen", x, per_layer, along, 0, self.frozen)
                seen.append(more)
        else:
            x = constrain_rows(entered.astype(self.dtype))
        if self.frozen:
            x = jax.lax.stop_gradient(x)
        out = {"frozen": x}
        if self.frozen < c.num_layers:
            x, more = self.stack("layers", x, per_layer, along, self.frozen, c.num_layers)
            seen.append(more)

        hidden = norm(self, "norm", x)
        if probe is not None:
            out["probe"] = jnp.concatenate(seen)
        return hidden, out

    def stack(self, name, x, per_layer, along, start, stop):
        """The layers from `start` to before `stop`, as one scan."""
        layer, kept = Layer, self.remat.split(",") if isinstance(self.remat, str) else ()
        if self.remat:
            policy = jax.checkpoint_policies.save_only_these_names(*kept)
            layer = nn.remat(Layer, prevent_cse=False, policy=policy)
        plain = not self.remat and along[-1] is None and not self.is_mutable_collection("cache")
        as_bits = plain and self.dtype == jnp.bfloat16 and one_device()
        scanned = nn.scan(
            bits.run if as_bits else layer,
            variable_axes={"params": 0, "lora": 0, "cache": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast, nn.broadcast),
            length=stop - start,
        )
        per_layer = jax.tree.map(lambda rows: rows[start:stop], per_layer)
        if as_bits:
            return scanned(Layer(self.config, name=name), x, per_layer, *along)
        return scanned(self.config, name=name)(x, per_layer, *along)


@jax.named_scope("embed")
def enter(config: Config, embed, tokens, dtype):
    """Embed tokens as they enter the first layer [B, T, D], in `dtype`."""
    x = constrain_rows(jnp.take(embed, tokens, axis=0).astype(dtype))
    if config.scaled_embedding:
        # In bfloat16 the factor is rounded too, as it was when the weights were made.
        x = x * jnp.asarray(config.hidden_size**0.5, dtype)
    return x


def pick(x, at):
    """x [B, T, D] at positions [B, P] -> [B, P, D]."""
    return jnp.take_along_axis(x, at[:, :, None], axis=1)
