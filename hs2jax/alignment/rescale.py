"""Rescaling, from a config to a folder: model/, a reward model whose attribute values are spread
over some responses as people's ratings are.

A regression model that follows ratings with a correlation of r gives values of only r times their
standard deviation, and on responses more alike than those it learned from, of less. In whole
numbers (`annotate`) all answers to a prompt may then have one value, from which a policy cannot
learn what a value means, though the model orders these answers well. So an attribute's value v
becomes M + S (v - m) / s: m and s are its mean and standard deviation over config.data, M and S
those of people's ratings in config.ratings. This is affine and goes into the head; the order of
responses stays as it is, and what is an error of the model is spread with the rest.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import ml_collections
import numpy as np

from hs2jax import choices, folder
from hs2jax.alignment import conditions, sampled_rows
from hs2jax.data import corpora, loader, templates
from hs2jax.data.record import Record
from hs2jax.evaluation import items, scores
from hs2jax.evaluation.score import progress_of
from hs2jax.losses.steerlm import HIGHEST, rounded
from hs2jax.models import heads, sharding
from hs2jax.reward_model import RewardModel

log = logging.getLogger(__name__)


def rescale(config: ml_collections.ConfigDict, workdir: Path | str) -> dict:
    """Rescales, and returns result.json's content. A killed run of this folder is made again from
    the scores that are kept.

    Raises ValueError or FileNotFoundError for a config that cannot be, naming the key.
    """
    workdir, started = Path(workdir), time.time()
    check(config)
    if finished := folder.resume(workdir, config):
        return finished
    model = RewardModel.load(
        config.model.name,
        template=config.model.template,
        mesh=sharding.mesh_of(config.mesh),
        dtype=choices.dtype(config.model.dtype),
    )
    names = conditions.of_model(config, model.outputs)
    record = Record()
    people = _ratings(config, names, record)
    values = _values(config, model, record)
    log.info("rescale: %s", items.describe(record))

    scale, shift = np.ones(len(model.outputs)), np.zeros(len(model.outputs))
    for name in names:
        at = model.outputs.index(name)
        scale[at], shift[at] = affine(values[:, at], people[name], name)
    model.params["head"] = jax.jit(heads.rescale)(
        model.params["head"], scale.astype(np.float32), shift.astype(np.float32)
    )
    model.save(workdir / "model")
    result = {
        "attributes": {
            name: {
                "people": _spread(people[name]),
                "before": _spread(before),
                "after": _spread(before * by + plus),
            }
            for name, before, by, plus in zip(model.outputs, values.T, scale, shift, strict=True)
            if name in names
        },
        "responses": len(values),
        "record": record.to_dict(),
        "seconds": time.time() - started,
        "environment": folder.environment(),
        "config": config.to_dict(),
    }
    folder.finish(workdir, result)
    return result


def affine(values: np.ndarray, ratings: Sequence[float], name: str) -> tuple[float, float]:
    """The scale and shift that give values [N] the ratings' mean and standard deviation.

    Raises ValueError, with the attribute's name, where one of the two does not vary.
    """
    for kind, what in (("values", values), ("people's ratings", ratings)):
        if np.std(what) <= 1e-6 * max(1.0, float(np.max(np.abs(what)))):
            raise ValueError(
                f"{name}: all {len(what)} {kind} are {np.mean(what):g}; there is no spread to scale"
            )
    scale = float(np.std(ratings) / np.std(values))
    return scale, float(np.mean(ratings) - scale * np.mean(values))


def describe(result: dict) -> str:
    """A result in a line for each attribute."""
    lines = []
    for name, each in result["attributes"].items():
        before, after = (
            f"{each[when]['mean']:.2f} ± {each[when]['std']:.2f}" for when in ("before", "after")
        )
        lines.append(f"{name}: {before} becomes {after}")
    return "\n".join(lines)


def check(config) -> None:
    """Raises ValueError or FileNotFoundError for settings that cannot be, naming the key."""
    needed = {"model.name": config.model.name, "data": config.data, "ratings": config.ratings}
    for name, value in needed.items():
        if not value:
            raise ValueError(f"config.{name} is not set")
    choices.check(
        config,
        {
            "model.dtype": choices.DTYPES,
            "model.template": ("", *templates.TEMPLATES),
            "on_error": loader.ON_ERROR,
        },
    )
    for spec in (config.data, config.ratings):
        corpora.read(spec)  # Raises where there is no such format or file.


def _ratings(config, names: Sequence[str], record: Record) -> dict[str, np.ndarray]:
    """People's ratings of each attribute; what is skipped is counted."""
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


def _values(config, model: RewardModel, record: Record) -> np.ndarray:
    """What the model rates each response of the data, [responses, K]."""
    groups = list(sampled_rows.finished(config.data, on_error=config.on_error, record=record))
    cache, skip = scores.Cache(scores.model_key(model)), config.on_error == "skip"
    with progress_of("rescale", len(groups)) as show:
        every = [
            scored.outputs
            for scored in scores.stream(
                model, groups, cache, truncate=False, skip=skip, record=record, progress=show
            )
            if scored.outputs is not None
        ]
    if not every:
        raise ValueError(f"config.data: nothing of {config.data} can be rated")
    return np.concatenate(every).astype(np.float64)


def _spread(values: np.ndarray) -> dict:
    """Mean, standard deviation, and how many are each value when rounded."""
    whole = rounded(values)
    return {
        "mean": float(np.mean(values)),
        "std": float(np.std(values)),
        "values": {str(value): int((whole == value).sum()) for value in range(HIGHEST + 1)},
    }
