"""What a decoder-only transformer looks like, from and to Hugging Face's `config.json`.

A family of models is a row of `FAMILIES`: its classes in `transformers`, the values its
`config.json` may leave out, and the settings that must have one value because the decoder has
nothing else. A file that asks for anything else is refused, never approximated.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and constants of one model. Hashable, so that it can be a static argument of `jit`.

    Sizes count elements (`hidden` is the width of the feed-forward layer, `max_positions` the
    longest sequence in tokens that the model was made for). `eos_ids` may hold several ids.
    `tied`: the vocabulary's output weights are its embeddings. `language_head` is False where
    there are no output weights at all, as in an untied checkpoint saved with a reward head.
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    hidden: int
    norm_epsilon: float = 1e-6
    rope_base: float = 10000.0
    max_positions: int = 2048
    tied: bool = False
    language_head: bool = True
    activation: str = "silu"
    family: str = "llama"
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None

    @property
    def has_unembed(self) -> bool:
        """Whether the parameters hold a leaf `unembed`, output weights of their own."""
        return self.language_head and not self.tied

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "Config":
        """Reads the contents of a `config.json`, written by any version of `transformers`.

        Raises ValueError naming the key, its value and what is supported.
        """
        family = FAMILIES.get(hf.get("model_type"))
        if family is None:
            raise _unsupported("model_type", hf.get("model_type"), list(FAMILIES))
        known = (family.causal, family.classifier, family.backbone)
        architectures = hf.get("architectures") or [family.causal]
        for architecture in architectures:
            if architecture not in known:
                raise _unsupported("architectures", architectures, known)
        for key, allowed in family.fixed.items():
            # None means the default, which is what the first allowed value is.
            if hf.get(key) is not None and hf[key] not in allowed:
                raise _unsupported(key, hf[key], allowed)

        tied = _flag(hf, "tie_word_embeddings", family.tied)
        width = _whole(hf, "hidden_size")
        heads = _whole(hf, "num_attention_heads")
        if hf.get("head_dim") is None and width % heads:
            raise ValueError(
                f"config.json: hidden_size {width} is not a multiple of num_attention_heads "
                f"{heads}, so head_dim must be given"
            )
        config = cls(
            vocab_size=_whole(hf, "vocab_size"),
            width=width,
            layers=_whole(hf, "num_hidden_layers"),
            heads=heads,
            kv_heads=_whole(hf, "num_key_value_heads", default=heads),
            head_size=_whole(hf, "head_dim", default=width // heads),
            hidden=_whole(hf, "intermediate_size"),
            norm_epsilon=_positive(hf, "rms_norm_eps", family.norm_epsilon),
            rope_base=_rope_base(hf, family.rope_base),
            max_positions=_whole(hf, "max_position_embeddings", default=family.max_positions),
            tied=tied,
            language_head=tied or family.causal in architectures,
            activation=family.activation,
            family=hf["model_type"],
            bos_id=_token_id(hf, "bos_token_id"),
            eos_ids=_token_ids(hf, "eos_token_id"),
            pad_id=_token_id(hf, "pad_token_id"),
        )
        if config.heads % config.kv_heads:
            raise ValueError(
                f"config.json: num_attention_heads {config.heads} must be a multiple of "
                f"num_key_value_heads {config.kv_heads}"
            )
        if config.head_size % 2:
            raise _unsupported("head_dim", config.head_size, ["an even number"])
        return config

    def to_hf(
        self, *, outputs: Sequence[str] | None = None, dtype: str = "float32"
    ) -> dict[str, Any]:
        """The contents of a `config.json` that `transformers` 4.4x and 5 read alike.

        `outputs` names the outputs of a reward head, and makes the class the family's
        SequenceClassification; without it the class is the family's CausalLM.
        Raises ValueError for a CausalLM without a language head.
        """
        if outputs is None and not self.language_head:
            raise ValueError(
                "this model has no language head (it was loaded from a reward model), so it can "
                "only be exported with a reward head"
            )
        family = FAMILIES[self.family]
        eos = self.eos_ids[0] if len(self.eos_ids) == 1 else list(self.eos_ids) or None
        hf: dict[str, Any] = {
            "architectures": [family.causal if outputs is None else family.classifier],
            "model_type": self.family,
            "vocab_size": self.vocab_size,
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_size,
            "intermediate_size": self.hidden,
            "rms_norm_eps": self.norm_epsilon,
            "max_position_embeddings": self.max_positions,
            "tie_word_embeddings": self.tied,
            # Version 5 reads the nested form and version 4 the flat one; each ignores the other.
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_base},
            "rope_theta": self.rope_base,
            "rope_scaling": None,
            "bos_token_id": self.bos_id,
            "eos_token_id": eos,
            "pad_token_id": self.pad_id,
            # Likewise `dtype` and `torch_dtype`.
            "dtype": dtype,
            "torch_dtype": dtype,
            "use_cache": True,
        }
        hf |= {key: allowed[0] for key, allowed in family.fixed.items() if allowed[0] is not None}
        if outputs is not None:
            # No `num_labels`: transformers works it out from these two, and warns of both.
            hf["id2label"] = {str(i): name for i, name in enumerate(outputs)}
            hf["label2id"] = {name: i for i, name in enumerate(outputs)}
        return hf


@dataclasses.dataclass(frozen=True)
class Family:
    """What all models of one `model_type` share."""

    causal: str
    classifier: str
    backbone: str
    activation: str
    norm_epsilon: float
    rope_base: float
    max_positions: int
    tied: bool
    fixed: Mapping[str, Sequence[Any]]
    """Keys of `config.json` that may have these values only, the default first."""


FAMILIES = {
    "llama": Family(
        causal="LlamaForCausalLM",
        classifier="LlamaForSequenceClassification",
        backbone="LlamaModel",
        activation="silu",
        norm_epsilon=1e-6,
        rope_base=10000.0,
        max_positions=2048,
        tied=False,
        fixed={
            "hidden_act": ("silu", "swish"),
            "attention_bias": (False,),
            "mlp_bias": (False,),
            "quantization_config": (None,),
            "partial_rotary_factor": (None, 1.0),
            "rope_interleaved": (None, False),
            "is_encoder_decoder": (None, False),
            "add_cross_attention": (None, False),
        },
    ),
}


def _rope_base(hf: Mapping[str, Any], default: float) -> float:
    # Version 5 keeps everything of the rotary embedding in `rope_parameters`; older files have
    # `rope_theta` beside a `rope_scaling` that is null unless positions are scaled.
    base = _positive(hf, "rope_theta", default)
    for key in ("rope_scaling", "rope_parameters"):
        rope = hf.get(key)
        if rope is None:
            continue
        if not isinstance(rope, Mapping):
            raise _unsupported(key, rope, [None, {"rope_type": "default"}])
        for kind in ("rope_type", "type"):
            if rope.get(kind, "default") != "default":
                raise _unsupported(f"{key}.{kind}", rope[kind], ["default"])
        if rope.get("partial_rotary_factor", 1.0) != 1.0:
            raise _unsupported(f"{key}.partial_rotary_factor", rope["partial_rotary_factor"], [1.0])
        unknown = set(rope) - {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
        if unknown:
            raise _unsupported(key, dict(rope), [{"rope_type": "default", "rope_theta": base}])
        base = _positive(rope, "rope_theta", base)
    return base


def _whole(hf: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = hf.get(key) if hf.get(key) is not None else default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"config.json: {key} is {value!r}; a positive whole number is needed")
    return value


def _positive(hf: Mapping[str, Any], key: str, default: float) -> float:
    value = hf.get(key) if hf.get(key) is not None else default
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise ValueError(f"config.json: {key} is {value!r}; a positive number is needed")
    return float(value)


def _flag(hf: Mapping[str, Any], key: str, default: bool) -> bool:
    value = hf.get(key) if hf.get(key) is not None else default
    if not isinstance(value, bool):
        raise ValueError(f"config.json: {key} is {value!r}; true or false is needed")
    return value


def _token_ids(hf: Mapping[str, Any], key: str) -> tuple[int, ...]:
    value = hf.get(key)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise ValueError(f"config.json: {key} is {value!r}; a token id is needed, or null")
    return tuple(ids)


def _token_id(hf: Mapping[str, Any], key: str) -> int | None:
    ids = _token_ids(hf, key)
    if len(ids) > 1:
        raise ValueError(f"config.json: {key} is {hf[key]!r}; one token id is needed, or null")
    return ids[0] if ids else None


def _unsupported(key: str, value: Any, supported: Sequence[Any]) -> ValueError:
    names = " or ".join(repr(s) for s in supported)
    return ValueError(f"config.json: {key} is {value!r}, which is not supported; only {names} is")
