"""Rows of what scored groups say about a reward model: accuracy on pairs, errors on ratings.

All of this room takes a list of scored groups ("items"), plain dicts that JSON can hold:

    {"source": "file:line", "prompt": str, "responses": [str, ...],
     "outputs": [[float x K], ...], "rewards": [float, ...],        one entry per response
     "ratings": [{"helpfulness": 3.0, ...} or {}, ...],             one entry per response
     "pairs": [[chosen, rejected, strength], ...], "ties": int, "tokens": [int, ...],
     "about": {"subset": "hep-go", ...}, "cut": int}                what a benchmark says of the
                                                 row; tokens that were cut from the prompt

and gives rows of results.jsonl (see `workdir.row`). Pairs and ratings of one group hang together in
all intervals.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hs2jax.evaluation import statistics
from hs2jax.evaluation.statistics import FISHER, LOG, OF_SHARES, Estimate
from hs2jax.workdir import row

TOP = 4  # Of HelpSteer's ratings, 0 to 4, which kappa is of.
OTHER_SCALE = "people's ratings run from {:g} to {:g}; kappa is for ratings from 0 to 4"


class Pairs(NamedTuple):
    """The pairs of items, arrays [P] or [P, 2].

    group: the index of the item. margin: reward(chosen) - reward(rejected). lengths: characters of
    the chosen and of the rejected response. strength: of the preference.
    """

    group: np.ndarray
    margin: np.ndarray
    lengths: np.ndarray
    strength: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """The chosen response has strictly the higher reward."""
        return self.margin > 0

    @property
    def lead(self) -> np.ndarray:
        """The characters that the chosen response has more."""
        return self.lengths[:, 0] - self.lengths[:, 1]


def pairs_of(items: Sequence[Mapping]) -> Pairs:
    """Collect the pairs of items. Raises ValueError, with the item's source, for a reward that is
    not finite."""
    found = []
    for i, item in enumerate(items):
        for chosen, rejected, strength in item["pairs"]:
            margin = float(item["rewards"][chosen]) - float(item["rewards"][rejected])
            if not math.isfinite(margin):
                raise ValueError(
                    f"{item['source']}: rewards must be finite numbers, got {item['rewards']}"
                )
            lengths = [len(item["responses"][r]) for r in (chosen, rejected)]
            found.append((i, margin, *lengths, float(strength)))
    columns = np.array(found, float).reshape(-1, 5)
    return Pairs(columns[:, 0].astype(int), columns[:, 1], columns[:, 2:4], columns[:, 4])


# What carries a verdict: the interval is held against a value.
OVER_HALF = {"reference": 0.5, "better": "higher"}
OVER_ZERO = {"reference": 0.0, "better": "higher"}


def rows_of(
    set: str, part: str, n: int | None, values: Mapping[str, Estimate | float], **more
) -> list[dict]:
    """Make a row of each value or estimate, by its metric; with its p where it has one."""
    found = []
    for metric, value in values.items():
        estimate = value if isinstance(value, Estimate) else Estimate(value)
        p = {} if estimate.p is None else {"p": estimate.p}
        found.append(row(set, part, metric, estimate.value, estimate.interval, n, **p, **more))
    return found


def rows(
    set: str,
    items: Sequence[Mapping],
    names: Sequence[str],
    means: Mapping[str, float] | None = None,
    *,
    chief: str = "",
) -> list[dict]:
    """Measure one scored set: `pair_rows` and `attribute_rows`. chief: "pairs" or "ratings", of
    which the numbers that count most are marked."""
    found = pair_rows(set, items) + attribute_rows(set, items, names, means)
    marked = {"pairs": ("accuracy", "lead_over_length"), "ratings": ("mse_below_mean",)}
    for each in found:
        if each["metric"] in marked.get(chief, ()) and not each["part"].startswith("strength"):
            each["headline"] = True
    return found


def pair_rows(set: str, items: Sequence[Mapping]) -> list[dict]:
    """Measure how often, and by how much, the chosen response got the higher reward; [] without
    pairs.

    * accuracy: share of pairs with reward(chosen) strictly above reward(rejected); equal rewards
      (equal_rewards) count as wrong, in accuracy_ties_as_half as one half.
    * lead_over_length: how far that is above the better of the two rules of length on the same
      pairs, longer_wins or shorter_wins, which are strict as well (equal_lengths).
    * margin: mean of reward(chosen) - reward(rejected); log_loss: mean of -log sigmoid of it,
      whatever loss the model was trained with.
    * ties: comparisons that are no pairs.
    * strength/1 to strength/3, rounded up: accuracy and margin of those that occur.

    Raises ValueError as `pairs_of` does.
    """
    pairs = pairs_of(items)
    n, right, margin = len(pairs.margin), pairs.right, pairs.margin
    if not n:
        return []
    group, longer, shorter = pairs.group, pairs.lead > 0, pairs.lead < 0
    rule, best = ("longer", longer) if longer.sum() >= shorter.sum() else ("shorter", shorter)
    lead = statistics.interval(np.mean, [right.astype(float) - best], group, OF_SHARES)
    means = {
        "longer_wins": statistics.share(longer, group),
        "shorter_wins": statistics.share(shorter, group),
        "accuracy_ties_as_half": (right + 0.5 * (margin == 0)).mean(),
        "margin": margin.mean(),
        "log_loss": np.logaddexp(0.0, -margin).mean(),
    }
    counts = {
        "equal_rewards": (margin == 0).sum(),
        "equal_lengths": (pairs.lead == 0).sum(),
        "ties": sum(int(item.get("ties", 0)) for item in items),
    }
    found = [
        *rows_of(set, "", n, {"accuracy": statistics.share(right, group)}, **OVER_HALF),
        *rows_of(set, "", n, {"lead_over_length": lead}, against=rule, **OVER_ZERO),
        *rows_of(set, "", n, means),
        *rows_of(set, "", None, counts),
    ]
    levels = np.clip(np.ceil(pairs.strength), 1, 3).astype(int)
    for level in np.unique(levels):
        mask = levels == level
        accuracy = statistics.share(right[mask], group[mask])
        values = {"accuracy": accuracy, "margin": margin[mask].mean()}
        found += rows_of(set, f"strength/{level}", int(mask.sum()), values)
    return found


# Ratings ----------------------------------------------------------------------------------------


def attribute_rows(
    set: str,
    items: Sequence[Mapping],
    names: Sequence[str],
    means: Mapping[str, float] | None = None,
) -> list[dict]:
    """Measure errors and correlations per rated attribute; only rated responses count.

    names: of the K outputs, in order. An attribute nobody rated is left out. Ratings and errors are
    on the corpus's own scale (0 to 4 for HelpSteer).

    * mse, mae: of predictions. mse_of_mean: of always answering the mean, means[name] where given
      (of the training ratings), else that of the very ratings that are predicted, which is the
      harder baseline. mse_below_mean: how far mse is below it, on the same ratings.
    * pearson, spearman: None where a side is constant.
    * kappa: quadratic weights, both sides rounded half up and predictions clipped to 0..4;
      `outside` counts those that this moves. Where people's ratings are on another scale there is
      none, and a note says so.
    * confusion: how many responses with each rounded rating have each rounded prediction.

    Raises ValueError as `rated` does.
    """
    found, means = [], means or {}
    for name in names:
        group, predicted, people = rated(items, names, name)
        n, part, both = len(people), f"attribute/{name}", (predicted, people)
        if not n:
            continue
        off, of_mean = (predicted - people) ** 2, (people - means.get(name, people.mean())) ** 2
        source = "training mean" if name in means else "mean of these ratings"
        below = statistics.interval(np.mean, [of_mean - off], group)
        mse = statistics.interval(statistics.squared_error, both, group, LOG)
        found += rows_of(set, part, n, {"mse": mse, "mae": np.abs(predicted - people).mean()})
        found += rows_of(set, part, n, {"mse_of_mean": of_mean.mean()}, method=source)
        found += rows_of(set, part, n, {"mse_below_mean": below}, against=source, **OVER_ZERO)
        values = {
            "pearson": statistics.interval(statistics.pearson, both, group, FISHER),
            "spearman": statistics.interval(statistics.spearman, both, group, FISHER),
            "mean_prediction": predicted.mean(),
            "mean_rating": people.mean(),
        }
        found += rows_of(set, part, n, values)
        if people.min() < 0 or people.max() > TOP:
            note = OTHER_SCALE.format(people.min(), people.max())
            found += rows_of(set, part, n, {"kappa": None}, note=note)
            continue
        levels = rounded(predicted), rounded(people)
        kappa = statistics.interval(statistics.kappa, levels, group, FISHER)
        outside = (levels[0] != np.floor(predicted + 0.5)).sum()
        found += rows_of(set, part, n, {"kappa": kappa})
        found += rows_of(set, part, None, {"outside": outside})
        for rating in range(TOP + 1):
            given = levels[0][levels[1] == rating]
            counts = {f"predicted_{p}": (given == p).sum() for p in range(TOP + 1)}
            found += rows_of(set, f"confusion/{name}, rated {rating}", len(given), counts)
    return found


def rounded(values: np.ndarray) -> np.ndarray:
    """Round half up, into 0..4."""
    return np.clip(np.floor(values + 0.5), 0, TOP)


def rated(
    items: Sequence[Mapping], names: Sequence[str], name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Collect the responses that people rated for `name`, one of the outputs' names: the index of
    the item, the prediction, the rating, [N] each.

    Raises ValueError where an output is not finite, with the item's source.
    """
    k, found = list(names).index(name), []
    for i, item in enumerate(items):
        for outputs, given in zip(item["outputs"], item["ratings"], strict=True):
            if not np.isfinite(outputs).all():
                raise ValueError(f"{item['source']}: outputs must be finite, got {outputs}")
            if (given or {}).get(name) is not None:
                found.append((i, float(outputs[k]), float(given[name])))
    group, predicted, people = np.array(found, float).reshape(-1, 3).T
    return group.astype(int), predicted, people
