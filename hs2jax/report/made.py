"""What every page says of how a run was made, and the page of runs that make rows or models."""

import datetime
import itertools
from collections.abc import Mapping

from hs2jax.report import format
from hs2jax.report.page import Section, Table, Verdict
from hs2jax.report.run import Run, select
from hs2jax.report.views import view

NUMBERS = (
    *("trained_parameters", "step", "steps", "seconds_per_step", "tokens_per_second"),
    "peak_memory_bytes",
)


def sections(run: Run) -> list[Section]:
    """Show all rows of a run: a table for the whole, and one for each family of parts."""
    title = format.WORDS["kinds"].get(run.kind, run.kind)
    return [Section(title, warnings(run), view("rows", run.rows))]


def warnings(run: Run) -> list[Verdict]:
    """Say what a run warned of."""
    return [Verdict("bad", "Warning", f"{text}.") for text in run.result.get("warnings", ())]


def making(run: Run) -> Section:
    """Say what became of the data, how long it took, what was set and where it ran."""
    model, facts = run.result.get("model"), {}
    if isinstance(model, Mapping):
        facts |= format.listing({"model": model})
    for row in select(run.rows, set="", part="", metric=NUMBERS):
        said = format.number(row["value"], format.form_of(row["metric"]))
        facts[format.words_of(row["metric"])] = said
    if (seconds := run.result.get("seconds")) is not None:
        facts["wall time"] = str(datetime.timedelta(seconds=round(seconds)))
    facts |= format.listing(run.result.get("environment") or {})
    settings = format.listing(run.config)
    parts = [
        record_table(run.result.get("records") or {}),
        Table("Model, time and machine", ["", ""], list(facts.items())),
        Table("Settings", ["", ""], list(settings.items()), folded=True),
    ]
    return Section("How it was made", parts=parts)


def record_table(records: Mapping[str, Mapping]) -> Table:
    """Say what became of the data of each set: what was read, and what was left out and why."""
    counts = []
    for record in records.values():
        found = {words: record.get(key) or 0 for key, words in format.WORDS["counts"].items()}
        skipped = record.get("skipped") or {}
        counts.append(found | {f"left out: {reason}": n for reason, n in skipped.items()})
    lines = [
        [words, *(f"{each.get(words, 0):,}" for each in counts)]
        for words in dict.fromkeys(itertools.chain(*counts))
        if any(each.get(words) for each in counts)
    ]
    padding = [record.get("padding_fraction") for record in records.values()]
    if any(padding):
        shares = (format.number(share, format.PERCENT) for share in padding)
        lines.append(["padding, of all positions", *shares])
    examples = [text for each in records.values() for text in each.get("skipped_examples", ())]
    note = f"The first of what was left out: {'; '.join(examples)}" if examples else ""
    return Table("Data", ["", *records], lines, note)
