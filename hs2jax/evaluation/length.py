"""How much of a reward model's accuracy is the length of responses.

Length is counted in characters. `items` are as in `statistics`.
"""

from collections.abc import Sequence

import numpy as np

from hs2jax.evaluation import statistics

FEWEST_GROUPS = 50  # With pairs. Below this the fit's own noise pulls towards 50%.
FOLDS = 10
KNOTS = [0.25, 0.5, 0.75]  # Quantiles of log length.
RESAMPLES = 500  # Only a variance is taken from them.
# Chosen over rejected, in characters. Symmetric: exchanging the two mirrors the bands.
EDGES = [0.5, 0.8, 1.25, 2.0]
BANDS = [
    "half as long or less",
    "shorter (50 to 80% as long)",
    "about as long (80 to 125%)",
    "longer (125 to 200% as long)",
    "twice as long or more",
]
METHOD = (
    "Linear regression of the margin on what length can add to it (characters, their square, and a "
    "spline in log characters with knots at the quartiles) with an intercept; the part of length "
    "is subtracted and the pair is right where the rest is above 0. The question is that of "
    "length-controlled AlpacaEval (arXiv 2404.04475): what if both were equally long? Each pair is "
    f"judged by a fit on the other of {FOLDS} folds, by group. The interval is Wilson's at the "
    "effective number of pairs and counts how uncertain the fit is, by a bootstrap over groups. "
    "Where a reward grows much faster than the square of length, the accuracy is too near to 50%."
)


def analysis(items: Sequence[dict], seed: int = 0) -> dict | None:
    """Correlations with length, length-controlled accuracy, accuracy by band; None without items.

    * reward_pearson, reward_spearman: reward against characters over all responses.
    * margin_pearson: margin of a pair against its lead in characters. (None where a side is
      constant.)
    * controlled: the accuracy that is left where the effect of length is taken out; None with
      fewer than 50 groups that have pairs. The intercept stands for what the model sees in the
      chosen response beyond its length, so it stays: a model that ignores length keeps its
      accuracy however much longer the chosen responses are, and one that only counts characters
      has 50%. Quality that goes with length inside the chosen responses is taken out as well. As in
      the plain accuracy a margin of 0 is wrong; a rest of 0 where there was a margin is one half.
      What the fit cannot follow stays in the rest as noise, and pulls the accuracy towards 50%:
      where quality alone is right on 79%, simulated rewards with a linear, logarithmic or square
      part of length give 79%, with a step 76%, a cubic part 72%, an exponential one 55%.
      `coefficient`: what a response twice as long as the median one gains in reward, other things
      being equal.
    * bands: pairs by length of the chosen response over that of the rejected one; those that occur.
      `longer`: the share of the band's pairs in which the chosen response is the longer one.

    Raises ValueError as `statistics.preferences` does, also for a reward of any response.
    """
    rewards, characters = _responses(items)
    if not len(rewards):
        return None
    group, margin, lead, _ = statistics.pair_columns(items)
    pairs = _pair_lengths(items)
    return {
        "reward_pearson": _or_none(statistics.pearson(rewards, characters)),
        "reward_spearman": _or_none(statistics.spearman(rewards, characters)),
        "margin_pearson": _or_none(statistics.pearson(margin, lead.astype(float))),
        "controlled": _controlled(group, margin, pairs, float(np.median(characters)), seed),
        "bands": _bands(group, margin, pairs),
    }


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value


def _responses(items: Sequence[dict]) -> tuple[np.ndarray, np.ndarray]:
    rewards, characters = [], []
    for item in items:
        if not np.isfinite(item["rewards"]).all():
            raise ValueError(
                f"{item.get('source', '?')}: rewards must be finite numbers, got {item['rewards']}"
            )
        rewards += item["rewards"]
        characters += [len(response) for response in item["responses"]]
    return np.array(rewards, float), np.array(characters, float)


def _pair_lengths(items: Sequence[dict]) -> np.ndarray:
    """[P, 2]: characters of the chosen and of the rejected response."""
    lengths = [
        (len(item["responses"][chosen]), len(item["responses"][rejected]))
        for item in items
        for chosen, rejected, _ in item["pairs"]
    ]
    return np.array(lengths, float).reshape(-1, 2)


def _bands(group: np.ndarray, margin: np.ndarray, pairs: np.ndarray) -> list[dict]:
    ratio = pairs[:, 0] / np.maximum(pairs[:, 1], 1)
    # An edge belongs to the outer band, on both sides.
    below, above = np.searchsorted(EDGES, ratio), np.searchsorted(EDGES, ratio, side="right")
    band = np.where(ratio < 1, below, above)
    found = []
    for index, name in enumerate(BANDS):
        mask = band == index
        if mask.any():
            right = margin[mask] > 0
            found.append(
                {
                    "name": name,
                    "pairs": int(mask.sum()),
                    "accuracy": float(right.mean()),
                    "interval": statistics.share_interval(right, group[mask])[0],
                    "longer": float((pairs[mask, 0] > pairs[mask, 1]).mean()),
                }
            )
    return found


# Length-controlled accuracy -----------------------------------------------------------------------


def _controlled(
    group: np.ndarray, margin: np.ndarray, pairs: np.ndarray, median: float, seed: int
) -> dict | None:
    member = np.unique(group, return_inverse=True)[1]
    G = int(member.max()) + 1 if len(member) else 0
    if G < FEWEST_GROUPS:
        return None
    scale = max(median, 1.0)
    knots = np.quantile(np.log1p(pairs), KNOTS)
    basis = _basis(pairs, scale, knots)
    features = basis[:, 0] - basis[:, 1]  # Equal lengths give 0.
    rng = np.random.default_rng(seed)
    fold = rng.permutation(np.arange(G) % FOLDS)
    # A resample draws groups and counts how often; a group stays in its fold, so that no pair is
    # judged by a fit that saw it. Row 0 is the data as they are.
    counts = rng.multinomial(G, np.full(G, 1 / G), size=RESAMPLES)
    counts = np.concatenate([np.ones((1, G), int), counts])
    sums = _sums(features, margin, member)
    slopes = _cross_fitted(sums, fold, counts)[:, fold]
    shares = np.empty(len(counts))
    for r in range(len(counts)):
        right = _right(features, margin, slopes[r, member])
        if r == 0:
            effective = statistics.effective_size(right, group)
        shares[r] = np.average(right, weights=counts[r, member])
    accuracy, variance = float(shares[0]), float(shares[1:].var())
    if variance and 0 < accuracy < 1:
        effective = min(effective, accuracy * (1 - accuracy) / variance)
    twice = np.diff(_basis(np.array([scale, 2 * scale]), scale, knots), axis=0)[0]
    return {
        "accuracy": accuracy,
        "interval": list(statistics.wilson(accuracy * effective, effective)),
        "coefficient": float(_slopes(sums.sum(axis=0)) @ twice),
        "method": METHOD,
    }


def _basis(lengths: np.ndarray, scale: float, knots: np.ndarray) -> np.ndarray:
    """Lengths [...] -> [..., F]: what a reward may be made from, if it is made from length."""
    log, unit = np.log1p(lengths)[..., None], lengths[..., None] / scale
    return np.concatenate([unit, unit**2, log, np.maximum(log - knots, 0)], axis=-1)


def _right(features: np.ndarray, margin: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """1, 0 or one half per pair, from slopes [P, F]."""
    effect = (features * slopes).sum(axis=1)
    rest = margin - effect
    # Rounding must not decide where nothing but length is in a margin.
    nothing = np.abs(rest) <= 1e-9 * (np.abs(margin) + np.abs(effect))
    return np.where(margin == 0, 0.0, np.where(nothing, 0.5, rest > 0))


def _sums(features: np.ndarray, margin: np.ndarray, member: np.ndarray) -> np.ndarray:
    """[G, F+2, F+2]: sums over a group's pairs of products of 1, the features and the margin."""
    columns = np.column_stack([features, margin])
    # A shift changes no slope of a fit with an intercept, but keeps the sums exact.
    columns = np.column_stack([np.ones(len(margin)), columns - columns.mean(axis=0)])
    sums = np.zeros((member.max() + 1, columns.shape[1], columns.shape[1]))
    np.add.at(sums, member, columns[:, :, None] * columns[:, None, :])
    return sums


def _cross_fitted(sums: np.ndarray, fold: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """[R, FOLDS, F]: per resample the slopes for each fold, fitted on the others."""
    by_fold = np.stack(
        [np.tensordot(counts[:, fold == f], sums[fold == f], axes=1) for f in range(FOLDS)], axis=1
    )
    return _slopes(by_fold.sum(axis=1, keepdims=True) - by_fold)


def _slopes(sums: np.ndarray) -> np.ndarray:
    """Least squares with an intercept, from sums [..., F+2, F+2]; 0 for a constant feature."""
    moments = sums / sums[..., :1, :1]
    covariance = moments - moments[..., :, :1] * moments[..., :1, :]
    inverse = np.linalg.pinv(covariance[..., 1:-1, 1:-1], rcond=1e-9, hermitian=True)
    return (inverse @ covariance[..., 1:-1, -1:])[..., 0]
