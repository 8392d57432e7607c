"""Hugging Face's `config.json`: read into a `Config`, and written from one.

A file that asks for anything that the decoder has not is refused, never approximated.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import CONFIG_MAPPING, GenerationConfig

from hs2jax.models.config import FULL, SLIDING, Config
from hs2jax.models.hf.families import (
    FAMILIES,
    Family,
    Field,
    flag,
    positive,
    token_id,
    token_ids,
    unsupported,
    whole,
)
from hs2jax.models.rope import Scaling

ORIGINAL = "original_max_position_embeddings"
PARTIAL = "partial_rotary_factor"

# What each kind of scaling is described by, apart from its name; in the order of `Scaling`.
KINDS = {
    "default": (),
    "linear": ("factor",),
    # Only sequences longer than the model was made for are changed, and those are not allowed. Some
    # files say that length here again.
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", ORIGINAL),
    "yarn": ("factor", "beta_slow", "beta_fast", ORIGINAL, "attention_factor", "truncate"),
}
# Keys that may stand beside a block, and the fields of `Config` that they are.
BESIDE = {"rope_theta": "rope_base", "rope_local_base_freq": "rope_local_base"}
BESIDE |= {PARTIAL: "rotary_fraction"}
MSCALES = ("mscale", "mscale_all_dim")  # That YaRN's attention factor may be written by.

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
# Models whose config.json has a language model's keys inside of it or among others, and as what
# that is read; and the keys that stand outside for it too.
TEXT_PARTS = {
    "gemma3": "gemma3_text",
    "mistral3": "mistral",
    "qwen2_vl": "qwen2",
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen2_5_vl_text": "qwen2",
}
SHARED = ("eos_token_id", "bos_token_id", "pad_token_id", "tie_word_embeddings")
SHARED += ("id2label", "label2id", "hs2jax")
# Classes of reward models that others' libraries write (OpenRLHF's among them).
OTHER_CLASSES = ("RewardModel", "CriticModel", "AutoModelForCausalLMWithValueHead")
CLASSIFIERS = ("ForSequenceClassification", *OTHER_CLASSES)
# Keys from which `transformers` makes what others mean where they are absent.
ASKED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "sliding_window")
ASKED += ("use_sliding_window", "max_window_layers", "sliding_window_pattern")
# Keys that are absent where they are null.
NULL = ("head_dim", "rms_norm_eps", "norm_eps", "max_position_embeddings", "tie_word_embeddings")
NULL += ("layer_types", "rope_theta", "rope_local_base_freq", PARTIAL, "use_sliding_window")
# Others that are read, or said, or change no number.
OTHERS = ("model_type", "transformers_version", "rope_scaling", "rope_parameters", "auto_map")
OTHERS += ("torch_dtype", "value_head_prefix", "mean", "std", "num_labels", "unsloth_version")
OTHERS += ("sliding_window_pattern", "max_window_layers", "is_llama_config", "tokenizer_class")
OTHERS += ("transformers.js_config", "_attn_implementation_autoset", "finetuning_task")


def text_part(hf: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a `config.json` that is of the language model, of one that sees pictures
    too (Gemma 3, Mistral 3, Qwen2.5-VL), and under the names of classes that are read here."""
    text = hf.get("text_config")
    if isinstance(text, Mapping) or hf.get("model_type") in TEXT_PARTS:
        classifier = any(each.endswith(CLASSIFIERS) for each in hf.get("architectures") or ())
        shared = {key: hf[key] for key in SHARED if (text or hf).get(key) is None and key in hf}
        hf = {"model_type": hf.get("model_type"), **(text or hf), **shared}
        hf["model_type"] = TEXT_PARTS.get(hf["model_type"], hf["model_type"])
        for key in ("rope_scaling", "rope_parameters"):
            # Of a text alone, the three positions of a token of Qwen's are one.
            block = hf.get(key)
            if isinstance(block, Mapping) and "mrope_section" in block:
                rest = {k: v for k, v in block.items() if k != "mrope_section"}
                kind = "default" if rest.get("type", rest.get("rope_type")) == "mrope" else None
                hf[key] = rest | ({"type": kind, "rope_type": kind} if kind else {})
        hf["architectures"] = ["RewardModel"] if classifier else None
    family = FAMILIES.get(hf.get("model_type"))
    if family and any(each in OTHER_CLASSES for each in hf.get("architectures") or ()):
        hf = {**hf, "architectures": [family.classifier]}
    return dict(hf)


def read_config(hf: Mapping[str, Any]) -> Config:
    """Read the contents of a `config.json`, written by any version of `transformers`.

    Raises ValueError naming the key, its value and what is supported.
    """
    hf = text_part(hf)
    family = FAMILIES.get(hf.get("model_type"))
    if family is None:
        raise unsupported("model_type", hf.get("model_type"), list(FAMILIES))
    written = family.written_as or hf["model_type"]
    kinds = (family, FAMILIES[written])
    hf = _named(hf, family)
    known = [name for f in kinds for name in (f.causal, f.classifier, f.backbone)]
    architectures = hf.get("architectures") or [family.causal]
    if any(each not in known for each in architectures):
        raise unsupported("architectures", architectures, list(dict.fromkeys(known)))
    for key, allowed in family.fixed.items():
        # None means the default, which is what the first allowed value is.
        if hf.get(key) is not None and hf[key] not in allowed:
            raise unsupported(key, hf[key], allowed)

    table = (*FIELDS, *family.fields)
    filled = _filled_in(hf, written, [key for key, *_ in table])
    values = {name: kind(filled, key) for key, fields, kind in table for name in fields}
    config = Config(
        **values,
        **family.settings,
        **_read_rope(hf, filled, family.two_bases),
        **_read_windows(hf, filled, family.windows),
        language_head=values["tied"] or any(f.causal in architectures for f in kinds),
        family=written,
    )
    _check(config, family)
    return config


def unread_keys(hf: Mapping[str, Any]) -> list[str]:
    """List the keys that say something, which neither `transformers` nor this module knows."""
    family = FAMILIES[hf["model_type"]]
    ours = (*BESIDE, *SHARED, *NULL, *family.fixed, *family.renamed, *OTHERS)
    ours += tuple(key for key, *_ in (*FIELDS, *family.fields))
    theirs = CONFIG_MAPPING[family.written_as or hf["model_type"]](), GenerationConfig()
    known = {*ours, *(key for of in theirs for key in vars(of))}
    return [key for key, value in hf.items() if value and key not in known]


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
        **_rope_keys(config, family.partial_rotary),
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


def _named(hf: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """With our names of the family's keys, and without what is not said."""
    said = {key: value for key, value in hf.items() if value is not None or key not in NULL}
    block = said.get("rope_parameters")
    if family.partial_rotary and isinstance(block, Mapping) and block.get(PARTIAL) is not None:
        said.setdefault(PARTIAL, block[PARTIAL])
    for other, name in family.renamed.items():
        if said.get(other) is not None and said.setdefault(name, said[other]) != said[other]:
            raise ValueError(
                f"config.json: {name} is {said[name]!r} and {other}, the same by another name, "
                f"is {said[other]!r}; keep the one that is right"
            )
    if "num_key_value_heads" in said and said["num_key_value_heads"] is None:
        said["num_key_value_heads"] = said.get("num_attention_heads")
    return {**family.defaults, **said}


def _filled_in(hf: Mapping[str, Any], kind: str, keys: Sequence[str]) -> dict[str, Any]:
    """With what `transformers` takes for keys that are absent, a type for each layer among it."""
    for key in ASKED[:3]:
        if key in hf:
            whole(hf, key)
    try:
        made = vars(CONFIG_MAPPING[kind](**{key: hf[key] for key in ASKED if key in hf}))
    except Exception as error:  # Of classes that differ between its versions.
        raise ValueError(f"config.json: {' '.join(str(error).split())}") from error
    rope = made["rope_parameters"]
    bases = {PARTIAL: rope.get(PARTIAL), "rope_theta": rope.get(FULL, rope)["rope_theta"]}
    if SLIDING in rope:
        bases["rope_local_base_freq"] = rope[SLIDING]["rope_theta"]
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))  # Those of the tokenizer.
    if made.get("head_dim") is None:
        made["head_dim"] = made["hidden_size"] // made["num_attention_heads"]
    return {**made, **bases, **ids, **{key: hf[key] for key in (*keys, *NULL) if key in hf}}


def _read_windows(hf: Mapping[str, Any], filled: dict, kind: str | None) -> dict[str, Any]:
    """The window in tokens and the type of each layer; nothing where none could have it."""
    if kind is None:
        return {}
    if kind == "last":
        whole(filled, "max_window_layers", least=0)
        flag(filled, "use_sliding_window")
    layers, window = filled["num_hidden_layers"], filled["sliding_window"]
    types = filled.get("layer_types") or [FULL if window is None else SLIDING] * layers
    if not isinstance(types, list) or any(each not in (FULL, SLIDING) for each in types):
        raise unsupported("layer_types", types, [f"a list of {FULL!r} and {SLIDING!r}"])
    if len(types) != layers:
        raise ValueError(
            f"config.json: layer_types has {len(types)} entries; num_hidden_layers is {layers}"
        )
    if window is not None:
        return {"sliding_window": whole(filled, "sliding_window"), "layer_types": tuple(types)}
    if SLIDING in types:
        raise ValueError(
            f"config.json: layer_types has {SLIDING!r}, but use_sliding_window is "
            f"{hf.get('use_sliding_window')!r} and sliding_window is {hf.get('sliding_window')!r}"
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
        if types == tuple(SLIDING if (i + 1) % every else FULL for i in range(len(types))):
            keys["sliding_window_pattern"] = every  # All that Gemma 3's first release knew.
    return keys | {"layer_types": list(types)}


def _check(config: Config, family: Family) -> None:
    if config.num_heads % config.num_kv_heads:
        raise ValueError(
            f"config.json: num_attention_heads {config.num_heads} must be a multiple of "
            f"num_key_value_heads {config.num_kv_heads}"
        )
    if config.rotary_fraction != 1 and not family.partial_rotary:
        raise unsupported(PARTIAL, config.rotary_fraction, [1.0])
    if config.rotary_fraction != 1 and getattr(config.rope_scaling, "attention", 1.0) != 1:
        raise unsupported(PARTIAL, config.rotary_fraction, ["1.0 with YaRN's attention_factor"])
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


def _read_rope(hf: Mapping[str, Any], filled: dict, two_bases: bool) -> dict[str, Any]:
    """The fields of the rotary embedding. Version 5 of `transformers` keeps all in
    `rope_parameters`, with two bases a block per kind of layer; version 4 has `rope_theta` beside
    `rope_scaling`, and `rope_local_base_freq`. Raises ValueError for what is said in two ways."""
    flat = {
        "rope_base": positive(filled, "rope_theta"),
        "rope_scaling": None,
        "rope_local_base": positive(filled, "rope_local_base_freq") if two_bases else None,
        "rotary_fraction": 1.0 if filled.get(PARTIAL) is None else positive(filled, PARTIAL),
    }
    keys = [key for key in ("rope_scaling", "rope_parameters") if hf.get(key) is not None]
    longest = filled["max_position_embeddings"]
    found = [_read_block(hf[key], key, flat, two_bases, longest) for key in keys]
    if found and found[0] != found[-1]:
        raise ValueError(
            f"config.json: rope_scaling {hf['rope_scaling']!r} and rope_parameters "
            f"{hf['rope_parameters']!r} say different things; keep the one that is right"
        )
    rope = found[0] if found else flat
    if rope["rotary_fraction"] > 1:
        raise unsupported(PARTIAL, rope["rotary_fraction"], ["a number up to 1"])
    for key, field in BESIDE.items():
        if key in hf and rope[field] != flat[field]:
            raise ValueError(
                f"config.json: {key} is {hf[key]!r} and, in {keys[0]}, {rope[field]!r}; keep the "
                "one that is right, since versions of transformers read one or the other"
            )
    return rope


def _rope_keys(config: Config, partial: bool) -> dict[str, Any]:
    """The way back, as version 4 of `transformers` has it, which version 5 reads too. partial: of a
    family whose heads may be rotated in part, which is then said even where it is the whole head.
    """
    scaling = None
    if config.rope_scaling is not None:
        kind, *values = dataclasses.astuple(config.rope_scaling)
        scaling = {"rope_type": kind, **dict(zip(KINDS[kind], values, strict=False))}
    hf: dict[str, Any] = {"rope_theta": config.rope_base, "rope_scaling": scaling}
    if config.rope_local_base is not None:
        hf["rope_local_base_freq"] = config.rope_local_base
    return hf | ({PARTIAL: config.rotary_fraction} if partial else {})


def _read_block(block: Any, key: str, flat: dict, two_bases: bool, longest: Any) -> dict[str, Any]:
    if not isinstance(block, Mapping):
        raise unsupported(key, block, [None, {"rope_type": "default"}])
    if not two_bases or key == "rope_scaling":
        return _read_one(block, key, flat, longest)
    if not block.keys() <= {FULL, SLIDING}:
        raise unsupported(key, dict(block), [{FULL: {}, SLIDING: {}}])
    full = _read_one(block.get(FULL) or {}, f"{key}.{FULL}", flat, longest)
    plain = flat | {"rope_base": flat["rope_local_base"]}
    sliding = _read_one(block.get(SLIDING) or {}, f"{key}.{SLIDING}", plain, longest)
    if sliding["rope_scaling"] is not None:
        raise unsupported(f"{key}.{SLIDING}.rope_type", sliding["rope_scaling"].kind, ["default"])
    return full | {"rope_local_base": sliding["rope_base"]}


def _read_one(block: Mapping[str, Any], key: str, flat: dict, longest: Any) -> dict[str, Any]:
    kind = block.get("rope_type") or block.get("type") or "default"
    if kind not in list(KINDS):
        raise unsupported(f"{key}.rope_type", kind, list(KINDS))
    known = {"rope_type", "type", "rope_theta", PARTIAL, *KINDS[kind]}
    if kind == "yarn":
        block, known = _yarn(block, key, longest), {*known, *MSCALES}
    for name in block:
        # transformers writes some keys that it does not use as null.
        allowed = [None, longest] if (kind, name) == ("dynamic", ORIGINAL) else [None]
        if name not in known and block[name] not in allowed:
            raise unsupported(f"{key}.{name}", block[name], allowed)
    rope = dict(flat)
    for field, name in (("rope_base", "rope_theta"), ("rotary_fraction", PARTIAL)):
        if block.get(name) is not None:
            rope[field] = positive(block, name, where=f"{key}.")
    given = {
        name: block[name] if name == "truncate" else positive(block, name, where=f"{key}.")
        for name in KINDS[kind]
    }
    if ORIGINAL in given:
        given[ORIGINAL] = int(given[ORIGINAL])
    if kind == "llama3":
        low, high = given["low_freq_factor"], given["high_freq_factor"]
        if high <= low:
            raise ValueError(
                f"config.json: {key}.high_freq_factor {high} must be above low_freq_factor {low}"
            )
    if given:
        rope["rope_scaling"] = Scaling(kind, *given.values())
    return rope


def _yarn(block: Mapping[str, Any], key: str, longest: Any) -> dict[str, Any]:
    """With what a block of YaRN (arXiv 2309.00071) leaves out, as `transformers` fills it in."""
    block = {name: value for name, value in block.items() if value is not None}
    filled = {"beta_slow": 1.0, "beta_fast": 32.0, ORIGINAL: longest, "truncate": True} | block
    flag(filled, "truncate")
    factor = positive(filled, "factor", where=f"{key}.")

    def scale(by: float) -> float:
        return 0.1 * by * math.log(factor) + 1.0 if factor > 1 else 1.0

    by, over = (positive(block, name) if block.get(name) else 0.0 for name in MSCALES)
    attention = scale(by) / scale(over) if by and over else scale(1.0)
    return {"attention_factor": attention, **filled}
