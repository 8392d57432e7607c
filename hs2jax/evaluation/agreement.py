"""How well predicted ratings, rounded to whole ones, agree with people's."""

from collections.abc import Sequence

import numpy as np

from hs2jax.evaluation import sweep_statistics

LEVELS = np.arange(5)  # HelpSteer's ratings.
DISAGREEMENT = (LEVELS[:, None] - LEVELS[None, :]) ** 2
TOP = int(LEVELS[-1])


def ratings(items: Sequence[dict], names: Sequence[str]) -> dict[str, dict]:
    """Quadratic-weighted kappa and the confusion of rounded ratings, per attribute.

    names: of the K outputs, in order; `items` are as in `statistics`. Both sides are rounded half
    up, predictions are then clipped to 0..4; `outside` counts those that this moves. Per name:

    * kappa: 1 - observed / expected squared disagreement (Cohen 1968, Psychological Bulletin 70,
      213), expected from the two sides' own distributions. None where both sides are always the
      same one level. interval: 95 %, jackknife over groups (`sweep_statistics`); None where it is
      not defined.
    * n, levels, confusion [5, 5]: rows the people's level, columns the prediction's.
    * note: None, or why there is no kappa: ratings outside 0..4 are on another scale, and for them
      levels and confusion are empty.

    An attribute nobody rated is left out. Raises ValueError where a row of outputs has not K
    numbers or a prediction is not finite, with the group's source.
    """
    result = {}
    for name in names:
        groups, predicted, people = rated(items, names, name)
        if not len(people):
            continue
        if people.min() < 0 or people.max() > TOP:
            span = f"{people.min():g} to {people.max():g}"
            result[name] = {
                "n": len(people),
                "kappa": None,
                "interval": None,
                "levels": [],
                "confusion": [],
                "outside": 0,
                "note": f"people's ratings run from {span}; kappa is for ratings from 0 to {TOP}",
            }
            continue
        columns, rows = np.floor(predicted + 0.5), np.floor(people + 0.5).astype(int)
        inside = np.clip(columns, 0, TOP).astype(int)
        # Per group, so that the interval can leave each group out.
        tables = np.zeros((groups.max() + 1, len(LEVELS), len(LEVELS)))
        np.add.at(tables, (groups, rows, inside), 1)
        sums = sweep_statistics.Sums(list(range(len(tables))), tables.reshape(len(tables), -1))
        estimate = sweep_statistics.estimate([sums], _kappa)
        interval = estimate and estimate.interval
        result[name] = {
            "n": len(people),
            "kappa": estimate and estimate.value,
            "interval": interval and [max(-1.0, interval[0]), min(1.0, interval[1])],
            "levels": LEVELS.tolist(),
            "confusion": tables.sum(axis=0).astype(int).tolist(),
            "outside": int((columns != inside).sum()),
            "note": None,
        }
    return result


def rated(
    items: Sequence[dict], names: Sequence[str], name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per response that people rated for `name`, one of the outputs' names: its group (from 0,
    without gaps), the prediction, the rating. Raises ValueError as `ratings` does."""
    k, found = names.index(name), []
    for i, item in enumerate(items):
        for outputs, given in zip(item["outputs"], item["ratings"], strict=True):
            if len(outputs) != len(names) or not np.isfinite(outputs).all():
                raise ValueError(
                    f"{item.get('source', '?')}: expected {len(names)} finite outputs per "
                    f"response, got {outputs}. Give the names of the model's outputs"
                )
            if given.get(name) is not None:
                found.append((i, float(outputs[k]), float(given[name])))
    groups, predicted, people = np.array(found, float).reshape(-1, 3).T
    return np.unique(groups, return_inverse=True)[1], predicted, people


def _kappa(tables: np.ndarray) -> np.ndarray:
    """Confusion tables [..., 25] -> kappa [...]; NaN where it is not defined."""
    share = tables.reshape(*tables.shape[:-1], len(LEVELS), len(LEVELS))
    share = share / share.sum(axis=(-2, -1), keepdims=True)
    expected = share.sum(axis=-1)[..., :, None] * share.sum(axis=-2)[..., None, :]
    observed = (share * DISAGREEMENT).sum(axis=(-2, -1))
    by_chance = (expected * DISAGREEMENT).sum(axis=(-2, -1))
    return 1 - observed / np.where(by_chance > 0, by_chance, np.nan)
