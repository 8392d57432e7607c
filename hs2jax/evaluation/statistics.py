"""How sure a number is: one answer for every statistic of values that hang together in clusters.

A cluster is what was drawn independently: a prompt, with all its responses, pairs and ratings.
`interval` leaves each cluster out in turn (the delete-one jackknife: Tukey 1958; Efron & Stein
1981, Annals of Statistics 9, 586) and takes Student's t with one degree of freedom fewer than there
are clusters, on a scale where the statistic is near normal. It serves any statistic and any paired
difference. A plain share has Wilson's interval instead, as one of 0 or 1 shows no spread, at the
number of independent values that it is worth (`effective_number`): where prompts have several
pairs, it holds the truth in 94 to 99 of 100 simulated trials (accuracies of 0.6 and 0.9, 10 to 100
prompts), and in 43 to 85 where pairs are taken to be independent and hang together. The table for
all statistics is printed by `python tests/coverage.py`.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from scipy.special import expit, logit, ndtri, stdtr, stdtrit

LEVEL = 0.95
MOST = 200  # Clusters that are left out one by one; of more, as many random groups of clusters.
ROUNDING = 1e-9  # Deviations below this are none.


class Estimate(NamedTuple):
    """A value, its interval, and the two-sided p of its being 0.

    value is None where the statistic is not defined, the others also where nothing shows the
    spread: from one cluster, from clusters that are all alike, at the end of a scale.
    """

    value: float | None
    interval: tuple[float, float] | None = None
    p: float | None = None


class Scale(NamedTuple):
    """Where a statistic is near normal, and the way back."""

    to: Callable
    back: Callable


PLAIN = Scale(lambda x: x, lambda x: x)
FISHER = Scale(np.arctanh, np.tanh)  # From -1 to 1: correlations, kappa.
LOGIT = Scale(logit, expit)  # From 0 to 1: an area under a curve, F1.
LOG = Scale(np.log, np.exp)  # Above 0: a squared error.


def interval(
    statistic: Callable[..., float],
    columns: Sequence[np.ndarray],
    cluster: Sequence[Hashable],
    scale: Scale = PLAIN,
    *,
    level: float = LEVEL,
    between: Sequence[float] = (),
    seed: int = 0,
) -> Estimate:
    """Estimate a statistic of columns [N, ...] whose rows hang together by `cluster` [N].

    statistic: from columns with some of the rows to a number; NaN where it is not defined. A paired
        difference is a statistic too: `lambda x, a, b: spearman(x, a) - spearman(x, b)`.
    between: where the statistic is a mean over repetitions (seeds of a training), its value in each
        of them: their variance is added, with Satterthwaite's degrees of freedom (1946, Biometrics
        Bulletin 2, 110), as three seeds do not show their variance well.
    seed: of the random groups that are left out where there are more than MOST clusters.

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
        groups = np.random.default_rng(seed).permutation(np.arange(clusters) % MOST)
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
    deviation, freedom = _spread(left, seeds)
    if deviation < ROUNDING:
        return Estimate(value)
    half = deviation * stdtrit(freedom, 0.5 + level / 2)
    low, high = (float(scale.back(centre + side)) for side in (-half, half))
    p = None
    if np.isfinite(zero):
        p = float(2 * stdtr(freedom, -abs(centre - zero) / deviation))
    return Estimate(value, (low, high), p)


def _spread(left: np.ndarray, between: np.ndarray) -> tuple[float, float]:
    """The deviation of a statistic and its degrees of freedom, from its values without each cluster
    and those of each repetition."""
    clusters = len(left)
    parts = [((clusters - 1) / clusters * float(((left - left.mean()) ** 2).sum()), clusters - 1)]
    if len(between) > 1:
        parts.append((float(between.var(ddof=1)) / len(between), len(between) - 1))
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / df for part, df in parts) if variance else clusters - 1
    return math.sqrt(variance), freedom


def numbered(names: Sequence[Hashable]) -> np.ndarray:
    """Number equal names alike, from 0 in the order of their first occurrence."""
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], int)


# Shares -----------------------------------------------------------------------------------------


def share(
    values: Sequence[float],
    cluster: Sequence[Hashable] | None = None,
    *,
    between: Sequence[float] = (),
) -> Estimate:
    """Estimate a share, the mean of values [N] in [0, 1]: Wilson's interval at the number of
    independent values that they are worth. cluster [N]: without it, all are independent. between:
    see `interval`."""
    values = np.asarray(values, float)
    if not len(values):
        return Estimate(None)
    mean, n = float(values.mean()), effective_number(values, cluster, between=between)
    return Estimate(mean, wilson(min(1.0, mean) * n, n))


def effective_number(
    values: Sequence[float],
    cluster: Sequence[Hashable] | None = None,
    *,
    between: Sequence[float] = (),
) -> float:
    """Estimate how many independent values a share of values [N] in [0, 1] is worth under
    clustering: p (1 - p) over the jackknife's variance, and not more than N.

    Where all are 0 or all 1 they do not show how they hang together; then each cluster counts as
    one (Kish 1965, Survey Sampling: N^2 / sum of squared sizes). Wilson's interval knows its
    quantile only as z^2 / n, so that Student's t is in the number as well.
    """
    values = np.asarray(values, float)
    n, mean = len(values), float(np.mean(values))
    member = np.arange(n) if cluster is None else numbered(cluster)
    sizes = np.bincount(member)
    if len(sizes) == n and not len(between):
        return float(n)
    sums = np.bincount(member, weights=values)
    freedom, effective = math.inf, n * n / float((sizes**2).sum())
    if len(sizes) > 1:
        left = (sums.sum() - sums) / (n - sizes)
        deviation, freedom = _spread(left, np.asarray(between, float))
        if deviation > ROUNDING and 0 < mean < 1:
            effective = min(n, mean * (1 - mean) / deviation**2)
    return effective * (stdtrit(math.inf, 0.975) / stdtrit(freedom, 0.975)) ** 2


def wilson(successes: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """The Wilson score interval of a proportion (Wilson 1927, J. Am. Stat. Assoc. 22, 209).

    It stays inside [0, 1] and contains `successes / n`, also at 0 and at n. Neither number needs to
    be whole: an effective number is allowed. Raises ValueError where they are no proportion.
    """
    if not (n > 0 and 0 <= successes <= n and 0 < level < 1):
        raise ValueError(
            f"wilson needs 0 <= successes <= n, n > 0 and 0 < level < 1, "
            f"got successes={successes}, n={n}, level={level}"
        )
    z2 = float(ndtri(0.5 + level / 2)) ** 2
    p = successes / n
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # The ends are exact in theory; rounding must not push them past p, 0 or 1.
    return max(0.0, min(centre - half, p)), min(1.0, max(centre + half, p))


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
    """Make the mean over parts of a statistic: its last column says which part a row is of.

    Where parts are criteria, a correlation over all of them together is also that of the criteria's
    means; this one is not.
    """

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


# Items: on its way into `measures` ------------------------------------------------------------


def preferences(items: Iterable[dict]) -> dict | None:
    """How often, and by how much, the chosen response got the higher reward. None without pairs.

    * accuracy: share of pairs with reward(chosen) strictly above reward(rejected); equal rewards
      count as wrong. `accuracy_half_credit` gives them one half, `equal` counts them.
    * interval: 95 %. Wilson's where every group has one pair. Pairs of one group are not
      independent, so where a group has several the interval is Wilson's at the effective number of
      pairs (`effective_pairs`), from the cluster-robust variance; `interval_kind` says which.
    * margin: mean of reward(chosen) - reward(rejected); loss: mean of -log sigmoid of it.
    * length_baseline: the accuracy of "the response with more characters wins", of "the one with
      fewer wins" (`shorter_accuracy`), both strict, so equal lengths (`equal`) count as wrong in
      both. `best` names the better rule and `lead` is how far the model's accuracy is above it,
      with an interval for the difference on the same pairs.
    * by_strength: the same for strengths 1, 2 and 3 (rounded up), those that occur.

    Ties are not pairs; `ties` only counts them. Raises ValueError for a pair that points outside
    its responses or has a reward that is not finite, with the group's source.
    """
    items = list(items)
    group, margin, characters, strength = pair_columns(items)
    if not len(group):
        return None
    right = margin > 0
    interval, kind, effective = share_interval(right, group)
    levels = np.clip(np.ceil(strength), 1, 3).astype(int)
    return {
        "pairs": len(group),
        "ties": sum(int(item.get("ties", 0)) for item in items),
        "accuracy": float(right.mean()),
        "interval": interval,
        "interval_kind": kind,
        "effective_pairs": effective,
        "accuracy_half_credit": float((right + 0.5 * (margin == 0)).mean()),
        "equal": int((margin == 0).sum()),
        "margin": float(margin.mean()),
        "loss": float(np.logaddexp(0.0, -margin).mean()),
        "length_baseline": _length_baseline(right, characters, group),
        "by_strength": {
            str(level): {
                "pairs": int(mask.sum()),
                "accuracy": float(right[mask].mean()),
                "interval": share_interval(right[mask], group[mask])[0],
                "margin": float(margin[mask].mean()),
            }
            for level in (1, 2, 3)
            if (mask := levels == level).any()
        },
    }


def attributes(
    items: Iterable[dict], names: Sequence[str], baseline_means: dict[str, float] | None = None
) -> dict[str, dict]:
    """Errors and correlations per rated attribute; only rated responses count.

    `names` are the K outputs' names, in their order. An attribute nobody rated is left out.
    `mse_of_mean` is the error of always answering the mean: `baseline_means[name]` where given (the
    mean of the training ratings), else the mean of the very ratings that are predicted, which is
    the harder baseline; `mean_from` says which. Ratings and errors are on the corpus's own scale
    (0..4 for HelpSteer). `pearson` and `spearman` are None where a side is constant.
    Raises ValueError where a row of outputs has not K numbers, with the group's source.
    """
    rated: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for item in items:
        for outputs, ratings in zip(item["outputs"], item["ratings"], strict=True):
            if len(outputs) != len(names):
                raise ValueError(
                    f"{item.get('source', '?')}: {len(outputs)} outputs for a response, but "
                    f"{len(names)} names: {', '.join(names)}. Give the names of the model's outputs"
                )
            for name, output in zip(names, outputs, strict=True):
                if (ratings or {}).get(name) is not None:
                    rated[name].append((float(output), float(ratings[name])))
    return {
        name: _errors(np.array(values), (baseline_means or {}).get(name))
        for name, values in rated.items()
        if values
    }


def summarize(
    items: Iterable[dict], names: Sequence[str], baseline_means: dict[str, float] | None = None
) -> dict:
    """All of the above for one scored set: preferences (or None), attributes, and the counts."""
    items = list(items)
    return {
        "preferences": preferences(items),
        "attributes": attributes(items, names, baseline_means),
        "responses": sum(len(item["responses"]) for item in items),
        "groups": len(items),
    }


def one_line(summary: dict) -> str:
    """A summary as one line for the terminal."""
    parts = []
    if p := summary["preferences"]:
        low, high = p["interval"]
        parts.append(
            f"accuracy {p['accuracy']:.1%} [{100 * low:.1f}, {100 * high:.1f}] "
            f"on {p['pairs']:,} pair{'s' * (p['pairs'] != 1)} "
            f"(longer wins: {p['length_baseline']['accuracy']:.1%}), "
            f"margin {p['margin']:.2f}, loss {p['loss']:.3f}"
        )
    for name, a in summary["attributes"].items():
        pearson = "" if a["pearson"] is None else f", r {a['pearson']:.2f}"
        parts.append(f"{name} mse {a['mse']:.3f} (mean: {a['mse_of_mean']:.3f}{pearson})")
    return "; ".join(parts) or f"{summary['responses']} responses scored, no pairs and no ratings"


def pair_rows(index: int, item: dict) -> list[tuple[int, float, int, float]]:
    """Per pair: its group's index, the margin, the lead in characters, the strength."""
    rows = []
    for chosen, rejected, strength in item["pairs"]:
        if not all(0 <= r < len(item["responses"]) for r in (chosen, rejected)):
            raise ValueError(
                f"{item.get('source', '?')}: the pair ({chosen}, {rejected}) points outside "
                f"the group's {len(item['responses'])} responses"
            )
        margin = float(item["rewards"][chosen]) - float(item["rewards"][rejected])
        if not math.isfinite(margin):
            raise ValueError(
                f"{item.get('source', '?')}: rewards must be finite numbers, got "
                f"{item['rewards'][chosen]} (chosen) and {item['rewards'][rejected]} (rejected)"
            )
        characters = len(item["responses"][chosen]) - len(item["responses"][rejected])
        rows.append((index, margin, characters, float(strength)))
    return rows


def pair_columns(items: Sequence[dict]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The pairs of all items, [P] each: `pair_rows` as columns. Raises what that raises."""
    rows = [row for i, item in enumerate(items) for row in pair_rows(i, item)]
    group, margin, characters, strength = zip(*rows, strict=True) if rows else ((), (), (), ())
    return (
        np.array(group, int),
        np.array(margin, float),
        np.array(characters, int),
        np.array(strength, float),
    )


def _length_baseline(right: np.ndarray, characters: np.ndarray, group: np.ndarray) -> dict:
    longer, shorter = characters > 0, characters < 0
    best = "longer" if longer.sum() >= shorter.sum() else "shorter"
    lead = right.astype(float) - (longer if best == "longer" else shorter)
    return {
        "accuracy": float(longer.mean()),
        "interval": share_interval(longer, group)[0],
        "shorter_accuracy": float(shorter.mean()),
        "shorter_interval": share_interval(shorter, group)[0],
        "equal": int((characters == 0).sum()),
        "best": best,
        "lead": float(lead.mean()),
        "lead_interval": difference_interval(lead, group),
    }


def effective_size(values: np.ndarray, group: np.ndarray) -> float:
    """How many independent values the mean of these is worth, given that groups hang together.

    n divided by the design effect: the cluster-robust variance of the mean over the usual one
    (Kish 1965, Survey Sampling, 8.2; Liang & Zeger 1986 for the variance). Where all values are
    equal they do not show how they hang together; then each group counts as one (Kish's n^2 / sum
    of squared sizes).
    """
    n = len(values)
    _, member, sizes = np.unique(group, return_inverse=True, return_counts=True)
    if sizes.max() == 1:
        return float(n)
    residual = values - values.mean()
    if not residual.any() or len(sizes) == 1:
        return n * n / float((sizes**2).sum())
    sums = np.bincount(member, weights=residual)
    effect = (sums**2).sum() / (residual**2).sum() * len(sizes) / (len(sizes) - 1)
    return n / max(1.0, float(effect))


def share_interval(right: np.ndarray, group: np.ndarray) -> tuple[list[float], str, float]:
    """The 95 % interval of mean(right), each in [0, 1]; its kind in words; the effective number.

    `group` says which values hang together.
    """
    effective = effective_size(right.astype(float), group)
    low, high = wilson(float(right.mean()) * effective, effective)
    clustered = len(np.unique(group)) < len(group)
    kind = "Wilson at the effective number of pairs, clustered by group" if clustered else "Wilson"
    return [low, high], kind, effective


def difference_interval(values: np.ndarray, group: np.ndarray) -> list[float]:
    """95 % interval for the mean of paired differences in {-1, 0, 1}.

    Agresti & Min 2005 (Statistics in Medicine 24, 729): two pairs are added, half a win, half a
    loss and one draw, so that a handful of pairs that all agree does not look certain.
    """
    n = effective_size(values, group)
    mean = n * values.mean() / (n + 2)
    variance = ((n * (values**2).mean() + 1) / (n + 2) - mean**2) / (n + 2)
    half = float(ndtri(0.5 + LEVEL / 2)) * math.sqrt(variance)
    return [float(max(-1.0, mean - half)), float(min(1.0, mean + half))]


def _errors(values: np.ndarray, training_mean: float | None) -> dict:
    """`values` is [n, 2]: prediction, rating."""
    predicted, rating = values.T
    mean = rating.mean() if training_mean is None else training_mean
    return {
        "n": len(values),
        "mse": float(((predicted - rating) ** 2).mean()),
        "mse_of_mean": float(((rating - mean) ** 2).mean()),
        "mean_from": "these ratings" if training_mean is None else "training ratings",
        "pearson": _or_none(pearson(predicted, rating)),
        "spearman": _or_none(spearman(predicted, rating)),
        "mean_rating": float(rating.mean()),
        "mean_prediction": float(predicted.mean()),
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
