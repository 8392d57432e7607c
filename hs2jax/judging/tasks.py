"""What the downstream uses of a judge have in common: readings, all scores."""

import contextlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from hs2jax.judging import lager, layer_weights, readings
from hs2jax.judging.lager import Preset
from hs2jax.judging.prompts import Request

log = logging.getLogger(__name__)


class Answers(NamedTuple):
    """logits: f32 [N, 2, L + 1, S], one entry per question that was read. place: int [N, 2], the
    request and the question in it. left_out: questions without a reading, by reason."""

    logits: np.ndarray
    place: np.ndarray
    left_out: dict[str, int]


@contextlib.contextmanager
def progress_of(name: str, total: int | None = None):
    """A bar, or lines of the log where there is no terminal, to be given to `readings.kept`."""
    with tqdm(total=total, desc=name, unit="item", disable=not sys.stderr.isatty()) as bar:
        done = 0

        def show(items: int) -> None:
            nonlocal done
            done += items
            bar.update(items)
            if bar.disable:
                log.info("%s: %d items read", name, done)

        yield show


def ask(judge, requests: Sequence[Request], folder: Path, name: str) -> Answers:
    """Reads every question of the requests, resumable in `folder`; `name` is for progress.

    Raises ValueError where not a single one could be read.
    """
    logits, place, left_out = [], [], {}
    with progress_of(name, len(requests)) as show:
        kept = readings.kept(judge, requests, folder, progress=show)
        for i, (request, reading) in enumerate(zip(requests, kept, strict=True)):
            if reading is None:
                count(left_out, "too long", len(request.questions))
                continue
            finite = np.isfinite(reading.logits).all(axis=(1, 2, 3))
            count(left_out, "not finite", int((~finite).sum()))
            logits.append(reading.logits[finite])
            place += [(i, q) for q in np.flatnonzero(finite)]
    if not place:
        why = ", ".join(f"{reason} {n}" for reason, n in left_out.items()) or "no questions"
        raise ValueError(f"the judge read none of the questions of {name} ({why})")
    return Answers(np.concatenate(logits), np.array(place), left_out)


def count(left_out: dict[str, int], reason: str, n: int) -> None:
    if n:
        left_out[reason] = left_out.get(reason, 0) + n


def all_scores(
    logits: np.ndarray,
    targets: np.ndarray,
    clusters: np.ndarray,
    values: Sequence[int],
    preset: Preset,
    *,
    weights,
    recipe: str,
    seed: int,
) -> tuple[dict[str, np.ndarray], list[float]]:
    """All ten aggregations of logits [N, 2, L + 1, S], and the weights [L'] behind the weighted.

    Without given weights they are fitted to the targets [N] (on the scale), and each sample is
    scored by the weights of the folds that do not hold its cluster, on one level in all folds; the
    weights that are handed back are the mean over folds.
    """
    if weights is not None:
        return lager.scores(logits, values, preset, weights), [float(w) for w in weights]
    found = layer_weights.cross_validate(
        logits, targets, clusters, values, preset, recipe=recipe, seed=seed
    )
    every = {**lager.scores(logits, values, preset), **found.on_one_level()}
    return {name: every[name] for name in lager.AGGREGATIONS}, found.mean.tolist()


def weights_from(weights) -> str:
    return "cross-validation" if weights is None else "given"


def describe_left_out(left_out: dict[str, int]) -> str:
    parts = ", ".join(f"{reason} {n}" for reason, n in left_out.items())
    return f" (left out: {parts})" if parts else ""


def describe_interval(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]"


def describe_test(test: dict, measure: str) -> str:
    """A paired difference of two methods in words."""
    found = test[measure]
    if found["difference"] is None:
        return f"{test['a']} over {test['b']}: not defined"
    p = found.get("p")
    p = "" if p is None else ", p < 0.001" if p < 0.001 else f", p = {p:.3f}"
    interval = describe_interval(found["interval"])
    return f"{test['a']} over {test['b']}: {found['difference']:+.3f}{interval}{p}"
