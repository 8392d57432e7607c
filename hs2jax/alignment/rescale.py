"""Rescaling: model/, a reward model whose attribute values are spread over some responses as
people's ratings are.

A regression model that follows ratings with a correlation of r gives values of only r times their
standard deviation, and on responses more alike than those it learned from, of less. In whole
numbers (`annotate`) all answers to a prompt may then have one value, from which a policy cannot
learn what a value means, though the model orders these answers well. So an attribute's value v
becomes M + S (v - m) / s: m and s are its mean and standard deviation over config.data, M and S
those of people's ratings in config.ratings. This is affine and goes into the head; the order of
responses stays as it is, and what is an error of the model is spread with the rest.
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
    """Spread a reward model's attribute values over responses as people's ratings are spread.

    A killed run is made again from the scores that are kept.
    """
    model = run.load(RewardModel, config.model.name, config.model.template)
    names = stage.wanted(config, model.outputs)
    people = people_of(config, names, run.record)
    groups = list(sampled_rows.finished(config.data, config.on_error, run.record))
    rated = [x for x in run.rate(model, groups, truncate=False) if x is not None]
    if not rated:
        raise ValueError(f"config.data: nothing of {config.data} can be rated")
    values = dict(zip(model.outputs, np.concatenate(rated).astype(np.float64).T, strict=True))

    scale, shift = np.ones(len(model.outputs)), np.zeros(len(model.outputs))
    for name in names:
        at = model.outputs.index(name)
        scale[at], shift[at] = affine(values[name], people[name], name)
    model.params["head"] = jax.jit(heads.rescale)(
        model.params["head"], scale.astype(np.float32), shift.astype(np.float32)
    )
    model.save(run.workdir / "model")
    return [
        each
        for name, by, plus in zip(model.outputs, scale, shift, strict=True)
        if name in names
        for method, of in (
            ("people", people[name]),
            ("before", values[name]),
            ("after", values[name] * by + plus),
        )
        for each in spread(name, method, of)
    ]


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


def people_of(config, names: Sequence[str], record: Record) -> dict[str, np.ndarray]:
    """Read people's ratings of each attribute; what is skipped is counted."""
    found: dict[str, list[float]] = {name: [] for name in names}
    own = Record()
    for group in corpora.read(config.ratings, on_error=config.on_error, record=own):
        for rating in group.ratings:
            for name in found.keys() & rating.keys():
                found[name].append(rating[name])
    record.skip_as(own)
    if missing := [name for name, some in found.items() if not some]:
        raise ValueError(
            f"config.ratings: {config.ratings} has no ratings of {', '.join(missing)}; leave them "
            "out with config.attributes"
        )
    return {name: np.asarray(some) for name, some in found.items()}


def spread(name: str, method: str, values: np.ndarray) -> list[dict]:
    """Give mean and standard deviation, and how many are each value when rounded, as rows."""
    part, n, shown = f"attribute/{name}", len(values), {"headline": method != "people"}
    whole = rounded(values)
    return [
        row("", part, "mean", np.mean(values), n=n, method=method, **shown),
        row("", part, "std", np.std(values), n=n, method=method, **shown),
        *(
            row("", part, f"rated_{value}", count, n=n, method=method)
            for value, count in enumerate(np.bincount(whole, minlength=HIGHEST + 1))
        ),
    ]
