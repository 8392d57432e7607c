"""A model of SmolLM2's kind and its tokenizer from one GGUF file, the format of llama.cpp.

GGUF's Llama is Hugging Face's with other tensor names and with the rows of q and k reordered,
since llama.cpp rotates neighbouring numbers where Hugging Face rotates the two halves of a head.
Quantised weights are expanded to float32; what quantisation lost stays lost.
"""

import functools
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hs2jax.models.config import Config
from hs2jax.models.hf.config import read_config
from hs2jax.models.hf.weights import Tensor, full_name, leaves_of

# Kinds of token in `tokenizer.ggml.token_type`.
CONTROL, USER_DEFINED = 3, 4
ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}  # And GGUF's names.


def open_gguf(
    path: Path,
) -> tuple[Config, dict[str, Any], PreTrainedTokenizerFast, dict[str, Tensor]]:
    """Open a GGUF file of the Llama architecture: config, Hugging Face's config, tokenizer, and the
    tensors that `weights.assemble` makes parameters from, which are not read yet.

    Raises ValueError that says what is wrong or not supported.
    """
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError) as error:
        raise ValueError(f"not a GGUF file, or cut short ({error})") from error
    hf_config = _hf_config(reader)
    try:
        config = read_config(hf_config)
    except ValueError as error:
        raise ValueError(f"as a {error}") from error
    tokenizer = _tokenizer(functools.partial(_meta, reader), config)
    return config, hf_config, tokenizer, _tensors(path, reader, config)


def _meta(reader: gguf.GGUFReader, key: str, *default: Any) -> Any:
    field = reader.get_field(key)
    if field is None and not default:
        raise ValueError(f"the metadata lacks {key}")
    return default[0] if field is None else field.contents()


def _hf_config(reader: gguf.GGUFReader) -> dict[str, Any]:
    meta = functools.partial(_meta, reader)
    kind = meta("general.architecture")
    if kind != "llama":
        raise ValueError(
            f"general.architecture is {kind!r}; of GGUF files only 'llama' is supported. A folder "
            "of safetensors of the same model works"
        )
    heads = meta("llama.attention.head_count")
    head_dim = meta("llama.attention.key_length", meta("llama.embedding_length") // heads)
    for key, allowed in {
        "llama.attention.value_length": (head_dim,),
        "llama.attention.sliding_window": (0,),
        "llama.rope.dimension_count": (head_dim,),
        "llama.rope.scaling.type": ("none",),
        "llama.rope.scaling.factor": (1.0,),
        "llama.rope.scale_linear": (1.0,),
        "llama.expert_count": (0,),
        "split.count": (1, 0),
    }.items():
        if (value := meta(key, allowed[0])) not in allowed:
            raise ValueError(
                f"{key} is {value!r}; only {allowed[0]!r} is supported here. A folder of "
                "safetensors of the same model works"
            )
    tokens = reader.get_field("tokenizer.ggml.tokens")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": meta("llama.vocab_size", len(tokens.data) if tokens else None),
        "hidden_size": meta("llama.embedding_length"),
        "num_hidden_layers": meta("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": meta("llama.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "intermediate_size": meta("llama.feed_forward_length"),
        "rms_norm_eps": _decimal(meta("llama.attention.layer_norm_rms_epsilon")),
        "rope_theta": _decimal(meta("llama.rope.freq_base", 10000.0)),
        "max_position_embeddings": meta("llama.context_length"),
        "tie_word_embeddings": all(t.name != "output.weight" for t in reader.tensors),
        "bos_token_id": meta("tokenizer.ggml.bos_token_id", None),
        "eos_token_id": meta("tokenizer.ggml.eos_token_id", None),
        "pad_token_id": meta("tokenizer.ggml.padding_token_id", None),
    }


def _decimal(number: float) -> float:
    """The shortest decimal of a float32: 1e-05 was stored, not 9.999999747378752e-06."""
    return float(str(np.float32(number)))


def _tensors(path: Path, reader: gguf.GGUFReader, config: Config) -> dict[str, Tensor]:
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_layers)
    names = {
        table.get_name(full_name(name), (".weight", ".bias")): name
        for leaf in leaves_of(config).values()
        for name in leaf.names(config)
    }
    tensors = {}
    for tensor in reader.tensors:
        if tensor.name not in names:
            what = f"a plain Llama model of {config.num_layers} layers"
            raise ValueError(
                f"tensor {tensor.name} has no place in {what}. A folder of safetensors of the same "
                "model works"
            )
        # GGUF writes the sizes the other way round.
        shape = tuple(int(n) for n in reversed(tensor.shape))
        read = functools.partial(_read, tensor, shape, config)
        tensors[names[tensor.name]] = Tensor(str(path), tensor.name, shape, read)
    return tensors


def _read(tensor: gguf.ReaderTensor, shape: tuple[int, ...], config: Config) -> np.ndarray:
    weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    if tensor.name.endswith((".attn_q.weight", ".attn_k.weight")):
        pairs = weights.reshape(-1, config.head_dim // 2, 2, config.hidden_size)
        weights = pairs.swapaxes(1, 2)
    return weights.reshape(shape)


def _tokenizer(meta, config: Config) -> PreTrainedTokenizerFast:
    """The byte-pair tokenizer that the file carries, with its chat template."""
    if (kind := meta("tokenizer.ggml.model")) != "gpt2":
        raise ValueError(
            f"tokenizer.ggml.model is {kind!r}, which is not supported; only 'gpt2' (byte-level "
            "pairs) is"
        )
    pre = meta("tokenizer.ggml.pre", None)
    if pre != "smollm":
        raise ValueError(
            f"tokenizer.ggml.pre is {pre!r}, which is not supported; only 'smollm' is. Take the "
            "model from a safetensors folder, which has its tokenizer with it"
        )
    tokens = meta("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in meta("tokenizer.ggml.merges")]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise ValueError("tokenizer.ggml.tokens has a token twice")

    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pieces])
    tokenizer.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, meta("tokenizer.ggml.token_type"), strict=True):
        if kind in (CONTROL, USER_DEFINED):
            added = AddedToken(token, special=kind == CONTROL, normalized=False)
            tokenizer.add_tokens([added])
    options = {}
    for role, name in ROLES.items():
        added = meta(f"tokenizer.ggml.add_{role}_token", False)  # To each text; of bos and eos.
        i = meta(f"tokenizer.ggml.{name}_token_id", *(() if added else (None,)))
        options |= {} if i is None else {f"{role}_token": tokens[i]}
        options |= {f"add_{role}_token": True} if added else {}
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=config.max_seq_len,
        clean_up_tokenization_spaces=False,
        **options,
    )
    wrapped.chat_template = meta("tokenizer.chat_template", None)
    return wrapped
