"""A judge for tests whose layers say what a test plants in them, with noise of each layer's own."""

import types
import zlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import tiny

from hs2jax.judging import judge as judging
from hs2jax.judging.judge import Reading
from hs2jax.judging.readings import Readings
from hs2jax.report.run import select

TOO_LONG = "(does not fit)"


class PlantedJudge:
    """Layers [L + 1] believe what `belief(request, question)` says, on the answers' scale, give or
    take their `noise` [L + 1], which is drawn from the question's text."""

    def __init__(self, belief, noise=(3.0, 1.0, 0.1, 1.0), seed=0):
        self.belief, self.noise, self.seed = belief, np.asarray(noise), seed
        self.asked = []
        self.model = types.SimpleNamespace(
            name="planted",
            params={"seed": jnp.full(1, float(seed))},
            config=tiny.config(),
            tokenizer=tiny.tokenizer(),
            dtype=np.float32,
        )

    def ask(self, requests, **options):
        self.asked += requests
        return [judging.TOO_LONG if TOO_LONG in r.item else self._reading(r) for r in requests]

    def _reading(self, request):
        values = np.array(request.answers, float)
        logits = np.empty((len(request.questions), 2, len(self.noise), len(values)), np.float32)
        for q, question in enumerate(request.questions):
            text = f"{self.seed} {request.item} {question}"
            rng = np.random.default_rng(zlib.crc32(text.encode()))
            believed = self.belief(request, q) + self.noise * rng.normal(size=len(self.noise))
            logits[q] = -((values - believed[:, None]) ** 2)
        return Reading(logits)


def readings_of(judge, folder):
    """The readings of a judge, kept in a folder."""
    return Readings(judge, Path(folder) / "readings.sqlite")


def values(rows, metric, part="", **fields) -> dict:
    """{method: value} of a metric, without paired differences."""
    found = select(rows, metric=metric, part=part, against=None, **fields)
    return {row.get("method"): row["value"] for row in found}
