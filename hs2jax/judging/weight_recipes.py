"""The loss that layer weights are fitted by, and two recipes to make it small.

LAGER (arXiv 2508.03550), section 3.3. Axis letters as in `lager`, and N samples, each a reading
with its human score.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hs2jax.judging import lager
from hs2jax.judging.lager import Preset

# The repository's. Its schedule halves the rate when an epoch brings no gain; there is one epoch
# (for Qwen2.5, which the paper gives two, it is one here too).
PUBLISHED_RATE, BATCH = 0.01, 4
# On all samples at once, until so many steps in a row were no gain on the clusters held out.
CONVERGED_RATE, PATIENCE, MOST_STEPS = 0.05, 50, 1000


class FitData(NamedTuple):
    """layers: logits of the used layers [N, L', S]. targets: human scores [N]. labels: the same as
    distributions over the candidates [N, S]. values: what the candidates stand for [S].
    """

    layers: jax.Array
    targets: jax.Array
    labels: jax.Array
    values: jax.Array


@functools.partial(jax.jit, static_argnames="preset")
def published(data: FitData, batches, preset: Preset):
    """batches: rows of samples [B, 4]; -1 is an empty place. Returns the weights, and steps."""
    optimizer = optax.adam(PUBLISHED_RATE)

    def step(state, rows):
        there = rows >= 0
        batch = data._replace(
            layers=data.layers[rows],
            targets=data.targets[rows],
            labels=data.labels[rows],
        )
        new = _step(optimizer, state, batch, there, preset)
        # A batch that is all empty makes no step: Adam would move on by what it remembers.
        return jax.tree.map(lambda a, b: jnp.where(there.any(), a, b), new, state), None

    state, _ = jax.lax.scan(step, _start(optimizer, data), batches)
    return jax.nn.softmax(state[0]), (batches >= 0).any(axis=1).sum()


@functools.partial(jax.jit, static_argnames="preset")
def converged(data: FitData, train, held, preset: Preset):
    """train, held: bool [N]. Returns the weights that are best on `held`, and their step."""
    optimizer = optax.adam(CONVERGED_RATE)

    def unfinished(carry):
        step, _, _, best_step, _ = carry
        return (step < MOST_STEPS) & (step - best_step < PATIENCE)

    def advance(carry):
        step, state, best, best_step, least = carry
        state = _step(optimizer, state, data, train, preset)
        loss = _objective(state[0], data, held, preset)
        better = loss < least
        return (
            step + 1,
            state,
            jnp.where(better, state[0], best),
            jnp.where(better, step + 1, best_step),
            jnp.where(better, loss, least),
        )

    start = _start(optimizer, data)
    first = (0, start, start[0], 0, _objective(start[0], data, held, preset))
    _, _, best, best_step, _ = jax.lax.while_loop(unfinished, advance, first)
    return jax.nn.softmax(best), best_step


@functools.partial(jax.jit, static_argnames="preset")
def losses(weights, data: FitData, preset: Preset):
    """The loss of each sample, [N], with weights [L'] of the layers."""
    log_p = jax.nn.log_softmax(lager.combine(data.layers, weights))
    entropy = -jnp.sum(data.labels * log_p, axis=-1)
    difference = jnp.sum(jnp.exp(log_p) * data.values, axis=-1) - data.targets
    error = jnp.square(difference) if preset.error == "squared" else jnp.abs(difference)
    return preset.mix * entropy + (1 - preset.mix) * error


def _objective(free, data: FitData, where, preset: Preset):
    """The mean loss of the samples that are True in `where` [N]."""
    each = losses(jax.nn.softmax(free), data, preset)
    return jnp.sum(jnp.where(where, each, 0.0)) / jnp.maximum(jnp.sum(where), 1)


def _start(optimizer: optax.GradientTransformation, data: FitData):
    """Even weights."""
    free = jnp.zeros(data.layers.shape[1], jnp.float32)
    return free, optimizer.init(free)


def _step(optimizer: optax.GradientTransformation, state, data: FitData, where, preset: Preset):
    free, memory = state
    grads = jax.grad(_objective)(free, data, where, preset)
    updates, memory = optimizer.update(grads, memory, free)
    return optax.apply_updates(free, updates), memory
