"""Agreement of scores with people's ratings, as rows: correlations, paired differences,
distributions, layers.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import scipy

from hs2jax.evaluation import statistics
from hs2jax.judging import lager
from hs2jax.workdir import row

HEADLINES = ("spearman", "auc")  # The chief measures, which the terminal shows of all of a set.


def correlation_rows(
    name: str,
    part: str,
    human: np.ndarray,
    scores: Mapping[str, np.ndarray],
    clusters: Sequence,
    *,
    criterion: np.ndarray | None = None,
    compared: Iterable[tuple[str, str]] = (),
) -> list[dict]:
    """Make rows of how well each of the scores follows people's ratings, and of differences.

    name, part: of the set. human [N], scores {method: [N]}: NaN where there is none. clusters [N]:
    what hangs together. criterion [N]: its number; where there are several, the mean correlation
    within each is "spearman_within". compared: pairs of methods (a, b), for a's measure less b's.
    """
    clusters = statistics.numbered(clusters)
    several = criterion is not None and len(np.unique(criterion[np.isfinite(human)])) > 1
    rows = []
    for pair in (*((each,) for each in scores), *compared):
        sides = [np.asarray(each, float) for each in (human, *(scores[name] for name in pair))]
        there = np.isfinite(sides).all(axis=0)
        columns, member = [each[there] for each in sides], clusters[there]
        for metric, measure in statistics.CORRELATIONS.items():
            rows.append(measure_row(name, part, metric, measure, columns, member, pair))
        if several:
            about = (statistics.spearman, [*columns, criterion[there]], member, pair)
            rows.append(measure_row(name, part, "spearman_within", *about, within=True))
    return rows


def measure_row(
    name: str,
    part: str,
    metric: str,
    measure: Callable[..., float],
    columns: Sequence[np.ndarray],
    clusters: np.ndarray,
    pair: Sequence[str],
    *,
    within: bool = False,
    reference: float = 0.0,
    scale: statistics.Scale = statistics.FISHER,
) -> dict:
    """Make a row of a measure of (truth [N], values [N]), or of the difference of two methods.

    columns: the truth, the values of each method, and with `within` the parts in whose mean it is
    taken. pair: the method, or the two. reference, scale: of the measure alone.
    """
    more = {"method": pair[0], "reference": reference, "better": "higher"}
    if len(pair) > 1:
        measure, scale = statistics.difference(measure), statistics.PLAIN
        more |= {"against": pair[1], "reference": 0.0}
    elif part == "" and metric in HEADLINES:
        more |= {"headline": True}
    measure = statistics.within(measure) if within else measure
    found = statistics.interval(measure, columns, clusters, scale)
    more |= {"p": found.p} if len(pair) > 1 else {}
    return row(name, part, metric, found.value, found.interval, len(clusters), **more)


def compared(methods: Iterable[str]) -> list[tuple[str, str]]:
    """List what is compared: the cross-layer scores with the last layer's and every baseline."""
    methods = list(methods)
    others = [*lager.LAST_LAYER, *(name for name in methods if name not in lager.AGGREGATIONS)]
    ours = [name for name in lager.CROSS_LAYER if name in methods]
    found = [(a, b) for a in ours for b in others]
    return found + ([tuple(ours)] if len(ours) == 2 else [])


def spread_rows(
    name: str,
    part: str,
    scores: Mapping[str, np.ndarray],
    human: np.ndarray | None = None,
    scale: Sequence[int] = (),
) -> list[dict]:
    """Make rows of how scores [N] are spread: means, standard deviations, and beside people's
    ratings [N] on the same scale `distances` from their distribution."""
    rows = []
    people = {} if human is None else {"human": human}
    for method, score in {**people, **scores}.items():
        there = np.isfinite(score)
        if not there.any():
            continue
        found = {"mean": score[there].astype(float).mean(), "sd": score[there].astype(float).std()}
        if scale and method in lager.AGGREGATIONS and (both := there & np.isfinite(human)).any():
            found |= distances(human[both], score[both], scale[0], scale[-1])
        about = {"n": there.sum(), "method": method}
        rows += [row(name, part, metric, value, **about) for metric, value in found.items()]
    return rows


def distances(human: np.ndarray, scores: np.ndarray, low: float, high: float) -> dict:
    """Measure how far scores [N] are from being spread like people's [M]: {"kl", "mse"} of their
    densities (LAGER, its table of score distributions), which correlation does not see.

    The scale's ends become 0 and 1. Densities are Gaussian kernel estimates with Silverman's
    bandwidth (1986, Density Estimation, 4.3.2), at 501 points from 0 to 1, with the mean 1 there
    (the paper's own grid is not known). kl: KL(human || scores), in nats. Both are None where a
    side has fewer than two scores or is constant but for rounding.
    """
    sides = [(np.asarray(side, float) - low) / (high - low) for side in (human, scores)]
    if any(len(side) < 2 or np.ptp(side) < 1e-9 for side in sides):
        return {"kl": None, "mse": None}
    # In logarithms nothing is ever quite 0.
    places, density = np.linspace(0, 1, 501), scipy.stats.gaussian_kde
    logs = [density(side, "silverman").logpdf(places) for side in sides]
    people, judge = (log - np.logaddexp.reduce(log) + np.log(len(log)) for log in logs)
    return {
        "kl": max(0.0, float((np.exp(people) * (people - judge)).mean())),
        "mse": float(((np.exp(people) - np.exp(judge)) ** 2).mean()),
    }


def layer_rows(
    name: str, part: str, human: np.ndarray, logits: np.ndarray, values: Sequence[int]
) -> list[dict]:
    """Make rows of Spearman's correlation of each layer's own expected score with the ratings that
    there are; logits [N, 2, L + 1, S]. method: the norm that intermediate states pass."""
    rated = np.isfinite(human)
    logits, ratings, rows = logits[rated], human[rated], []
    chances = np.exp(logits - logits.max(axis=-1, keepdims=True))
    expected = (chances * np.asarray(values)).sum(axis=-1) / chances.sum(axis=-1)
    for n, norm in enumerate(lager.NORMS):
        for layer, score in enumerate(expected[:, n].T):
            place = f"{part}/layer/{layer}".strip("/")
            value = statistics.spearman(ratings, score)
            rows.append(row(name, place, "spearman", value, n=len(ratings), method=norm))
    return rows


def weight_rows(name: str, weights: Sequence[float] | None, folds=()) -> list[dict]:
    """Make rows of layer weights [L']; folds: those of each fold, [folds, L']."""
    rows = []
    for fold, every in enumerate([weights, *folds] if weights is not None else ()):
        method = f"fold {fold}" if fold else "lager_w"
        rows += [row(name, f"layer/{i}", "weight", w, method=method) for i, w in enumerate(every)]
    return rows
