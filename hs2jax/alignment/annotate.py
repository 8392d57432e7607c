"""Annotation, from a config to a folder: annotated.jsonl, conversations with the attribute values
that a reward model gives them. Read the file as "ratings:FILE".

    {"source", "prompt": [turns], "responses": [texts], "ratings": [{"helpfulness": 4, ...}, ...]}

Outputs are clamped to 0..4 and rounded, halves to even numbers, as NeMo-Aligner does for SteerLM.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import ml_collections

from hs2jax import choices, folder
from hs2jax.alignment import conditions, sampled_rows
from hs2jax.data import corpora, loader, templates
from hs2jax.data.groups import Group
from hs2jax.data.record import Record
from hs2jax.evaluation import items, scores
from hs2jax.evaluation.score import progress_of
from hs2jax.losses.steerlm import HIGHEST, rounded
from hs2jax.models import sharding
from hs2jax.reward_model import RewardModel

log = logging.getLogger(__name__)


def annotate(config: ml_collections.ConfigDict, workdir: Path | str) -> dict:
    """Annotates, and returns result.json's content. A killed run of this folder is made again from
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
    order = templates.in_order(conditions.of_model(config, model.outputs))
    if not set(model.outputs) & set(templates.ORDER):
        raise ValueError(
            f"config.model.name: {config.model.name} has the outputs {', '.join(model.outputs)}, "
            "none of them an attribute that people rate: it needs a regression model"
        )
    record, rows = Record(), []
    groups = list(_groups(config, record))
    cache = scores.Cache(scores.model_key(model))
    with progress_of("annotate", len(groups)) as show:
        for group, outputs, _, _ in scores.stream(
            model,
            groups,
            cache,
            max_tokens=config.max_tokens or None,
            skip=config.on_error == "skip",
            record=record,
            progress=show,
        ):
            if outputs is None:
                continue
            table = dict(zip(model.outputs, rounded(outputs).T.tolist(), strict=True))
            rows.append(
                {
                    "source": group.source,
                    "prompt": list(group.prompt),
                    "responses": list(group.responses),
                    "ratings": [
                        {name: table[name][i] for name in order} for i in range(len(outputs))
                    ],
                }
            )
    log.info("annotated: %s", items.describe(record))
    if not rows:
        raise ValueError(f"config.data: nothing of {config.data} can be annotated")
    ratings = [rating for row in rows for rating in row["ratings"]]
    values = {name: Counter(rating[name] for rating in ratings) for name in order}
    result = {
        "rows": len(rows),
        "responses": len(ratings),
        # How often each attribute has each value.
        "values": {
            name: {str(value): found[value] for value in range(HIGHEST + 1)}
            for name, found in values.items()
        },
        "record": record.to_dict(),
        "seconds": time.time() - started,
        "environment": folder.environment(),
        "config": config.to_dict(),
    }
    if jax.process_index() == 0:
        items.write(workdir / "annotated.jsonl", rows)
    folder.finish(workdir, result)
    return result


def describe(result: dict) -> str:
    """A result in a line."""
    return f"{result['rows']} rows, {result['responses']} responses"


def check(config) -> None:
    """Raises ValueError or FileNotFoundError for settings that cannot be, naming the key."""
    for name, value in (("model.name", config.model.name), ("data", config.data)):
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
    if config.max_tokens < 0:
        raise ValueError(f"config.max_tokens is {config.max_tokens}; expected 0 or more")
    corpora.read(config.data)  # Raises where there is no such format or file.


def every_turn(groups: Iterable[Group]) -> Iterator[Group]:
    """Each turn of the assistant as a response of its own, to all that comes before it."""
    for group in groups:
        for i, turn in enumerate(group.prompt):
            if turn["role"] == "assistant":
                yield Group(group.prompt[:i], (turn["content"],), source=group.source)
        yield Group(group.prompt, group.responses, source=group.source)


def _groups(config, record: Record) -> Iterable[Group]:
    """What is to be annotated."""
    groups = sampled_rows.finished(config.data, on_error=config.on_error, record=record)
    return every_turn(groups) if config.every_turn else groups
