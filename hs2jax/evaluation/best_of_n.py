"""Pick the best of several candidate responses, and estimate what that is worth.

`items` are as in `measures`; every response of an item is a candidate for its prompt.
"""

from collections.abc import Sequence

import numpy as np

from hs2jax.evaluation import comparison, statistics
from hs2jax.evaluation.measures import OVER_HALF, rows_of


def pick(items: Sequence[dict]) -> tuple[list[int], int]:
    """Find the response with the highest reward of each item, and count where it has no more than
    another: of equal rewards the first is picked."""
    best = [int(np.argmax(item["rewards"])) for item in items]
    return best, sum(item["rewards"].count(max(item["rewards"])) > 1 for item in items)


def curve(items: Sequence[dict]) -> list[dict]:
    """Estimate what the best of n candidates is expected to be worth, for n of 1 to 16, powers of
    two, and the largest number of candidates; [] without items.

    Not by drawing: of N candidates, the one of rank i (from the lowest) is the best of a random n
    of them with probability C(i - 1, n - 1) / C(N, n), so the mean over all subsets is a weighted
    sum, unbiased for a fresh n (as pass@k, Chen et al. 2021, arXiv 2107.03374, is for shares). Of
    equal rewards the first counts as higher, as in `pick`.

    Rows of part "n/N", over the prompts that have n candidates or more; where prompts have
    different numbers of candidates, values for different n are of different prompts:

    * reward: mean over prompts, marked for the largest n that all have; kl: log n - (n - 1) / n, in
      nats, which the distance of the best of n from the sampler does not exceed (Beirami et al.
      2024, arXiv 2401.01879).
    * rating of method=NAME: people's rating of the picked response, over prompts whose candidates
      all have it.
    * correct: where responses are rated "correct" (1 or 0), the chance that the picked one is; the
      interval is Wilson's, which is on the safe side for chances.
    """
    most = max((len(item["responses"]) for item in items), default=0)
    sizes = {*range(1, min(most, 16) + 1), *(2**k for k in range(5, most.bit_length())), most}
    columns = [_columns(item) for item in items]
    fewest = min((len(item["responses"]) for item in items), default=0)
    chief = max((n for n in sizes if n <= fewest), default=0)
    return [row for n in sorted(sizes - {0}) for row in _rows(n, columns, n == chief)]


def weights(N: int, n: int) -> np.ndarray:
    """Compute the probability [N] that the i-th lowest of N is the highest of a random n <= N."""
    # From the top: n / N, then each is the one above times (i - n) / (i - 1); no large factorials.
    i = np.arange(N, 1, -1)
    factors = np.concatenate([[n / N], np.maximum(i - n, 0) / (i - 1)])
    return np.cumprod(factors)[::-1]


def win_rate(items: Sequence[dict], reference: Sequence[dict]) -> dict:
    """Estimate how often our best response has a higher reward than the reference's, ties counting
    half: a row.

    reference: items of the same prompts, scored by the same model; where one has several responses,
    its best one stands for it. Of several items with one prompt the k-th meets the k-th. missing
    counts reference prompts that `items` has not, missing_reference the other way round. Raises
    ValueError where no prompt is in common.
    """
    matched, missing, missing_reference = comparison.match(items, reference, lambda i: i["prompt"])
    outcome = np.array([np.sign(max(a["rewards"]) - max(b["rewards"])) for a, b in matched])
    more = {
        "against": "reference",
        "wins": int((outcome > 0).sum()),
        "ties": int((outcome == 0).sum()),
        "losses": int((outcome < 0).sum()),
        "missing": missing,
        "missing_reference": missing_reference,
        "headline": True,
    }
    won = {"win_rate": statistics.share((1 + outcome) / 2)}
    return rows_of("", "", len(outcome), won, **OVER_HALF, **more)[0]


def _columns(item: dict) -> dict[str | tuple, np.ndarray]:
    """Collect what there is about every candidate: "reward", ("rating", name) of the rated."""
    columns = {"reward": np.array(item["rewards"], float)}
    for name in item["ratings"][0]:
        values = [ratings.get(name) for ratings in item["ratings"]]
        if None not in values:
            columns["rating", name] = np.array(values, float)
    return columns


def _rows(n: int, columns: Sequence[dict], chief: bool) -> list[dict]:
    values: dict = {}
    for candidates in columns:
        rewards = candidates["reward"]
        if len(rewards) < n:
            continue
        # Lowest first; of equal ones the first candidate comes last, so that it counts as higher.
        order = np.lexsort((-np.arange(len(rewards)), rewards))
        w = weights(len(rewards), n)
        for name, column in candidates.items():
            values.setdefault(name, []).append(float(w @ column[order]))
    part, found = f"n/{n}", []
    for name, means in values.items():
        estimate = statistics.interval(np.mean, [np.array(means)], range(len(means)))
        metric, more = ("rating", {"method": name[1]}) if name[0] == "rating" else (name, {})
        if metric == "reward":
            more = {"kl": float(np.log(n) - (n - 1) / n)} | ({"headline": True} if chief else {})
        found += rows_of("", part, len(means), {metric: estimate._replace(p=None)}, **more)
    if chances := values.get(("rating", "correct")):
        share = statistics.share(np.minimum(chances, 1.0))
        found += rows_of("", part, len(chances), {"correct": share})
    return found
