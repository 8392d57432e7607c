"""Whether one model is better than another on the same responses, with p-values.

`items` are as in `statistics`, from two evaluations of the same data.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import binom, binomtest

from hs2jax.evaluation import agreement, statistics

RESAMPLES = 10_000
SHOWN = 20
CHUNK = 1_000_000  # Numbers drawn at once, so that memory stays small.
FEW_KINDS = 50


def match(first: Sequence[dict], second: Sequence[dict], key: Callable) -> tuple[list, int, int]:
    """The items that both have, as (first, second), in the order of `first`; what each misses.

    `key` says what makes two items the same; the k-th of several with one key meets the k-th.
    Returns the matched, how many of `second`'s are missing from `first`, and the other way round.
    Raises ValueError where nothing is matched.
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


def compare(
    first: Sequence[dict],
    second: Sequence[dict],
    first_names: Sequence[str] = (),
    second_names: Sequence[str] = (),
    *,
    seed: int = 0,
    shown: int = SHOWN,
) -> dict:
    """Accuracies and rating errors of two models on what both scored; differences second - first.

    Items are the same where file name and line, prompt and responses are (folders may differ).
    Only common ones are compared; `missing_first` and `missing_second` count what only the other
    has. Per pair, by the strict rule: only_first, only_second, both, neither are right.

    * interval: 95 %, for the difference (`statistics.difference_interval`: Agresti & Min 2005, at
      the effective number of pairs, clustered by group).
    * p_bootstrap: paired bootstrap over groups, 10,000 resamples, seeded: twice the share of
      resampled differences on the less likely side of 0, those at 0 counting half. So it serves
      several pairs per group. It is too small where the models differ on few pairs: where 3 of 10
      differ, all to one side, it is 0.03, and the exact test's 0.25.
    * p_mcnemar: exact (McNemar 1947; binomial), conservative; p_mcnemar_mid: its mid-p
      (Fagerland, Lydersen & Laake 2013, BMC Med. Res. Methodol. 13, 91), nearly uniform where there
      is no difference. McNemar's test wants independent pairs: where groups have several, each
      group has one vote, for the model with more of its pairs right. `votes`: [first, second].
    * subsets: the same for every about["subset"]. Their p-values are not corrected for there being
      many.
    * attributes: per attribute that both models predict (first_names and second_names name their
      outputs) and people rated: mean squared errors, difference, interval (bootstrap percentiles)
      and p_bootstrap.
    * disagreements: up to `shown` pairs that just one model has right, the widest apart first,
      by margins in units of each model's own root mean square.

    Without pairs, `pairs` is 0 and the rest of them None. Raises ValueError where nothing is in
    common, where the two disagree about which response is preferred or about people's ratings, and
    as `statistics` and `agreement` do.
    """
    matched, missing_first, missing_second = match(first, second, key)
    for one, other in matched:
        if [p[:2] for p in one["pairs"]] != [p[:2] for p in other["pairs"]]:
            raise ValueError(
                f"{one['source']}: the pairs are {one['pairs']} in the first and {other['pairs']} "
                "in the second: evaluate both with the same preferences"
            )
    ours, theirs = ([pair[side] for pair in matched] for side in (0, 1))
    group, margins, *_ = statistics.pair_columns(ours)
    margins = np.stack([margins, statistics.pair_columns(theirs)[1]])
    subset = [item.get("about", {}).get("subset") for item in ours for _ in item["pairs"]]
    return {
        "groups": len(matched),
        "missing_first": missing_first,
        "missing_second": missing_second,
        **_accuracies(margins > 0, group, seed),
        "subsets": _subsets(margins > 0, group, np.array(subset, object), seed),
        "attributes": _attributes(ours, theirs, first_names, second_names, seed),
        "disagreements": _disagreements(ours, margins, shown),
    }


def mcnemar(first: int, second: int) -> tuple[float, float]:
    """Two-sided p-values, exact and mid-p, from the counts of what only one model has right."""
    n = first + second
    if n == 0:
        return 1.0, 1.0
    exact = float(binomtest(first, n, 0.5).pvalue)
    # The mid-p counts half of what is as far from n / 2 as what was seen: one of two equal sides,
    # or half of the one point in the middle.
    seen = float(binom.pmf(first, n, 0.5))
    return exact, exact - (seen / 2 if first == second else seen)


def bootstrap(
    sums: np.ndarray, sizes: np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[np.ndarray, float]:
    """Resampled means [resamples] of paired differences over groups, and their two-sided p-value.

    sums, sizes [G]: of each group the sum of its differences and their number.
    """
    rng = np.random.default_rng(seed)
    groups = np.stack([sums, sizes], axis=1)
    kinds, counts = np.unique(groups, axis=0, return_counts=True)
    G = len(groups)
    step = max(1, CHUNK // G)
    means = np.empty(resamples)
    for start in range(0, resamples, step):
        n = min(step, resamples - start)
        if len(kinds) <= FEW_KINDS:
            # Groups with the same numbers are interchangeable: drawing how often each kind occurs
            # is drawing groups.
            drawn = rng.multinomial(G, counts / G, size=n) @ kinds
        else:
            drawn = groups[rng.integers(G, size=(n, G))].sum(axis=1)
        means[start : start + n] = drawn[:, 0] / drawn[:, 1]
    above, equal = (means > 0).mean(), (means == 0).mean()
    p = 2 * min(above + equal / 2, 1 - above - equal / 2)
    # An observed result is one of the possible ones: p is never quite 0.
    return means, float(min(1.0, max(p, 2 / (resamples + 1))))


def key(item: dict) -> tuple:
    """What makes an item the same in two evaluations: file name and line, prompt, responses."""
    return item["source"].rsplit("/", 1)[-1], item["prompt"], tuple(item["responses"])


def _accuracies(right: np.ndarray, group: np.ndarray, seed: int) -> dict:
    """right: bool [2, P]."""
    if not len(group):
        names = ("first", "second", "difference", "interval", "p_bootstrap")
        names += ("p_mcnemar", "p_mcnemar_mid", "only_first", "only_second", "both", "neither")
        return {"pairs": 0, **dict.fromkeys(names), "votes": None}
    first, second = right
    change = second.astype(float) - first
    member = np.unique(group, return_inverse=True)[1]
    sums, sizes = np.bincount(member, weights=change), np.bincount(member)
    votes = [int((sums < 0).sum()), int((sums > 0).sum())]
    exact, mid = mcnemar(*votes)
    return {
        "pairs": len(group),
        "first": float(first.mean()),
        "second": float(second.mean()),
        "difference": float(change.mean()),
        "interval": statistics.difference_interval(change, group),
        "p_bootstrap": bootstrap(sums, sizes, seed)[1],
        "p_mcnemar": exact,
        "p_mcnemar_mid": mid,
        "votes": votes,
        "only_first": int((first & ~second).sum()),
        "only_second": int((second & ~first).sum()),
        "both": int((first & second).sum()),
        "neither": int((~first & ~second).sum()),
    }


def _subsets(right: np.ndarray, group: np.ndarray, subset: np.ndarray, seed: int) -> list[dict]:
    names = list(dict.fromkeys(name for name in subset if name is not None))
    return [
        {"name": name, **_accuracies(right[:, subset == name], group[subset == name], seed)}
        for name in names
    ]


def _attributes(
    ours: Sequence[dict],
    theirs: Sequence[dict],
    first_names: Sequence[str],
    second_names: Sequence[str],
    seed: int,
) -> dict:
    result = {}
    for name in first_names:
        if name not in second_names:
            continue
        group, first, people = agreement.rated(ours, first_names, name)
        _, second, same = agreement.rated(theirs, second_names, name)
        if not np.array_equal(people, same):
            raise ValueError(
                f"people's ratings of {name} are not the same in the first and the second: "
                "evaluate both with the same ratings"
            )
        if not len(people):
            continue
        errors = (np.stack([first, second]) - people) ** 2
        change = errors[1] - errors[0]
        means, p = bootstrap(np.bincount(group, weights=change), np.bincount(group), seed)
        tail = (1 - statistics.LEVEL) / 2
        result[name] = {
            "n": len(people),
            "first_mse": float(errors[0].mean()),
            "second_mse": float(errors[1].mean()),
            "difference": float(change.mean()),
            "interval": np.quantile(means, [tail, 1 - tail]).tolist(),
            "p_bootstrap": p,
        }
    return result


def _disagreements(items: Sequence[dict], margins: np.ndarray, shown: int) -> list[dict]:
    pairs = [(item, pair) for item in items for pair in item["pairs"]]
    if not pairs:
        return []
    spread = np.sqrt((margins**2).mean(axis=1, keepdims=True))
    unit = margins / np.where(spread > 0, spread, 1.0)
    apart = np.where((margins[0] > 0) != (margins[1] > 0), np.abs(unit[1] - unit[0]), -1.0)
    order = [p for p in np.argsort(-apart, kind="stable")[:shown] if apart[p] >= 0]
    return [
        {
            "source": item["source"],
            "prompt": item["prompt"],
            "responses": item["responses"],
            "pair": pair,
            "first_margin": float(margins[0, p]),
            "second_margin": float(margins[1, p]),
        }
        for p in order
        for item, pair in [pairs[p]]
    ]
