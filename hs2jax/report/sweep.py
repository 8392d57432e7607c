"""A sweep's table: arms side by side, as a page, as sweep.md and as sweep.csv."""

import csv
import io
from pathlib import Path

from hs2jax.report import format, page
from hs2jax.report.page import Cell, Section, Table, verdict_of
from hs2jax.report.run import Column, Run, find, leaf, select, table_of

COSTS = {
    "seconds_per_step": ("seconds per step", "{:.3g}".format),
    "tokens_per_second": ("tokens per second", "{:,.0f}".format),
    "peak_memory_bytes": ("peak memory", lambda size: format.memory(int(size))),
    "trained_parameters": ("trained parameters", "{:,.0f}".format),
}
HOW = (
    "Means over seeds with 95% intervals that count the doubt from few held-out prompts (jackknife "
    "over prompts) and from few seeds (their variance), with Student's t; with one seed they "
    "cannot count what another would change. Differences are taken seed by seed on the same pairs."
)


def sections(run: Run) -> list[Section]:
    """Say how the arms of a sweep compare."""
    verdicts = []
    reference = run.result["reference"]
    for row in select(run.rows, metric="difference"):
        sentence = f"{format.value(row, 'points')} of accuracy on {format.count(row['n'], 'pair')}."
        verdict = verdict_of({reference: row}, sentence)
        verdicts.append(verdict._replace(label=f"{row['set']}: {verdict.label.lower()}"))
    return [Section("Arms", verdicts, tables=tables(run))]


def tables(run: Run) -> list[Table]:
    """Make the tables of arms: settings, accuracy and differences; ratings; costs."""
    reference, arms = run.result["reference"], run.result["arms"]
    columns = [
        Column("accuracy", "accuracy", "percent"),
        Column("sd over seeds", "accuracy", "percent", "deviation"),
        Column(f"over {reference}, points", "difference", "points"),
        Column("margin", "margin", "signed"),
        Column("pairs", "accuracy", show="n"),
    ]
    numbers = table_of("", run.rows, "set", columns)
    cells = {line[0]: line[1:] for line in numbers.rows}
    keys = list(dict.fromkeys(key for arm in arms.values() for key in arm["settings"]))
    lines = [
        [
            name,
            *(format.setting(arm["settings"].get(key)) for key in keys),
            ", ".join(map(str, arm["seeds"])) or "none",
            *cells.get(name, [""] * (len(numbers.columns) - 1)),
        ]
        for name, arm in arms.items()
    ]
    if longer := find(run.rows, metric="longer_wins"):
        empty = [""] * (len(keys) + 1)
        rest = [""] * (len(numbers.columns) - 2)
        cell = Cell(format.number(longer["value"], "percent"), format.interval(longer, "percent"))
        lines.append(["(longer response wins)", *empty, cell, *rest])
    heads = ["arm", *keys, "seeds", *numbers.columns[1:]]
    note = " ".join([*run.result["notes"], HOW])
    rated = select(run.rows, family="attribute")
    ratings = [
        Column(f"{name} {heading}", metric, where={"part": f"attribute/{name}"})
        for name in dict.fromkeys(map(leaf, rated))
        for heading, metric in (("squared error", "mse"), ("Pearson", "pearson"))
    ]
    return [
        Table("Held-out pairs", heads, lines, note),
        *([table_of("Ratings", rated, "set", ratings, heading="arm")] if rated else []),
        _costs(run),
    ]


def _costs(run: Run) -> Table:
    lines = []
    for arm in run.result["arms"]:
        found = {name: find(run.rows, set=arm, metric=name) for name in COSTS}
        shown = {x: COSTS[x][1](each["value"]) for x, each in found.items() if each}
        lines.append([arm, *(shown.get(name, "") for name in COSTS)])
    return Table("Costs", ["arm", *(heading for heading, _ in COSTS.values())], lines)


def write(run: Run) -> None:
    """Write sweep.md and sweep.csv into a sweep's folder, each whole or not at all."""
    text = page.render("md", run.name, "", [Section("Arms", tables=tables(run))])
    for name, content in (("sweep.md", text), ("sweep.csv", csv_of(run))):
        scratch = Path(run.folder) / f"{name}.tmp"
        scratch.write_text(content, encoding="utf-8")
        scratch.replace(scratch.with_suffix(""))


def csv_of(run: Run) -> str:
    """Raw numbers, a line for each arm: value, ends and deviation over seeds of each metric."""
    arms = run.result["arms"]
    keys = list(dict.fromkeys(key for arm in arms.values() for key in arm["settings"]))
    names = {}
    for row in run.rows:
        names.setdefault((row["part"], row["metric"]), []).append(row)
    file = io.StringIO()
    out = csv.writer(file, lineterminator="\n")
    heads = ["arm", *keys, "seeds"]
    for (part, metric), rows in names.items():
        heads += [head for head, _ in _cells(part, metric, rows, None)]
    out.writerow(heads)
    for name, arm in arms.items():
        settings = [format.setting(arm["settings"].get(key)) for key in keys]
        line = [name, *settings, " ".join(map(str, arm["seeds"]))]
        for (part, metric), rows in names.items():
            line += [cell for _, cell in _cells(part, metric, rows, find(rows, set=name))]
        out.writerow(line)
    return file.getvalue()


def _cells(part: str, metric: str, rows: list[dict], row: dict | None) -> list[tuple]:
    """Heading and value of each column of a metric; only what some arm has is a column."""
    title = f"{part.partition('/')[2]} {metric}".strip()
    fields = [x for x in ("low", "high", "deviation") if any(r.get(x) is not None for r in rows)]
    row = row or {}
    return [(title, row.get("value")), *((f"{title} {x}", row.get(x)) for x in fields)]
