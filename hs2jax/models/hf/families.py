"""The families of models: what the files of each `model_type` of `transformers` mean.

A family is a row of `FAMILIES`, all data: the decoder and the checkpoint's reader know no names.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from hs2jax.models.config import FULL, SLIDING
from hs2jax.models.hf.fields import flag, positive, positive_or_none, unsupported, whole

Windows = tuple[int | None, tuple[str, ...]]
"""The window in tokens, and the type of each layer; (None, ()) where none could have it."""


class Field(NamedTuple):
    """A key of `config.json`, the fields of `Config` that it sets, and how its value is read."""

    key: str
    fields: tuple[str, ...]
    kind: Callable[[Mapping[str, Any], str], Any]


@dataclasses.dataclass(frozen=True)
class Family:
    """The properties that all models of one `model_type` share."""

    causal: str
    classifier: str
    backbone: str
    defaults: Mapping[str, Any]
    """The meaning of keys of `config.json` that are absent."""
    fixed: Mapping[str, Sequence[Any]]
    """Keys of `config.json` that may have these values only, the default first; null is it too."""
    fields: Sequence[Field]
    """Keys that not all families have."""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of `Config` that are the same in all models of the family."""
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Keys that some files have under other names: the other name and ours."""
    windows: "Callable[[Mapping[str, Any], int], Windows] | None" = None
    """From the file's contents and the number of layers."""
    window_keys: "Callable[[Windows], dict[str, Any]] | None" = None
    """The way back."""
    two_bases: bool = False
    """True where layers with a window have a rotary base of their own."""
    partial_rotary: bool = False
    """True where a part of each head may be rotated only."""
    written_as: str | None = None
    """The `model_type` that is written instead: one that is the same model."""


def _classes(name: str) -> dict[str, str]:
    return {
        "causal": f"{name}ForCausalLM",
        "classifier": f"{name}ForSequenceClassification",
        "backbone": f"{name}Model",
    }


# Windows ------------------------------------------------------------------------------------------


def _every_layer(hf: Mapping[str, Any], layers: int) -> Windows:
    if hf.get("sliding_window") is None:
        return None, ()
    return whole(hf, "sliding_window"), (SLIDING,) * layers


def _every_layer_keys(windows: Windows) -> dict[str, Any]:
    return {"sliding_window": windows[0]}


def _last_layers(hf: Mapping[str, Any], layers: int) -> Windows:
    # Qwen's files name a window that is not used unless they say so.
    used = flag(hf, "use_sliding_window") and hf.get("sliding_window") is not None
    first = whole(hf, "max_window_layers", least=0) if used else layers
    kinds = _layer_types(hf, tuple(SLIDING if i >= first else FULL for i in range(layers)))
    if used:
        return whole(hf, "sliding_window"), kinds
    if SLIDING in kinds:
        raise ValueError(
            f"config.json: layer_types has {SLIDING!r}, but use_sliding_window is "
            f"{hf.get('use_sliding_window')!r} and sliding_window {hf.get('sliding_window')!r}"
        )
    return None, ()


def _last_layers_keys(windows: Windows) -> dict[str, Any]:
    window, kinds = windows
    keys: dict[str, Any] = {"use_sliding_window": window is not None, "sliding_window": window}
    if window is not None:
        first = kinds.index(SLIDING) if SLIDING in kinds else len(kinds)
        keys |= {"max_window_layers": first, "layer_types": list(kinds)}
    return keys


def _pattern(hf: Mapping[str, Any], layers: int) -> Windows:
    every = whole(hf, "sliding_window_pattern")
    return whole(hf, "sliding_window"), _layer_types(hf, _repeated(every, layers))


def _pattern_keys(windows: Windows) -> dict[str, Any]:
    window, kinds = windows
    every = kinds.index(FULL) + 1 if FULL in kinds else len(kinds) + 1
    keys = {"sliding_window": window, "layer_types": list(kinds)}
    if kinds == _repeated(every, len(kinds)):
        keys["sliding_window_pattern"] = every  # All that Gemma 3's first release knew.
    return keys


def _repeated(every: int, layers: int) -> tuple[str, ...]:
    return tuple(SLIDING if (i + 1) % every else FULL for i in range(layers))


def _layer_types(hf: Mapping[str, Any], default: tuple[str, ...]) -> tuple[str, ...]:
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
    return tuple(kinds)


# Families -----------------------------------------------------------------------------------------

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
RMS_NORM = Field("rms_norm_eps", ("norm_epsilon",), positive)
ATTENTION_BIAS = Field("attention_bias", ("qkv_bias", "o_bias"), flag)
BIASES = (ATTENTION_BIAS, Field("mlp_bias", ("mlp_bias",), flag))
FINAL_CAP = Field("final_logit_softcapping", ("final_logit_softcap",), positive_or_none)
GEMMA_FIELDS = (
    RMS_NORM,
    ATTENTION_BIAS,
    FINAL_CAP,
    Field("query_pre_attn_scalar", ("query_pre_attn_scalar",), whole),
)
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
        **_classes("Llama"),
        defaults=LLAMA,
        fixed=SILU,
        fields=(RMS_NORM, *BIASES),
    ),
    "mistral": Family(
        **_classes("Mistral"),
        defaults=LLAMA
        | {"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
        fixed=SILU | {"layer_types": (None,)},
        fields=(RMS_NORM,),
        windows=_every_layer,
        window_keys=_every_layer_keys,
    ),
    "qwen2": Family(
        **_classes("Qwen2"),
        defaults=QWEN | {"num_key_value_heads": 32},
        fixed=SILU,
        fields=(RMS_NORM,),
        settings={"qkv_bias": True},
        windows=_last_layers,
        window_keys=_last_layers_keys,
    ),
    "qwen3": Family(
        **_classes("Qwen3"),
        defaults=QWEN | {"num_key_value_heads": 32, "head_dim": 128},
        fixed=SILU,
        fields=(RMS_NORM, ATTENTION_BIAS),
        settings={"qk_norm": True},
        windows=_last_layers,
        window_keys=_last_layers_keys,
    ),
    "gemma2": Family(
        **_classes("Gemma2"),
        defaults=GEMMA | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        fixed=GEMMA_FIXED,
        fields=(
            *GEMMA_FIELDS,
            Field("attn_logit_softcapping", ("attn_logit_softcap",), positive_or_none),
        ),
        settings=GEMMA_SETTINGS,
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
        fields=GEMMA_FIELDS,
        settings=GEMMA_SETTINGS | {"qk_norm": True},
        windows=_pattern,
        window_keys=_pattern_keys,
        two_bases=True,
    ),
    "nemotron": Family(
        **_classes("Nemotron"),
        defaults={
            "norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": False,
        },
        fixed={"hidden_act": ("relu2",)} | ABSENT,
        fields=(Field("norm_eps", ("norm_epsilon",), positive), *BIASES),
        settings={
            "activation": "relu2",
            "gated": False,
            "layer_norm": True,
            "norm_plus_one": True,
        },
        # Of older conversions. transformers reads only our name, and would rotate the default part.
        renamed=dict.fromkeys(
            ("rope_percent", "rope_percentage", "rope_pct"), "partial_rotary_factor"
        ),
        partial_rotary=True,
    ),
    # A Llama whose two keys for biases have other names. It is written as one, so that every
    # version of transformers loads it without code from the checkpoint.
    "internlm3": Family(
        **_classes("InternLM3"),
        defaults=LLAMA | {"rms_norm_eps": 1e-5, "max_position_embeddings": 32768},
        fixed=SILU,
        fields=(
            RMS_NORM,
            Field("qkv_bias", ("qkv_bias",), flag),
            Field("bias", ("o_bias", "mlp_bias"), flag),
        ),
        renamed={"attention_bias": "qkv_bias", "mlp_bias": "bias"},
        written_as="llama",
    ),
}
