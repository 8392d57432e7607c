"""The families of models: what the files of each `model_type` of `transformers` mean.

A family is a row of `FAMILIES`, all data: the decoder and the checkpoint's reader know no names.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hs2jax.models.hf.fields import flag, unsupported, whole
from hs2jax.models.rope import FULL, SLIDING

Windows = tuple[int | None, tuple[bool, ...]]
"""The window in tokens, and for each layer whether it has it; (None, ()) where none could."""


@dataclasses.dataclass(frozen=True)
class Family:
    """What all models of one `model_type` share."""

    causal: str
    classifier: str
    backbone: str
    defaults: Mapping[str, Any]
    """What keys of `config.json` mean where they are absent."""
    fixed: Mapping[str, Sequence[Any]]
    """Keys of `config.json` that may have these values only, the default first; null is it too."""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of `Config` that are the same in all models of the family."""
    flags: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    """Keys that are true or false, and the fields of `Config` that each sets."""
    numbers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Keys that are a positive number or null, and the field of `Config` that each sets."""
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Keys that some files have under other names: the other name and ours."""
    norm_epsilon: str = "rms_norm_eps"
    """The key of the norms' epsilon."""
    windows: "Callable[[Mapping[str, Any], int], Windows] | None" = None
    """From the file's contents and the number of layers."""
    window_keys: "Callable[[Windows], dict[str, Any]] | None" = None
    """The way back."""
    two_bases: bool = False
    """Whether layers with a window have a rotary base of their own."""
    partial_rotary: bool = False
    """Whether only a part of each head may be rotated."""
    written_as: str | None = None
    """The `model_type` that is written instead: one that is the same model."""


def _every_layer(hf: Mapping[str, Any], layers: int) -> Windows:
    if hf.get("sliding_window") is None:
        return None, ()
    return whole(hf, "sliding_window"), (True,) * layers


def _every_layer_keys(windows: Windows) -> dict[str, Any]:
    return {"sliding_window": windows[0]}


def _last_layers(hf: Mapping[str, Any], layers: int) -> Windows:
    # Qwen's files name a window that is not used unless they say so.
    used = flag(hf, "use_sliding_window") and hf.get("sliding_window") is not None
    first = whole(hf, "max_window_layers", least=0) if used else layers
    sliding = _layer_types(hf, tuple(i >= first for i in range(layers)))
    if used:
        return whole(hf, "sliding_window"), sliding
    if any(sliding):
        raise ValueError(
            f"config.json: layer_types has {SLIDING!r}, but use_sliding_window is "
            f"{hf.get('use_sliding_window')!r} and sliding_window {hf.get('sliding_window')!r}"
        )
    return None, ()


def _last_layers_keys(windows: Windows) -> dict[str, Any]:
    window, sliding = windows
    keys: dict[str, Any] = {"use_sliding_window": window is not None, "sliding_window": window}
    if window is not None:
        first = sliding.index(True) if any(sliding) else len(sliding)
        keys |= {"max_window_layers": first, "layer_types": _type_names(sliding)}
    return keys


def _pattern(hf: Mapping[str, Any], layers: int) -> Windows:
    every = whole(hf, "sliding_window_pattern")
    return whole(hf, "sliding_window"), _layer_types(hf, _repeated(every, layers))


def _pattern_keys(windows: Windows) -> dict[str, Any]:
    window, sliding = windows
    every = sliding.index(False) + 1 if False in sliding else len(sliding) + 1
    keys = {"sliding_window": window, "layer_types": _type_names(sliding)}
    if sliding == _repeated(every, len(sliding)):
        keys["sliding_window_pattern"] = every  # All that Gemma 3's first release knew.
    return keys


def _repeated(every: int, layers: int) -> tuple[bool, ...]:
    return tuple(bool((i + 1) % every) for i in range(layers))


def _layer_types(hf: Mapping[str, Any], default: tuple[bool, ...]) -> tuple[bool, ...]:
    kinds = hf.get("layer_types")
    if kinds is None:
        return default
    if not isinstance(kinds, list) or not all(kind in (FULL, SLIDING) for kind in kinds):
        raise unsupported("layer_types", kinds, [f"a list of {FULL!r} and {SLIDING!r}"])
    if len(kinds) != len(default):
        raise ValueError(
            f"config.json: layer_types has {len(kinds)} entries; "
            f"num_hidden_layers is {len(default)}"
        )
    return tuple(kind == SLIDING for kind in kinds)


def _type_names(sliding: Sequence[bool]) -> list[str]:
    return [SLIDING if each else FULL for each in sliding]


# What no family here has. Keys that are not listed anywhere do not change the result.
ABSENT = {
    "quantization_config": (None,),
    "is_encoder_decoder": (None, False),
    "add_cross_attention": (None, False),
    "rope_interleaved": (None, False),
    "is_causal": (None, True),
    "use_bidirectional_attention": (None, False),
    "original_max_position_embeddings": (None,),
}
SILU = {"hidden_act": ("silu", "swish")} | ABSENT
LLAMA = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
BIASES = {"attention_bias": ("qkv_bias", "o_bias"), "mlp_bias": ("mlp_bias",)}
QWEN = LLAMA | {
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
GEMMA = {
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "sliding_window_pattern": 2,
}
GEMMA_FIXED = {"hidden_activation": ("gelu_pytorch_tanh",)} | ABSENT
GEMMA_SETTINGS = {
    "activation": "gelu_tanh",
    "norm_plus_one": True,
    "post_norms": True,
    "scaled_embedding": True,
}

FAMILIES = {
    "llama": Family(
        causal="LlamaForCausalLM",
        classifier="LlamaForSequenceClassification",
        backbone="LlamaModel",
        defaults=LLAMA,
        fixed=SILU,
        flags=BIASES,
    ),
    "mistral": Family(
        causal="MistralForCausalLM",
        classifier="MistralForSequenceClassification",
        backbone="MistralModel",
        defaults=LLAMA
        | {"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
        fixed=SILU | {"layer_types": (None,)},
        windows=_every_layer,
        window_keys=_every_layer_keys,
    ),
    "qwen2": Family(
        causal="Qwen2ForCausalLM",
        classifier="Qwen2ForSequenceClassification",
        backbone="Qwen2Model",
        defaults=QWEN | {"num_key_value_heads": 32},
        fixed=SILU,
        settings={"qkv_bias": True},
        windows=_last_layers,
        window_keys=_last_layers_keys,
    ),
    "qwen3": Family(
        causal="Qwen3ForCausalLM",
        classifier="Qwen3ForSequenceClassification",
        backbone="Qwen3Model",
        defaults=QWEN | {"num_key_value_heads": 32, "head_dim": 128},
        fixed=SILU,
        settings={"qk_norm": True},
        flags={"attention_bias": ("qkv_bias", "o_bias")},
        windows=_last_layers,
        window_keys=_last_layers_keys,
    ),
    "gemma2": Family(
        causal="Gemma2ForCausalLM",
        classifier="Gemma2ForSequenceClassification",
        backbone="Gemma2Model",
        defaults=GEMMA | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        fixed=GEMMA_FIXED,
        settings=GEMMA_SETTINGS,
        flags={"attention_bias": ("qkv_bias", "o_bias")},
        numbers={
            "attn_logit_softcapping": "attn_logit_softcap",
            "final_logit_softcapping": "final_logit_softcap",
        },
        windows=_pattern,
        window_keys=_pattern_keys,
    ),
    "gemma3_text": Family(
        causal="Gemma3ForCausalLM",
        classifier="Gemma3TextForSequenceClassification",
        backbone="Gemma3TextModel",
        defaults=GEMMA
        | {
            "vocab_size": 262208,
            "rope_theta": 1e6,
            "rope_local_base_freq": 10000.0,
            "max_position_embeddings": 131072,
            "sliding_window_pattern": 6,
        },
        # Gemma 3's attention has no cap; the key is a left-over that transformers does not read.
        fixed=GEMMA_FIXED | {"attn_logit_softcapping": (None,)},
        settings=GEMMA_SETTINGS | {"qk_norm": True},
        flags={"attention_bias": ("qkv_bias", "o_bias")},
        numbers={"final_logit_softcapping": "final_logit_softcap"},
        windows=_pattern,
        window_keys=_pattern_keys,
        two_bases=True,
    ),
    "nemotron": Family(
        causal="NemotronForCausalLM",
        classifier="NemotronForSequenceClassification",
        backbone="NemotronModel",
        defaults={
            "norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": False,
        },
        fixed={"hidden_act": ("relu2",)} | ABSENT,
        settings={
            "activation": "relu2",
            "gated": False,
            "layer_norm": True,
            "norm_plus_one": True,
        },
        flags=BIASES,
        # Of older conversions. transformers reads only our name, and would rotate the default part.
        renamed=dict.fromkeys(
            ("rope_percent", "rope_percentage", "rope_pct"), "partial_rotary_factor"
        ),
        norm_epsilon="norm_eps",
        partial_rotary=True,
    ),
    # A Llama whose two keys for biases have other names. It is written as one, so that every
    # version of transformers loads it without code from the checkpoint.
    "internlm3": Family(
        causal="InternLM3ForCausalLM",
        classifier="InternLM3ForSequenceClassification",
        backbone="InternLM3Model",
        defaults=LLAMA | {"rms_norm_eps": 1e-5, "max_position_embeddings": 32768},
        fixed=SILU,
        flags={"qkv_bias": ("qkv_bias",), "bias": ("o_bias", "mlp_bias")},
        renamed={"attention_bias": "qkv_bias", "mlp_bias": "bias"},
        written_as="llama",
    ),
}
