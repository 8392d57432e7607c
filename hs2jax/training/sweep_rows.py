"""The numbers of a sweep's arms as rows: means over seeds, and differences on the same pairs."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hs2jax.evaluation import statistics
from hs2jax.workdir import row

COSTS = ("seconds_per_step", "tokens_per_second", "peak_memory_bytes", "trained_parameters")


class Table(NamedTuple):
    """Values of a run that people's are held against: `keys` tell the rows apart, the first of each
    is the prompt's; `model` [N] is what the model gave, `other` [N] what is known without it."""

    keys: list[tuple]
    model: np.ndarray
    other: np.ndarray


class Run(NamedTuple):
    """A finished run: margins and leads in characters of the pairs, predicted and given ratings by
    attribute, and costs by name."""

    pairs: Table
    ratings: dict[str, Table]
    costs: dict[str, float]


def measure(items: Sequence[dict], outputs: Sequence[str], costs: Mapping[str, float]) -> Run:
    """Make the tables of a run's scored groups. outputs: names of the K outputs."""
    pairs, ratings = [], {name: [] for name in outputs}
    for item in items:
        source, rewards, texts = item["source"], item["rewards"], item["responses"]
        for c, r, _ in item["pairs"]:
            lead = len(texts[c]) - len(texts[r])
            pairs.append(((source, c, r), rewards[c] - rewards[r], lead))
        for i, (row_of, given) in enumerate(zip(item["outputs"], item["ratings"], strict=True)):
            for name, predicted in zip(outputs, row_of, strict=True):
                if name in given:
                    ratings[name].append(((source, i), predicted, given[name]))
    tables = {name: _table(rows) for name, rows in ratings.items() if rows}
    return Run(_table(pairs), tables, dict(costs))


def _table(rows: Sequence[tuple]) -> Table:
    keys, model, other = zip(*rows, strict=True) if rows else ((), (), ())
    return Table(list(keys), np.array(model, float), np.array(other, float))


def make_rows(
    runs: Mapping[str, Mapping[int, Run]], reference: str
) -> tuple[list[dict], list[str]]:
    """Make rows of each arm's numbers, and notes on differences from the reference that cannot be.

    runs: by arm and seed. Numbers are means over seeds with 95% intervals that count two doubts:
    few prompts, which all seeds are judged on, and few seeds (see `statistics.interval`).
    Differences are taken seed by seed on the same pairs, so what both arms share falls out.
    Raises ValueError where the runs of one arm were judged on different data.
    """
    rows, notes = [], []
    for arm, of in runs.items():
        rows += [each | {"seeds": sorted(of)} for each in _measured(arm, list(of.values()))]
        if arm == reference or not any(run.pairs.keys for run in of.values()):
            continue
        shared = sorted(of.keys() & runs[reference].keys())
        ours, theirs = ([runs[name][seed].pairs for seed in shared] for name in (arm, reference))
        if not runs[reference] or not shared or ours[0].keys != theirs[0].keys:
            why = "they were judged on different pairs"
            why = why if shared else "they have no seed in common"
            why = why if runs[reference] else "it has no finished run"
            notes.append(f"No difference of “{arm}” from “{reference}”: {why}.")
            continue
        change = np.stack(
            [(a.model > 0) * 1.0 - (b.model > 0) for a, b in zip(ours, theirs, strict=True)]
        )
        found = _mean(change, ours[0].keys)
        kind = {"against": reference, "reference": 0.0, "better": "higher", "seeds": shared}
        rows.append(_row(arm, "", "difference", found, change.mean(axis=1), ours[0], **kind))
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
    rows = []
    for name in ("", *(runs[0].ratings if runs else ())):
        tables = [run.ratings.get(name) if name else run.pairs for run in runs]
        if any(each is None or each.keys != tables[0].keys for each in tables):
            raise ValueError(
                f"arm {arm!r}: its seeds were judged on different data; has a file been changed "
                "in between? Give another --workdir"
            )
        if not tables or not tables[0].keys:
            continue
        table, model = tables[0], np.stack([each.model for each in tables])
        prompts = [key[0] for key in table.keys]
        if not name:
            right = model > 0
            seeds = right.mean(axis=1)
            found = statistics.share(right.mean(axis=0), prompts, between=seeds)
            rows.append(_row(arm, "", "accuracy", found, seeds, table, headline=True))
            rows.append(_row(arm, "", "margin", _mean(model, table.keys), model.mean(1), table))
            longer = statistics.share(table.other > 0, prompts)
            rows.append(_row(arm, "", "longer_wins", longer, (), table))
            continue
        part, errors = f"attribute/{name}", (model - table.other) ** 2
        found = _mean(errors, table.keys, statistics.LOG)
        rows.append(_row(arm, part, "mse", found, errors.mean(axis=1), table))
        seeds = [_pearson(each, table.other) for each in model]
        found = statistics.interval(
            lambda other, *each: np.mean([_pearson(x, other) for x in each]),
            (table.other, *model),
            prompts,
            statistics.FISHER,
            between=seeds,
        )
        rows.append(_row(arm, part, "pearson", found, seeds, table))
    return rows


def _row(arm: str, part: str, metric: str, found, by_seed, table: Table, **more) -> dict:
    deviation = float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else None
    n = len(table.keys)
    return row(arm, part, metric, found.value, found.interval, n, deviation=deviation, **more)


def _mean(values: np.ndarray, keys: Sequence[tuple], scale=statistics.PLAIN):
    """Estimate the mean over seeds and rows of values [S, N]."""
    prompts = [key[0] for key in keys]
    between = values.mean(axis=1)
    return statistics.interval(np.mean, (values.mean(axis=0),), prompts, scale, between=between)


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    """The correlation; NaN where a side is constant."""
    return float(np.corrcoef(x, y)[0, 1]) if np.ptp(x) and np.ptp(y) else np.nan
