"""Whether a reward model's Bradley-Terry probabilities, sigmoid(margin / temperature), are true.

The chosen response is always named first, so that "how often does it happen when the model says
30%" has no meaning by itself. The diagram is therefore made symmetric: the model's confidence in
the response it prefers, max(p, 1 - p), against how often people prefer that response, too. Each
pair taken in both orders gives the same diagram and its mirror image. `items` are as in
`statistics`.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit

from hs2jax.evaluation import statistics

BINS = 10
FEWEST_IN_BIN = 10
# Of a fitted temperature, as multiples of the mean absolute margin.
COLDEST, HOTTEST = 0.01, 100.0


def measure(items: Sequence[dict], temperature: float = 1.0) -> dict | None:
    """Reliability diagram, ECE, Brier score and log loss of all pairs; None without pairs.

    * bins: at most 10 of equal mass (Roelofs et al. 2022, arXiv 2012.08668, find them less biased
      than bins of equal width) with about 10 pairs or more each; equal confidences share a bin.
      low and high are the least and the greatest confidence in it, `predicted` their mean,
      `observed` how often people agreed (a margin of 0 is half an agreement). interval: 95 %,
      Wilson's at the effective number of pairs, clustered by group.
    * ece: sum over bins of share * |observed - predicted|. It is biased upwards: a perfect model
      shows more than 0 on few pairs. `ece_chance` is what one with these confidences would show on
      average (each bin's difference taken as normal); an ece near it is no sign of a fault.
    * brier: mean (1 - p)^2 with p the probability of the chosen response: 0 is perfect, 0.25 is no
      opinion (half of Brier's own sum over both outcomes). loss: mean -log p, in nats.

    Raises ValueError as `statistics.preferences` does, and where temperature is not a finite number
    above 0.
    """
    if not 0 < temperature < np.inf:
        raise ValueError(f"a temperature is a finite number above 0, got {temperature}")
    group, margin, *_ = statistics.pair_columns(items)
    if not len(group):
        return None
    scaled = margin / temperature
    confidence, agreed = expit(np.abs(scaled)), (np.sign(margin) + 1) / 2
    bin_of = _equal_mass(confidence)
    bins, ece, chance = [], 0.0, 0.0
    for b in np.unique(bin_of):
        mask = bin_of == b
        sure, right, share = confidence[mask], agreed[mask], mask.mean()
        ece += share * abs(right.mean() - sure.mean())
        chance += share * _mean_absolute(sure, group[mask])
        bins.append(
            {
                "low": float(sure.min()),
                "high": float(sure.max()),
                "pairs": int(mask.sum()),
                "predicted": float(sure.mean()),
                "observed": float(right.mean()),
                "interval": statistics.share_interval(right, group[mask])[0],
            }
        )
    return {
        "pairs": len(group),
        "temperature": float(temperature),
        "ece": float(ece),
        "ece_chance": float(chance),
        "brier": float((expit(-scaled) ** 2).mean()),
        "loss": float(np.logaddexp(0.0, -scaled).mean()),
        "bins": bins,
    }


def fit_temperature(items: Sequence[dict]) -> float:
    """The temperature that gives the pairs the least log loss (Guo et al. 2017, arXiv 1706.04599).

    Fit it on validation pairs, not on those that are then measured. The loss is convex in
    1 / temperature, so the minimum is the only one. It is looked for between 0.01 and 100 times the
    mean absolute margin, and an end of this range is given back where the loss has no minimum:
    the lower end where no pair is wrong, the upper end where the mean margin is not above 0 (the
    model is then no better than a coin at any temperature). Where all margins are 0 every
    temperature is equal, and 1 is given back.
    Raises ValueError without pairs, and as `statistics.preferences` does.
    """
    _, margin, *_ = statistics.pair_columns(items)
    if not len(margin):
        raise ValueError(
            "no pairs to fit a temperature on: give validation data that have preferences"
        )
    scale = float(np.abs(margin).mean())
    if scale == 0:
        return 1.0
    if margin.min() >= 0:
        return COLDEST * scale
    if margin.mean() <= 0:
        return HOTTEST * scale
    unit = margin / scale
    found = minimize_scalar(
        lambda log: np.logaddexp(0.0, -unit * np.exp(-log)).mean(),
        bounds=(np.log(COLDEST), np.log(HOTTEST)),
        method="bounded",
        options={"xatol": 1e-8},
    )
    return float(np.exp(found.x)) * scale


def _equal_mass(confidence: np.ndarray) -> np.ndarray:
    """The bin of each pair; the order of pairs does not matter."""
    bins = max(1, min(BINS, len(confidence) // FEWEST_IN_BIN))
    edges = np.quantile(confidence, np.arange(1, bins) / bins)
    return np.searchsorted(edges, confidence, side="right")


def _mean_absolute(confidence: np.ndarray, group: np.ndarray) -> float:
    """Mean of |observed - predicted| for a calibrated model, pairs of a group deciding together."""
    sizes = np.unique(group, return_counts=True)[1]
    effective = len(group) ** 2 / (sizes**2).sum()
    deviation = np.sqrt((confidence * (1 - confidence)).mean() / effective)
    return float(np.sqrt(2 / np.pi) * deviation)
