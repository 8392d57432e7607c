"""What scored responses say about a reward model: accuracy on pairs, errors on ratings.

Everything here takes a list of scored groups ("items"), plain dicts that JSON can hold:

    {"source": "file:line", "prompt": str, "responses": [str, ...],
     "outputs": [[float x K], ...], "rewards": [float, ...],        one entry per response
     "ratings": [{"helpfulness": 3.0, ...} or {}, ...],             one entry per response
     "pairs": [[chosen, rejected, strength], ...], "ties": int, "tokens": [int, ...],
     "about": {"subset": "hep-go", ...}, "cut": int}                what a benchmark says of the
                                                 row; tokens that were cut from the prompt

and gives back plain dicts of Python numbers, so a summary can be written to a file as it is.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.special import ndtri

LEVEL = 0.95


def wilson(successes: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """The Wilson score interval of a proportion (Wilson 1927, J. Am. Stat. Assoc. 22, 209).

    It stays inside [0, 1] and contains `successes / n`, also at 0 and at n. Neither number needs to
    be whole: an effective sample size is allowed. Raises ValueError where they are no proportion.
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
        "pearson": pearson(predicted, rating),
        "spearman": pearson(ranks(predicted), ranks(rating)),
        "mean_rating": float(rating.mean()),
        "mean_prediction": float(predicted.mean()),
    }


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def pearson(x: np.ndarray, y: np.ndarray) -> float | None:
    """The correlation of x [N] and y [N]; None where a side is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    # Divided by the range first, so that squares of tiny numbers do not vanish.
    x, y = ((side - side.mean()) / np.ptp(side) for side in (x, y))
    return float(np.clip((x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum()), -1, 1))
