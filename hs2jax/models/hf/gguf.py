"""A model and its tokenizer from a GGUF file, the format of llama.cpp, or the files of a split one.

Models of Llama's kind, Qwen 2 and 3, Gemma 2 and 3 are read, with the tokenizers of SmolLM, Llama
3, Qwen and Gemma; others are refused by name.

GGUF's models are Hugging Face's with other tensor names, and with what llama.cpp computes otherwise
put into the weights: the rows of Llama's q and k are reordered, since it rotates neighbouring
numbers where Hugging Face rotates the two halves of a head, and Gemma's norms have their one added.
Quantised weights are expanded to float32; what quantisation lost stays lost.
"""

import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
)
from transformers import PreTrainedTokenizerFast
from transformers.tokenization_utils_base import generate_merges

from hs2jax.models import rope
from hs2jax.models.config import Config
from hs2jax.models.hf.config import ORIGINAL, read_config
from hs2jax.models.hf.weights import Tensor, full_name, leaves_of

# The `model_type` of each `general.architecture`.
FAMILIES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
FAMILIES |= {"gemma2": "gemma2", "gemma3": "gemma3_text"}
# Keys of config.json, by those that stand behind the architecture's name.
SIZES = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "feed_forward_length": "intermediate_size",
    "context_length": "max_position_embeddings",
}
CAPS = {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
# Others that may be there: they change nothing, or are looked at in `_hf_config`.
KNOWN = (*SIZES, *CAPS, "vocab_size", "tensor_data_layout", "expert_used_count")
KNOWN += ("attention.head_count_kv", "attention.key_length", "attention.layer_norm_rms_epsilon")
KNOWN += ("attention.sliding_window", "rope.freq_base", "rope.freq_base_swa", "rope.scale_linear")
KNOWN += ("rope.scaling.type", "rope.scaling.factor", "rope.scaling.finetuned")
KNOWN += ("rope.scaling.original_context_length",)
# Layers of the models whose attention is scaled by width / heads, which no key says.
LARGEST = {"gemma2": 46, "gemma3": 62}
PART = re.compile(r"(.+)-\d{5}-of-(\d{5})\.gguf")
ROPE_FREQS = "rope_freqs.weight"
# Kinds of token in `tokenizer.ggml.token_type`.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}  # And GGUF's names.
SPACE = "▁"  # In a piece of Gemma's.
FOLDER = "a folder of safetensors of the same model works, with its tokenizer in it"


class Words(NamedTuple):
    """The cutting of a text before its bytes are paired, by `tokenizer.ggml.pre`. digits: that
    stand together; None is GPT-2's cutting, with each digit alone. whole: a word that is a token is
    one, whatever the pairs. bos: put before each text where the file does not say."""

    digits: str | None
    normalizer: Any = None
    whole: bool = False
    bos: bool = False


WORDS = {
    "smollm": Words(None),
    "llama-bpe": Words("{1,3}", whole=True, bos=True),
    "qwen2": Words("", normalizers.NFC()),
}
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class _Reader(gguf.GGUFReader):
    """GGUF's reader of a plain array: it takes each of a hundred thousand words as a slice, and of
    a `numpy.memmap` one costs five times as much."""

    @property
    def data(self) -> np.ndarray:
        return self._data

    @data.setter
    def data(self, mapped: np.memmap) -> None:
        self._data = np.asarray(mapped)


def open_gguf(
    path: Path,
) -> tuple[Config, dict[str, Any], PreTrainedTokenizerFast, dict[str, Tensor]]:
    """Open a model by a GGUF file: config, Hugging Face's config, tokenizer, and the tensors that
    `weights.assemble` makes parameters from, which are not read yet.

    Raises ValueError that says what is wrong or not supported.
    """
    files = parts(path)
    try:
        reader, *more = map(_Reader, files)
    except (ValueError, IndexError, KeyError) as error:
        raise ValueError(f"not a GGUF file, or cut short ({error})") from error
    reader.tensors += (tensor for other in more for tensor in other.tensors)
    if (count := _meta(reader, "split.count", 1)) != len(files):
        raise _unsupported("split.count", count, f"{len(files)}, by the file's name,")
    found = len({tensor.name for tensor in reader.tensors})
    if (wanted := _meta(reader, "split.tensors.count", found)) != found:
        raise ValueError(f"the files have {found} tensors, and split.tensors.count is {wanted}")
    hf_config = _hf_config(reader)
    try:
        config = read_config(hf_config)
    except ValueError as error:
        raise ValueError(f"as a {error}") from error
    tokenizer = _tokenizer(functools.partial(_meta, reader), config)
    return config, hf_config, tokenizer, _tensors(path, reader, config)


def parts(path: Path) -> list[Path]:
    """The files of a model that llama.cpp has split, by the name of any; else the one file. Raises
    ValueError where one of them is not there."""
    if not (match := PART.fullmatch(path.name)):
        return [path]
    start, count = match[1], match[2]
    files = [path.with_name(f"{start}-{i + 1:05}-of-{count}.gguf") for i in range(int(count))]
    if missing := [each.name for each in files if not each.exists()]:
        raise ValueError(f"of {len(files)} files {', '.join(missing)} are not there")
    return files


def _meta(reader: gguf.GGUFReader, key: str, *default: Any) -> Any:
    field = reader.get_field(key)
    if field is None and not default:
        raise ValueError(f"the metadata lacks {key}")
    return default[0] if field is None else field.contents()


def _unsupported(key: str, value: Any, supported: Any) -> ValueError:
    return ValueError(f"{key} is {value!r}; only {supported} is supported here: {FOLDER}")


def _hf_config(reader: gguf.GGUFReader) -> dict[str, Any]:
    kind = _meta(reader, "general.architecture")
    if kind not in FAMILIES:
        known = " or ".join(map(repr, FAMILIES))
        raise _unsupported("general.architecture", kind, known)

    def meta(key: str, *default: Any) -> Any:
        return _meta(reader, f"{kind}.{key}", *default)

    hf = {name: meta(key) for key, name in SIZES.items()}
    hf |= {name: _decimal(value) for key, name in CAPS.items() if (value := meta(key, None))}
    width, heads = hf["hidden_size"], hf["num_attention_heads"]
    head_dim = meta("attention.key_length", width // heads)
    gemma = kind in LARGEST
    fixed = {
        "attention.value_length": head_dim,
        "attention.causal": True,
        "rope.dimension_count": head_dim,
        "rope.scaling.attn_factor": 1.0,
        "expert_count": 0,
    }
    fixed |= {} if gemma else {"attention.sliding_window": 0}
    for key, allowed in fixed.items():
        if (value := meta(key, allowed)) != allowed:
            raise _unsupported(f"{kind}.{key}", value, repr(allowed))
    for key in reader.fields:
        if key.startswith(f"{kind}.") and key.removeprefix(f"{kind}.") not in (*KNOWN, *fixed):
            raise ValueError(f"{key} is not known here, and may change the model: {FOLDER}")
    if gemma:
        hf["sliding_window"] = meta("attention.sliding_window", *[4096] * (kind == "gemma2"))
        largest = hf["num_hidden_layers"] == LARGEST[kind]
        hf["query_pre_attn_scalar"] = width // heads if largest else head_dim
        hf["rope_local_base_freq"] = _decimal(meta("rope.freq_base_swa", 10000.0))
    hf["rope_theta"] = _decimal(meta("rope.freq_base", 10000.0))
    scaling = meta("rope.scaling.type", "linear")
    if scaling not in ("none", "linear", "yarn"):
        raise _unsupported(f"{kind}.rope.scaling.type", scaling, "'none', 'linear' or 'yarn'")
    factor = meta("rope.scaling.factor", meta("rope.scale_linear", 1.0)) or 1.0
    if scaling != "none" and factor != 1:
        hf["rope_scaling"] = {"rope_type": scaling, "factor": _decimal(factor)}
    if scaling == "yarn" and factor != 1:
        original = meta("rope.scaling.original_context_length", hf["max_position_embeddings"])
        hf["rope_scaling"][ORIGINAL] = original
    for tensor in reader.tensors:
        if tensor.name == ROPE_FREQS:
            hf["rope_scaling"] = _llama3(np.asarray(tensor.data), hf["rope_theta"], head_dim)
    tokens = reader.get_field("tokenizer.ggml.tokens")
    ends = [_meta(reader, f"tokenizer.ggml.{name}_token_id", None) for name in ("eos", "eot")]
    return hf | {
        "model_type": FAMILIES[kind],
        "vocab_size": meta("vocab_size", len(tokens.data) if tokens else None),
        "num_key_value_heads": meta("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rms_norm_eps": _decimal(meta("attention.layer_norm_rms_epsilon")),
        "tie_word_embeddings": all(t.name != "output.weight" for t in reader.tensors),
        "bos_token_id": _meta(reader, "tokenizer.ggml.bos_token_id", None),
        "eos_token_id": [i for i in dict.fromkeys(ends) if i is not None] or None,
        "pad_token_id": _meta(reader, "tokenizer.ggml.padding_token_id", None),
    }


def _llama3(factors: np.ndarray, base: float, size: int) -> dict[str, Any] | None:
    """The settings of Llama 3.1's scaling, with its releases' 1 and 4 turns, from what each
    frequency is divided by."""
    if (factors == 1).all():
        return None
    plain, largest = rope.frequencies(size, base), float(factors.max())
    low, high, scaling = 1.0, 4.0, None
    mixed = (factors > 1) & (factors < largest)
    if factors.shape == plain.shape and mixed.any():
        kept = (1 / factors[mixed] - 1 / largest) / (1 - 1 / largest)
        original = (low + kept * (high - low)) * 2 * math.pi / plain[mixed]
        scaling = rope.Scaling("llama3", largest, low, high, round(float(original[0])))
    if scaling is None or not np.allclose(
        rope.frequencies(size, base, scaling), plain / factors, rtol=1e-4, atol=0
    ):
        raise ValueError(f"{ROPE_FREQS} is not Llama 3.1's scaling of rope: {FOLDER}")
    return {
        "rope_type": "llama3",
        "factor": largest,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": scaling.original,
    }


def _decimal(number: float) -> float:
    """The shortest decimal of a float32: 1e-05 was stored, not 9.999999747378752e-06."""
    return float(str(np.float32(number)))


def _tensors(path: Path, reader: gguf.GGUFReader, config: Config) -> dict[str, Tensor]:
    kind = _meta(reader, "general.architecture")
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == kind)
    table = gguf.get_tensor_name_map(arch, config.num_layers)
    names = {
        table.get_name(full_name(name), (".weight", ".bias")): name
        for leaf in leaves_of(config).values()
        for name in leaf.names(config)
    }
    tensors = {}
    for tensor in reader.tensors:
        if tensor.name == ROPE_FREQS:
            continue
        if tensor.name not in names:
            what = f"a plain {kind} model of {config.num_layers} layers"
            raise ValueError(f"tensor {tensor.name} has no place in {what}: {FOLDER}")
        # GGUF writes the sizes the other way round.
        shape = tuple(int(n) for n in reversed(tensor.shape))
        read = functools.partial(_read, tensor, shape, config, kind)
        tensors[names[tensor.name]] = Tensor(str(path), tensor.name, shape, read)
    return tensors


def _read(
    tensor: gguf.ReaderTensor, shape: tuple[int, ...], config: Config, kind: str
) -> np.ndarray:
    weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    if kind == "llama" and tensor.name.endswith((".attn_q.weight", ".attn_k.weight")):
        pairs = weights.reshape(-1, config.head_dim // 2, 2, config.hidden_size)
        weights = pairs.swapaxes(1, 2)
    if config.norm_plus_one and tensor.name.endswith("norm.weight"):
        weights = weights - 1
    return weights.reshape(shape)


def _tokenizer(meta: Callable[..., Any], config: Config) -> PreTrainedTokenizerFast:
    """The tokenizer that the file carries, with its chat template."""
    kind, pre = meta("tokenizer.ggml.model"), meta("tokenizer.ggml.pre", None)
    tokens, kinds = meta("tokenizer.ggml.tokens"), meta("tokenizer.ggml.token_type")
    if kind == "llama":  # Runs of spaces are written as such where a user has defined them.
        tokens = [token if token.strip(" ") else token.replace(" ", SPACE) for token in tokens]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise ValueError("tokenizer.ggml.tokens has a token twice")
    if kind == "gpt2":
        if pre not in WORDS:
            raise _unsupported("tokenizer.ggml.pre", pre, " or ".join(map(repr, WORDS)))
        words = WORDS[pre]
        tokenizer = _byte_pairs(vocabulary, meta("tokenizer.ggml.merges"), words)
    elif kind == "llama" and config.family.startswith("gemma"):
        if meta("tokenizer.ggml.add_space_prefix", True):
            raise _unsupported("tokenizer.ggml.add_space_prefix", True, "False")
        words = Words(None, bos=True)
        tokenizer = _sentence_pieces(vocabulary, meta("tokenizer.ggml.scores"), kinds)
    else:
        only = "'gpt2' (byte-level pairs), and 'llama' of Gemma,"
        raise _unsupported("tokenizer.ggml.model", kind, only)
    added = [
        AddedToken(token, special=kind == CONTROL, normalized=False)
        for token, kind in zip(tokens, kinds, strict=True)
        if kind in (CONTROL, USER_DEFINED)
    ]
    tokenizer.add_tokens(added)
    options = {}
    for role, name in ROLES.items():
        # To each text; of bos and eos.
        adds = meta(f"tokenizer.ggml.add_{role}_token", role == "bos" and words.bos)
        i = meta(f"tokenizer.ggml.{name}_token_id", *(() if adds else (None,)))
        options |= {} if i is None else {f"{role}_token": tokens[i]}
        options |= {f"add_{role}_token": True} if adds else {}
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=config.max_seq_len,
        clean_up_tokenization_spaces=False,
        **options,
    )
    wrapped.chat_template = meta("tokenizer.chat_template", None)
    return wrapped


def _byte_pairs(vocabulary: dict[str, int], merges: list[str], words: Words) -> Tokenizer:
    pairs = [tuple(merge.split(" ")) for merge in merges]
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=words.whole))
    if words.normalizer is not None:
        tokenizer.normalizer = words.normalizer
    gpt2 = words.digits is None
    cut = (
        pre_tokenizers.Digits(individual_digits=True)
        if gpt2
        else pre_tokenizers.Split(Regex(PATTERN % words.digits), "isolated")
    )
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=gpt2)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, pieces])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_pieces(
    vocabulary: dict[str, int], scores: list[float], kinds: list[int]
) -> Tokenizer:
    """Gemma's: pieces are put together in the order of their scores, over a whole text."""
    apart = {token for token, i in vocabulary.items() if kinds[i] != NORMAL and token.strip(SPACE)}
    ranked = {token: scores[i] for token, i in vocabulary.items() if token not in apart}
    # Runs of spaces come before all else, whatever score they have as tokens of a user's.
    ranked |= {token: math.inf for token in ranked if len(token) > 1 and not token.strip(SPACE)}
    pairs = generate_merges(vocabulary, ranked, skip_tokens=apart)
    unknown = next((token for token, i in vocabulary.items() if kinds[i] == UNKNOWN), None)
    bpe = models.BPE(vocabulary, pairs, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    back = decoders.Replace(SPACE, " ")
    tokenizer.decoder = decoders.Sequence([back, decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer
