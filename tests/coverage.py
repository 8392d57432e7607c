"""How often 95% intervals hold the truth: clustered data of known parameters, by simulation.

`python tests/coverage.py` prints the table; `test_statistics` runs a small part of it.
"""

import sys

import numpy as np

from hs2jax.evaluation import statistics
from hs2jax.evaluation.measures import rounded
from hs2jax.evaluation.statistics import FISHER, LOG, Estimate, interval

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


def _correlation(statistic):
    return lambda people, a, _, cluster: interval(statistic, [people, a], cluster, FISHER)


SPEARMAN_DIFFERENCE = statistics.difference(statistics.spearman)
# From people's ratings, two methods' predictions and the cluster to an estimate. A pair is right
# where a prediction is above 1.5.
SIMULATED = {
    "accuracy": lambda _, a, __, c: statistics.share(a > 1.5, c),
    "accuracy_difference": lambda _, a, b, c: interval(np.mean, [(a > 1.5) * 1.0 - (b > 1.5)], c),
    "spearman": _correlation(statistics.spearman),
    "spearman_difference": lambda *data: interval(SPEARMAN_DIFFERENCE, data[:3], data[3]),
    "pearson": _correlation(statistics.pearson),
    "kendall": _correlation(statistics.kendall),
    "mse": lambda x, a, _, c: interval(statistics.squared_error, [x, a], c, LOG),
    "kappa": lambda x, a, _, c: interval(statistics.kappa, [x, rounded(a)], c, FISHER),
}


def coverage(name: str, clusters: int, together: float, trials: int, seed: int = 0) -> float:
    """The share of trials whose interval holds the true value; one without an interval misses."""
    simulate, rng = SIMULATED[name], np.random.default_rng(seed)
    *columns, _ = rated(rng, TRUTH // PER_CLUSTER, together)
    truth = simulate(*columns, np.zeros(TRUTH)).value  # One cluster: the value alone.

    def holds(found: Estimate) -> bool:
        return found.interval is not None and found.interval[0] <= truth <= found.interval[1]

    return float(np.mean([holds(simulate(*rated(rng, clusters, together))) for _ in range(trials)]))


if __name__ == "__main__":
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    sizes = [(clusters, together) for clusters in (10, 20, 60, 250) for together in (0, 0.5)]
    print(f"{'':20}" + "".join(f"{f'{g} prompts, {t}':>17}" for g, t in sizes))
    for name in SIMULATED:
        # Many prompts cost more and are less in doubt.
        cells = (coverage(name, g, t, trials if g < 100 else trials // 4) for g, t in sizes)
        print(f"{name:20}" + "".join(f"{cell:17.1%}" for cell in cells), flush=True)
