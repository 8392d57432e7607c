"""A sweep's table: arms side by side, as a page, as sweep.md and as sweep.csv."""

import csv
import io

from hs2jax import workdir
from hs2jax.report import format, page
from hs2jax.report.page import Section, Table, verdict_of
from hs2jax.report.run import Column, Run, leaf, select, table_of

COSTS = ("seconds_per_step", "tokens_per_second", "peak_memory_bytes", "trained_parameters")
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
    arms = run.result["arms"]
    settings = _settings(run)
    lines = [
        [name, *of.values(), ", ".join(map(str, arms[name]["seeds"])) or "none"]
        for name, of in settings.items()
    ]
    keys = list(next(iter(settings.values()), {}))
    note = " ".join([*run.result["notes"], HOW])
    whole = [row for row in select(run.rows, part="") if row["metric"] not in COSTS]
    deviation = [Column("sd over seeds", "accuracy", "percent", "deviation")]
    rated = select(run.rows, family="attribute")
    return [
        Table("Arms", ["arm", *keys, "seeds"], lines),
        table_of("Held-out pairs", whole, "set", further=deviation, note=note, heading="arm"),
        table_of("Ratings", rated, lambda row: f"{row['set']}, {leaf(row)}"),
        table_of("Costs", select(run.rows, metric=COSTS), "set", heading="arm"),
    ]


def _settings(run: Run) -> dict[str, dict[str, str]]:
    """What is set in each arm, of all that some arm sets."""
    arms = {name: arm["settings"] for name, arm in run.result["arms"].items()}
    keys = dict.fromkeys(key for settings in arms.values() for key in settings)
    return {name: {k: format.setting(of.get(k)) for k in keys} for name, of in arms.items()}


def write(run: Run) -> None:
    """Write sweep.md and sweep.csv into a sweep's folder, each whole or not at all."""
    text = page.render("md", run.name, "", [Section("Arms", tables=tables(run))])
    workdir.write_text(run.folder / "sweep.md", text)
    workdir.write_text(run.folder / "sweep.csv", csv_of(run))


def csv_of(run: Run) -> str:
    """Raw numbers, a line for each arm: value, ends and deviation over seeds of each metric; only
    what some arm has is a column."""
    lines = {name: {"arm": name, **of} for name, of in _settings(run).items()}
    for name, line in lines.items():
        line["seeds"] = " ".join(map(str, run.result["arms"][name]["seeds"]))
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
