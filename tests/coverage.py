"""How often 95% intervals hold the truth: clustered data of known parameters, by simulation.

`python tests/coverage.py` prints the table; `test_statistics` runs a small part of it.
"""

import sys

import numpy as np

from hs2jax.evaluation import statistics
from hs2jax.evaluation.statistics import FISHER, LOG, Estimate

PER_CLUSTER = 4
TRUTH = 400_000  # Rows that the true values are computed from.


def rated(rng, clusters: int, together: float) -> tuple[np.ndarray, ...]:
    """Ratings 0 to 4, two methods' predictions of the same quality, and the cluster of each.

    together: the share of variance, of quality and of each method's noise, that a cluster shares.
    """
    shape = clusters, PER_CLUSTER
    own, shared = np.sqrt(1 - together), np.sqrt(together)

    def draw():
        return (own * rng.normal(size=shape) + shared * rng.normal(size=(clusters, 1))).ravel()

    quality = draw()
    people = np.clip(np.rint(2.3 + 1.1 * (quality + 0.5 * draw())), 0, 4)
    first, second = (2.3 + 0.9 * quality + 0.7 * draw() for _ in range(2))
    return people, first, second, np.repeat(np.arange(clusters), PER_CLUSTER)


def right(rng, clusters: int, together: float) -> tuple[np.ndarray, ...]:
    """Two models' right pairs of one difficulty, and the cluster of each."""
    _, first, second, cluster = rated(rng, clusters, together)
    return (first > 1.5).astype(float), (second > 1.5).astype(float), cluster


def rounded(values: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(values + 0.5), 0, 4)


# Each: from a simulation to an estimate.


def accuracy(*data) -> Estimate:
    first, _, cluster = right(*data)
    return statistics.share(first, cluster)


def accuracy_difference(*data) -> Estimate:
    first, second, cluster = right(*data)
    return statistics.interval(np.mean, [first - second], cluster)


def spearman(*data) -> Estimate:
    people, first, _, cluster = rated(*data)
    return statistics.interval(statistics.spearman, [people, first], cluster, FISHER)


def pearson(*data) -> Estimate:
    people, first, _, cluster = rated(*data)
    return statistics.interval(statistics.pearson, [people, first], cluster, FISHER)


def kendall(*data) -> Estimate:
    people, first, _, cluster = rated(*data)
    return statistics.interval(statistics.kendall, [people, first], cluster, FISHER)


def spearman_difference(*data) -> Estimate:
    people, first, second, cluster = rated(*data)
    measure = statistics.difference(statistics.spearman)
    return statistics.interval(measure, [people, first, second], cluster)


def mse(*data) -> Estimate:
    people, first, _, cluster = rated(*data)
    return statistics.interval(statistics.squared_error, [people, first], cluster, LOG)


def kappa(*data) -> Estimate:
    people, first, _, cluster = rated(*data)
    return statistics.interval(statistics.kappa, [people, rounded(first)], cluster, FISHER)


SIMULATED = {
    each.__name__: each
    for each in (accuracy, accuracy_difference, spearman, spearman_difference, pearson, kendall)
} | {"mse": mse, "kappa": kappa}


def coverage(name: str, clusters: int, together: float, trials: int, seed: int = 0) -> float:
    """The share of trials whose interval holds the true value; one without an interval misses."""
    simulate, rng = SIMULATED[name], np.random.default_rng(seed)
    old, statistics.MOST = statistics.MOST, 1  # The value alone.
    try:
        truth = simulate(rng, TRUTH // PER_CLUSTER, together).value
    finally:
        statistics.MOST = old
    found = [simulate(rng, clusters, together).interval for _ in range(trials)]
    return float(np.mean([each is not None and each[0] <= truth <= each[1] for each in found]))


if __name__ == "__main__":
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    print(
        f"{'':22}" + "".join(f"{f'{g} prompts, {t}':>18}" for g in (20, 60, 400) for t in (0, 0.5))
    )
    for name in SIMULATED:
        cells = (coverage(name, g, t, trials) for g in (20, 60, 400) for t in (0, 0.5))
        sizes = [(clusters, together) for clusters in (20, 60, 400) for together in (0, 0.5)]
    print(f"{'':22}" + "".join(f"{f'{g} prompts, {t}':>18}" for g, t in sizes))
    for name in SIMULATED:
        cells = (coverage(name, *size, trials) for size in sizes)
        print(f"{name:22}" + "".join(f"{cell:18.1%}" for cell in cells), flush=True)
