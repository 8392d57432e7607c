"""Picking the best of several candidate responses, and what it is worth.

`items` are as in `statistics`; every response of an item is a candidate for its prompt.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from hs2jax.evaluation import comparison, statistics


def pick(items: Sequence[dict]) -> dict:
    """{"best": [index of the response with the highest reward, per item], "ties": int}.

    Of equal rewards the first is picked; `ties` counts the items where that decided. Raises
    ValueError for an item without responses or with a reward that is not finite, with its source.
    """
    best, ties = [], 0
    for item in items:
        rewards = _rewards(item)
        best.append(int(rewards.argmax()))
        ties += int((rewards == rewards.max()).sum() > 1)
    return {"best": best, "ties": ties}


def curve(
    items: Sequence[dict],
    sizes: Sequence[int] | None = None,
    gold: Sequence[dict] | None = None,
) -> list[dict]:
    """What the best of n candidates is expected to be worth, for each n. Empty without items.

    Not by drawing: of N candidates, the one of rank i (from the lowest) is the best of a random n
    of them with probability C(i - 1, n - 1) / C(N, n), so the mean over all subsets is a weighted
    sum, unbiased for a fresh n (as pass@k, Chen et al. 2021, arXiv 2107.03374, is for shares). Of
    equal rewards the first counts as higher, as in `pick`.

    sizes: which n; by default 1 to 16, then powers of two and the largest number of candidates.
    Each n has a dict with

    * n; prompts: how many have n candidates or more. Only these are averaged, so where prompts have
      different numbers of candidates, values for different n are of different prompts.
    * reward, interval: mean over prompts and its 95% Student interval over prompts (None for one).
    * kl: log n - (n - 1) / n, in nats, which the distance of the best of n from the sampler does
      not exceed (Beirami et al. 2024, arXiv 2401.01879).
    * ratings: {name: {"prompts", "mean", "interval"}}: people's rating of the picked response, over
      prompts whose candidates all have it.
    * accuracy, accuracy_interval: where responses are rated "correct" (1 or 0), the chance that the
      picked one is; the interval is Wilson's, which is on the safe side for chances.
    * gold, gold_interval, gold_prompts: with `gold` given (the same items scored by another
      model), that model's reward of the picked response.

    Raises ValueError as `pick` does, for an n below 1, and where `gold` has nothing in common.
    """
    if not items:
        return []
    most = max(len(item["responses"]) for item in items)
    if sizes is None:
        powers = [2**k for k in range(5, most.bit_length())]
        sizes = sorted({*range(1, min(most, 16) + 1), *powers, most})
    if min(sizes) < 1:
        raise ValueError(f"the best of n needs n of at least 1, got {min(sizes)}")
    columns = [_columns(item) for item in items]
    if gold is not None:
        ours, theirs = list(enumerate(items)), list(enumerate(gold))
        for (i, _), (_, other) in comparison.match(ours, theirs, lambda e: comparison.key(e[1]))[0]:
            columns[i]["gold"] = _rewards(other)
    return [_entry(n, columns) for n in sizes if n <= most]


def weights(N: int, n: int) -> np.ndarray:
    """[N]: the probability that the i-th lowest of N is the highest of a random n, 1 <= n <= N."""
    # From the top: n / N, then each is the one above times (i - n) / (i - 1); no large factorials.
    i = np.arange(N, 1, -1)
    factors = np.concatenate([[n / N], np.maximum(i - n, 0) / (i - 1)])
    return np.cumprod(factors)[::-1]


def win_rate(items: Sequence[dict], reference: Sequence[dict]) -> dict:
    """How often our best response has a higher reward than the reference's, ties counting half.

    reference: items of the same prompts, scored by the same model; where one has several responses,
    its best one stands for it. Of several items with one prompt the k-th meets the k-th. Returns
    {"prompts", "wins", "ties", "losses", "win_rate", "interval", "missing", "missing_reference"}:
    missing counts reference prompts that `items` has not, missing_reference the other way round.
    The interval is 95 % (`statistics.difference_interval`). Raises ValueError as `pick` does and
    where no prompt is in common.
    """
    matched, missing, missing_reference = comparison.match(items, reference, lambda i: i["prompt"])
    outcome = np.array([np.sign(_rewards(a).max() - _rewards(b).max()) for a, b in matched])
    low, high = statistics.difference_interval(outcome, np.arange(len(outcome)))
    return {
        "prompts": len(matched),
        "wins": int((outcome > 0).sum()),
        "ties": int((outcome == 0).sum()),
        "losses": int((outcome < 0).sum()),
        "win_rate": float((1 + outcome.mean()) / 2),
        "interval": [(1 + low) / 2, (1 + high) / 2],
        "missing": missing,
        "missing_reference": missing_reference,
    }


def _rewards(item: dict) -> np.ndarray:
    rewards = np.array(item["rewards"], float)
    if not len(rewards) or not np.isfinite(rewards).all():
        raise ValueError(
            f"{item.get('source', '?')}: expected a finite reward for each of at least one "
            f"response, got {item['rewards']}"
        )
    return rewards


def _columns(item: dict) -> dict[str | tuple, np.ndarray]:
    """What there is about every candidate: "reward", and ("rating", name) of the rated ones."""
    columns = {"reward": _rewards(item)}
    for name in item["ratings"][0]:
        values = [ratings.get(name) for ratings in item["ratings"]]
        if None not in values:
            columns["rating", name] = np.array(values, float)
    return columns


def _entry(n: int, columns: Sequence[dict]) -> dict:
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
    entry = {
        "n": n,
        "prompts": len(values["reward"]),
        "reward": float(np.mean(values["reward"])),
        "interval": _student(values["reward"]),
        "kl": float(np.log(n) - (n - 1) / n),
        "ratings": {
            name[1]: {"prompts": len(v), "mean": float(np.mean(v)), "interval": _student(v)}
            for name, v in values.items()
            if isinstance(name, tuple)
        },
    }
    if chances := values.get(("rating", "correct")):
        share = min(1.0, float(np.mean(chances)))
        entry["accuracy"] = share
        entry["accuracy_interval"] = list(statistics.wilson(share * len(chances), len(chances)))
    if gold := values.get("gold"):
        entry["gold"], entry["gold_interval"] = float(np.mean(gold)), _student(gold)
        entry["gold_prompts"] = len(gold)
    return entry


def _student(values: Sequence[float]) -> list[float] | None:
    if len(values) < 2:
        return None
    t = float(stdtrit(len(values) - 1, 0.5 + statistics.LEVEL / 2))
    half = t * float(np.std(values, ddof=1)) / np.sqrt(len(values))
    mean = float(np.mean(values))
    return [mean - half, mean + half]
