"""A tiny model and tokenizers for tests: real in kind, random in weights, quick to compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from hs2jax.models import sharding
from hs2jax.models.config import Config
from hs2jax.models.hf import hub, weights
from hs2jax.reward_model import RewardModel

SENTENCES = (
    "What is the capital of France? The capital of France is Paris.",
    "How do I bake bread? Mix flour, water, salt and yeast, and let the dough rise.",
    "The answer is 42, because six times seven is forty-two.",
    "Please write a short poem about the sea. The waves come in, the waves go out.",
    "You are a helpful assistant. Answer the question in one sentence.",
    # So that line ends merge: those of a header with those that a response starts with.
    "One.\n\n\nTwo.\n\n\nThree.\n\n\nFour.\n\n\nFive.",
)

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for message in messages %}<|header|>{{ message['role'] }}<|header_end|>\n\n"
    "{{ message['content'] | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|header|>assistant<|header_end|>\n\n{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Like SmolLM2's: ChatML, no BOS of its own, and a pad that is the end of a turn."""
    named = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    bpe = _bpe(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return _wrapped(bpe, CHATML, **named, unk_token="<|endoftext|>")


def bos_tokenizer() -> PreTrainedTokenizerFast:
    """Like Llama 3's: it puts a BOS before every text, and so does its chat template."""
    bpe = _bpe(["<|begin|>", "<|end|>", "<|header|>", "<|header_end|>", "<|eot|>"])
    bpe.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", bpe.token_to_id("<|begin|>"))]
    )
    return _wrapped(bpe, LLAMA, bos_token="<|begin|>", eos_token="<|end|>", pad_token="<|end|>")


def _wrapped(bpe: Tokenizer, template: str, **named) -> PreTrainedTokenizerFast:
    wrapped = PreTrainedTokenizerFast(tokenizer_object=bpe, **named)
    wrapped.chat_template = template
    return wrapped


def _bpe(special: list[str]) -> Tokenizer:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    options = {"vocab_size": 320, "special_tokens": special, "show_progress": False}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(**options, initial_alphabet=alphabet)
    bpe.train_from_iterator(SENTENCES, trainer)
    return bpe


def config(**changes) -> Config:
    """Three narrow layers with grouped key/value heads, for the vocabulary of `tokenizer`."""
    named = tokenizer()
    sizes = {"hidden_size": 32, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}
    sizes |= {"intermediate_size": 64, "max_seq_len": 512, "vocab_size": len(named), "tied": True}
    ids = {"bos_id": named.bos_token_id, "eos_ids": (named.eos_token_id,)}
    return Config(**(sizes | ids | {"pad_id": named.pad_token_id} | changes))


def parameters(of: Config, seed: int = 0):
    """Random decoder parameters, ten times the usual size, so that scores differ visibly."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        around, scale = (1.0, 0.1) if path[-1].key == "norm" else (0.0, 0.2)
        return jnp.asarray(rng.normal(around, scale, leaf.shape).astype(leaf.dtype))

    shapes = weights.shapes(of)
    head = {name: shapes.pop(name) for name in ("lm_head",) if name in shapes}
    # The head last, so that a tied model's parameters are the same.
    return jax.tree.map_with_path(draw, shapes) | jax.tree.map_with_path(draw, head)


def overflowing(params, word: str, value: float = 3e38):
    """Finite parameters of a decoder whose first layer's attention values overflow for one token,
    which alone has something on an axis that they multiply by `value`."""
    (token,) = tokenizer()(word)["input_ids"]
    attention = params["layers"]["attention"]
    attention = attention | {"v": attention["v"].at[0, 0].set(value)}
    embed = params["embed"].at[:, 0].set(0).at[token, 0].set(1)
    return params | {"embed": embed, "layers": params["layers"] | {"attention": attention}}


def reward_model(
    outputs=("helpfulness",), *, bias=False, weights=None, seed=0, mesh=None, **changes
) -> RewardModel:
    """A reward model with random parameters of `config(**changes)`, on the mesh if there is one."""
    of = config(**changes)
    rng = np.random.default_rng(seed + 1)
    head = {"kernel": jnp.asarray(np.float32(rng.normal(0, 0.2, (of.hidden_size, len(outputs)))))}
    if bias:
        head["bias"] = jnp.full((len(outputs),), 0.5)
    params = {"decoder": parameters(of, seed), "head": head}
    if mesh is not None:
        params = jax.device_put(params, sharding.shardings(params, mesh))
    return RewardModel(of, params, tokenizer(), tuple(outputs), weights=weights, mesh=mesh)


def save(folder, **options) -> RewardModel:
    """Writes a reward model to a folder and returns it."""
    model = reward_model(**options)
    model.save(folder)
    return model


def language_model(folder, seed: int = 0, words=None, **changes) -> None:
    """Writes a model without a reward head to a folder, of the tokenizer `words` if it is given."""
    words = words or tokenizer()
    of = config(**{"vocab_size": len(words)} | changes)
    hub.save(folder, config=of, params=parameters(of, seed), tokenizer=words)


def smollm2(load, **options):
    """SmolLM2-135M-Instruct; the test is skipped where it is not at hand."""
    try:
        return load("smollm2-135m-instruct", **options)
    except FileNotFoundError as error:
        pytest.skip(f"no SmolLM2-135M-Instruct: {error}")


def talk(prompt: str, response: str) -> list[dict[str, str]]:
    """A conversation of one turn each."""
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
