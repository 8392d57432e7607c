"""What a decoder-only transformer looks like, from and to Hugging Face's `config.json`.

`models.families` says what each family's keys mean, `models.rope` reads those of the rotary
embedding. A file that asks for anything that the decoder has not is refused, never approximated.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hs2jax.models import rope
from hs2jax.models.hf.families import FAMILIES, Family
from hs2jax.models.hf.fields import flag, positive, token_id, token_ids, unsupported, whole

QUERY_SCALAR = "query_pre_attn_scalar"
PARTIAL = "partial_rotary_factor"


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and constants of one model. Hashable, so that it can be a static argument of `jit`.

    Sizes count elements (`intermediate_size` is that of the feed-forward layer, `max_seq_len` the
    longest sequence in tokens that the model was made for). `eos_ids` may hold several ids.
    `tied`: the vocabulary's output weights are its embeddings. `language_head` is False where
    there are no output weights at all, as in an untied checkpoint saved with a reward head.

    `sliding_window`: how many tokens back, itself included, a token sees in the layers where
    `sliding` is True; None and () where no layer could have one. `rope_local_base`: the rotary base
    of those layers, where it is another. `rotary_fraction`: the part of each head that is rotated.
    `query_pre_attn_scalar`: attention's logits are divided by its square root; None is the head's
    size. `attn_logit_softcap`, `final_logit_softcap`: c in c tanh(x / c), on attention's and the
    vocabulary's logits.
    `qk_norm`: queries and keys are normalised per head. `post_norms`: the outputs of attention
    and of the feed-forward layer are normalised too. `norm_plus_one`: norms multiply by one plus
    their weight. `layer_norm`: they subtract the mean and have a bias. `scaled_embedding`: the
    embeddings are multiplied by the square root of `hidden_size`.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    norm_epsilon: float = 1e-6
    rope_base: float = 10000.0
    rope_scaling: rope.Scaling | None = None
    rope_local_base: float | None = None
    rotary_fraction: float = 1.0
    max_seq_len: int = 2048
    sliding_window: int | None = None
    sliding: tuple[bool, ...] = ()
    query_pre_attn_scalar: int | None = None
    attn_logit_softcap: float | None = None
    final_logit_softcap: float | None = None
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    norm_plus_one: bool = False
    layer_norm: bool = False
    scaled_embedding: bool = False
    gated: bool = True
    tied: bool = False
    language_head: bool = True
    activation: str = "silu"
    family: str = "llama"
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None

    @property
    def has_lm_head(self) -> bool:
        """Whether the parameters hold a leaf `lm_head`, output weights of their own."""
        return self.language_head and not self.tied

    @property
    def gate_bias(self) -> bool:
        """Whether the feed-forward layer's gate has a bias."""
        return self.mlp_bias and self.gated

    @property
    def pre_norms(self) -> bool:
        """Whether norms stand before attention and the feed-forward layer only."""
        return not self.post_norms

    @property
    def rotary_size(self) -> int:
        """How many of a head's numbers are rotated, from the first."""
        return int(self.head_dim * self.rotary_fraction)

    @property
    def attention_scale(self) -> float:
        """What attention's logits are multiplied by."""
        return (self.query_pre_attn_scalar or self.head_dim) ** -0.5

    def frequencies(self) -> np.ndarray:
        """Radians per position, float32: [rotary_size // 2], or one row per layer where layers
        differ."""
        full = rope.frequencies(self.rotary_size, self.rope_base, self.rope_scaling)
        if self.rope_local_base is None:
            return full
        local = rope.frequencies(self.rotary_size, self.rope_local_base)
        return np.where(np.array(self.sliding)[:, None], local, full)

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "Config":
        """Reads the contents of a `config.json`, written by any version of `transformers`.

        Raises ValueError naming the key, its value and what is supported.
        """
        family = FAMILIES.get(hf.get("model_type"))
        if family is None:
            raise unsupported("model_type", hf.get("model_type"), list(FAMILIES))
        hf = _filled_in(hf, family)
        written = family.written_as or hf["model_type"]
        kinds = (family, FAMILIES[written])
        known = [name for f in kinds for name in (f.causal, f.classifier, f.backbone)]
        architectures = hf.get("architectures") or [family.causal]
        for architecture in architectures:
            if architecture not in known:
                raise unsupported("architectures", architectures, list(dict.fromkeys(known)))
        for key, allowed in family.fixed.items():
            # None means the default, which is what the first allowed value is.
            if hf.get(key) is not None and hf[key] not in allowed:
                raise unsupported(key, hf[key], allowed)

        tied = flag(hf, "tie_word_embeddings")
        width, heads = whole(hf, "hidden_size"), whole(hf, "num_attention_heads")
        layers = whole(hf, "num_hidden_layers")
        if hf.get("head_dim") is None and width % heads:
            raise ValueError(
                f"config.json: hidden_size {width} is not a multiple of num_attention_heads "
                f"{heads}, so head_dim must be given"
            )
        rotary = rope.read(hf, two_bases=family.two_bases)
        window, sliding = family.windows(hf, layers) if family.windows else (None, ())
        numbers = {
            field: positive(hf, key)
            for key, field in family.numbers.items()
            if hf.get(key) is not None
        }
        flags = {f: flag(hf, key) for key, fields in family.flags.items() for f in fields}
        config = cls(
            vocab_size=whole(hf, "vocab_size"),
            hidden_size=width,
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=whole(hf, "num_key_value_heads", default=heads),
            head_dim=whole(hf, "head_dim", default=width // heads),
            intermediate_size=whole(hf, "intermediate_size"),
            norm_epsilon=positive(hf, family.norm_epsilon),
            rope_base=rotary.base,
            rope_scaling=rotary.scaling,
            rope_local_base=rotary.local_base,
            rotary_fraction=rotary.fraction,
            max_seq_len=whole(hf, "max_position_embeddings"),
            sliding_window=window,
            sliding=sliding,
            query_pre_attn_scalar=whole(hf, QUERY_SCALAR)
            if QUERY_SCALAR in family.defaults
            else None,
            tied=tied,
            language_head=tied or any(f.causal in architectures for f in kinds),
            family=written,
            bos_id=token_id(hf, "bos_token_id"),
            eos_ids=token_ids(hf, "eos_token_id"),
            pad_id=token_id(hf, "pad_token_id"),
            **numbers,
            **flags,
            **family.settings,
        )
        config._check(family)
        return config

    def _check(self, family: Family) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"config.json: num_attention_heads {self.num_heads} must be a multiple of "
                f"num_key_value_heads {self.num_kv_heads}"
            )
        if self.rotary_fraction != 1 and not family.partial_rotary:
            raise unsupported(PARTIAL, self.rotary_fraction, [1.0])
        if self.rotary_size % 2 or not self.rotary_size:
            raise unsupported("head_dim", self.head_dim, ["an even number of rotated elements"])
        for one, fields in FAMILIES[self.family].flags.items():
            if len({getattr(self, field) for field in fields}) > 1:
                given = ((key, getattr(self, f[0])) for key, f in family.flags.items())
                values = ", ".join(f"{key} {value}" for key, value in given)
                raise ValueError(
                    f"config.json: {values} differ, which is not supported: written as "
                    f"{self.family}, the model has one key {one} for both"
                )

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
        rotary = rope.Rope(
            self.rope_base, self.rope_scaling, self.rope_local_base, self.rotary_fraction
        )
        hf: dict[str, Any] = {
            "architectures": [family.causal if outputs is None else family.classifier],
            "model_type": self.family,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.intermediate_size,
            family.norm_epsilon: self.norm_epsilon,
            "max_position_embeddings": self.max_seq_len,
            "tie_word_embeddings": self.tied,
            **rope.write(rotary, partial=family.partial_rotary),
            **{key: getattr(self, fields[0]) for key, fields in family.flags.items()},
            **{key: getattr(self, field) for key, field in family.numbers.items()},
            "bos_token_id": self.bos_id,
            "eos_token_id": eos,
            "pad_token_id": self.pad_id,
            # Version 5 reads `dtype` and version 4 `torch_dtype`; each ignores the other.
            "dtype": dtype,
            "torch_dtype": dtype,
            "use_cache": True,
        }
        if self.query_pre_attn_scalar is not None:
            hf[QUERY_SCALAR] = self.query_pre_attn_scalar
        if family.window_keys:
            hf |= family.window_keys((self.sliding_window, self.sliding))
        hf |= {key: allowed[0] for key, allowed in family.fixed.items() if allowed[0] is not None}
        if outputs is not None:
            # No `num_labels`: transformers works it out from these two, and warns of both.
            hf["id2label"] = {str(i): name for i, name in enumerate(outputs)}
            hf["label2id"] = {name: i for i, name in enumerate(outputs)}
        return hf


def _filled_in(hf: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """With the family's defaults, and with our names of its keys."""
    said = {key: value for key, value in hf.items() if value is not None}
    block = hf.get("rope_parameters")
    if isinstance(block, Mapping) and block.get(PARTIAL) is not None:
        said.setdefault(PARTIAL, block[PARTIAL])
    for other, name in family.renamed.items():
        if other in said and said.setdefault(name, said[other]) != said[other]:
            raise ValueError(
                f"config.json: {name} is {said[name]!r} and {other}, the same by another name, "
                f"is {said[other]!r}; keep the one that is right"
            )
    renamed = {name: said[name] for name in family.renamed.values() if name in said}
    filled = {**family.defaults, **hf, **renamed}
    for key in (family.norm_epsilon, "max_position_embeddings", "tie_word_embeddings"):
        if filled[key] is None:
            filled[key] = family.defaults[key]
    return filled
