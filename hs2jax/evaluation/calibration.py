"""Measure calibration: reliability diagram, ECE and Brier score of a reward model's Bradley-Terry
probabilities, sigmoid(margin / temperature).

As the chosen response is always named first, the diagram is symmetric: the model's confidence in
the response that it prefers, max(p, 1 - p), against how often people prefer that response, too.
`items` are as in `measures`.
"""

from collections.abc import Sequence

import numpy as np
import scipy
from scipy.special import expit

from hs2jax.evaluation import statistics
from hs2jax.evaluation.measures import pairs_of, rows_of

BINS = 10
FEWEST_IN_BIN = 10
# Of a fitted temperature, as multiples of the mean absolute margin.
COLDEST, HOTTEST = 0.01, 100.0


def rows(
    set: str, items: Sequence[dict], temperature: float = 1.0, method: str = "as scored"
) -> list[dict]:
    """Measure the calibration of all pairs, as rows of this method; [] without pairs.

    * bin/1, bin/2, ...: at most 10 of equal mass (Roelofs et al. 2022, arXiv 2012.08668, find them
      less biased than bins of equal width) with about 10 pairs or more each; equal confidences
      share a bin. agreement: how often people agreed (a margin of 0 is half an agreement);
      confidence, confidence_low, confidence_high: the mean, the least and the greatest in it.
    * ece: sum over bins of share * |agreement - confidence|. It is biased upwards: a perfect model
      shows more than 0 on few pairs. ece_by_chance is what one with these confidences would show on
      average (each bin's difference taken as normal); an ece near it is no sign of a fault.
    * brier: mean (1 - p)^2 with p the probability of the chosen response: 0 is perfect, 0.25 is no
      opinion (half of Brier's own sum over both outcomes). log_loss: mean -log p, in nats.

    Raises ValueError as `pairs_of` does.
    """
    pairs = pairs_of(items)
    n = len(pairs.margin)
    if not n:
        return []
    scaled = pairs.margin / temperature
    confidence, agreed = expit(np.abs(scaled)), (np.sign(scaled) + 1) / 2
    count = max(1, min(BINS, n // FEWEST_IN_BIN))
    edges = np.quantile(confidence, np.arange(1, count) / count)
    bin_of = np.searchsorted(edges, confidence, side="right")
    bins, ece, chance = [], 0.0, 0.0
    for number, b in enumerate(np.unique(bin_of), 1):
        mask = bin_of == b
        sure, right, group = confidence[mask], agreed[mask], pairs.group[mask]
        ece += mask.mean() * abs(right.mean() - sure.mean())
        # The mean absolute deviation of a calibrated model, pairs of a group deciding together.
        sizes = np.unique(group, return_counts=True)[1]
        effective = len(group) ** 2 / (sizes**2).sum()
        deviation = np.sqrt((sure * (1 - sure)).mean() / effective)
        chance += mask.mean() * float(np.sqrt(2 / np.pi) * deviation)
        ends = {"confidence_low": float(sure.min()), "confidence_high": float(sure.max())}
        more = {"confidence": float(sure.mean())} | ends
        agreement = {"agreement": statistics.share(right, group)}
        bins += rows_of(set, f"bin/{number}", len(sure), agreement, method=method, **more)
    whole = {
        "temperature": temperature,
        "ece": ece,
        "ece_by_chance": chance,
        "brier": (expit(-scaled) ** 2).mean(),
        "log_loss": np.logaddexp(0.0, -scaled).mean(),
    }
    return rows_of(set, "", n, whole, method=method) + bins


def fit_temperature(items: Sequence[dict]) -> float:
    """Fit the temperature of the least log loss on pairs (Guo et al. 2017, arXiv 1706.04599).

    Fit it on validation pairs, not on those that are then measured. The loss is convex in
    1 / temperature, so the minimum is the only one. It is looked for between 0.01 and 100 times the
    mean absolute margin, and an end of this range is given back where the loss has no minimum:
    the lower end where no pair is wrong, the upper end where the mean margin is not above 0. Where
    all margins are 0 every temperature is equal, and 1 is given back.
    Raises ValueError as `pairs_of` does.
    """
    margin = pairs_of(items).margin
    scale = float(np.abs(margin).mean())
    if scale == 0:
        return 1.0
    if margin.min() >= 0:
        return COLDEST * scale
    if margin.mean() <= 0:
        return HOTTEST * scale
    unit = margin / scale
    found = scipy.optimize.minimize_scalar(
        lambda log: np.logaddexp(0.0, -unit * np.exp(-log)).mean(),
        bounds=(np.log(COLDEST), np.log(HOTTEST)),
        method="bounded",
        options={"xatol": 1e-8},
    )
    return float(np.exp(found.x)) * scale
