"""Single values of a `config.json`, checked. Errors name the key, the value and what is needed.

Types are compared, since in Python a bool is an int too.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any


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
