"""How closely a policy follows the attribute values that it is asked for.

A sweep asks for the values of one attribute in turn, all else as in a base, n samples of every
prompt for each. A reward model measures what came. Samples of one prompt hang together, so every
interval (95 %) and p-value counts prompts and not samples: the influences of the samples on an
estimate, summed over a prompt, are independent (`evaluation.correlation`).

Rows are plain dicts, one for each prompt and setting, as a run keeps them:

    {"source": "file:line", "prompt": [turns], "condition": {"verbosity": 2, ...},
     "responses": [texts], "finished": [bool], "tokens": [int],
     "measured": [{"verbosity": 1.7, ...} or null, ...],      null: too long to be measured
     "rewards": [float or null] or null, "log_ratio": [float] or null}

Axis letters: N samples of a sweep.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from hs2jax.evaluation import correlation, statistics

MEASURES = ("spearman", "pearson")
UNDEFINED = {"value": None, "interval": None}


class Sweep(NamedTuple):
    """The measured samples of a sweep: requested and characters f64 [N], measured f64 [N] of each
    attribute, the number of each's prompt, and what a sample of another policy is found by."""

    requested: np.ndarray
    measured: dict[str, np.ndarray]
    characters: np.ndarray
    prompts: np.ndarray
    keys: list[tuple]
    left_out: int


def sweep(rows: Sequence[dict], attribute: str, base: Mapping[str, int]) -> Sweep:
    """The samples that were asked for values of an attribute, all else as in the base."""
    others = {name: value for name, value in base.items() if name != attribute}
    found, left_out, numbers = [], 0, {}
    for row in rows:
        asked = dict(row["condition"])
        value = asked.pop(attribute, None)
        if value is None or asked != others:
            continue
        prompt = numbers.setdefault(json.dumps(row["prompt"]), len(numbers))
        for i, measured in enumerate(row["measured"]):
            if measured is None:
                left_out += 1
                continue
            key = (row["source"], value, i)
            found.append((value, measured, len(row["responses"][i]), prompt, key))
    requested, measured, characters, prompts, keys = (
        map(list, zip(*found, strict=True)) if found else ([], [], [], [], [])
    )
    names = measured[0] if measured else ()
    return Sweep(
        np.array(requested, float),
        {name: np.array([each[name] for each in measured], float) for name in names},
        np.array(characters, float),
        np.array(prompts, int),
        keys,
        left_out,
    )


def follow(some: Sweep, attribute: str) -> dict:
    """How what is measured follows what is requested; every estimate is {"value", "interval"}.

    * values: for each requested value the mean measured, and the mean number of characters.
    * spearman, pearson: of requested and measured. slope: measured change for each unit requested.
      error: mean absolute difference of measured and requested.
    * length: spearman of requested and characters; partial: Pearson's correlation of requested and
      measured, given the logarithm of the number of characters.
    * others: the slope of every other measured attribute, for each unit requested of this one.
    * n, left_out: samples measured, and those that were too long. note: why something is None.

    A value is None where it is not defined, as correlations of a constant; an interval alone where
    nothing shows the spread, as with one prompt.
    """
    x, characters = some.requested, some.characters
    y = some.measured.get(attribute, np.zeros(0))
    of = dict.fromkeys(MEASURES, UNDEFINED)
    note = _why_undefined(x, y)
    if note is None:
        found = correlation.correlations(x, y, some.prompts)
        of = {name: found[name] for name in MEASURES}
        if np.ptp(some.prompts) == 0:
            note = "there is one prompt only, so that nothing shows the spread"
    by_length = correlation.correlations(x, characters, some.prompts)["spearman"]
    return {
        "attribute": attribute,
        "n": len(x),
        "left_out": some.left_out,
        "values": [
            {
                "requested": float(value),
                "n": int((x == value).sum()),
                "measured": mean(y[x == value], some.prompts[x == value]),
                "characters": mean(characters[x == value], some.prompts[x == value]),
            }
            for value in np.unique(x)
        ],
        **of,
        "slope": slope(x, y, some.prompts),
        "error": mean(np.abs(y - x), some.prompts),
        "length": {
            "spearman": by_length,
            "partial": partial(x, y, np.log1p(characters), some.prompts),
        },
        "others": {
            name: slope(x, values, some.prompts)
            for name, values in some.measured.items()
            if name != attribute
        },
        "note": note,
    }


def compare(later: Sweep, earlier: Sweep, attribute: str) -> dict:
    """How much more closely one policy follows than another, on the prompts that both answered.

    spearman, pearson: {"difference": later minus earlier, "interval", "p"}, n: samples of each
    policy that were compared, note: why there is no difference, or None.
    """
    place = {key: i for i, key in enumerate(earlier.keys)}
    pairs = [(i, place[key]) for i, key in enumerate(later.keys) if key in place]
    here, there = np.array(pairs, int).reshape(-1, 2).T
    requested = later.requested[here]
    a, b = (
        some.measured.get(attribute, np.zeros(0))[places]
        for some, places in ((later, here), (earlier, there))
    )
    note = _why_undefined(requested, a) or _why_undefined(requested, b)
    found = correlation.paired(requested, a, b, later.prompts[here])
    return {**{name: found[name] for name in MEASURES}, "n": len(here), "note": note}


def totals(rows: Sequence[dict]) -> dict:
    """Means over all samples of a policy: reward, log_ratio (None where there are none),
    characters, tokens; finished: share of samples that ended by themselves; samples, prompts,
    settings: how many."""
    numbers: dict[str, int] = {}
    prompt, values = [], {"reward": [], "log_ratio": [], "characters": [], "tokens": []}
    finished = []
    for row in rows:
        n = len(row["responses"])
        prompt += [numbers.setdefault(json.dumps(row["prompt"]), len(numbers))] * n
        finished += row["finished"]
        values["reward"] += row["rewards"] or [None] * n
        values["log_ratio"] += row["log_ratio"] or [None] * n
        values["characters"] += map(len, row["responses"])
        values["tokens"] += row["tokens"]
    found, prompt = {}, np.array(prompt, int)
    for name, column in values.items():
        column = np.array(column, float)
        there = np.isfinite(column)
        found[name] = mean(column[there], prompt[there]) if there.any() else None
    ended = np.array(finished, float)
    interval = statistics.share_interval(ended, prompt)[0] if len(ended) else None
    return {
        **found,
        "finished": {"value": float(ended.mean()) if len(ended) else None, "interval": interval},
        "samples": len(prompt),
        "prompts": len(numbers),
        "settings": len({json.dumps(row["condition"], sort_keys=True) for row in rows}),
    }


# Estimates ----------------------------------------------------------------------------------------


def mean(values: np.ndarray, prompts: np.ndarray) -> dict:
    """{"value", "interval"} of the mean of values [N]; prompts [N]: the number of each's."""
    if not len(values):
        return UNDEFINED
    value = float(values.mean())
    return _estimate(value, values - value, prompts)


def slope(x: np.ndarray, y: np.ndarray, prompts: np.ndarray) -> dict:
    """{"value", "interval"} of how much y [N] changes for a unit of x [N], by least squares."""
    if len(x) < 2 or np.ptp(x) == 0:
        return UNDEFINED
    dx, dy = x - x.mean(), y - y.mean()
    variance = (dx**2).mean()
    value = float((dx * dy).mean() / variance)
    return _estimate(value, dx * (dy - value * dx) / variance, prompts)


def partial(x: np.ndarray, y: np.ndarray, z: np.ndarray, prompts: np.ndarray) -> dict:
    """{"value", "interval"} of Pearson's correlation of x and y, given z, all [N].

    That is the correlation of what a line through z leaves of each. To first order it does not
    change with the line, so the interval is that of a correlation, too. Undefined where z says all
    of a side.
    """
    left = []
    for side in (x, y):
        if len(side) < 3 or np.ptp(side) == 0:
            return UNDEFINED
        rest = side - side.mean()
        if np.ptp(z):
            dz = (z - z.mean()) / np.ptp(z)
            rest = rest - dz * (dz @ rest) / (dz @ dz)
        if np.ptp(rest) < correlation.ROUNDING * np.ptp(side):
            return UNDEFINED
        left.append(rest)
    return correlation.correlations(*left, prompts)["pearson"]


def _estimate(value: float, influence: np.ndarray, prompts: np.ndarray) -> dict:
    deviation, freedom = correlation.spread(influence, np.unique(prompts, return_inverse=True)[1])
    if deviation < correlation.ROUNDING:
        return {"value": value, "interval": None}
    half = float(stdtrit(freedom, 0.5 + statistics.LEVEL / 2)) * deviation
    return {"value": value, "interval": [value - half, value + half]}


def _why_undefined(requested: np.ndarray, measured: np.ndarray) -> str | None:
    """Why there is no correlation; None where there is one."""
    if len(requested) < 2:
        return f"a correlation needs two samples or more, here are {len(requested)}"
    if np.ptp(requested) == 0:
        return f"only one value was asked for ({requested[0]:g})"
    if np.ptp(measured) == 0:
        return f"all samples are measured alike ({measured[0]:g})"
    return None
