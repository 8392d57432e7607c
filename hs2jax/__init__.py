"""Reward models, steerable policies and judges in JAX."""

import importlib

_MODULES = {
    "RewardModel": "hs2jax.reward_model",
    "LanguageModel": "hs2jax.language_model",
    "Judge": "hs2jax.judging.judge",
}
__all__ = ["Judge", "LanguageModel", "RewardModel"]


def __getattr__(name: str):
    """Import what a person holds in a notebook, when it is asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module 'hs2jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
