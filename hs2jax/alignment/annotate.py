"""Annotation: annotated.jsonl, conversations with the attribute values that a reward model gives.

    {"source", "prompt": [turns], "responses": [texts], "ratings": [{"helpfulness": 4, ...}, ...]}

Outputs are clamped to 0..4 and rounded, halves to even numbers, as NeMo-Aligner does for SteerLM;
or, with config.reward, "ratings" are the reward as it is, [{"reward": -0.31}, ...]. Read the file
as "ratings:FILE".
"""

from collections.abc import Iterable, Iterator

import numpy as np

from hs2jax.alignment import sampled_rows, stage
from hs2jax.data import templates
from hs2jax.data.groups import Group
from hs2jax.losses.steerlm import HIGHEST, rounded
from hs2jax.reward_model import RewardModel
from hs2jax.workdir import row


@stage.verb
def annotate(config, run: stage.Run) -> list[dict]:
    """Rate the responses of conversations with a reward model, in whole numbers, for SteerLM, or by
    their rewards."""
    model = run.load(RewardModel, config.model.name, config.model.template)
    names = templates.in_order(stage.wanted(config, config.model.name, model.outputs))
    scalar = model.scalar_weights()
    if config.reward and scalar is None:
        raise ValueError(
            f"config.model.name: {config.model.name} has the outputs {', '.join(model.outputs)}, "
            "and no weights that make them one reward: hs2jax convert --scalar writes it with some"
        )
    if not config.reward and not set(model.outputs) & set(templates.ORDER):
        raise ValueError(
            f"config.model.name: {config.model.name} has the outputs {', '.join(model.outputs)}, "
            "none of them an attribute that people rate: it needs a regression model"
        )
    groups = list(sampled_rows.finished(config.data, config.on_error, run.record))
    if config.every_turn:
        groups = list(every_turn(groups))
    rated = run.rate(model, groups, max_tokens=config.max_tokens or None)
    at = [model.outputs.index(name) for name in names]

    def values(outputs):
        return (outputs @ scalar)[:, None] if config.reward else rounded(outputs)[:, at]

    names = ["reward"] if config.reward else names
    annotated = [
        {
            "source": group.source,
            "prompt": list(group.prompt),
            "responses": list(group.responses),
            "ratings": [dict(zip(names, x, strict=True)) for x in values(outputs).tolist()],
        }
        for group, outputs in zip(groups, rated, strict=True)
        if outputs is not None
    ]
    if not annotated:
        raise ValueError(f"config.data: nothing of {config.data} can be annotated: {run.record}")
    run.write("annotated.jsonl", annotated)
    return results(annotated, names)


def every_turn(groups: Iterable[Group]) -> Iterator[Group]:
    """Yield each turn of the assistant as a response of its own, to all that comes before it."""
    for group in groups:
        for i, turn in enumerate(group.prompt):
            if turn["role"] == "assistant":
                yield Group(group.prompt[:i], (turn["content"],), source=group.source)
        yield Group(group.prompt, group.responses, source=group.source)


def results(annotated: list[dict], names: Iterable[str]) -> list[dict]:
    """Count the rows and responses, and how many responses have each value."""
    rated = [rating for each in annotated for rating in each["ratings"]]
    n = len(rated)
    rows = [row("", "", "rows", len(annotated)), row("", "", "responses", n, headline=True)]
    for name in names:
        values, part = [rating[name] for rating in rated], f"attribute/{name}"
        rows.append(row("", part, "mean", np.mean(values), n=n, headline=True))
        for value in range(HIGHEST + 1) if all(isinstance(x, int) for x in values) else ():
            rows.append(row("", part, f"rated_{value}", values.count(value), n=n))
    return rows
