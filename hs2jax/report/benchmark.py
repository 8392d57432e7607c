"""What a page says of a benchmark: its score by its own rule, beside what others published."""

from collections.abc import Mapping, Sequence

from hs2jax.report import charts
from hs2jax.report.page import Figure, Table, Verdict, verdict_of
from hs2jax.report.run import find, leaf, select, table_of


def benchmark_verdict(rows: Sequence[Mapping], benchmark: Mapping, pairs: Verdict) -> Verdict:
    """Judge the score by the benchmark's own rule where all its items are here, else what is here.

    pairs: the verdict on its pairs, whose length baseline holds for the score too.
    """
    score, lead = (find(rows, metric=m, part="") for m in ("score", "lead_over_length"))
    if score and score["value"] is not None:
        note = f"Chance is {benchmark['chance']:.0%}. {pairs.sentence}"
        return verdict_of({"chance": score, "counting characters": lead}, note=note)
    sections = [row for row in select(rows, family="section", metric="score") if _is_top(row)]
    here, expected = (sum(row[key] or 0 for row in sections) for key in ("n", "expected"))
    sentence = f"No overall score: {here:,} of {expected:,} items are here. {pairs.sentence}"
    return Verdict(pairs.tone, f"Incomplete; of what is here: {pairs.label.lower()}", sentence)


def benchmark_figures(rows: Sequence[Mapping], benchmark: Mapping) -> list[Figure]:
    """A picture of all sections; those that lack items are hollow, and without others' scores."""
    drawn = []
    for row in select(rows, metric="score"):
        if row["part"] and not _is_top(row):
            continue
        complete = row["value"] is not None and row.get("complete", False)
        others = select(rows, metric="published", part=row["part"]) if complete else []
        counts = [f"{row['n'] or 0:,}"]
        if row.get("expected") is not None:
            counts.append(f"{row['expected']:,}")
        more = {"name": leaf(row) or "Overall", "hollow": not complete, "note": " of ".join(counts)}
        drawn.append({**row, **more, "marks": [other["value"] for other in others]})
    reference = {"reference": benchmark["chance"], "mark_name": "published"}
    svg = charts.intervals(drawn, span=(0, 1), **reference)
    caption = "Scores by section"
    if any(row["hollow"] for row in drawn):
        caption += " (hollow: over a part of its items, not comparable with published scores)"
    return [Figure(caption, svg, chief=True)]


def benchmark_tables(rows: Sequence[Mapping], benchmark: Mapping) -> list[Table]:
    """The scores of sections and subsets, what they are made of, and what others published."""
    absent = [row["part"] for row in rows if row["n"] == 0 and not _is_top(row)]
    scores = [row for row in select(rows, family=["section", "apart"]) if row["part"] not in absent]
    scores = [row for row in scores if row["metric"] not in ("published", "share")]
    scores += select(rows, part="", metric=["score", "score_with_prior"])
    scores = [row | {"here": _here(row)} for row in scores]
    items = {"items in all": ("score", "expected"), "here": ("score", "here")}
    strong = [_name(row) for row in scores if _is_top(row) or not row["part"]]
    note = f"{benchmark['rule']} Source: {benchmark['source']}."
    missing = [[text] for text in benchmark.get("missing") or ()]
    shares = {"weight": ("share", "weight"), "": ("share", "note")}
    style = "Style of the right response, against that of the wrong one"
    return [
        table_of("Scores by subset", scores, _name, fields=items, note=note, strong=strong),
        Table(f"What is missing ({len(missing):,})", ["missing"], missing, folded=True),
        table_of("By difficulty", select(rows, family="level"), _first, across=_last),
        table_of(style, select(rows, family="style"), _first, across=_last),
        table_of("What the score is made of", select(rows, metric="share"), _name, fields=shares),
        _published(rows),
    ]


def _published(rows: Sequence[Mapping]) -> Table:
    """This model first, then what papers report, as published."""
    published = select(rows, metric="published")
    parts = dict.fromkeys(row["part"] for row in published)
    found = [row for part in parts for row in select(rows, metric="score", part=part)]
    ours = [
        row | {"metric": "published", "method": f"this model, {_here(row)} of the items"}
        for row in found
    ]
    about = {"fields": {"source": ("published", "source")}, "folded": True}
    title, found = "Published scores", [*ours, *published]
    return table_of(title, found, "method", across=_name, heading="model", **about)


def _here(row: Mapping) -> str:
    return "all" if row.get("complete") else "a part" if row.get("n") else "none"


def _is_top(row: Mapping) -> bool:
    """A section itself, not one of its subsets."""
    return row["part"].startswith("section/") and row["part"].count("/") == 1


def _name(row: Mapping) -> str:
    return leaf(row).replace("/", ", ") or row["part"] or "Overall"


def _first(row: Mapping) -> str:
    return leaf(row).rpartition("/")[0]


def _last(row: Mapping) -> str:
    return row["part"].rpartition("/")[2]
