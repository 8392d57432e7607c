"""Estimates over several seeds of one way to train, with intervals over prompts and seeds.

Two things make such a number doubtful: few prompts are held out (all seeds are judged on the same
ones, and the pairs of a prompt hang together), and few seeds are drawn. The intervals here are for
the mean over seeds and count both:

* prompts: the jackknife over groups of the mean over seeds (Tukey 1958; Efron & Stein 1981, Annals
  of Statistics 9, 586), which serves correlations as well as shares;
* seeds: the variance over seeds, divided by their number;
* their sum with Student's t at Satterthwaite's degrees of freedom (1946, Biometrics Bulletin 2,
  110), as three seeds do not show their variance well. Percentiles of a bootstrap over prompts and
  seeds hold the truth too rarely where seeds matter: three seeds have only ten samples.

A metric is a function of sums over groups, [..., M] -> [...], so that all of this is arithmetic.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from hs2jax.evaluation import statistics

UPPER = 0.5 + statistics.LEVEL / 2


class Sums(NamedTuple):
    """Sums [G, M] that a metric is made from, per held-out group, and what tells groups apart."""

    groups: list
    values: np.ndarray


class Estimate(NamedTuple):
    """A mean over seeds, its 95% interval (None from one group) and its deviation over seeds."""

    value: float
    interval: tuple[float, float] | None
    deviation: float | None  # None from one seed.


# Sums ---------------------------------------------------------------------------------------------


def pair_sums(items: Sequence[dict]) -> Sums | None:
    """M: pairs, right ones, margin; None without pairs. Items are as in `statistics`.

    Raises ValueError as `statistics.preferences` does.
    """
    groups = {}
    for i, item in enumerate(items):
        rows = [(1.0, float(margin > 0), margin) for _, margin, *_ in statistics.pair_rows(i, item)]
        if rows:
            _add(groups, item["source"], [pair[:2] for pair in item["pairs"]], np.sum(rows, axis=0))
    return _ordered(groups) if groups else None


def rating_sums(items: Sequence[dict], k: int, name: str) -> Sums | None:
    """M: ratings, predicted, rated, their squares, their product, the squared error.

    k: which output predicts the attribute `name`; None where nobody rated it.
    """
    found = [
        (item["source"], r, outputs[k], ratings[name])
        for item in items
        for r, (outputs, ratings) in enumerate(zip(item["outputs"], item["ratings"], strict=True))
        if ratings.get(name) is not None
    ]
    if not found:
        return None
    sources, responses, predicted, rated = zip(*found, strict=True)
    error = np.subtract(predicted, rated)
    x, y = _standardised(predicted), _standardised(rated)
    groups = {}
    table = np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y, error**2], axis=1)
    for source, response, row in zip(sources, responses, table, strict=True):
        _add(groups, source, [response], row)
    return _ordered(groups)


def _standardised(values: Sequence[float]) -> np.ndarray:
    """Shifted and scaled, which no correlation sees, so that sums of squares stay exact."""
    values = np.array(values, float)
    return (values - values.mean()) / (np.ptp(values) or 1.0) * (np.ptp(values) > 0)


def _add(groups: dict, source: str, parts: list, values: np.ndarray) -> None:
    """A group that is listed twice is one group: it is the same prompt."""
    old_parts, old_values = groups.get(source, ([], 0.0))
    groups[source] = ([*old_parts, *parts], old_values + values)


def _ordered(groups: dict) -> Sums:
    ordered = sorted(groups.items(), key=lambda entry: entry[0])
    return Sums(
        [(source, parts) for source, (parts, _) in ordered],
        np.stack([values for _, (_, values) in ordered]),
    )


# Estimates ----------------------------------------------------------------------------------------


def accuracy(m: np.ndarray) -> np.ndarray:
    return m[..., 1] / m[..., 0]


def margin(m: np.ndarray) -> np.ndarray:
    return m[..., 2] / m[..., 0]


def squared_error(m: np.ndarray) -> np.ndarray:
    return m[..., 6] / m[..., 0]


def pearson(m: np.ndarray) -> np.ndarray:
    """NaN where a side is constant."""
    n, x, y, xx, yy, xy, _ = np.moveaxis(m, -1, 0)
    spread_x, spread_y = xx / n - (x / n) ** 2, yy / n - (y / n) ** 2
    varied = (spread_x > 1e-12) & (spread_y > 1e-12)
    product = np.where(varied, spread_x * spread_y, np.nan)
    return np.clip((xy / n - x * y / n**2) / np.sqrt(product), -1, 1)


def estimate(sums: Sequence[Sums], statistic: Callable) -> Estimate | None:
    """A metric of one arm, from the sums of its seeds; None where it is not defined.

    Intervals stay where the metric lives: a share's is Wilson's at the number of pairs that the
    variance is worth, a correlation's is made on Fisher's scale, a squared error's ends at 0.
    """
    stack = np.stack([each.values for each in sums])
    seeds, without = _leave_each_out(stack, statistic)
    value, deviation = float(seeds.mean()), _deviation(seeds)
    if not math.isfinite(value):
        return None
    if stack.shape[1] < 2 or not np.isfinite(without).all():
        return Estimate(value, None, deviation)
    variance, t = _variance(seeds, without)
    half = t * math.sqrt(variance)
    low, high = value - half, value + half
    if statistic is accuracy:
        low, high = _share_interval(value, variance, t, stack[0, :, 0])
    elif statistic is pearson and abs(value) < 1:
        low, high = np.tanh(np.arctanh(value) + np.array([-half, half]) / (1 - value**2)).tolist()
    elif statistic is squared_error:
        low = max(0.0, low)
    return Estimate(value, (low, high), deviation)


def difference(sums: Sequence[Sums], reference: Sequence[Sums], statistic: Callable) -> Estimate:
    """How far an arm's metric is above the reference arm's, seed by seed on the same groups."""
    sides = [
        _leave_each_out(np.stack([each.values for each in side]), statistic)
        for side in (sums, reference)
    ]
    seeds, without = (mine - theirs for mine, theirs in zip(*sides, strict=True))
    value, interval = float(seeds.mean()), None
    if without.shape[1] > 1:
        variance, t = _variance(seeds, without)
        half = t * math.sqrt(variance)
        interval = (max(-1.0, value - half), min(1.0, value + half))
    return Estimate(value, interval, _deviation(seeds))


def _leave_each_out(stack: np.ndarray, statistic: Callable) -> tuple[np.ndarray, np.ndarray]:
    """stack [S, G, M] -> the statistic of each seed [S], and without each group [S, G]."""
    total = stack.sum(axis=1, keepdims=True)
    if stack.shape[1] == 1:
        return statistic(total[:, 0]), np.zeros((len(stack), 1))
    return statistic(total[:, 0]), statistic(total - stack)


def _variance(seeds: np.ndarray, without: np.ndarray) -> tuple[float, float]:
    """The variance of the mean over seeds, and Student's t for it."""
    S, G = without.shape
    left = without.mean(axis=0)
    parts = [((G - 1) / G * float(((left - left.mean()) ** 2).sum()), G - 1)]
    if S > 1:
        parts.append((float(seeds.var(ddof=1)) / S, S - 1))
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / df for part, df in parts) if variance else G - 1
    return variance, float(stdtrit(freedom, UPPER))


def _share_interval(share: float, variance: float, t: float, sizes: np.ndarray):
    n = float(sizes.sum())
    if share in (0, 1):
        # Nothing shows how the pairs of a group hang together: each group counts as one.
        n = n**2 / float((sizes**2).sum())
    elif variance:
        n = min(n, share * (1 - share) / variance)
    # Wilson's interval knows its quantile only as z^2 / n.
    n *= (float(stdtrit(math.inf, UPPER)) / t) ** 2
    return statistics.wilson(share * n, n)


def _deviation(seeds: np.ndarray) -> float | None:
    return float(seeds.std(ddof=1)) if len(seeds) > 1 else None
