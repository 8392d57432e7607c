"""Weights of the layers, fitted to human scores and cross-validated.

LAGER (arXiv 2508.03550), section 3.3: one free parameter per used layer, the weights their softmax,
fitted on a validation set while the model stays as it is. Axis letters as in `lager`, and N
samples, each a reading with its human score.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hs2jax.judging import lager
from hs2jax.judging.lager import Preset

RECIPES = ("published", "converged")
# The repository's. Its schedule halves the rate when an epoch brings no gain; there is one epoch
# (for Qwen2.5, which the paper gives two, it is one here too).
PUBLISHED_RATE, BATCH = 0.01, 4
# On all samples at once, until so many steps in a row were no gain on the clusters held out.
CONVERGED_RATE, PATIENCE, MOST_STEPS = 0.05, 50, 1000
HELD_OUT = 0.2  # Of the clusters, to stop early by.
ERRORS = {"absolute": jnp.abs, "squared": jnp.square}


class Fit(NamedTuple):
    """weights: f32 [L'], summing to 1. before, after: the mean loss of all given samples with even
    and with these weights. steps: of the optimizer, until these weights. samples: N.
    """

    weights: np.ndarray
    before: float
    after: float
    steps: int
    samples: int
    recipe: str
    seed: int


class CrossValidation(NamedTuple):
    """Scores of samples by weights they were not fitted on.

    scores: {aggregation: f32 [N]} for those that use weights, each sample by the weights of the
    other folds, around one mean in all folds. weights: f32 [folds, L']. fold: int [N], the fold
    each sample was held out in.
    """

    scores: dict[str, np.ndarray]
    weights: np.ndarray
    fold: np.ndarray


class FitData(NamedTuple):
    """layers: logits of the used layers [N, L', S]. targets: human scores [N]. labels: the same as
    distributions over the candidates [N, S]. values: what the candidates stand for [S].
    """

    layers: np.ndarray
    targets: np.ndarray
    labels: np.ndarray
    values: np.ndarray


def fit(
    logits,
    targets,
    clusters: Sequence,
    values: Sequence[int],
    preset: Preset,
    *,
    recipe: str = "published",
    seed: int = 0,
) -> Fit:
    """Fit weights that make "lager_w" follow the human scores.

    logits: [N, 2, L + 1, S]. targets: human scores [N], on the scale of `values` [S], fractions
    allowed. clusters: [N], which samples hang together, such as those of one prompt. The loss of a
    sample is preset.mix times the cross-entropy of the softmax of the aggregated logits, and for
    the rest the error of its expectation.

    * "published": Adam, rate 0.01, in one pass over the samples in batches of 4, in an order drawn
      from the seed.
    * "converged": Adam on all samples at once; of up to 1,000 steps, 0 (even weights) included,
      those with the least loss on a fifth of the clusters, drawn from the seed and not fitted on.

    The same arguments give the same weights. Raises ValueError for targets outside the scale, and
    for "converged" with fewer than two clusters.
    """
    data = _fit_data(logits, targets, values, preset)
    everything = np.ones(len(data.targets), bool)
    return _fit(data, everything, _numbered(clusters), preset, recipe, seed)


def cross_validate(
    logits,
    targets,
    clusters: Sequence,
    values: Sequence[int],
    preset: Preset,
    *,
    folds: int = 5,
    recipe: str = "published",
    seed: int = 0,
) -> CrossValidation:
    """Fit weights on all folds but one, and score that one with them, for each fold.

    Arguments and errors as for `fit` and `draw_folds`. Weights are fitted to people's level, which
    in the other folds is the higher the lower it is in the one held out; so that this alone orders
    nothing, each fold's scores are moved by the mean that its weights give the other folds.
    """
    data = _fit_data(logits, targets, values, preset)
    N, member, fold = len(data.targets), _numbered(clusters), draw_folds(clusters, folds, seed)
    weights = np.stack(
        [_fit(data, fold != f, member, preset, recipe, seed).weights for f in range(folds)]
    )
    scores, levels = ({name: np.zeros(N, np.float32) for name in lager.WEIGHTED} for _ in range(2))
    for f, each in enumerate(weights):
        held = fold == f
        for name, score in scores.items():
            found = lager.aggregate(logits, values, name, preset, each)
            score[held] = found[held]
            if lager.AGGREGATIONS[name].expectation:  # Else it is one of the scale's values.
                levels[name][held] = found[~held].mean()
    moved = {name: each - levels[name] + levels[name].mean() for name, each in scores.items()}
    return CrossValidation(moved, weights, fold)


def draw_folds(clusters: Sequence, folds: int, seed: int) -> np.ndarray:
    """Draw the fold [N] of each sample, from 0; the samples of a cluster (a prompt) are in one.

    The same clusters and seed give the same folds. Raises ValueError with fewer clusters than
    folds.
    """
    member = _numbered(clusters)
    G = int(member.max(initial=-1)) + 1
    if folds > G:
        raise ValueError(
            f"{folds} folds need as many prompts with ratings, and there are only {G}: give more "
            "data, or fewer folds (config.folds)"
        )
    return np.random.default_rng(seed).permutation(np.arange(G) % folds)[member]


@functools.partial(jax.jit, static_argnames="preset")
def losses(weights, data: FitData, preset: Preset):
    """The loss of each sample, [N], with weights [L'] of the layers."""
    log_p = jax.nn.log_softmax(lager.combine(data.layers, weights))
    entropy = -jnp.sum(data.labels * log_p, axis=-1)
    difference = jnp.sum(jnp.exp(log_p) * data.values, axis=-1) - data.targets
    return preset.mix * entropy + (1 - preset.mix) * ERRORS[preset.error](difference)


def _numbered(clusters: Sequence) -> np.ndarray:
    """The number of each sample's cluster, from 0."""
    return np.unique(np.asarray(clusters), return_inverse=True)[1]


def _fit_data(logits, targets, values, preset: Preset) -> FitData:
    targets, values = np.asarray(targets, np.float64), np.asarray(values, np.float64)
    if not ((values[0] <= targets) & (targets <= values[-1])).all():
        raise ValueError(f"targets must lie on the scale from {values[0]:g} to {values[-1]:g}")
    layers = lager.used_layers(logits, preset)
    if preset.whole_targets:
        targets = values[np.searchsorted(values, targets, side="right") - 1]
    # A value's label falls evenly to 0 at its neighbours, so that the labels' mean is the target.
    labels = np.stack([np.interp(targets, values, one) for one in np.eye(len(values))], axis=-1)
    return FitData(*map(np.float32, (layers, targets, labels, values)))


def _fit(
    data: FitData, train: np.ndarray, member: np.ndarray, preset: Preset, recipe: str, seed: int
) -> Fit:
    """train: bool [N]. All arrays keep N entries, so that folds share compiled programs."""
    rng = np.random.default_rng(seed)
    if recipe == "published":
        order = rng.permutation(np.flatnonzero(train))
        batches = np.full((-(-len(train) // BATCH), BATCH), -1)
        batches.flat[: len(order)] = order
        weights, steps = _published(data, batches, preset)
    else:
        groups = rng.permutation(np.unique(member[train]))
        if len(groups) < 2:
            raise ValueError(
                "the recipe 'converged' holds out a part of the clusters (prompts) and needs at "
                f"least 2, got {len(groups)}: give more samples, or use 'published'"
            )
        held = train & np.isin(member, groups[: max(1, round(HELD_OUT * len(groups)))])
        weights, steps = _converged(data, train & ~held, held, preset)
    even, weights = np.full(len(weights), 1 / len(weights), np.float32), np.asarray(weights)
    before, after = (
        float(np.asarray(losses(each, data, preset))[train].mean()) for each in (even, weights)
    )
    return Fit(weights, before, after, int(steps), int(train.sum()), recipe, seed)


@functools.partial(jax.jit, static_argnames="preset")
def _published(data: FitData, batches, preset: Preset):
    """batches: rows of samples [B, 4]; -1 is an empty place. Returns the weights, and steps."""
    optimizer = optax.adam(PUBLISHED_RATE)

    def step(state, rows):
        there = rows >= 0
        samples = {name: getattr(data, name)[rows] for name in ("layers", "targets", "labels")}
        new = _step(optimizer, state, data._replace(**samples), there, preset)
        # A batch that is all empty makes no step: Adam would move on by what it remembers.
        return jax.tree.map(lambda a, b: jnp.where(there.any(), a, b), new, state), None

    state, _ = jax.lax.scan(step, _start(optimizer, data), batches)
    return jax.nn.softmax(state[0]), (batches >= 0).any(axis=1).sum()


@functools.partial(jax.jit, static_argnames="preset")
def _converged(data: FitData, train, held, preset: Preset):
    """train, held: bool [N]. Returns the weights that are best on `held`, and their step."""
    optimizer = optax.adam(CONVERGED_RATE)

    def unfinished(carry):
        step, _, (best_step, _, _) = carry
        return (step < MOST_STEPS) & (step - best_step < PATIENCE)

    def advance(carry):
        step, state, best = carry
        state = _step(optimizer, state, data, train, preset)
        now = (step + 1, state[0], _objective(state[0], data, held, preset))
        return (
            step + 1,
            state,
            jax.tree.map(lambda a, b: jnp.where(now[2] < best[2], a, b), now, best),
        )

    state = _start(optimizer, data)
    best = (0, state[0], _objective(state[0], data, held, preset))
    _, _, (best_step, free, _) = jax.lax.while_loop(unfinished, advance, (0, state, best))
    return jax.nn.softmax(free), best_step


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
