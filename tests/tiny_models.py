"""Random models and a chat tokenizer of a few hundred tokens, for the tests of `models`."""

import dataclasses

import jax
import numpy as np
from tiny import CHATML, talk
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hs2jax.models.config import Config
from hs2jax.models.hf import hub, weights

SIZES = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 24, "num_layers": 3}
TINY = Config(**SIZES, num_heads=4, num_kv_heads=2, head_dim=8, eos_ids=(2,))
TALK = talk(" Hi\n", "Yes. \n")


def random_params(config, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype(np.float32), weights.shapes(config)
    )


def random_head(config, outputs=2, seed=1):
    rng = np.random.default_rng(seed)
    return {"kernel": rng.normal(size=(config.hidden_size, outputs)).astype(np.float32)}


def save(folder, config=None, params=None, *, tokenizer=None, **options):
    """Write a model's folder: without a config TINY, of the tokenizer's size if there is one.
    Returns its parameters, random ones where none are given."""
    size = TINY.vocab_size if tokenizer is None else len(tokenizer)
    config = config or dataclasses.replace(TINY, vocab_size=size)
    params = random_params(config) if params is None else params
    hub.save(folder, config=config, params=params, tokenizer=tokenizer, **options)
    return params


def assert_same_bits(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def chat_tokenizer(special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"), **named):
    """A byte-level tokenizer without merges: 256 bytes after the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    named = {"bos_token": special[1], "eos_token": special[2], "unk_token": special[0]} | named
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)
    wrapped.chat_template = CHATML
    return wrapped
