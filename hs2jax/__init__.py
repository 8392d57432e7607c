"""Reward models, steerable policies and judges in JAX."""

import importlib

from hs2jax import session

# What a person holds in a notebook, imported when it is asked for.
_MODULES = {
    "Judge": "hs2jax.judging.judge",
    "LanguageModel": "hs2jax.language_model",
    "RewardModel": "hs2jax.reward_model",
    **dict.fromkeys(("config", "curves", "histograms", "run"), "hs2jax.notebook"),
}
__all__ = [*_MODULES]

session.overlap()
session.greet()


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module 'hs2jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
