"""Tiny policies over a handful of token ids, and groups of such ids, without text."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from hs2jax.data.chat import Encoded
from hs2jax.data.packing import Example
from hs2jax.inference import token_log_probabilities
from hs2jax.training import step


def config(vocabulary: int, layers: int = 1):
    heads = {"num_heads": 2, "num_kv_heads": 1, "num_layers": layers}
    sizes = {"vocab_size": vocabulary, "hidden_size": 16, "intermediate_size": 24}
    return tiny.config(**sizes, **heads, tied=False)


def parameters(of, seed: int = 0):
    """As a reward model's, without a head."""
    return {"decoder": tiny.parameters(of, seed)}


def example(prompt, responses, terms=None) -> Example:
    """terms: [responses, 3], log P(a|x,y), log P(y|x) and log Q'(y|a,x)."""
    terms = np.zeros((len(responses), 3)) if terms is None else np.asarray(terms)
    encoded = Encoded(
        np.asarray(prompt, np.int32),
        tuple(np.asarray(ids, np.int32) for ids in responses),
        np.zeros(len(prompt), bool),
    )
    return Example(encoded, terms.astype(np.float32), np.ones(terms.shape, bool), [])


def apply(of, layout: str = "shared"):
    """From parameters and a micro-batch to the log-probabilities of its tokens, for `step`."""

    def run(params, micro):
        return token_log_probabilities(params, micro, of, layout=layout, dtype=jnp.float32)

    return run


def gradients(of, params, batch, aim, layout: str = "shared"):
    """Loss, metrics and gradients of a batch, compiled anew."""
    return jax.jit(lambda p, b: step.gradients(p, b, aim, apply(of, layout)))(params, batch)


def softmax(scores):
    """Over the last axis, in the scores' own precision."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
