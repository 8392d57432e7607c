"""Hugging Face's `config.json`: read into a `Config`, and written from one.

`families` says what each family's keys mean, `rope` reads those of the rotary embedding. A file
that asks for anything that the decoder has not is refused, never approximated.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hs2jax.models.config import FULL, SLIDING, Config
from hs2jax.models.hf import rope
from hs2jax.models.hf.families import FAMILIES, Family, Field
from hs2jax.models.hf.fields import flag, token_id, token_ids, unsupported, whole

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
    written = family.written_as or hf["model_type"]
    kinds = (family, FAMILIES[written])
    hf = _filled_in(hf, family)
    known = [name for f in kinds for name in (f.causal, f.classifier, f.backbone)]
    architectures = hf.get("architectures") or [family.causal]
    if any(each not in known for each in architectures):
        raise unsupported("architectures", architectures, list(dict.fromkeys(known)))
    for key, allowed in family.fixed.items():
        # None means the default, which is what the first allowed value is.
        if hf.get(key) is not None and hf[key] not in allowed:
            raise unsupported(key, hf[key], allowed)

    table = (*FIELDS, *family.fields)
    values = {name: kind(hf, key) for key, fields, kind in table for name in fields}
    config = Config(
        **values,
        **family.settings,
        **rope.read(hf, two_bases=family.two_bases),
        **_read_windows(hf, family.windows, values["num_layers"]),
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
    hf: dict[str, Any] = {
        "architectures": [family.causal if outputs is None else family.classifier],
        "model_type": config.family,
        **rope.write(config, partial=family.partial_rotary),
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
    hf |= _window_keys(config, family.windows)
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
    if isinstance(block, Mapping) and block.get(rope.PARTIAL) is not None:
        said.setdefault(rope.PARTIAL, block[rope.PARTIAL])
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


def _read_windows(hf: Mapping[str, Any], kind: str | None, layers: int) -> dict[str, Any]:
    """The window in tokens and the type of each layer; nothing where none could have it."""
    if kind is None:
        return {}
    if kind == "pattern":
        used, types = True, _repeated(whole(hf, "sliding_window_pattern"), layers)
    else:
        # Qwen's files name a window that is not used unless they say so.
        used = kind == "all" or flag(hf, "use_sliding_window")
        used = used and hf.get("sliding_window") is not None
        first = whole(hf, "max_window_layers", least=0) if used and kind == "last" else 0
        types = tuple(SLIDING if used and i >= first else FULL for i in range(layers))
    given = hf.get("layer_types")
    if given is not None:
        if not isinstance(given, list) or any(each not in (FULL, SLIDING) for each in given):
            raise unsupported("layer_types", given, [f"a list of {FULL!r} and {SLIDING!r}"])
        if len(given) != layers:
            raise ValueError(
                f"config.json: layer_types has {len(given)} entries; num_hidden_layers is {layers}"
            )
        types = tuple(given)
    if used:
        return {"sliding_window": whole(hf, "sliding_window"), "layer_types": types}
    if SLIDING in types:
        raise ValueError(
            f"config.json: layer_types has {SLIDING!r}, but use_sliding_window is "
            f"{hf.get('use_sliding_window')!r} and sliding_window {hf.get('sliding_window')!r}"
        )
    return {}


def _window_keys(config: Config, kind: str | None) -> dict[str, Any]:
    """The way back."""
    window, types = config.sliding_window, config.layer_types
    keys: dict[str, Any] = {"use_sliding_window": window is not None} if kind == "last" else {}
    if kind is not None:
        keys["sliding_window"] = window
    if window is None or kind == "all":
        return keys
    if kind == "last":
        keys["max_window_layers"] = types.index(SLIDING) if SLIDING in types else len(types)
    else:
        every = types.index(FULL) + 1 if FULL in types else len(types) + 1
        if types == _repeated(every, len(types)):
            keys["sliding_window_pattern"] = every  # All that Gemma 3's first release knew.
    return keys | {"layer_types": list(types)}


def _repeated(every: int, layers: int) -> tuple[str, ...]:
    return tuple(SLIDING if (i + 1) % every else FULL for i in range(layers))


def _check(config: Config, family: Family) -> None:
    if config.num_heads % config.num_kv_heads:
        raise ValueError(
            f"config.json: num_attention_heads {config.num_heads} must be a multiple of "
            f"num_key_value_heads {config.num_kv_heads}"
        )
    if config.rotary_fraction != 1 and not family.partial_rotary:
        raise unsupported(rope.PARTIAL, config.rotary_fraction, [1.0])
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
