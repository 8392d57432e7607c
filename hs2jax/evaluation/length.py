"""Measure how much of a reward model's accuracy is the length of responses.

Length is counted in characters. `items` are as in `measures`.
"""

from collections.abc import Sequence

import numpy as np

from hs2jax.evaluation import statistics
from hs2jax.evaluation.measures import OVER_HALF, Pairs, pairs_of, rows_of
from hs2jax.evaluation.statistics import Estimate

FEWEST_GROUPS = 50  # With pairs. Below this the fit's own noise pulls towards 50%.
FOLDS = 10
KNOTS = [0.25, 0.5, 0.75]  # Quantiles of log length.
# Chosen over rejected, in characters. Symmetric: exchanging the two mirrors the bands.
EDGES = [0.5, 0.8, 1.25, 2.0]
BANDS = [
    "half as long or less",
    "shorter (50 to 80% as long)",
    "about as long (80 to 125%)",
    "longer (125 to 200% as long)",
    "twice as long or more",
]


def rows(set: str, items: Sequence[dict]) -> list[dict]:
    """Measure correlations with length, length-controlled accuracy, and accuracy by band; []
    without items.

    * reward_length_pearson, reward_length_spearman: reward against characters over all responses.
    * margin_length_pearson: margin of a pair against its lead in characters.
    * accuracy_at_equal_length: see `controlled`; none with fewer than 50 groups that have pairs.
      reward_of_twice_length: what a response twice as long as the median one gains in reward, other
      things being equal.
    * band/NAME: pairs by length of the chosen response over that of the rejected one; accuracy,
      longer_wins (the share in which the chosen response is the longer one).

    Raises ValueError as `pairs_of` does.
    """
    rewards = np.array([reward for item in items for reward in item["rewards"]], float)
    characters = np.array([len(text) for item in items for text in item["responses"]], float)
    if not len(rewards):
        return []
    correlations = {
        "reward_length_pearson": statistics.pearson(rewards, characters),
        "reward_length_spearman": statistics.spearman(rewards, characters),
    }
    found, pairs = rows_of(set, "", len(rewards), correlations), pairs_of(items)
    n = len(pairs.margin)
    if not n:
        return found
    correlation = {"margin_length_pearson": statistics.pearson(pairs.margin, pairs.lead)}
    found += rows_of(set, "", n, correlation)
    if len(np.unique(pairs.group)) >= FEWEST_GROUPS:
        estimate, twice = controlled(pairs, float(np.median(characters)))
        found += rows_of(set, "", n, {"accuracy_at_equal_length": estimate}, **OVER_HALF)
        found += rows_of(set, "", n, {"reward_of_twice_length": twice})
    return found + _bands(set, pairs)


def controlled(pairs: Pairs, median: float) -> tuple[Estimate, float]:
    """Estimate the accuracy that is left where the effect of length is taken out, and what a
    response twice as long as the median one gains in reward.

    A linear regression of the margin on what length can add to it (characters, their square, and a
    spline in log characters with knots at the quartiles) with an intercept; the part of length is
    subtracted and the pair is right where the rest is above 0. The question is that of
    length-controlled AlpacaEval (arXiv 2404.04475): what if both were equally long? Each pair is
    judged by a fit on the other folds, by group.

    The intercept stands for what the model sees in the chosen response beyond its length, so it
    stays: a model that ignores length keeps its accuracy, and one that only counts characters has
    50%. As in the plain accuracy a margin of 0 is wrong; a rest of 0 where there was a margin is
    one half. What the fit cannot follow pulls the accuracy towards 50%: where quality alone is
    right on 79%, simulated rewards with a linear, logarithmic or square part of length give 79%,
    with a step 76%, a cubic part 72%, an exponential one 55%.

    The interval takes the fits as they are, from fewer pairs by as many as a fit has slopes:
    simulated 95% intervals hold the truth in 93 to 97 of 100 trials.
    """
    member = statistics.numbered(pairs.group.tolist())
    scale, knots = max(median, 1.0), np.quantile(np.log1p(pairs.lengths), KNOTS)
    basis = _basis(pairs.lengths, scale, knots)
    features = basis[:, 0] - basis[:, 1]  # Equal lengths give 0.
    drawn = np.random.default_rng(0).permutation(np.arange(member.max() + 1) % FOLDS)
    fold, effect = drawn[member], np.empty(len(member))
    for f in range(FOLDS):
        train, test = fold != f, fold == f
        effect[test] = features[test] @ _slopes(features[train], pairs.margin[train])
    rest = pairs.margin - effect
    # Rounding must not decide where nothing but length is in a margin.
    nothing = np.abs(rest) <= 1e-9 * (np.abs(pairs.margin) + np.abs(effect))
    right = np.where(pairs.margin == 0, 0.0, np.where(nothing, 0.5, rest > 0))
    twice = np.diff(_basis(np.array([scale, 2 * scale]), scale, knots), axis=0)[0]
    gain = float(_slopes(features, pairs.margin) @ twice)
    return statistics.share(right, pairs.group, slopes=features.shape[1]), gain


def _bands(set: str, pairs: Pairs) -> list[dict]:
    chosen, rejected = pairs.lengths.T
    ratio = chosen / np.maximum(rejected, 1)
    # An edge belongs to the outer band, on both sides.
    below, above = np.searchsorted(EDGES, ratio), np.searchsorted(EDGES, ratio, side="right")
    band, found = np.where(ratio < 1, below, above), []
    for index, name in enumerate(BANDS):
        mask = band == index
        if mask.any():
            accuracy = statistics.share(pairs.right[mask], pairs.group[mask])
            values = {"accuracy": accuracy, "longer_wins": (pairs.lead[mask] > 0).mean()}
            found += rows_of(set, f"band/{name}", int(mask.sum()), values)
    return found


def _basis(lengths: np.ndarray, scale: float, knots: np.ndarray) -> np.ndarray:
    """Lengths [...] -> [..., F]: what a reward may be made from, if it is made from length."""
    log, unit = np.log1p(lengths)[..., None], lengths[..., None] / scale
    return np.concatenate([unit, unit**2, log, np.maximum(log - knots, 0)], axis=-1)


def _slopes(features: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """Least squares with an intercept; 0 for a constant feature."""
    centred = features - features.mean(axis=0)
    return np.linalg.lstsq(centred, margin - margin.mean(), rcond=3e-5)[0]
