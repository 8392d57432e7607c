"""Default configs by the names that they had before `configs.defaults(kind)`."""

import functools

from hs2jax import configs

reward_model = functools.partial(configs.defaults, "train_reward_model")
policy = functools.partial(configs.defaults, "train_policy")
evaluation = functools.partial(configs.defaults, "evaluate")
expo = functools.partial(configs.defaults, "expo")
judging = functools.partial(configs.defaults, "judge")
