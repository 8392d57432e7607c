"""Rotary position embeddings in a `config.json`.

Version 5 of `transformers` keeps everything in `rope_parameters`, for families with two bases
one block per kind of layer; version 4 has `rope_theta` beside a `rope_scaling` that is null
unless positions are scaled, and `rope_local_base_freq`. Both are read, and both are written.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from hs2jax.models.config import FULL, SLIDING
from hs2jax.models.hf.fields import positive, unsupported
from hs2jax.models.rope import Scaling

ORIGINAL = "original_max_position_embeddings"

# What each kind of scaling is described by, apart from its name.
KINDS = {
    "default": (),
    "linear": ("factor",),
    # Only sequences longer than the model was made for are changed, and those are not allowed. Some
    # files say that length here again.
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", ORIGINAL),
}


@dataclasses.dataclass(frozen=True)
class Rope:
    """All of a model's rotary embedding. `local_base` is the base of layers with a window, where
    it is another; `fraction` is the part of each head that is rotated."""

    base: float
    scaling: Scaling | None
    local_base: float | None
    fraction: float


def read(hf: Mapping[str, Any], *, two_bases: bool) -> Rope:
    """Read a `config.json` with its family's defaults filled in.

    Raises ValueError naming the key, its value and what is supported.
    """
    fraction = 1.0
    if hf.get("partial_rotary_factor") is not None:
        fraction = positive(hf, "partial_rotary_factor")
    local = positive(hf, "rope_local_base_freq") if two_bases else None
    flat = Rope(positive(hf, "rope_theta"), None, local, fraction)
    found = {
        key: _read_block(hf[key], key, flat, two_bases, hf.get("max_position_embeddings"))
        for key in ("rope_scaling", "rope_parameters")
        if hf.get(key) is not None
    }
    if len(set(found.values())) > 1:
        raise ValueError(
            f"config.json: rope_scaling {hf['rope_scaling']!r} and rope_parameters "
            f"{hf['rope_parameters']!r} say different things; keep the one that is right"
        )
    rope = next(iter(found.values()), flat)
    if not 0 < rope.fraction <= 1:
        raise unsupported("partial_rotary_factor", rope.fraction, ["a number up to 1"])
    return rope


def write(rope: Rope, *, partial: bool) -> dict[str, Any]:
    """Make the keys of a `config.json` that all versions of `transformers` read alike.

    partial: of a family whose heads may be rotated in part. The part is then always said, since
    what such a family takes a file to mean that does not say it need not be the whole head.
    """
    scaling = _scaling_block(rope.scaling)
    block = {"rope_type": "default", "rope_theta": rope.base} | (scaling or {})
    hf: dict[str, Any] = {"rope_theta": rope.base, "rope_scaling": scaling}
    if rope.local_base is not None:
        hf["rope_local_base_freq"] = rope.local_base
        local = {"rope_type": "default", "rope_theta": rope.local_base}
        return hf | {"rope_parameters": {FULL: block, SLIDING: local}}
    if partial:
        hf["partial_rotary_factor"] = rope.fraction
        block["partial_rotary_factor"] = rope.fraction
    return hf | {"rope_parameters": block}


def _read_block(block: Any, key: str, flat: Rope, two_bases: bool, longest: Any) -> Rope:
    if not isinstance(block, Mapping):
        raise unsupported(key, block, [None, {"rope_type": "default"}])
    if not two_bases or key == "rope_scaling":
        return _read_one(block, key, flat, longest)
    if not block.keys() <= {FULL, SLIDING}:
        raise unsupported(key, dict(block), [{FULL: {}, SLIDING: {}}])
    full = _read_one(block.get(FULL) or {}, f"{key}.{FULL}", flat, longest)
    plain = dataclasses.replace(flat, base=flat.local_base)
    sliding = _read_one(block.get(SLIDING) or {}, f"{key}.{SLIDING}", plain, longest)
    if sliding.scaling is not None:
        raise unsupported(f"{key}.{SLIDING}.rope_type", sliding.scaling.kind, ["default"])
    return dataclasses.replace(full, local_base=sliding.base)


def _read_one(block: Mapping[str, Any], key: str, flat: Rope, longest: Any) -> Rope:
    named = [name for name in ("rope_type", "type") if block.get(name) is not None]
    for name in named:
        if block[name] not in KINDS:
            raise unsupported(f"{key}.{name}", block[name], list(KINDS))
    kind = block[named[0]] if named else "default"
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *KINDS[kind]}
    for name in block:
        # transformers writes some keys that it does not use as null.
        allowed = [None, longest] if (kind, name) == ("dynamic", ORIGINAL) else [None]
        if name not in known and block[name] not in allowed:
            raise unsupported(f"{key}.{name}", block[name], allowed)
    given = {name: positive(block, name, where=f"{key}.") for name in KINDS[kind]}
    rope = {
        field: positive(block, name, where=f"{key}.")
        for field, name in (("base", "rope_theta"), ("fraction", "partial_rotary_factor"))
        if block.get(name) is not None
    }
    scaling = None
    if kind == "llama3":
        factor, low, high, original = given.values()
        if high <= low:
            raise ValueError(
                f"config.json: {key}.high_freq_factor {high} must be above low_freq_factor {low}"
            )
        scaling = Scaling(kind, factor, low, high, int(original))
    elif given:
        scaling = Scaling(kind, **given)
    return dataclasses.replace(flat, scaling=scaling, **rope)


def _scaling_block(scaling: Scaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    values = (scaling.factor, scaling.low, scaling.high, scaling.original)
    names = KINDS[scaling.kind]
    return {"rope_type": scaling.kind, **dict(zip(names, values, strict=False))}
