"""The families of models: what the files of each `model_type` of `transformers` mean.

A family is a row of `FAMILIES`, all data: the decoder and the checkpoint's reader know no names.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

# Single values, checked. Errors name the key, the value and what is needed. Types are compared,
# since in Python a bool is an int too.


def whole(hf: Mapping[str, Any], key: str, *, least: int = 1) -> int:
    """A whole number, by default a positive one."""
    value = hf.get(key)
    if type(value) is not int or value < least:
        kind = "positive whole" if least == 1 else "whole"
        raise ValueError(f"config.json: {key} is {value!r}; a {kind} number is needed")
    return value


def positive(hf: Mapping[str, Any], key: str, *, where: str = "") -> float:
    """A positive, finite number; `where` is put before the key in an error."""
    value = hf.get(key)
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ValueError(f"config.json: {where}{key} is {value!r}; a positive number is needed")
    return float(value)


def positive_or_none(hf: Mapping[str, Any], key: str) -> float | None:
    """A positive number; null stays null."""
    return None if hf.get(key) is None else positive(hf, key)


def flag(hf: Mapping[str, Any], key: str) -> bool:
    """True or false; null is false."""
    value = False if hf.get(key) is None else hf[key]
    if not isinstance(value, bool):
        raise ValueError(f"config.json: {key} is {value!r}; true or false is needed")
    return value


def token_ids(hf: Mapping[str, Any], key: str) -> tuple[int, ...]:
    """No, one or several token ids."""
    value = hf.get(key)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(i) is int for i in ids):
        raise ValueError(f"config.json: {key} is {value!r}; a token id is needed, or null")
    return tuple(ids)


def token_id(hf: Mapping[str, Any], key: str) -> int | None:
    """One token id or none."""
    ids = token_ids(hf, key)
    if len(ids) > 1:
        raise ValueError(f"config.json: {key} is {hf[key]!r}; one token id is needed, or null")
    return ids[0] if ids else None


def unsupported(key: str, value: Any, supported: Sequence[Any]) -> ValueError:
    """The error that refuses a value by name."""
    names = " or ".join(repr(s) for s in supported)
    return ValueError(f"config.json: {key} is {value!r}, which is not supported; only {names} is")


# Families.


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
    # Keys of `config.json` that may have these values only, the default first; null is it too.
    fixed: Mapping[str, Sequence[Any]]
    fields: Sequence[Field]  # Keys that not all families have.
    # Fields of `Config` that are the same in all models of the family.
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # Keys that some files have under other names: the other name and ours.
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # The layers that may have a window: "all", the "last", or all but each n-th ("pattern").
    windows: str | None = None
    two_bases: bool = False  # Layers with a window have a rotary base of their own.
    partial_rotary: bool = False  # Only a part of each head may be rotated.
    written_as: str | None = None  # The `model_type` that is written: one that is the same model.
    # Keys of `config.json` that mean something else than there where they are absent.
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _classes(name: str, causal: str | None = None) -> dict[str, str]:
    return {
        "causal": f"{causal or name}ForCausalLM",
        "classifier": f"{name}ForSequenceClassification",
        "backbone": f"{name}Model",
    }


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
        fixed=SILU,
        fields=(RMS_NORM, *BIASES),
    ),
    "mistral": Family(
        **_classes("Mistral"),
        fixed=SILU | {"layer_types": (None,)},
        fields=(RMS_NORM,),
        windows="all",
    ),
    "qwen2": Family(
        **_classes("Qwen2"),
        fixed=SILU,
        fields=(RMS_NORM,),
        settings={"qkv_bias": True},
        windows="last",
    ),
    "qwen3": Family(
        **_classes("Qwen3"),
        fixed=SILU,
        fields=(RMS_NORM, ATTENTION_BIAS),
        settings={"qk_norm": True},
        windows="last",
    ),
    "gemma2": Family(
        **_classes("Gemma2"),
        fixed=GEMMA_FIXED,
        fields=(
            *GEMMA_FIELDS,
            Field("attn_logit_softcapping", ("attn_logit_softcap",), positive_or_none),
        ),
        settings=GEMMA_SETTINGS,
        windows="pattern",
    ),
    "gemma3_text": Family(
        **_classes("Gemma3Text", causal="Gemma3"),
        # Gemma 3's attention has no cap; the key is a left-over that transformers does not read.
        fixed=GEMMA_FIXED | {"attn_logit_softcapping": (None,)},
        fields=GEMMA_FIELDS,
        settings=GEMMA_SETTINGS | {"qk_norm": True},
        windows="pattern",
        two_bases=True,
    ),
    "nemotron": Family(
        **_classes("Nemotron"),
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
        defaults={"rms_norm_eps": 1e-5, "max_position_embeddings": 32768},
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
