"""Hugging Face's `config.json`: read into a `Config`, and written from one.

`families` says what each family's keys mean, `rope` reads those of the rotary embedding. A file
that asks for anything that the decoder has not is refused, never approximated.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hs2jax.models.config import Config
from hs2jax.models.hf import rope
from hs2jax.models.hf.families import FAMILIES, Family, Field
from hs2jax.models.hf.fields import flag, token_id, token_ids, unsupported, whole

PARTIAL = "partial_rotary_factor"
# Of all families.
FIELDS = (
    Field("vocab_size", ("vocab_size",), whole),
    Field("hidden_size", ("hidden_size",), whole),
    Field("num_hidden_layers", ("num_layers",), whole),
    Field("num_attention_heads", ("num_heads",), whole),
    Field("num_key_value_heads", ("num_kv_heads",), whole),
    Field("head_dim", ("head_dim",), whole),
    Field("intermediate_size", ("intermediate_size",), whole),
    Field("max_position_embeddings", ("max_seq_len",), whole),
    Field("tie_word_embeddings", ("tied",), flag),
    Field("bos_token_id", ("bos_id",), token_id),
    Field("eos_token_id", ("eos_ids",), token_ids),
    Field("pad_token_id", ("pad_id",), token_id),
)
NEVER_NULL = ("rms_norm_eps", "norm_eps", "max_position_embeddings", "tie_word_embeddings")


def read_config(hf: Mapping[str, Any]) -> Config:
    """Read the contents of a `config.json`, written by any version of `transformers`.

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

    table = (*FIELDS, *family.fields)
    values = {name: kind(hf, key) for key, fields, kind in table for name in fields}
    rotary = rope.read(hf, two_bases=family.two_bases)
    window, types = family.windows(hf, values["num_layers"]) if family.windows else (None, ())
    config = Config(
        **values,
        **family.settings,
        rope_base=rotary.base,
        rope_scaling=rotary.scaling,
        rope_local_base=rotary.local_base,
        rotary_fraction=rotary.fraction,
        sliding_window=window,
        layer_types=types,
        language_head=values["tied"] or any(f.causal in architectures for f in kinds),
        family=written,
    )
    _check(config, family)
    return config


def write_config(
    config: Config, *, outputs: Sequence[str] | None = None, dtype: str = "float32"
) -> dict[str, Any]:
    """Make the contents of a `config.json` that `transformers` 4.4x and 5 read alike.

    `outputs` names the outputs of a reward head, and makes the class the family's
    SequenceClassification; without it the class is the family's CausalLM.
    Raises ValueError for a CausalLM without a language head.
    """
    if outputs is None and not config.language_head:
        raise ValueError(
            "this model has no language head (it was loaded from a reward model), so it can "
            "only be exported with a reward head"
        )
    family = FAMILIES[config.family]
    rotary = rope.Rope(
        config.rope_base, config.rope_scaling, config.rope_local_base, config.rotary_fraction
    )
    hf: dict[str, Any] = {
        "architectures": [family.causal if outputs is None else family.classifier],
        "model_type": config.family,
        **rope.write(rotary, partial=family.partial_rotary),
        # Version 5 reads `dtype` and version 4 `torch_dtype`; each ignores the other.
        "dtype": dtype,
        "torch_dtype": dtype,
        "use_cache": True,
    }
    for key, fields, kind in (*FIELDS, *family.fields):
        value = getattr(config, fields[0])
        if isinstance(value, tuple):
            value = value[0] if len(value) == 1 else list(value) or None
        if value is not None or kind is not whole:
            hf[key] = value
    if family.window_keys:
        hf |= family.window_keys((config.sliding_window, config.layer_types))
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
    for key in NEVER_NULL:
        if key in family.defaults and filled[key] is None:
            filled[key] = family.defaults[key]
    width, heads = whole(filled, "hidden_size"), whole(filled, "num_attention_heads")
    if filled.get("head_dim") is None:
        if width % heads:
            raise ValueError(
                f"config.json: hidden_size {width} is not a multiple of num_attention_heads "
                f"{heads}, so head_dim must be given"
            )
        filled["head_dim"] = width // heads
    if filled.get("num_key_value_heads") is None:
        filled["num_key_value_heads"] = heads
    return filled


def _check(config: Config, family: Family) -> None:
    if config.num_heads % config.num_kv_heads:
        raise ValueError(
            f"config.json: num_attention_heads {config.num_heads} must be a multiple of "
            f"num_key_value_heads {config.num_kv_heads}"
        )
    if config.rotary_fraction != 1 and not family.partial_rotary:
        raise unsupported(PARTIAL, config.rotary_fraction, [1.0])
    if config.rotary_size % 2 or not config.rotary_size:
        raise unsupported("head_dim", config.head_dim, ["an even number of rotated elements"])
    for one, fields, _ in FAMILIES[config.family].fields:
        if len({getattr(config, name) for name in fields}) > 1:
            given = ((key, getattr(config, f[0])) for key, f, kind in family.fields if kind is flag)
            values = ", ".join(f"{key} {value}" for key, value in given)
            raise ValueError(
                f"config.json: {values} differ, which is not supported: written as "
                f"{config.family}, the model has one key {one} for both"
            )
