"""The decoder: one Linen file, plain einsum, layers stacked on axis 0.

Axis letters: B rows, T tokens, D width, N query heads, K key/value heads, H head size,
F hidden size of the MLP, V vocabulary, L layers, S chosen positions, r rank of LoRA.

    hidden, out = Decoder(config).apply({"params": params}, tokens, position, layout)

Parameters are a plain nested dict; `models.sharding` places them by their paths.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hs2jax.models.attention import Layout, attend
from hs2jax.models.config import Config
from hs2jax.models.sharding import constrain_rows

INIT = nn.initializers.normal(0.02)


def rms_norm(x, weight, epsilon):
    """Root mean square norm over the last axis in float32; the result has x's dtype."""
    x32 = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + epsilon)
    return (x32 * scale * weight.astype(jnp.float32)).astype(x.dtype)


def rotate(x, position, base):
    """Rotary position embedding of x [B, T, N, H] at position [B, T], half-split as in Llama."""
    half = x.shape[-1] // 2
    frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = position[:, :, None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    out = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return out.astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def project(axes, x, w):
    """einsum of activations with weights, for example "BTD,DF->BTF".

    Only its gradient is written out: left alone, JAX forms the weights' gradient from the
    cotangent's transpose, and XLA on CPU then writes large transposed copies.
    """
    return jnp.einsum(axes, x, w)


def _project_forward(axes, x, w):
    return jnp.einsum(axes, x, w), (x, w)


def _project_backward(axes, saved, g):
    x, w = saved
    inputs, out = axes.split("->")
    of_x, of_w = inputs.split(",")
    return jnp.einsum(f"{out},{of_w}->{of_x}", g, w), jnp.einsum(f"{of_x},{out}->{of_w}", x, g)


project.defvjp(_project_forward, _project_backward)


def linear(module, name, axes, x, shape):
    """`project` x with the weights `name` of the module, and with their LoRA where there is one.

    LoRA (arXiv 2106.09685) is a leaf of the same name in the collection "lora": {"a", "b"}, a of
    the weights' input axes and r, b of r and the output axes.
    """
    y = project(axes, x, module.param(name, INIT, shape).astype(x.dtype))
    if not module.has_variable("lora", name):
        return y
    low = module.get_variable("lora", name)
    inputs, out = axes.split("->")
    of_x, of_w = inputs.split(",")
    summed = "".join(axis for axis in of_w if axis not in out)
    kept = "".join(axis for axis in of_w if axis in out)
    narrow = "".join(axis for axis in of_x if axis not in summed) + "r"
    z = project(f"{of_x},{summed}r->{narrow}", x, low["a"].astype(x.dtype))
    return y + project(f"{narrow},r{kept}->{out}", z, low["b"].astype(x.dtype))


class Attention(nn.Module):
    config: Config

    @nn.compact
    def __call__(self, x, position, layout):
        c = self.config
        D, N, K, H = c.width, c.heads, c.kv_heads, c.head_size
        norm = self.param("norm", nn.initializers.ones, (D,))

        y = rms_norm(x, norm, c.norm_epsilon)
        q = rotate(linear(self, "q", "BTD,DNH->BTNH", y, (D, N, H)), position, c.rope_base)
        k = rotate(linear(self, "k", "BTD,DKH->BTKH", y, (D, K, H)), position, c.rope_base)
        v = linear(self, "v", "BTD,DKH->BTKH", y, (D, K, H))
        return x + linear(self, "o", "BTNH,NHD->BTD", attend(q, k, v, layout), (N, H, D))


class Mlp(nn.Module):
    config: Config

    @nn.compact
    def __call__(self, x):
        c = self.config
        D, F = c.width, c.hidden
        norm = self.param("norm", nn.initializers.ones, (D,))

        y = rms_norm(x, norm, c.norm_epsilon)
        gate = nn.silu(linear(self, "gate", "BTD,DF->BTF", y, (D, F)))
        up = linear(self, "up", "BTD,DF->BTF", y, (D, F))
        return x + linear(self, "down", "BTF,FD->BTD", gate * up, (F, D))


class Layer(nn.Module):
    config: Config

    @nn.compact
    def __call__(self, x, position, layout, states_at):
        x = constrain_rows(x)
        x = Attention(self.config, name="attention")(x, position, layout)
        x = Mlp(self.config, name="mlp")(x)
        return x, pick(x, states_at)


class Decoder(nn.Module):
    """Tokens to hidden states.

    tokens, position: int32 [B, T]. layout: who sees whom, or None for plain causal order.
    states_at: int32 [B, S], positions whose hidden state of every layer is wanted, or None.
    Returns (hidden, out): hidden [B, T, D] after the final norm, in `dtype`; out["states"]
    [L + 1, B, S, D] (only with states_at): the residual stream after the embedding and after
    each layer, before the final norm; out["frozen"] [B, T, D]: what enters the first layer that is
    not frozen. `remat` recomputes each layer in the backward pass.

    The first `frozen` layers are a stack of their own, "frozen", which no gradient enters. Its
    result may be given as `entered` [B, T, D]; then nothing below is computed.
    """

    config: Config
    dtype: Any = jnp.float32
    remat: bool = False
    frozen: int = 0

    @nn.compact
    def __call__(
        self, tokens, position, layout: Layout | None = None, states_at=None, entered=None
    ):
        c = self.config
        embed = self.param("embed", INIT, (c.vocab_size, c.width))
        if c.has_unembed:
            self.param("unembed", INIT, (c.vocab_size, c.width))
        states = []
        if entered is None:
            x = constrain_rows(jnp.take(embed, tokens, axis=0).astype(self.dtype))
            if states_at is not None:
                states.append(pick(x, states_at)[None])
            if self.frozen:
                x, more = self.stack("frozen", 0, self.frozen)(x, position, layout, states_at)
                states.append(more)
        else:
            x = constrain_rows(entered.astype(self.dtype))
        if self.frozen:
            x = jax.lax.stop_gradient(x)
        out = {"frozen": x}
        if self.frozen < c.layers:
            x, more = self.stack("layers", self.frozen, c.layers)(x, position, layout, states_at)
            states.append(more)

        norm = self.param("norm", nn.initializers.ones, (c.width,))
        hidden = rms_norm(x, norm, c.norm_epsilon)
        if states_at is not None:
            out["states"] = jnp.concatenate(states)
        return hidden, out

    def stack(self, name: str, start: int, stop: int):
        """The layers from `start` to before `stop`, as one scan."""
        scanned = nn.scan(
            nn.remat(Layer, prevent_cse=False) if self.remat else Layer,
            variable_axes={"params": 0, "lora": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast, nn.broadcast),
            length=stop - start,
        )
        return scanned(self.config, name=name)


def pick(x, at):
    """x [B, T, D] at positions [B, S] -> [B, S, D]; None where no positions are asked for."""
    return None if at is None else jnp.take_along_axis(x, at[:, :, None], axis=1)


def init(key, config: Config):
    """Random parameters (normal, 0.02), float32, for tests and for training from scratch."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    return Decoder(config).init(key, tokens, tokens)["params"]


def shapes(config: Config):
    """The parameter tree as jax.ShapeDtypeStructs, without making it."""
    return jax.eval_shape(lambda key: init(key, config), jax.random.key(0))
