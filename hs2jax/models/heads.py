"""Heads on the decoder's hidden states: rewards and vocabulary logits, in float32.

Axis letters: B rows, R response slots, D width, K outputs, T tokens, V vocabulary.
"""

import jax
import jax.numpy as jnp

from hs2jax.models.attention import softcap
from hs2jax.models.config import Config
from hs2jax.models.decoder import pick, stationary
from hs2jax.models.sharding import spec_here


def init_reward(key, width: int, outputs: int, *, bias: bool = False):
    """A fresh reward head: kernel [D, K] normal with std 0.02, bias [K] zero where asked: the
    papers' head has one, and those of `transformers` have none."""
    head = {"kernel": 0.02 * jax.random.normal(key, (width, outputs), jnp.float32)}
    if bias:
        head["bias"] = jnp.zeros((outputs,), jnp.float32)
    return head


def rescale(head, scale, shift):
    """The head whose outputs are scale * output + shift; scale and shift [K] float32."""
    bias = head.get("bias", 0.0)
    return {"kernel": head["kernel"] * scale, "bias": bias * scale + shift}


@jax.named_scope("head")
def reward(head, hidden, end_positions):
    """Outputs [B, R, K] in float32, read at the response's last token.

    hidden [B, T, D]; end_positions int32 [B, R]. Empty slots read token 0 and mean nothing.
    """
    state = pick(hidden, end_positions).astype(jnp.float32)
    kernel = head["kernel"].astype(jnp.float32)
    # Without this, accelerators would multiply float32 in bfloat16 or TF32.
    out = jnp.einsum("BRD,DK->BRK", state, kernel, precision=jax.lax.Precision.HIGHEST)
    return out + head["bias"].astype(jnp.float32) if "bias" in head else out


def logits(params, hidden, config: Config):
    """Vocabulary logits [..., V] in float32 of hidden [..., D], by a language model's params; only
    for few positions, V is large."""
    name = "lm_head" if "lm_head" in params else "embed"
    rows, place = hidden.reshape(-1, hidden.shape[-1]), spec_here(name, params[name].shape)
    out = stationary("BD,VD->BV", place, rows, params[name]).reshape(*hidden.shape[:-1], -1)
    return softcap(out, config.final_logit_softcap)
