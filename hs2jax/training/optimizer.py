"""AdamW with the papers' settings, and the learning rate over the run."""

import re
from collections.abc import Mapping

import jax
import optax

from hs2jax.models.sharding import path_name


def schedule(settings: Mapping, steps: int) -> optax.Schedule:
    """Make the learning rate of each step, from 0: linear warm-up over `warmup` steps, then
    constant or a cosine down to `final` times the peak at the run's end."""
    peak, warmup = settings["learning_rate"], settings["warmup"]
    if settings["schedule"] == "constant":
        after = optax.constant_schedule(peak)
    else:
        after = optax.cosine_decay_schedule(peak, max(steps - warmup, 1), alpha=settings["final"])
    if not warmup:
        return after
    # The first step is one of the warm-up, not a step of size 0.
    rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
    return optax.join_schedules([rise, after], [warmup])


def decays(params):
    """Mark where weight decay applies: everywhere but norms and biases."""
    return jax.tree.map_with_path(
        lambda path, _: not re.search(r"(^|/)(\w+_)?(norm|bias)$", path_name(path)), params
    )


def make(settings: Mapping, steps: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Make the optimizer of `config.optimizer` and its schedule. Clipping is by the global norm.

    `mu_dtype` is the type in which the first moment is kept.
    """
    rate = schedule(settings, steps)
    adamw = optax.adamw(
        rate,
        b1=settings["b1"],
        b2=settings["b2"],
        weight_decay=settings["weight_decay"],
        mu_dtype=settings["mu_dtype"],
        mask=decays,
    )
    return optax.chain(optax.clip_by_global_norm(settings["max_grad_norm"]), adamw), jax.jit(rate)
