"""Measure how closely a policy follows the attribute values that it is asked for, as rows.

A sweep asks for the values of one attribute in turn, all else as in a base, n samples of every
prompt for each. A reward model measures what came. Samples of one prompt hang together, so every
interval and p-value counts prompts and not samples. The items that are read are those of
`steering`.

Axis letters: N samples of a sweep.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hs2jax.evaluation import statistics
from hs2jax.evaluation.statistics import FISHER, PLAIN, pearson, spearman
from hs2jax.workdir import row

HELD = {"reference": 0.0, "better": "higher"}  # Of a verdict.


class Sweep(NamedTuple):
    """The measured samples of a sweep: requested and characters f64 [N], measured f64 [N] of each
    attribute, each's prompt as JSON, and what a sample of another policy is found by."""

    requested: np.ndarray
    measured: dict[str, np.ndarray]
    characters: np.ndarray
    prompts: list[str]
    keys: list[tuple]
    left_out: int


def sweep(items: Sequence[dict], attribute: str, base: Mapping[str, int]) -> Sweep:
    """Take the samples that were asked for values of an attribute, all else as in the base."""
    same = {attribute: None}
    every = [
        (item, i, measured)
        for item in items
        if attribute in item["condition"] and item["condition"] | same == base | same
        for i, measured in enumerate(item["measured"])
    ]
    found = [each for each in every if each[2] is not None]
    requested = [item["condition"][attribute] for item, _, _ in found]
    names = found[0][2] if found else ()
    return Sweep(
        np.array(requested, float),
        {name: np.array([measured[name] for *_, measured in found], float) for name in names},
        np.array([len(item["responses"][i]) for item, i, _ in found], float),
        [json.dumps(item["prompt"]) for item, _, _ in found],
        [(item["source"], item["condition"][attribute], i) for item, i, _ in found],
        len(every) - len(found),
    )


def follow(policy: str, some: Sweep, attribute: str) -> list[dict]:
    """Say how what is measured follows what is requested.

    Of "attribute/NAME":
    * spearman, pearson: of requested and measured. slope: measured change for each unit requested.
      error: mean absolute difference of measured and requested.
    * length_spearman: of requested and characters. length_partial: Pearson's correlation of
      requested and measured, given the logarithm of the number of characters.
    * left_out: samples that say nothing or are too long to be measured.
    Of "requested/NAME/VALUE": means of what is measured, and of characters. Of "change/NAME/OTHER":
    slope, how that attribute, this one included, changes for each unit requested of this one.

    A value is None where it is not defined, as correlations of a constant; `note` says why.
    """
    x, characters = some.requested, some.characters
    y = some.measured.get(attribute, np.zeros(0))
    note = _why_undefined(x, y)
    held = HELD | ({"note": note} if note else {})
    whole, length = f"attribute/{attribute}", np.log1p(characters)

    def estimate(part, metric, statistic, columns, scale=PLAIN, at=slice(None), **more) -> dict:
        columns, prompts = [each[at] for each in columns], np.array(some.prompts)[at]
        found = statistics.interval(statistic, columns, prompts, scale)
        return row(policy, part, metric, found.value, found.interval, len(prompts), **more)

    return [
        estimate(whole, "spearman", spearman, (x, y), FISHER, **held, headline=True),
        estimate(whole, "pearson", pearson, (x, y), FISHER, **held),
        estimate(whole, "slope", slope, (x, y)),
        estimate(whole, "error", np.mean, (np.abs(y - x),)),
        estimate(whole, "length_spearman", spearman, (x, characters), FISHER),
        estimate(whole, "length_partial", partial, (x, y, length), FISHER, **HELD),
        row(policy, whole, "left_out", some.left_out),
        *(
            estimate(f"requested/{attribute}/{value:g}", metric, np.mean, (of,), at=x == value)
            for value in np.unique(x)
            for metric, of in (("measured", y), ("characters", characters))
        ),
        *(
            estimate(f"change/{attribute}/{name}", "slope", slope, (x, values))
            for name, values in some.measured.items()
        ),
    ]


def compare(names: tuple[str, str], later: Sweep, earlier: Sweep, attribute: str) -> list[dict]:
    """Say how much more closely one policy follows than another, on the prompts that both answered:
    differences of correlations, later minus earlier."""
    place = {key: i for i, key in enumerate(earlier.keys)}
    here = [i for i, key in enumerate(later.keys) if key in place]
    there = [place[later.keys[i]] for i in here]
    requested, prompts = later.requested[here], [later.prompts[i] for i in here]
    a = later.measured[attribute][here] if here else np.zeros(0)
    b = earlier.measured[attribute][there] if here else np.zeros(0)
    note = _why_undefined(requested, a) or _why_undefined(requested, b)
    more = HELD | {"against": names[1]} | ({"note": note} if note else {})
    rows = []
    for name, measure in (("spearman", spearman), ("pearson", pearson)):
        found = statistics.interval(statistics.difference(measure), [requested, a, b], prompts)
        columns = (f"attribute/{attribute}", f"{name}_difference", found.value, found.interval)
        more |= {"p": found.p, "headline": name == "spearman"}
        rows.append(row(names[0], *columns, len(here), **more))
    return rows


def totals(policy: str, items: Sequence[dict], ratio: str) -> list[dict]:
    """Average over all samples of a policy: reward, log-ratio to the reference (`ratio` is what it
    is called), characters, tokens, and the share that finished by itself."""
    prompts = [json.dumps(item["prompt"]) for item in items for _ in item["responses"]]
    columns = {
        "reward": [x for item in items for x in item["rewards"]],
        ratio: [x for item in items for x in item["log_ratio"]],
        "characters": [len(text) for item in items for text in item["responses"]],
        "tokens": [count for item in items for count in item["tokens"]],
    }
    found = []
    for metric, column in columns.items():
        values = np.array(column, float)
        there = np.isfinite(values)
        if there.any():
            of = statistics.interval(np.mean, [values[there]], np.array(prompts)[there])
            found.append(row(policy, "", metric, of.value, of.interval, there.sum()))
    ended = [float(x) for item in items for x in item["finished"]]
    of, settings = statistics.share(ended, prompts), {str(item["condition"]) for item in items}
    return [
        *found,
        row(policy, "", "finished", of.value, of.interval, len(ended)),
        row(policy, "", "prompts", len(set(prompts))),
        row(policy, "", "settings", len(settings)),
    ]


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """Find how much y [N] changes for a unit of x [N], by least squares; NaN of a constant x."""
    if len(x) < 2 or np.ptp(x) == 0:
        return np.nan
    dx = x - x.mean()
    return (dx * (y - y.mean())).sum() / (dx**2).sum()


def partial(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> float:
    """Correlate x and y (Pearson's) given z, all [N]; NaN where a side is constant or z says all of
    it."""
    xz, yz = (np.nan_to_num(pearson(side, z)) for side in (x, y))  # A constant z says nothing.
    left = (1 - xz**2) * (1 - yz**2)
    return (pearson(x, y) - xz * yz) / np.sqrt(left) if left > statistics.ROUNDING else np.nan


def _why_undefined(requested: np.ndarray, measured: np.ndarray) -> str | None:
    """Say why there is no correlation; None where there is one."""
    if len(requested) < 2:
        return f"a correlation needs two samples or more, here are {len(requested)}"
    if np.ptp(requested) == 0:
        return f"only one value was asked for ({requested[0]:g})"
    return f"all samples are measured alike ({measured[0]:g})" if np.ptp(measured) == 0 else None
