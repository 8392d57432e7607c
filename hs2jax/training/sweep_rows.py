"""Make rows of a sweep's arms: means over seeds, and differences on the same pairs."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hs2jax.evaluation import statistics
from hs2jax.evaluation.measures import pairs_of, rated
from hs2jax.evaluation.statistics import FISHER, LOG, Estimate
from hs2jax.workdir import row

COSTS = ("seconds_per_step", "tokens_per_second", "peak_memory_bytes", "trained_parameters")


class Run(NamedTuple):
    """A finished run: its scored groups, the names of its outputs, and what it cost by name."""

    items: list[dict]
    outputs: Sequence[str]
    costs: Mapping[str, float]


def make_rows(
    runs: Mapping[str, Mapping[int, Run]], reference: str
) -> tuple[list[dict], list[str]]:
    """Make rows of each arm's numbers, and notes on differences from the reference that cannot be.

    runs: by arm and seed. Numbers are means over seeds with 95% intervals that count two doubts:
    few prompts, which all seeds are judged on, and few seeds (see `statistics.interval`).
    Differences are taken seed by seed on the same pairs, so what both arms share falls out.
    Raises ValueError where the runs of one arm were judged on different data.
    """
    rows, notes, base = [], [], runs[reference]
    for arm, of in runs.items():
        rows += [each | {"seeds": sorted(of)} for each in _measured(arm, list(of.values()))]
        if arm == reference or not any(_known(run, "pairs") for run in of.values()):
            continue
        shared = sorted(of.keys() & base.keys())
        why = ""
        if not shared:
            why = "they have no seed in common" if base else "it has no finished run"
        elif _known(of[shared[0]], "pairs") != _known(base[shared[0]], "pairs"):
            why = "they were judged on different pairs"
        if why:
            notes.append(f"No difference of “{arm}” from “{reference}”: {why}.")
            continue
        ours, theirs = (_right([each[seed] for seed in shared]) for each in (of, base))
        change = ours.astype(float) - theirs
        found = _mean(change, _prompts(of[shared[0]]), statistics.OF_SHARES)
        more = {"against": reference, "reference": 0.0, "better": "higher", "seeds": shared}
        rows.append(_row(arm, "", "difference", found, change, **more))
        if len(shared) < len(of):
            seeds = ", ".join(map(str, shared))
            notes.append(f"The difference of “{arm}” is over seed {seeds}.")
    for arm, of in runs.items():
        for name in COSTS:
            if values := [run.costs[name] for run in of.values() if name in run.costs]:
                rows.append(row(arm, "", name, np.mean(values)))
    return rows, notes


def _measured(arm: str, runs: Sequence[Run]) -> list[dict]:
    """Make rows of the numbers of one arm from the runs of its seeds."""
    if any(_known(run, "pairs", "ratings") != _known(runs[0], "pairs", "ratings") for run in runs):
        raise ValueError(
            f"arm {arm!r}: its seeds were judged on different data; has a file been changed in "
            "between? Give another --workdir"
        )
    if not runs:
        return []
    rows, names = [], runs[0].outputs
    if prompts := _prompts(runs[0]):
        pairs = [pairs_of(run.items) for run in runs]
        right, margin = _right(runs), np.stack([each.margin for each in pairs])
        share = statistics.share(right.mean(axis=0), prompts, between=right.mean(axis=1))
        longer = statistics.share(pairs[0].lead > 0, prompts)
        rows = [
            _row(arm, "", "accuracy", share, right, headline=True),
            _row(arm, "", "margin", _mean(margin, prompts), margin),
            row(arm, "", "longer_wins", longer.value, longer.interval, len(prompts)),
        ]
    for name in names:
        groups, predicted, ratings = zip(*(rated(x.items, names, name) for x in runs), strict=True)
        people, predicted = ratings[0], np.stack(predicted)
        if not len(people):
            continue
        prompts = [runs[0].items[g]["source"] for g in groups[0]]
        errors = (predicted - people) ** 2
        seeds = [statistics.pearson(each, people) for each in predicted]
        pearson = statistics.interval(
            lambda people, *sides: np.mean([statistics.pearson(each, people) for each in sides]),
            (people, *predicted),
            prompts,
            FISHER,
            between=seeds,
        )
        part = f"attribute/{name}"
        rows.append(_row(arm, part, "mse", _mean(errors, prompts, LOG), errors))
        rows.append(_row(arm, part, "pearson", pearson, np.array(seeds)[:, None], n=len(people)))
    return rows


def _known(run: Run, *names: str) -> list[tuple]:
    """Tell what the scored groups are, but for the model: their sources, pairs and ratings."""
    items = run.items if "ratings" in names else [item for item in run.items if item["pairs"]]
    return [(item["source"], *(item[name] for name in names)) for item in items]


def _prompts(run: Run) -> list[str]:
    """The source of each pair: a group that is listed twice is one prompt."""
    return [item["source"] for item in run.items for _ in item["pairs"]]


def _right(runs: Sequence[Run]) -> np.ndarray:
    """bool [seeds, pairs]."""
    return np.stack([pairs_of(run.items).right for run in runs])


def _row(arm, part, metric, found: Estimate, values: np.ndarray, n: int = 0, **more) -> dict:
    """values: [seeds, N], of whose means over N the row says how they deviate."""
    seeds, size = values.shape
    deviation = float(values.mean(axis=1).std(ddof=1)) if seeds > 1 else None
    more["deviation"] = deviation
    return row(arm, part, metric, found.value, found.interval, n or size, **more)


def _mean(values: np.ndarray, prompts: Sequence[str], scale=statistics.PLAIN) -> Estimate:
    """Estimate the mean over seeds and rows of values [seeds, N]."""
    between = values.mean(axis=1)
    return statistics.interval(np.mean, (values.mean(axis=0),), prompts, scale, between=between)
