"""A sweep's table: arms side by side, as a page, as sweep.md and as sweep.csv."""

import csv
import io

from hs2jax import workdir
from hs2jax.report import format, page
from hs2jax.report.page import Section, Table, verdict_of
from hs2jax.report.run import Run, leaf, select, table_of
from hs2jax.training.sweep_rows import COSTS


def sections(run: Run) -> list[Section]:
    """Say how the arms of a sweep compare."""
    reference, differences = run.result["reference"], select(run.rows, metric="difference")
    verdicts = [verdict_of({reference: row}, subject=row["set"]) for row in differences]
    return [Section("Arms", verdicts, tables=tables(run))]


def tables(run: Run) -> list[Table]:
    """Make the tables of arms: settings, accuracy and differences; ratings; costs."""
    arms = [*_arms(run).values()]
    keys = list(arms[0]) if arms else []
    whole = [row for row in select(run.rows, part="") if row["metric"] not in COSTS]
    about = {"heading": "arm", "note": " ".join(run.result["notes"])}
    rated = select(run.rows, family="attribute")
    return [
        Table("Arms", keys, [list(arm.values()) for arm in arms]),
        table_of("Held-out pairs", whole, "set", **about),
        table_of("Ratings by arm", rated, lambda row: f"{row['set']}, {leaf(row)}"),
        table_of("Costs", select(run.rows, metric=COSTS), "set", heading="arm"),
    ]


def _arms(run: Run) -> dict[str, dict[str, str]]:
    """Tell of each arm what is set in it, of all that some arm sets, and its seeds."""
    arms = run.result["arms"]
    keys = dict.fromkeys(key for arm in arms.values() for key in arm["settings"])
    return {
        name: {"arm": name}
        | {key: format.setting(arm["settings"].get(key)) for key in keys}
        | {"seeds": " ".join(map(str, arm["seeds"]))}
        for name, arm in arms.items()
    }


def write(run: Run) -> None:
    """Write sweep.md and sweep.csv into a sweep's folder, each whole or not at all."""
    text = page.render("md", run.name, "", [Section("Arms", tables=tables(run))])
    workdir.write_text(run.folder / "sweep.md", text)
    workdir.write_text(run.folder / "sweep.csv", csv_of(run))


def csv_of(run: Run) -> str:
    """Raw numbers, a line for each arm: value, ends and deviation over seeds of each metric; only
    what some arm has is a column."""
    lines = _arms(run)
    for row in run.rows:
        title = f"{leaf(row)} {row['metric']}".strip()
        for field in ("value", "low", "high", "deviation"):
            if row["set"] in lines and row.get(field) is not None:
                lines[row["set"]][f"{title} {field}".removesuffix(" value")] = row[field]
    file = io.StringIO()
    heads = dict.fromkeys(head for line in lines.values() for head in line)
    out = csv.DictWriter(file, list(heads), lineterminator="\n")
    out.writeheader()
    out.writerows(lines.values())
    return file.getvalue()
