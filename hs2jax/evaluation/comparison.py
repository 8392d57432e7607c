"""Compare two models on the same responses.

`items` are as in `measures`, from two evaluations of the same data.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import scipy

from hs2jax.evaluation import statistics
from hs2jax.evaluation.measures import OVER_ZERO, pairs_of, rated, rows_of

SHOWN = 20


def match(first: Sequence, second: Sequence, key: Callable) -> tuple[list, int, int]:
    """Match the items that have the same `key`, in the order of `first`; the k-th of several with
    one key meets the k-th.

    Returns pairs (first, second), how many of `second`'s are missing from `first`, and the other
    way round. Raises ValueError where nothing is matched.
    """
    waiting: dict = {}
    for item in reversed(second):
        waiting.setdefault(key(item), []).append(item)
    matched = []
    for item in first:
        if same := waiting.get(key(item)):
            matched.append((item, same.pop()))
    if not matched:
        raise ValueError(
            f"nothing in common: all {len(first)} of the first are missing from the second and all "
            f"{len(second)} of the second from the first. Evaluate both on the same data"
        )
    return matched, len(second) - len(matched), len(first) - len(matched)


def _key(item: Mapping) -> tuple:
    return item["source"].rsplit("/", 1)[-1], item["prompt"], tuple(item["responses"])


def rows(
    set: str,
    first: Sequence[dict],
    second: Sequence[dict],
    first_names: Sequence[str] = (),
    second_names: Sequence[str] = (),
) -> tuple[list[dict], list[dict]]:
    """Compare two models on what both scored; differences are second - first.

    Items are the same where file name and line, prompt and responses are (folders may differ).
    first_names, second_names: of their outputs. Returns rows and the pairs that just one model has
    right, up to SHOWN, the widest apart first, by margins in units of each model's own root mean
    square: {source, prompt, responses, pair, first_margin, second_margin}.

    * accuracy of method "first" and "second", accuracy_difference, over all pairs and by
      subset/NAME (about["subset"]; their p-values are not corrected for there being many). Per
      pair, by the strict rule: only_first, only_second, both, neither are right. p_mcnemar: exact
      (McNemar 1947; binomial), conservative. It wants independent pairs: where groups have several,
      each group has one vote, for the model with more of its pairs right.
    * attribute/NAME: mse of both and mse_difference, where both predict it and people rated it.
    * common, missing_first, missing_second: items that both have, and that only the other has.

    Raises ValueError where nothing is in common, where the two disagree about which response is
    preferred or about people's ratings, and as `measures` does.
    """
    matched, missing_first, missing_second = match(first, second, _key)
    for one, other in matched:
        if [p[:2] for p in one["pairs"]] != [p[:2] for p in other["pairs"]]:
            raise ValueError(
                f"{one['source']}: the pairs are {one['pairs']} in the first and {other['pairs']} "
                "in the second: evaluate both with the same preferences"
            )
    ours, theirs = ([pair[side] for pair in matched] for side in (0, 1))
    sides = [pairs_of(items) for items in (ours, theirs)]
    margins, group = np.stack([side.margin for side in sides]), sides[0].group
    subset = [item.get("about", {}).get("subset") for item in ours for _ in item["pairs"]]
    found = pair_rows(set, "", margins > 0, group)
    for name in dict.fromkeys(filter(None, subset)):
        mask = np.array([each == name for each in subset])
        found += pair_rows(set, f"subset/{name}", margins[:, mask] > 0, group[mask])
    found += _attribute_rows(set, ours, theirs, first_names, second_names)
    counts = {"missing_first": missing_first, "missing_second": missing_second}
    found += rows_of(set, "", None, {"common": len(matched), **counts})
    return found, _disagreements(ours, margins)


def pair_rows(set: str, part: str, right: np.ndarray, group: np.ndarray) -> list[dict]:
    """Compare accuracies, from right [2, P] and the group of each pair [P]; [] without pairs."""
    n, (first, second) = len(group), right
    if not n:
        return []
    change = second.astype(float) - first
    votes = np.bincount(group, weights=change)
    votes = int((votes < 0).sum()), int((votes > 0).sum())
    p = scipy.stats.binomtest(votes[0], sum(votes)).pvalue if any(votes) else 1.0
    more = {
        "only_first": int((first & ~second).sum()),
        "only_second": int((second & ~first).sum()),
        "both": int((first & second).sum()),
        "neither": int((~first & ~second).sum()),
        "p_mcnemar": float(p),
    }
    difference = {
        "accuracy_difference": statistics.interval(np.mean, [change], group, statistics.OF_SHARES)
    }
    return [
        *rows_of(set, part, n, {"accuracy": first.mean()}, method="first"),
        *rows_of(set, part, n, {"accuracy": second.mean()}, method="second"),
        *rows_of(set, part, n, difference, against="first", **OVER_ZERO, **more),
    ]


def _attribute_rows(set: str, ours, theirs, first_names, second_names) -> list[dict]:
    found = []
    for name in first_names:
        if name not in second_names:
            continue
        group, first, people = rated(ours, first_names, name)
        _, second, same = rated(theirs, second_names, name)
        if not np.array_equal(people, same):
            raise ValueError(
                f"people's ratings of {name} are not the same in the first and the second: "
                "evaluate both with the same ratings"
            )
        n, part = len(people), f"attribute/{name}"
        if not n:
            continue
        errors = (np.stack([first, second]) - people) ** 2
        difference = statistics.interval(np.mean, [errors[1] - errors[0]], group)
        verdict = {"against": "first", "reference": 0.0, "better": "lower"}
        for side, method in enumerate(("first", "second")):
            found += rows_of(set, part, n, {"mse": errors[side].mean()}, method=method)
        found += rows_of(set, part, n, {"mse_difference": difference}, **verdict)
    return found


def _disagreements(items: Sequence[dict], margins: np.ndarray) -> list[dict]:
    pairs = [(item, pair) for item in items for pair in item["pairs"]]
    if not pairs:
        return []
    spread = np.sqrt((margins**2).mean(axis=1, keepdims=True))
    unit = margins / np.where(spread > 0, spread, 1.0)
    apart = np.where((margins[0] > 0) != (margins[1] > 0), np.abs(unit[1] - unit[0]), -1.0)
    found = []
    for p in np.argsort(-apart, kind="stable")[:SHOWN]:
        if apart[p] >= 0:
            item, pair = pairs[p]
            found.append({name: item[name] for name in ("source", "prompt", "responses")})
            first, second = map(float, margins[:, p])
            found[-1] |= {"pair": pair, "first_margin": first, "second_margin": second}
    return found
