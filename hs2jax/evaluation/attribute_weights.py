"""Weights that make one reward out of several predicted attributes: published, and searched for.

`items` are as in `measures`.
"""

from collections.abc import Sequence

import numpy as np
import scipy
from scipy.special import expit

from hs2jax.evaluation import statistics
from hs2jax.evaluation.measures import OVER_ZERO, pairs_of, rows_of

# HelpSteer2 (arXiv 2406.08673), appendix H. How they were found is not stated; RewardBench is
# named in the same place, so what they score there may be tuned on it.
_ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
PUBLISHED = {
    "llama3_70b": dict(zip(_ATTRIBUTES, (0.65, 0.8, 0.45, 0.55, -0.4), strict=True)),
    "nemotron4_340b": dict(zip(_ATTRIBUTES, (0.3, 0.74, 0.46, 0.47, -0.33), strict=True)),
}
DRAWS = 2048
ROUNDS = 6
PER_ROUND = 256


def search(
    items: Sequence[dict], names: Sequence[str], *, seed: int = 0, folds: int = 5
) -> tuple[dict[str, float], list[dict]]:
    """Find weights with the highest accuracy on pairs, and what they are worth on pairs held out.

    names: of the K outputs, in order. Weights may be negative (the published ones are, for
    verbosity); they are for the raw outputs, and their absolute values sum to 1. Returns them by
    name, and rows of the whole run, part "weights":

    * accuracy: theirs on the same pairs, so flattering; held_out: on folds, by group, that the
      search did not see; equal_weights: that of equal weights on the raw outputs.
    * held_out of method=NAME: the best attribute alone (its sign free; chosen on the other folds).
    * gain_over_equal, gain_over_single: held_out above these on the same pairs.

    Accuracies are strict: a margin of 0 is wrong. The same items, seed and folds give the same
    result. Raises ValueError with fewer groups that have pairs than folds, and as `pairs_of` does.
    """
    group = pairs_of(items).group
    rows = [np.subtract(i["outputs"][c], i["outputs"][r]) for i in items for c, r, _ in i["pairs"]]
    difference, member = np.array(rows).reshape(-1, len(names)), statistics.numbered(group.tolist())
    groups = len(np.unique(group))
    if groups < folds:
        raise ValueError(
            f"a search in {folds} folds needs a group with a pair for each, and {groups} groups "
            "have pairs: give more validation data that have preferences"
        )
    rng = np.random.default_rng(seed)
    fold = rng.permutation(np.arange(groups) % folds)[member]
    weights = _search(difference, rng)
    right, right_single = np.empty(len(group)), np.empty(len(group))
    for f in range(folds):
        train, test = difference[fold != f], difference[fold == f]
        right[fold == f] = test @ _search(train, rng) > 0
        right_single[fold == f] = test @ _single(train) > 0
    equal = difference.mean(axis=1) > 0
    single = names[int(np.abs(_single(difference)).argmax())]
    place = "", "weights", len(group)
    held_out, alone = ({"held_out": statistics.share(x, group)} for x in (right, right_single))
    over_equal, over_single = (
        statistics.interval(np.mean, [right - other], group, statistics.OF_SHARES)
        for other in (equal, right_single)
    )
    return dict(zip(names, weights.tolist(), strict=True)), [
        *rows_of(*place, {"accuracy": (difference @ weights > 0).mean()}),
        *rows_of(*place, held_out, headline=True),
        *rows_of(*place, alone, method=single),
        *rows_of(*place, {"equal_weights": equal.mean()}),
        *rows_of(*place, {"gain_over_equal": over_equal}, against="equal weights", **OVER_ZERO),
        *rows_of(*place, {"gain_over_single": over_single}, against=single, **OVER_ZERO),
    ]


def _search(difference: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Find weights [K] for the raw outputs, from differences [P, K].

    Outputs are divided by their spread within pairs. Candidates: equal weights, each attribute
    alone with either sign, the logistic fit of the preferences, draws from the simplex (Dirichlet)
    with random signs, then rounds of draws ever closer around the best. The most accurate wins;
    equally accurate ones by log loss.
    """
    K = difference.shape[1]
    spread = np.sqrt((difference**2).mean(axis=0))
    if not spread.any():
        # Outputs that never differ within a pair say nothing, whatever their weights.
        return np.full(K, 1 / K)
    unit = difference / np.where(spread > 0, spread, 1.0)
    drawn = rng.dirichlet(np.ones(K), size=DRAWS) * rng.choice([-1.0, 1.0], size=(DRAWS, K))
    # Half of the draws without signs: most attributes count for a response.
    drawn[::2] = np.abs(drawn[::2])
    equal = [np.ones((1, K)), spread[None]]  # Of standardised and of raw outputs.
    start = [*equal, np.eye(K), -np.eye(K), _logistic(unit)[None], drawn]
    best = _best(unit, _normalised(np.concatenate(start)))
    for r in range(ROUNDS):
        near = best + rng.normal(size=(PER_ROUND, K)) * 0.2 * 0.5**r
        best = _best(unit, np.concatenate([best[None], _normalised(near)]))
    # An output that never differs gets 0. If it had all the weight, nothing was ever right.
    raw = np.where(spread > 0, best / np.where(spread > 0, spread, 1.0), 0.0)
    return _normalised(raw[None])[0] if raw.any() else np.full(K, 1 / K)


def _single(difference: np.ndarray) -> np.ndarray:
    eye = np.eye(difference.shape[1])
    return _best(difference, np.concatenate([eye, -eye]))


def _best(unit: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """The first of the candidates [C, K] with the least loss among the most accurate."""
    right = np.concatenate(
        [(unit @ part.T > 0).sum(axis=0) for part in np.array_split(candidates, 16)]
    )
    tied = candidates[right == right.max()]
    # On one scale for all: of weights that order the pairs alike, those that cancel least win.
    loss = np.logaddexp(0.0, -(unit @ tied.T)).mean(axis=0)
    return tied[int(loss.argmin())]


def _logistic(unit: np.ndarray) -> np.ndarray:
    """Weights [K] with the least Bradley-Terry loss, held in by a weak ridge."""

    def loss(w):
        margin = unit @ w
        value = np.logaddexp(0.0, -margin).mean() + 1e-4 * (w @ w)
        return value, -(expit(-margin) @ unit) / len(unit) + 2e-4 * w

    w = scipy.optimize.minimize(loss, np.zeros(unit.shape[1]), jac=True, method="L-BFGS-B").x
    return w if w.any() else np.ones(len(w))


def _normalised(weights: np.ndarray) -> np.ndarray:
    return weights / np.abs(weights).sum(axis=1, keepdims=True)
