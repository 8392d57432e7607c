"""What the benchmarks share: from items to subsets, sections and an overall score with intervals.

A rule is a function (item, rewards [R], equal) -> credits: one number in [0, 1] for each comparison
that the item consists of, where `equal` is the credit for two equal rewards. It takes the rewards
apart from the item because the baselines are the same rule with lengths as the rewards.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from hs2jax.evaluation.statistics import share_interval, wilson

SHRINK = 2.0

Rule = Callable[[dict, Sequence[float], float], list[float]]


def above(better: float, worse: float, equal: float) -> float:
    """The credit for a reward that should be the higher one of two."""
    return 1.0 if better > worse else equal if better == worse else 0.0


def one_pair(item: dict, rewards: Sequence[float], equal: float) -> list[float]:
    """The rule of benchmarks of pairs: the chosen response has the strictly higher reward."""
    if len(item["pairs"]) != 1:
        raise ValueError(
            f"{source(item)}: expected one pair of a better and a worse response, "
            f"found {len(item['pairs'])}"
        )
    chosen, rejected, _ = item["pairs"][0]
    return [above(rewards[chosen], rewards[rejected], equal)]


def right_and_wrong(item: dict) -> int:
    """How many responses are right, where their ratings `correct` say it and the right come first.

    Raises ValueError, with the item's source, where a response has no such rating, where none is
    right or none is wrong, or where a right one comes after a wrong one.
    """
    correct = [rating.get("correct") for rating in item["ratings"]]
    right = correct.count(1.0)
    if not 0 < right < len(correct) or correct != [1.0] * right + [0.0] * (len(correct) - right):
        raise ValueError(
            f"{source(item)}: expected ratings 'correct' of 1 for the right responses, which come "
            f"first, and 0 for the wrong ones, at least one of each, found {correct}"
        )
    return right


def by_name(items: Iterable[dict], field: str, names: Iterable[str]) -> dict[str, list[dict]]:
    """The items of each name, [] where there are none, by what `about[field]` says.

    Raises ValueError for an item that says nothing or another name, or has a reward that is not a
    finite number, with its source.
    """
    found: dict[str, list[dict]] = {name: [] for name in names}
    for item in items:
        name = item.get("about", {}).get(field)
        if name not in found:
            said = f"does not say its {field}" if name is None else f"has the {field} {name!r}"
            raise ValueError(
                f"{source(item)}: the item {said}, expected one of: {', '.join(found)}"
            )
        for reward in item["rewards"]:
            if not math.isfinite(reward):
                raise ValueError(f"{source(item)}: rewards must be finite numbers, got {reward}")
        found[name].append(item)
    return found


def subset(name: str, items: Sequence[dict], expected: int, rule: Rule, weight: float) -> dict:
    """One subset: its score, what stands beside it, and whether all its published rows are here.

    `score` is the mean credit with equal rewards wrong, `half_credit` gives them one half.
    `longer` and `shorter` are the scores of the same rule where the response with more, or with
    fewer, characters has the higher reward. All are None where the subset has no items.
    """
    rewards = [item["rewards"] for item in items]
    credits = credit_table(items, rewards, rule)
    return {
        "name": name,
        **scored(credits),
        **counted(items, expected),
        "weight": weight,
        "half_credit": mean(credit_table(items, rewards, rule, equal=0.5)),
        "longer": mean(credit_table(items, lengths(items), rule)),
        "shorter": mean(credit_table(items, lengths(items, -1), rule)),
    }


def counted(items: Sequence[dict], expected: int) -> dict:
    """How many items there are, should be, and had their prompts cut."""
    return {
        "items": len(items),
        "expected": expected,
        "complete": len(items) == expected,
        "cut": sum(item.get("cut", 0) > 0 for item in items),
    }


def lengths(items: Iterable[dict], sign: int = 1) -> list[list[int]]:
    """The characters of each response, times `sign`: the rewards of the length baselines."""
    return [[sign * len(response) for response in item["responses"]] for item in items]


def credit_table(
    items: Sequence[dict], rewards: Iterable[Sequence[float]], rule: Rule, equal: float = 0.0
) -> np.ndarray:
    """The credits of the items, [items, comparisons]."""
    pairs = zip(items, rewards, strict=True)
    return np.array([rule(item, row, equal) for item, row in pairs], float)


def scored(credits: np.ndarray) -> dict:
    """{"score", "interval", "effective"} of credits [items, comparisons], None if there are none.

    The interval is Wilson's at `effective`, the number of independent comparisons that these are
    worth, which is the number of items where each has one.
    """
    if not credits.size:
        return {"score": None, "interval": None, "effective": None}
    item = np.repeat(np.arange(len(credits)), credits.shape[1])
    interval, _, effective = share_interval(credits.ravel(), item)
    return {"score": mean(credits), "interval": interval, "effective": effective}


def mean(credits: np.ndarray) -> float | None:
    return float(credits.mean()) if credits.size else None


def section(name: str, subsets: Sequence[dict]) -> dict:
    """The mean of the subsets that are here, by their weights; complete where all of them are."""
    return {
        "name": name,
        **combine(subsets, [part["weight"] for part in subsets]),
        "items": sum(part["items"] for part in subsets),
        "expected": sum(part["expected"] for part in subsets),
        "complete": all(part["complete"] for part in subsets),
        "subsets": list(subsets),
    }


def combine(scores: Sequence[dict], weights: Sequence[float]) -> dict:
    """The weighted mean of independent scores, those that are there, as `scored` gives them.

    The interval is Wilson's at the effective number of comparisons, p (1 - p) / variance, where the
    variance is that of the weighted mean. Each score's own variance is taken as if SHRINK more
    comparisons had come out at the mean: else a few scores of exactly 1 would look certain. Where
    all are 0, or all 1, this is Kish's number (1965, Survey Sampling). Simulated 95 % intervals of
    RewardBench's sections and overall score cover 91 to 97 % for accuracies from 0.55 to 0.995.
    """
    here = [(s, w) for s, w in zip(scores, weights, strict=True) if s["score"] is not None]
    if not here:
        return scored(np.zeros((0, 1)))
    if len(here) == 1:
        return {key: here[0][0][key] for key in ("score", "interval", "effective")}
    share = np.array([weight for _, weight in here], float)
    share /= share.sum()
    values = np.array([part["score"] for part, _ in here])
    score = float(share @ values)
    n = np.array([part["effective"] for part, _ in here])
    spread = share**2 / n
    p = min(max(score, 0.0), 1.0)  # RewardBench 2's Ties score can be a hundredth outside.
    shrunk = np.clip((n * values + SHRINK * p) / (n + SHRINK), 0, 1)
    odds = shrunk * (1 - shrunk) / (p * (1 - p)) if 0 < p < 1 else np.ones_like(n)
    effective = float(1 / (spread @ odds))
    low, high = wilson(p * effective, effective)
    return {"score": score, "interval": [min(low, score), max(high, score)], "effective": effective}


def overall(parts: Sequence[dict], weights: Sequence[float] | None = None) -> dict | None:
    """The overall score, an unweighted mean by default; None unless every part is complete."""
    if not all(part["complete"] for part in parts):
        return None
    return {**combine(parts, [1.0] * len(parts) if weights is None else weights), "complete": True}


def missing(sections: Sequence[dict]) -> list[str]:
    """What keeps sections from being complete, a line for each subset."""
    lines = []
    for group in sections:
        for part in group["subsets"]:
            place = group["name"]
            if part["name"].lower() != place.lower():
                place += f", {part['name']}"
            items, expected = part["items"], part["expected"]
            if items < expected:
                lines.append(f"{place}: {expected - items:,} of {expected:,} rows are absent")
            elif items > expected:
                lines.append(f"{place}: {items:,} rows, but {expected:,} are published")
    return lines


def apart(title: str, subsets: Sequence[dict], note: str) -> dict:
    """A table of subsets that are in no section, those that have items."""
    columns = ["Set", "Score", "95 % interval", "Items", "Longer wins", "Shorter wins"]
    rows = [
        [
            part["name"],
            percent(part["score"]),
            interval_text(part["interval"]),
            f"{part['items']:,} of {part['expected']:,}",
            percent(part["longer"]),
            percent(part["shorter"]),
        ]
        for part in subsets
        if part["items"]
    ]
    return {"title": title, "columns": columns, "rows": rows, "note": note}


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def interval_text(interval: Sequence[float] | None) -> str:
    return "–" if interval is None else f"{percent(interval[0])} to {percent(interval[1])}"


def source(item: dict) -> str:
    return item.get("source") or "an item without a source"
