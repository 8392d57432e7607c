"""A sweep's table: arms side by side, their numbers with intervals over prompts and seeds.

An arm is a way to train, run once for each of several seeds. Differences between arms are taken
seed by seed on the same prompts, so what both share falls out. The intervals are explained in
`sweep_statistics`.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from hs2jax.evaluation import statistics
from hs2jax.evaluation.sweep_statistics import (
    Estimate,
    Sums,
    accuracy,
    difference,
    estimate,
    margin,
    pair_sums,
    pearson,
    rating_sums,
    squared_error,
)
from hs2jax.evaluation.tables import count

# Of a run: the heading, and how a number is shown.
COSTS = {
    "seconds_per_step": ("seconds per step", lambda x: f"{x:.3g}"),
    "tokens_per_second": ("tokens per second", lambda x: f"{x:,.0f}"),
    "peak_memory_bytes": ("peak memory, GiB", lambda x: f"{x / 2**30:.2f}"),
    "trained_parameters": ("trained parameters", lambda x: f"{x:,.0f}"),
}


class Run(NamedTuple):
    """What the table needs of one finished run; `measure` makes it."""

    pairs: Sums | None
    ratings: dict[str, Sums]
    length: dict | None  # The length baseline of `statistics.preferences`.
    costs: dict[str, float]  # Some of COSTS.


class Arm(NamedTuple):
    """A way to train: its name, the settings in which arms differ, and its runs by seed."""

    name: str
    settings: dict[str, object]
    runs: dict[int, Run]


class Row(NamedTuple):
    arm: Arm
    metrics: dict[str, Estimate]
    costs: dict[str, float]


def measure(items: Sequence[dict], outputs: Sequence[str], costs: dict[str, float]) -> Run:
    """What the table needs of a run's scored groups (see `statistics` for their form).

    outputs: names of the K outputs. Raises ValueError as `statistics.preferences` does.
    """
    preferences = statistics.preferences(items)
    ratings = {name: rating_sums(items, k, name) for k, name in enumerate(outputs)}
    return Run(
        pairs=pair_sums(items),
        ratings={name: sums for name, sums in ratings.items() if sums is not None},
        length=preferences and preferences["length_baseline"],
        costs=costs,
    )


def make_rows(arms: Sequence[Arm], reference: str) -> tuple[list[Row], list[str]]:
    """A row for each arm, and notes on the differences from the reference arm that cannot be.

    Raises ValueError where the runs of one arm were judged on different data.
    """
    (base,) = (arm for arm in arms if arm.name == reference)
    rows, notes = [], []
    for arm in arms:
        metrics = _metrics(arm)
        if arm is not base and "accuracy" in metrics:
            shared = sorted(arm.runs.keys() & base.runs.keys())
            why = _not_comparable(arm, base, shared)
            if why:
                notes.append(f"No difference of “{arm.name}” from “{reference}”: {why}.")
            else:
                sides = ([a.runs[seed].pairs for seed in shared] for a in (arm, base))
                metrics["difference"] = difference(*sides, accuracy)
                if len(shared) < len(arm.runs):
                    seeds = ", ".join(map(str, shared))
                    notes.append(f"The difference of “{arm.name}” is over seed {seeds}.")
        rows.append(Row(arm, metrics, _mean_costs(arm.runs.values())))
    return rows, notes


def _metrics(arm: Arm) -> dict[str, Estimate]:
    runs = list(arm.runs.values())
    if not runs:
        return {}
    found = {}
    if runs[0].pairs:
        pairs = _same_groups(arm, [run.pairs for run in runs])
        found |= {"accuracy": estimate(pairs, accuracy), "margin": estimate(pairs, margin)}
    for name in runs[0].ratings:
        sums = _same_groups(arm, [run.ratings.get(name) for run in runs])
        found[f"{name} squared error"] = estimate(sums, squared_error)
        found[f"{name} Pearson"] = estimate(sums, pearson)
    return {name: each for name, each in found.items() if each is not None}


def _same_groups(arm: Arm, sums: list[Sums | None]) -> list[Sums]:
    if any(each is None or each.groups != sums[0].groups for each in sums):
        raise ValueError(
            f"arm {arm.name!r}: its seeds were judged on different data; has a file been changed "
            "in between? Give another --workdir"
        )
    return sums


def _not_comparable(arm: Arm, base: Arm, shared: list[int]) -> str:
    if not base.runs:
        return "it has no finished run"
    if not shared:
        return "they have no seed in common"
    mine, theirs = arm.runs[shared[0]].pairs, base.runs[shared[0]].pairs
    if theirs is None or mine.groups != theirs.groups:
        return "they were judged on different pairs"
    return ""


def _mean_costs(runs: Iterable[Run]) -> dict[str, float]:
    found = {}
    for key in COSTS:
        values = [run.costs[key] for run in runs if run.costs.get(key) is not None]
        if values:
            found[key] = float(np.mean(values))
    return found


# Texts --------------------------------------------------------------------------------------------


def write_csv(rows: Sequence[Row]) -> str:
    """Raw numbers, one line per arm: value, low, high and deviation over seeds of each metric."""
    settings = list(dict.fromkeys(key for row in rows for key in row.arm.settings))
    metrics = list(dict.fromkeys(name for row in rows for name in row.metrics))
    costs = [key for key in COSTS if any(key in row.costs for row in rows)]
    lengths = {row.arm.name: _length(row.arm) for row in rows}
    file = io.StringIO()
    out = csv.writer(file, lineterminator="\n")
    heads = [f"{name}{part}" for name in metrics for part in ("", " low", " high", " deviation")]
    if any(lengths.values()):
        heads += [f"longer response wins{part}" for part in ("", " low", " high")]
    out.writerow(["arm", *settings, "seeds", *heads, *costs])
    for row in rows:
        cells = [row.arm.name, *(_setting(row.arm.settings.get(key)) for key in settings)]
        cells.append(" ".join(map(str, sorted(row.arm.runs))))
        for name in metrics:
            value, interval, deviation = row.metrics.get(name, (None, None, None))
            cells += [value, *(interval or (None, None)), deviation]
        if any(lengths.values()):
            length = lengths[row.arm.name]
            cells += [length["accuracy"], *length["interval"]] if length else [None] * 3
        out.writerow([*cells, *(row.costs.get(key) for key in costs)])
    return file.getvalue()


def write_markdown(rows: Sequence[Row], reference: str, notes: Sequence[str]) -> str:
    """Tables that read well as Markdown and in a terminal, with notes on how they were made."""
    settings = list(dict.fromkeys(key for row in rows for key in row.arm.settings))
    table = []
    for row in rows:
        accuracy, over = row.metrics.get("accuracy"), row.metrics.get("difference")
        cells = {"arm": row.arm.name}
        cells |= {key: _setting(row.arm.settings.get(key)) for key in settings}
        cells["seeds"] = ", ".join(map(str, sorted(row.arm.runs))) or "none"
        cells["accuracy"] = _between(accuracy, 100, "{:.1f}", "%")
        if accuracy and accuracy.deviation is not None:
            cells["sd over seeds"] = f"{100 * accuracy.deviation:.1f}"
        cells[f"over {reference}, points"] = (
            "reference" if row.arm.name == reference else _between(over, 100, "{:+.1f}")
        )
        cells["margin"] = _between(row.metrics.get("margin"), 1, "{:+.2f}")
        table.append(cells)
    base = next((row.arm for row in rows if row.arm.name == reference and row.arm.runs), None)
    if base and (length := _length(base)):
        longer = Estimate(length["accuracy"], length["interval"], None)
        table.append(
            {"arm": "(longer response wins)", "accuracy": _between(longer, 100, "{:.1f}", "%")}
        )
    ratings = [
        {"arm": row.arm.name}
        | {
            name: _between(each, 1, "{:.2f}" if name.endswith("Pearson") else "{:.3f}")
            for name, each in row.metrics.items()
            if name.endswith(("squared error", "Pearson"))
        }
        for row in rows
    ]
    costs = [
        {"arm": row.arm.name}
        | {COSTS[key][0]: COSTS[key][1](value) for key, value in row.costs.items()}
        for row in rows
    ]
    tables = [_aligned(table)]
    tables += [_aligned(each) for each in (ratings, costs) if any(len(line) > 1 for line in each)]
    tables.append("\n".join(f"- {note}" for note in (*notes, *_how(rows))))
    return "\n\n".join(tables) + "\n"


def _how(rows: Sequence[Row]) -> list[str]:
    seeds = {len(row.arm.runs) for row in rows if row.arm.runs}
    if not seeds:
        return []
    held_out = {}
    for row in rows:
        for run in list(row.arm.runs.values())[:1]:
            if run.pairs:
                pairs = count(int(run.pairs.values[:, 0].sum()), "pair")
                said = f"{pairs} of {count(len(run.pairs.groups), 'prompt')}"
                held_out.setdefault(said, []).append(row.arm.name)
    notes = []
    for said, names in held_out.items():
        which = f" ({', '.join(names)})" if len(held_out) > 1 else ""
        notes.append(f"Held out: {said}{which}.")
    text = "Means over seeds with 95% intervals that count the doubt from few held-out prompts"
    if seeds == {1}:
        text += "; with one seed each they cannot count what another seed would change"
    else:
        text += " (jackknife over prompts) and from few seeds (their variance), with Student's t"
        if 1 in seeds:
            text += "; where there is one seed, of prompts only"
    if any("difference" in row.metrics for row in rows):
        text += ". Differences are taken seed by seed on the same pairs"
    return [*notes, text + "."]


def _length(arm: Arm) -> dict | None:
    return next((run.length for run in arm.runs.values()), None)


def _setting(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _between(estimate: Estimate | None, scale: float, form: str, unit: str = "") -> str:
    if estimate is None:
        return ""
    text = form.format(scale * estimate.value) + unit
    if estimate.interval:
        low, high = (form.format(scale * end) for end in estimate.interval)
        text += f" [{low}, {high}]"
    return text.replace("-", "−")


def _aligned(lines: Sequence[dict[str, str]]) -> str:
    """A Markdown table of the columns that some line has, padded to equal widths."""
    columns = [
        name
        for name in dict.fromkeys(name for line in lines for name in line)
        if any(line.get(name) for line in lines)
    ]
    cells = [columns, *([line.get(name, "") for name in columns] for line in lines)]
    # A bar would end the cell.
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in cells]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    padded = [
        [cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in cells
    ]
    padded.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)
