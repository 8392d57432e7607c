"""Losses: pure functions of arrays, unreduced, in float32."""

from hs2jax.losses.policy_gradient import (
    clipped_surrogate,
    clipped_value,
    generalized_advantage,
    group_advantage,
    kl,
    leave_one_out,
    whiten,
)
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
    "clipped_surrogate",
    "clipped_value",
    "combined",
    "dpo",
    "effective_sample_size",
    "generalized_advantage",
    "group_advantage",
    "ipo",
    "kl",
    "leave_one_out",
    "max_of_group",
    "regression",
    "steerlm2_distance",
    "steerlm2_weights",
    "sum_of_group",
    "whiten",
]
