"""Rotary position embeddings in a `config.json`.

Version 5 of `transformers` keeps everything in `rope_parameters`, for families with two bases
one block per kind of layer; version 4 has `rope_theta` beside a `rope_scaling` that is null
unless positions are scaled, and `rope_local_base_freq`. Both are read, and both are written.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from hs2jax.models.config import FULL, SLIDING, Config
from hs2jax.models.hf.fields import positive, unsupported
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
}


def read(hf: Mapping[str, Any], *, two_bases: bool) -> dict[str, Any]:
    """Read a `config.json` with its family's defaults filled in: the fields of `Config`.

    Raises ValueError naming the key, its value and what is supported.
    """
    flat = {
        "rope_base": positive(hf, "rope_theta"),
        "rope_scaling": None,
        "rope_local_base": positive(hf, "rope_local_base_freq") if two_bases else None,
        "rotary_fraction": 1.0 if hf.get(PARTIAL) is None else positive(hf, PARTIAL),
    }
    found = [
        _read_block(hf[key], key, flat, two_bases, hf.get("max_position_embeddings"))
        for key in ("rope_scaling", "rope_parameters")
        if hf.get(key) is not None
    ]
    if found and found[0] != found[-1]:
        raise ValueError(
            f"config.json: rope_scaling {hf['rope_scaling']!r} and rope_parameters "
            f"{hf['rope_parameters']!r} say different things; keep the one that is right"
        )
    rope = found[0] if found else flat
    if rope["rotary_fraction"] > 1:
        raise unsupported(PARTIAL, rope["rotary_fraction"], ["a number up to 1"])
    return rope


def write(config: Config, *, partial: bool) -> dict[str, Any]:
    """Make the keys of a `config.json` that all versions of `transformers` read alike.

    partial: of a family whose heads may be rotated in part. The part is then always said, since
    what such a family takes a file to mean that does not say it need not be the whole head.
    """
    scaling = None
    if config.rope_scaling is not None:
        kind, *values = dataclasses.astuple(config.rope_scaling)
        scaling = {"rope_type": kind, **dict(zip(KINDS[kind], values, strict=False))}
    block = {"rope_type": "default", "rope_theta": config.rope_base} | (scaling or {})
    hf: dict[str, Any] = {"rope_theta": config.rope_base, "rope_scaling": scaling}
    if config.rope_local_base is not None:
        hf["rope_local_base_freq"] = config.rope_local_base
        local = {"rope_type": "default", "rope_theta": config.rope_local_base}
        return hf | {"rope_parameters": {FULL: block, SLIDING: local}}
    if partial:
        hf[PARTIAL] = block[PARTIAL] = config.rotary_fraction
    return hf | {"rope_parameters": block}


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
    for name in block:
        # transformers writes some keys that it does not use as null.
        allowed = [None, longest] if (kind, name) == ("dynamic", ORIGINAL) else [None]
        if name not in known and block[name] not in allowed:
            raise unsupported(f"{key}.{name}", block[name], allowed)
    rope = dict(flat)
    for field, name in (("rope_base", "rope_theta"), ("rotary_fraction", PARTIAL)):
        if block.get(name) is not None:
            rope[field] = positive(block, name, where=f"{key}.")
    given = {name: positive(block, name, where=f"{key}.") for name in KINDS[kind]}
    if kind == "llama3":
        low, high = given["low_freq_factor"], given["high_freq_factor"]
        if high <= low:
            raise ValueError(
                f"config.json: {key}.high_freq_factor {high} must be above low_freq_factor {low}"
            )
        given[ORIGINAL] = int(given[ORIGINAL])
    if given:
        rope["rope_scaling"] = Scaling(kind, *given.values())
    return rope
