"""What a page says of a benchmark: its score by its own rule, beside what others published."""

from collections.abc import Mapping, Sequence

from hs2jax.report import charts
from hs2jax.report.page import Figure, Section, Table, Verdict, verdict_of
from hs2jax.report.run import find, leaf, select, table_of


def with_benchmark(section: Section, rows: Sequence[Mapping], benchmark: Mapping) -> Section:
    """Put a benchmark before what is said of any set with pairs."""
    pairs, *others = section.verdicts
    return section._replace(
        title=benchmark["title"],
        verdicts=[_verdict(rows, benchmark, pairs), *others],
        figures=[_figure(rows, benchmark), *section.figures],
        tables=[*_tables(rows, benchmark), *section.tables],
    )


def _verdict(rows: Sequence[Mapping], benchmark: Mapping, pairs: Verdict) -> Verdict:
    """Judge the score by the benchmark's own rule where all its items are here, else what is here;
    the length baseline of the pairs holds for the score too."""
    score, lead = (find(rows, metric=m, part="") for m in ("score", "lead_over_length"))
    if score and score["value"] is not None:
        note = f"Chance is {benchmark['chance']:.0%}. {pairs.sentence}"
        return verdict_of({"chance": score, "counting characters": lead}, note=note)
    sections = [row for row in select(rows, family="section", metric="score") if _is_top(row)]
    here, expected = (sum(row[key] or 0 for row in sections) for key in ("n", "expected"))
    sentence = f"No overall score: {here:,} of {expected:,} items are here. {pairs.sentence}"
    return Verdict(pairs.tone, f"Incomplete; of what is here: {pairs.label.lower()}", sentence)


def _figure(rows: Sequence[Mapping], benchmark: Mapping) -> Figure:
    """A picture of all sections; those that lack items are hollow, and without others' scores."""
    drawn = []
    for row in select(rows, metric="score"):
        if row["part"] and not _is_top(row):
            continue
        complete = row["value"] is not None and row.get("complete", False)
        others = select(rows, metric="published", part=row["part"]) if complete else []
        counts = " of ".join(f"{row[key] or 0:,}" for key in ("n", "expected") if key in row)
        more = {"name": leaf(row) or "Overall", "hollow": not complete, "note": counts}
        drawn.append({**row, **more, "marks": [other["value"] for other in others]})
    reference = {"reference": benchmark["chance"], "mark_name": "published"}
    svg = charts.intervals(drawn, span=(0, 1), **reference)
    caption = "Scores by section"
    if any(row["hollow"] for row in drawn):
        caption += " (hollow: over a part of its items, not comparable with published scores)"
    return Figure(caption, svg, chief=True)


def _tables(rows: Sequence[Mapping], benchmark: Mapping) -> list[Table]:
    """The scores of sections and subsets, what they are made of, and what others published."""
    absent = [row["part"] for row in rows if row["n"] == 0 and not _is_top(row)]
    scores = [row for row in select(rows, family=["section", "apart"]) if row["part"] not in absent]
    scores = [row for row in scores if row["metric"] not in ("published", "share")]
    scores += select(rows, part="", metric=["score", "score_with_prior"])
    scores = [row | {"here": _here(row)} if row["metric"] == "score" else row for row in scores]
    strong = [_name(row) for row in scores if _is_top(row) or not row["part"]]
    note = f"{benchmark['rule']} Source: {benchmark['source']}."
    missing = [[text] for text in benchmark.get("missing") or ()]
    style = "Style of the right response, against that of the wrong one"
    return [
        table_of("Scores by subset", scores, _name, note=note, strong=strong),
        Table(f"What is missing ({len(missing):,})", ["missing"], missing, folded=True),
        table_of("By difficulty", select(rows, family="level"), _first, across=_last),
        table_of(style, select(rows, family="style"), _first, across=_last),
        table_of("What the score is made of", select(rows, metric="share"), _name),
        _published(rows),
    ]


def _published(rows: Sequence[Mapping]) -> Table:
    """This model first, then what papers report, as published."""
    published = select(rows, metric="published")
    about = {"metric": "published", "method": "this model", "n": None, "expected": None}
    ours = [
        row | about | {"source": f"{_here(row)} of the items"}
        for part in dict.fromkeys(row["part"] for row in published)
        for row in select(rows, metric="score", part=part)
    ]
    about = {"index": lambda row: f"{row['method']}, {row['source']}", "heading": "model"}
    return table_of("Published scores", [*ours, *published], across=_name, folded=True, **about)


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
