"""Rescaling: model/, a reward model whose attribute values are spread over some responses as
people's ratings are.

A regression model's values are less spread than the ratings it learned from: in whole numbers
(`annotate`) all answers to a prompt may have one value, from which a policy learns nothing. So an
attribute's value v becomes M + S (v - m) / s: m and s are its mean and standard deviation over
config.data, M and S those of people's ratings in config.ratings. This is affine and goes into the
head; the order of responses stays as it is.
"""

from collections.abc import Sequence

import jax
import numpy as np

from hs2jax.alignment import sampled_rows, stage
from hs2jax.data import corpora
from hs2jax.data.record import Record
from hs2jax.losses.steerlm import HIGHEST, rounded
from hs2jax.models import heads
from hs2jax.reward_model import RewardModel
from hs2jax.workdir import row


@stage.verb
def rescale(config, run: stage.Run) -> list[dict]:
    """Spread a reward model's attribute values over responses as people's ratings are spread."""
    model = run.load(RewardModel, config.model.name, config.model.template, masters=True)
    names = stage.wanted(config, config.model.name, model.outputs)
    people, own = {}, Record()
    every = corpora.read(config.ratings, on_error=config.on_error, record=own)
    given = [rating for group in every for rating in group.ratings]
    for name in names:
        people[name] = np.asarray([rating[name] for rating in given if name in rating])
        if not len(people[name]):
            raise ValueError(
                f"config.ratings: {config.ratings} has no ratings of {name}; leave them out with "
                "config.attributes"
            )
    run.record.skip_as(own)
    groups = list(sampled_rows.finished(config.data, config.on_error, run.record))
    rated = [x for x in run.rate(model, groups, truncate=False) if x is not None]
    if not rated:
        raise ValueError(f"config.data: nothing of {config.data} can be rated: {run.record}")
    values = dict(zip(model.outputs, np.concatenate(rated).astype(np.float64).T, strict=True))

    scale, shift = np.ones(len(model.outputs)), np.zeros(len(model.outputs))
    for name in names:
        at = model.outputs.index(name)
        scale[at], shift[at] = affine(values[name], people[name], name)
    model.params["head"] = jax.jit(heads.rescale)(
        model.params["head"], scale.astype(np.float32), shift.astype(np.float32)
    )
    model.save(run.workdir / "model")
    rows = []
    for name in sorted(names, key=model.outputs.index):
        at = model.outputs.index(name)
        rows += spread(name, "people", people[name])
        rows += spread(name, "before", values[name])
        rows += spread(name, "after", values[name] * scale[at] + shift[at])
    return rows


def affine(values: np.ndarray, ratings: Sequence[float], name: str) -> tuple[float, float]:
    """Find the scale and shift that give values [N] the ratings' mean and standard deviation.

    Raises ValueError, with the attribute's name, where one of the two does not vary.
    """
    for kind, what in (("values", values), ("people's ratings", ratings)):
        if np.std(what) <= 1e-6 * max(1.0, float(np.max(np.abs(what)))):
            raise ValueError(
                f"{name}: all {len(what)} {kind} are {np.mean(what):g}; there is no spread to scale"
            )
    scale = float(np.std(ratings) / np.std(values))
    return scale, float(np.mean(ratings) - scale * np.mean(values))


def spread(name: str, method: str, values: np.ndarray) -> list[dict]:
    """Give mean and standard deviation, and how many are each value when rounded, as rows."""
    part, n, shown = f"attribute/{name}", len(values), {"headline": method != "people"}
    rows = [
        row("", part, metric, of(values), n=n, method=method, **shown)
        for metric, of in (("mean", np.mean), ("std", np.std))
    ]
    for value, count in enumerate(np.bincount(rounded(values), minlength=HIGHEST + 1)):
        rows.append(row("", part, f"rated_{value}", count, n=n, method=method))
    return rows
