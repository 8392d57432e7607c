"""What every page says of how a run was made, and the page of runs that make rows or models."""

import datetime
import itertools
from collections.abc import Mapping

from hs2jax.report import format
from hs2jax.report.page import Section, Table, Verdict
from hs2jax.report.run import Run
from hs2jax.report.views import VIEWS, view

# Counts by name in a record, and words for them.
COUNTED = {"skipped": "left out", "unknown": "unknown ratings", "strengths": "strength"}
COUNTED |= {"unread": "not read", "transcripts": "within a text"}


def sections(run: Run) -> list[Section]:
    """Show what the view of a run's kind shows, or all of its rows."""
    title = format.WORDS["kinds"].get(run.kind, run.kind)
    return [Section(title, *view(run.kind if run.kind in VIEWS else "rows", run.rows))]


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
