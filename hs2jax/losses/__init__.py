"""Losses: pure functions of arrays, unreduced, in float32."""

from hs2jax.losses.reward import bradley_terry, centering, combined, regression

__all__ = ["bradley_terry", "centering", "combined", "regression"]
