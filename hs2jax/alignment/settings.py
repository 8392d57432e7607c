"""Default configs by the names that they had before `configs.defaults(kind)`."""

import functools

from hs2jax import configs

PAPER = configs.PAPER_CONDITION
sample = functools.partial(configs.defaults, "sample")
rescale = functools.partial(configs.defaults, "rescale")
annotate = functools.partial(configs.defaults, "annotate")
weigh = functools.partial(configs.defaults, "weigh")
