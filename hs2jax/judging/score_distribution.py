"""Distance of the distribution of a judge's scores from people's (LAGER, its table of score
distributions).

arXiv 2508.03550 compares estimated densities of normalised scores. Correlation does not see what
this does: a judge that gives nearly everything the same score may still order it well.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import gaussian_kde

GRID = np.linspace(0, 1, 501)
NARROWEST = 1e-9  # Of a range, as a share of the scale: less is a constant with rounding.


def distances(human: Sequence[float], scores: Sequence[float], low: float, high: float) -> dict:
    """Return {"kl", "mse"} of the densities of `scores` [N] and of `human` [M], without missing.

    Both sides are mapped so that the scale's ends `low` and `high` become 0 and 1. (Not their own
    least and greatest: a judge that only says 4.9 to 5.0 would look like people who use the whole
    scale.) Densities are Gaussian kernel estimates with Silverman's bandwidth
    (1986, Density Estimation, 4.3.2), at 501 points from 0 to 1, and made to have the mean 1
    there, so that what kernels spill over the ends does not count.

    * kl: KL(human || scores), in nats. 0 is the same distribution. Very large where people use
      scores that the judge never comes near.
    * mse: mean over the points of the squared difference of the densities.

    The paper's own grid is not known, so published numbers show the order of methods at most.
    Both are None where a side has fewer than two scores or is constant. Raises ValueError where a
    score is not finite or the scale is empty.
    """
    if not low < high:
        raise ValueError(f"the scale's low end must be below its high end, got {low} and {high}")
    sides = []
    for name, values in (("human", human), ("scores", scores)):
        side = (np.asarray(values, float) - low) / (high - low)
        if not np.isfinite(side).all():
            at = int((~np.isfinite(side)).argmax())
            raise ValueError(f"{name}[{at}] is {values[at]}: leave out what has no score first")
        sides.append(side)
    if any(len(side) < 2 or np.ptp(side) < NARROWEST for side in sides):
        return {"kl": None, "mse": None}
    people, judge = map(_log_density, sides)
    density = np.exp(people)
    return {
        "kl": max(0.0, float((density * (people - judge)).mean())),
        "mse": float(((density - np.exp(judge)) ** 2).mean()),
    }


def _log_density(values: np.ndarray) -> np.ndarray:
    """At the grid's points, with the mean density 1. In logarithms nothing is ever quite 0."""
    log = gaussian_kde(values, "silverman").logpdf(GRID)
    return log - np.logaddexp.reduce(log) + np.log(len(GRID))
