"""Baselines for a judge: how likely a response is, a reward, and a probe of its states.

The likelihood is a baseline of LAGER (arXiv 2508.03550, section 4); the other two are this
project's: a model trained to score, and the best that a line through the judge's states can do.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve

from hs2jax.data.conversations import in_parts
from hs2jax.data.groups import Group
from hs2jax.data.record import Record
from hs2jax.evaluation import scores
from hs2jax.inference import progress_of
from hs2jax.judging import layer_weights
from hs2jax.judging.criteria import Criterion
from hs2jax.judging.readings import Readings
from hs2jax.reward_model import RewardModel

PART = 512  # Conversations that are scored, and may be kept, at a time.
# From close to least squares to close to only the mean.
PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)


def gpt_score(
    readings: Readings,
    items: Sequence[tuple[str, str]],
    criteria: Sequence[Criterion],
    sources: Sequence[str] = (),
) -> np.ndarray:
    """GPTScore (arXiv 2302.04166): the mean log-probability of a response's tokens, in nats, where
    the model is asked for a response that is good by the criterion. f32 [items, criteria].

    items: (prompt, response) each. NaN where the conversation is longer than the model's positions
    or the chat template refuses it. The wording is this project's, and the token that ends the turn
    counts too. readings: of the judge, and where what is made is kept. sources: of the items, for
    errors. Raises ValueError for what is not finite.
    """
    first: dict[str, int] = {}
    for i, (prompt, _) in enumerate(items):
        first.setdefault(prompt, i)
    places = [(i, c) for i in range(len(items)) for c in range(len(criteria))]
    # Neighbours share what they begin with: the prompt, and then the criterion.
    places.sort(key=lambda place: (first[items[place[0]][0]], place[1], place[0]))

    def make(conversations: Sequence) -> list[float | None]:
        found = readings.judge.model.log_probability(conversations, skip=True)
        return [likely and float(likely.tokens.mean()) for likely in found]

    table = np.full((len(items), len(criteria)), np.nan, np.float32)
    with progress_of("gpt_score", len(places), "item") as show:
        for part in in_parts(places, PART):
            conversations = [
                [
                    {"role": "user", "content": asked(items[i][0], criteria[c])},
                    {"role": "assistant", "content": items[i][1]},
                ]
                for i, c in part
            ]
            texts = [["gpt_score", each] for each in conversations]
            found = readings.recall(texts, conversations, make)
            for (i, c), x in zip(part, found, strict=True):
                if x is not None and not np.isfinite(x):
                    name = sources[i] if sources else f"item {i}"
                    raise ValueError(f"{name}: gpt_score of {criteria[c].name} is not finite")
            table[tuple(np.transpose(part))] = [np.nan if x is None else x for x in found]
            show(len(part))
    return table


def asked(prompt: str, criterion: Criterion) -> str:
    """Return the prompt, and behind it, so that criteria share it, what the response should be
    good at."""
    name = criterion.name.replace("_", " ")
    return f"{prompt}\n\nGive a response of very high {name}. {criterion.definition}"


def reward_scores(
    model: RewardModel, groups: Iterable[Group], criteria: Sequence[Criterion], record: Record
) -> list[np.ndarray | None]:
    """Score each response by a reward model: f32 [responses, criteria] of each group, None for
    one that does not fit, counted in `record`.

    By a criterion that one of the model's outputs is named after, it is that output, else the one
    reward that the outputs make. Prompts are cut from the left where that is needed. Raises
    ValueError where one reward is needed and the model has no weights for it.
    """
    reward, columns = model.scalar_weights(), []
    for criterion in criteria:
        if criterion.name in model.outputs:
            columns.append(np.eye(len(model.outputs))[model.outputs.index(criterion.name)])
        elif reward is not None:
            columns.append(reward)
        else:
            raise ValueError(
                f"the reward model has no output {criterion.name!r} and no weights that make its "
                f"outputs ({', '.join(model.outputs)}) one reward: give weights, or judge by "
                "criteria that it has"
            )
    weights = np.array(columns, np.float32).reshape(len(criteria), len(model.outputs))
    cache = scores.store_of(model)
    return [
        None if scored.outputs is None else scored.outputs @ weights.T
        for scored in scores.stream(model, groups, cache, skip=True, record=record)
    ]


class Probe(NamedTuple):
    """scores: f32 [N], each sample's by the folds that do not hold it; fold: int [N], its own.
    layers, penalties: [folds], those that were chosen for each fold."""

    scores: np.ndarray
    layers: np.ndarray
    penalties: np.ndarray
    fold: np.ndarray


def ridge_probe(
    states: np.ndarray,
    targets: Sequence[float],
    clusters: Sequence,
    *,
    folds: int = 5,
    seed: int = 0,
) -> Probe:
    """Ridge regression from the states of one layer to human scores, cross-validated.

    states: [N, L + 1, D], of any float type. targets: [N]. clusters: [N], which samples hang
    together and stay in one fold. Features are standardised. For each fold, layer and penalty are
    those with the least squared error on the other folds, each held out in turn: nothing is
    fitted, chosen or standardised by what is in the fold.

    folds: 3 or more. Raises ValueError with fewer clusters than folds.
    """
    y = np.asarray(targets, np.float64)
    fold = layer_weights.draw_folds(clusters, folds, seed)

    def predict(layer: int, train: np.ndarray, penalties: Sequence[float]) -> np.ndarray:
        x = states[:, layer].astype(np.float64)
        # Around their mean, which changes no fit, so that sums of squares lose no digits to it.
        return _ridge(x - x.mean(axis=0), y, train, penalties)

    # Squared errors in the inner folds. What is fitted without two folds is tested on both of
    # them: on either, for the other as the outer one.
    errors = np.zeros((folds, states.shape[1], len(PENALTIES)))
    for layer in range(states.shape[1]):
        for pair in itertools.combinations(range(folds), 2):
            predicted = predict(layer, ~np.isin(fold, pair), PENALTIES)
            for inner, outer in (pair, pair[::-1]):
                missed = (predicted - y[:, None])[fold == inner]
                errors[outer, layer] += np.square(missed).sum(axis=0)

    layers, penalties = np.unravel_index(errors.reshape(folds, -1).argmin(axis=1), errors.shape[1:])
    scores = np.empty(len(y), np.float32)
    for f, (layer, penalty) in enumerate(zip(layers, penalties, strict=True)):
        held = fold == f
        predicted = predict(layer, ~held, [PENALTIES[penalty]])[:, 0]
        # Around one mean in all folds. Each fold's own would be high where the held-out targets
        # are low, and by that alone correlate with them.
        scores[held] = predicted[held] - y[~held].mean() + y.mean()
    return Probe(scores, layers, np.array(PENALTIES, np.float32)[penalties], fold)


def _ridge(
    x: np.ndarray, y: np.ndarray, train: np.ndarray, penalties: Sequence[float]
) -> np.ndarray:
    """Predictions [N, penalties] of the fit that minimises mean (y - z w)^2 + penalty |w|^2 on
    `train`, bool [N], where z are the features x [N, D], standardised there."""
    n, mean, deviation = train.sum(), x[train].mean(axis=0), x[train].std(axis=0)
    # A feature that is constant but for rounding says nothing.
    varies = deviation**2 > 1e-9 * np.square(x[train]).mean(axis=0)
    z = (x - mean) * np.where(varies, 1 / np.where(varies, deviation, 1), 0)
    at, fitted = y[train].mean(), z[train]
    # Of the two forms of the solution, the one with the smaller matrix.
    wide = fitted.shape[1] > n
    gram = fitted @ fitted.T if wide else fitted.T @ fitted
    toward = y[train] - at if wide else fitted.T @ (y[train] - at)
    along, one = z @ fitted.T if wide else z, np.eye(len(gram))
    weights = [solve(gram + n * p * one, toward, assume_a="pos") for p in penalties]
    return at + along @ np.transpose(weights)
