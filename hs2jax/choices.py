"""Settings of a config that can be one of a few values."""

import functools
from collections.abc import Mapping, Sequence

import jax.numpy as jnp

DTYPES = ("", "float32", "bfloat16")  # Of a computation; "" leaves it to the backend.


def dtype(name: str):
    """The dtype of a name from DTYPES, None for ""."""
    return getattr(jnp, name) if name else None


def check(config, choices: Mapping[str, Sequence]) -> None:
    """Raises ValueError naming the first key ("model.dtype") whose value is not allowed."""
    for key, allowed in choices.items():
        value = functools.reduce(getattr, key.split("."), config)
        if value not in allowed:
            raise ValueError(f"config.{key} is {value!r}; it must be one of {list(allowed)}")
