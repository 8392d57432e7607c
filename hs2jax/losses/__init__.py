"""Losses: pure functions of arrays, unreduced, in float32."""

from hs2jax.losses.preference import dpo, ipo
from hs2jax.losses.reward import bradley_terry, centering, combined, regression
from hs2jax.losses.steerlm import (
    attribute_log_probability,
    effective_sample_size,
    max_of_group,
    steerlm2_distance,
    steerlm2_weights,
    sum_of_group,
)

__all__ = [
    "attribute_log_probability",
    "bradley_terry",
    "centering",
    "combined",
    "dpo",
    "effective_sample_size",
    "ipo",
    "max_of_group",
    "regression",
    "steerlm2_distance",
    "steerlm2_weights",
    "sum_of_group",
]
