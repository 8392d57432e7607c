"""What every page says of how a run was made, and the page of runs that make rows or models."""

import datetime
import itertools
import re
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from hs2jax import configs
from hs2jax.report import format
from hs2jax.report.page import Cell, Opening, Section, Table, Verdict
from hs2jax.report.run import Run, select
from hs2jax.report.views import VIEWS, view

# Counts by name in a record, and words for them.
COUNTED = {"skipped": "left out", "unknown": "unknown ratings", "strengths": "strength"}
COUNTED |= {"unread": "not read", "transcripts": "within a text"}
CHIEF = 4  # Large numbers at the top of a page.


def sections(run: Run) -> list[Section]:
    """Show what a run's result says in words, and what the view of its kind shows, or all rows."""
    title = format.WORDS["kinds"].get(run.kind, run.kind)
    verdicts, parts = view(run.kind if run.kind in VIEWS else "rows", run.rows)
    said = [Verdict(**each) for each in run.result.get("said", ())]
    return [Section(title, [*said, *verdicts], parts)]


def opening(run: Run) -> Opening:
    """Say in large numbers what came out, and from what, when and by which command."""
    stages = [Run(run.folder / name) for name in run.result.get("stages", ())]
    flat: dict[str, str] = {}
    for each in [run, *stages]:
        named = configs.inputs(ConfigDict(each.config))
        flat |= {key: str(value) for key, value in named.items() if key not in flat}
    chief = [each for each in [*reversed(stages), run] if select(each.rows, headline=True)][:1]
    rows = [row for each in chief for row in select(each.rows, headline=True)]
    first = {method: i for i, method in enumerate(format.WORDS["opening"]["methods"])}
    rows.sort(key=lambda row: first.get(row.get("method"), len(first)))
    numbers = [(*cell(row)[:2], format.about(row)) for row in rows[:CHIEF]]
    facts = {format.WORDS["inputs"].get(key, key): value for key, value in flat.items()}
    if run.finished:
        changed = (run.folder / "result.json").stat().st_mtime
        facts["finished"] = datetime.datetime.fromtimestamp(changed).strftime("%Y-%m-%d %H:%M")
    command = run.folder / "command.txt"
    facts |= {"command": command.read_text(encoding="utf-8")} if command.exists() else {}
    mini = any(re.search(r"(^|[:+])mini/", value) for value in flat.values())
    return Opening(numbers, facts, format.WORDS["mini"] if mini else "")


def cell(row: Mapping) -> Cell:
    """Set a row's value with its interval."""
    return Cell(format.shown(row), format.interval(row, format.form_of_row(row)))


def side_by_side(title: str, runs: Sequence[Run], names: Sequence[str]) -> Table:
    """Compare runs in one table: of each its kind, time, and chief results."""
    chief = [{_named(row): row for row in select(run.rows, headline=True)} for run in runs]
    metrics = list(dict.fromkeys(name for rows in chief for name in rows))
    lines = []
    for name, run, rows in zip(names, runs, chief, strict=True):
        seconds = run.result.get("seconds", 0)
        took = datetime.timedelta(seconds=round(seconds)) if run.finished else "unfinished"
        kind = format.WORDS["kinds"].get(run.kind, run.kind)
        lines.append(
            [name, kind, str(took), *(cell(rows[m]) if m in rows else "" for m in metrics)]
        )
    heads = [format.about(next(r[name] for r in chief if name in r)) for name in metrics]
    return Table(title, ["", "kind", "wall time", *heads], lines)


def _named(row: Mapping) -> tuple:
    return tuple(row.get(name) for name in ("set", "part", "metric", "method", "against"))


def making(run: Run) -> Section:
    """Say what became of the data, how long it took, what was set, where it ran, and what it warned
    of."""
    model = run.result.get("model")
    facts = format.listing({"model": model}) if isinstance(model, Mapping) else {}
    if (seconds := run.result.get("seconds")) is not None:
        facts["wall time"] = str(datetime.timedelta(seconds=round(seconds)))
    facts |= format.listing(run.result.get("environment") or {})
    settings = format.listing(run.config)
    parts = [
        record_table(run.result.get("records") or {}),
        *view("made", run.rows)[1],
        Table("Model, time and machine", ["", ""], list(facts.items())),
        Table("Settings", ["", ""], list(settings.items()), folded=True),
    ]
    texts = run.result.get("warnings", ())
    warnings = [Verdict("bad", "Warning", f"{format.capital(text)}.") for text in texts]
    return Section("How it was made", warnings, parts)


def record_table(records: Mapping[str, Mapping]) -> Table:
    """Say what became of the data of each set: what was read, and what was left out and why."""
    counts = []
    for record in records.values():
        found = {words: record.get(key) or 0 for key, words in format.WORDS["counts"].items()}
        for key, words in COUNTED.items():
            found |= {f"{words}: {name}": n for name, n in (record.get(key) or {}).items()}
        counts.append(found)
    lines = [
        [words, *(f"{each.get(words, 0):,}" for each in counts)]
        for words in dict.fromkeys(itertools.chain(*counts))
        if any(each.get(words) for each in counts)
    ]
    rated = [record.get("ratings") or {} for record in records.values()]
    for name in dict.fromkeys(itertools.chain(*rated)):
        text = "{low:g} to {high:g}, mean {mean:.3g}"
        ranges = (text.format(**of[name]) if name in of else "" for of in rated)
        lines.append([f"ratings: {name}", *ranges])
    padding = [record.get("padding_fraction") for record in records.values()]
    if any(padding):
        shares = (format.number(share, format.PERCENT) for share in padding)
        lines.append(["padding, of all positions", *shares])
    examples = [text for each in records.values() for text in each.get("skipped_examples", ())]
    note = f"The first of what was left out: {'; '.join(examples)}" if examples else ""
    return Table("Data", ["", *records], lines, note)
