"""Intervals: one answer to how sure a number is, for values that hang together in clusters.

A cluster is what was drawn independently: a prompt, with all its responses, pairs and ratings.
`interval` leaves each cluster out in turn (the delete-one jackknife: Tukey 1958; Efron & Stein
1981, Annals of Statistics 9, 586) and takes Student's t with one degree of freedom fewer than there
are clusters, on a scale where the statistic is near normal. It serves any statistic and any paired
difference. `share` is for a plain share, where values of 0 or 1 may show no spread: Wilson's
interval at the number of independent values that it is worth. 95% intervals hold the truth in 93 to
97 of 100 simulated trials with 20 and 60 prompts of four ratings, which share none or half of their
variance; a share and a difference of correlations are on the safe side with fewer (97 to 98 with
10). `python tests/coverage.py` prints the table.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
import scipy  # Its parts are loaded where they are first used.
from scipy.special import expit, logit, ndtri, stdtr, stdtrit

ENDS = 0.975  # Where the upper end of a 95% interval lies.
MOST = 200  # Clusters that are left out one by one; of more, as many random groups of clusters.
ROUNDING = 1e-9  # Deviations below this, of 1 or of the value, are none.


class Estimate(NamedTuple):
    """A value, its 95% interval, the two-sided p of its being 0, and of a share the number of
    independent values that it is worth.

    value is None where the statistic is not defined, the others also where nothing shows the
    spread: from one cluster, from clusters that are all alike, at the end of a scale.
    """

    value: float | None
    interval: tuple[float, float] | None = None
    p: float | None = None
    worth: float | None = None


class Scale(NamedTuple):
    """A scale on which a statistic is near normal, the way back, and the part of the degrees of
    freedom that counts."""

    to: Callable
    back: Callable
    freedom: float = 1.0


PLAIN = Scale(lambda x: x, lambda x: x)
# A mean difference of shares, which is from -1 to 1 whatever few clusters show.
OF_SHARES = Scale(lambda x: x, lambda x: np.clip(x, -1.0, 1.0))
FISHER = Scale(np.arctanh, np.tanh)  # From -1 to 1: correlations, kappa.
LOGIT = Scale(logit, expit)  # From 0 to 1: an area under a curve, F1.
# Above 0: a squared error. Squares have heavy tails, so that few of them show their spread badly;
# 0.6 is by simulation (with 1.0, 20 prompts that hang together cover 93%).
LOG = Scale(np.log, np.exp, 0.6)


def interval(
    statistic: Callable[..., float],
    columns: Sequence[np.ndarray],
    cluster: Sequence[Hashable],
    scale: Scale = PLAIN,
    *,
    between: Sequence[float] = (),
) -> Estimate:
    """Estimate a statistic of columns [N, ...] whose rows hang together by `cluster` [N].

    statistic: from columns with some of the rows to a number; NaN where it is not defined. A paired
        difference is a statistic too: `lambda x, a, b: spearman(x, a) - spearman(x, b)`.
    between: where the statistic is a mean over repetitions (seeds of a training), its value in each
        of them: their variance is added, with Satterthwaite's degrees of freedom (1946, Biometrics
        Bulletin 2, 110), as three seeds do not show their variance well.

    The interval is symmetric on the given scale. Raises ValueError where the lengths differ.
    """
    columns, member = [np.asarray(each) for each in columns], numbered(cluster)
    if any(len(each) != len(member) for each in columns):
        lengths = ", ".join(str(len(each)) for each in columns)
        raise ValueError(f"columns of {lengths} rows, and {len(member)} clusters")
    value = float(statistic(*columns)) if len(member) else math.nan
    if not math.isfinite(value):
        return Estimate(None)
    clusters = int(member.max()) + 1
    if clusters > MOST:
        groups = np.random.default_rng(0).permutation(np.arange(clusters) % MOST)
        member, clusters = groups[member], MOST
    if clusters == 1:
        return Estimate(value)
    kept = (member != k for k in range(clusters))
    with np.errstate(divide="ignore", invalid="ignore"):
        left = scale.to(np.array([statistic(*(each[k] for each in columns)) for k in kept], float))
        centre, zero = scale.to(value), scale.to(0.0)
        seeds = scale.to(np.array(between, float))
    if not (np.isfinite(left).all() and np.isfinite(centre) and np.isfinite(seeds).all()):
        return Estimate(value)
    deviation, freedom = _spread(left, seeds, scale.freedom)
    if deviation < ROUNDING * max(1.0, abs(centre)):
        return Estimate(value)
    half = deviation * stdtrit(freedom, ENDS)
    low, high = (float(scale.back(centre + side)) for side in (-half, half))
    there = np.isfinite(zero)
    p = float(2 * stdtr(freedom, -abs(centre - zero) / deviation)) if there else None
    return Estimate(value, (low, high), p)


def share(
    values: Sequence[float],
    cluster: Sequence[Hashable] | None = None,
    *,
    between: Sequence[float] = (),
    slopes: int = 0,
) -> Estimate:
    """Estimate a share, the mean of values [N] in [0, 1]: Wilson's interval at the number of
    independent values that they are worth.

    That is p (1 - p) over the jackknife's variance, and not more than N. Where all are 0 or all 1
    they do not show how they hang together; then each cluster counts as one (Kish 1965, Survey
    Sampling: N^2 / sum of squared sizes). Wilson's interval knows its quantile only as z^2 / n, so
    that Student's t is in the number as well. At N, simulated 95% intervals of values that hang
    together cover 43 to 85%.

    cluster [N]: without it, all are independent. between: see `interval`. slopes: of a fit that the
    values are left over from; they are worth fewer by as many.
    """
    values = np.asarray(values, float)
    if not len(values):
        return Estimate(None)
    n, mean = len(values), float(np.mean(values))
    member = np.arange(n) if cluster is None else numbered(cluster)
    sizes, worth = np.bincount(member), float(n)
    if len(sizes) < n or len(between):
        sums, freedom = np.bincount(member, weights=values), math.inf
        worth = n * n / float((sizes**2).sum())
        if len(sizes) > 1:
            left = (sums.sum() - sums) / (n - sizes)
            deviation, freedom = _spread(left, np.asarray(between, float))
            if deviation > ROUNDING and 0 < mean < 1:
                worth = mean * (1 - mean) / deviation**2
        worth = min(n, worth * (stdtrit(math.inf, ENDS) / stdtrit(freedom, ENDS)) ** 2)
    worth *= 1 - slopes / n
    return Estimate(mean, wilson(min(1.0, mean) * worth, worth), None, worth)


def wilson(successes: float, n: float) -> tuple[float, float]:
    """The 95% Wilson score interval of a proportion (Wilson 1927, J. Am. Stat. Assoc. 22, 209).

    It stays inside [0, 1] and contains `successes / n`, also at 0 and at n. Neither number needs to
    be whole: an effective number is allowed.
    """
    z2 = float(ndtri(ENDS)) ** 2
    p = successes / n
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # The ends are exact in theory; rounding must not push them past p, 0 or 1.
    return max(0.0, min(centre - half, p)), min(1.0, max(centre + half, p))


def _spread(left: np.ndarray, between: np.ndarray, counts: float = 1.0) -> tuple[float, float]:
    """The deviation of a statistic and its degrees of freedom, of which a part counts, from its
    values without each cluster and those of each repetition."""
    clusters = len(left)
    variance = (clusters - 1) / clusters * float(((left - left.mean()) ** 2).sum())
    parts = [(variance, (clusters - 1) * counts)]
    if len(between) > 1:
        parts.append((float(between.var(ddof=1)) / len(between), len(between) - 1))
        variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / df for part, df in parts) if variance else clusters - 1
    return math.sqrt(variance), freedom


def numbered(names: Sequence[Hashable]) -> np.ndarray:
    """Number equal names alike, from 0 in the order of their first occurrence."""
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], int)


# Statistics -------------------------------------------------------------------------------------


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """The correlation of x [N] and y [N]; NaN where a side is constant."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    # Divided by the range first, so that squares of tiny numbers do not vanish.
    x, y = ((side - side.mean()) / np.ptp(side) for side in (x, y))
    return float(np.clip((x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum()), -1, 1))


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """The correlation of ranks, of which equal values share the mean; NaN where a side is
    constant."""
    return pearson(ranks(x), ranks(y))


def ranks(values: np.ndarray) -> np.ndarray:
    """Rank values [N] from 1; equal ones share the mean. (scipy's takes three times as long.)"""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def kendall(x: np.ndarray, y: np.ndarray) -> float:
    """Kendall's tau-b of x [N] and y [N]; NaN where a side is constant."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    method = "asymptotic" if len(x) > 2 else "exact"  # Of its p, which nobody reads.
    return float(np.clip(scipy.stats.kendalltau(x, y, method=method).statistic, -1, 1))


CORRELATIONS = {"spearman": spearman, "pearson": pearson, "kendall": kendall}


def within(statistic: Callable[..., float]) -> Callable[..., float]:
    """Make the mean over parts of a statistic: its last column says which part a row is of. Unlike
    a correlation over all criteria together, this one does not see their means."""

    def mean(*columns):
        *columns, part = columns
        masks = [part == each for each in np.unique(part)]
        return float(np.mean([statistic(*(c[mask] for c in columns)) for mask in masks]))

    return mean


def difference(statistic: Callable[..., float]) -> Callable[..., float]:
    """Make a paired difference of a statistic of (x, a) and (x, b): that of a minus that of b."""
    return lambda x, a, b: statistic(x, a) - statistic(x, b)


def squared_error(x: np.ndarray, y: np.ndarray) -> float:
    return float(((x - y) ** 2).mean())


def kappa(x: np.ndarray, y: np.ndarray) -> float:
    """Quadratic-weighted kappa of whole numbers: 1 - observed / expected squared disagreement
    (Cohen 1968, Psychological Bulletin 70, 213), expected from the two sides' own distributions.
    NaN where both sides are always the same one level."""
    expected = x.var() + y.var() + (x.mean() - y.mean()) ** 2
    return 1 - squared_error(x, y) / expected if expected else math.nan
