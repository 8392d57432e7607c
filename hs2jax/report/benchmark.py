"""What a page says of a benchmark: its score by its own rule, beside what others published."""

from collections.abc import Mapping, Sequence

from hs2jax.report import charts, format
from hs2jax.report.format import PERCENT
from hs2jax.report.page import Figure, Table, Verdict, verdict_of
from hs2jax.report.run import Column, find, leaf, select, table_of


def benchmark_verdict(rows: Sequence[Mapping], benchmark: Mapping, pairs: Verdict) -> Verdict:
    """Judge the score by the benchmark's own rule where all its items are here, else what is here.

    pairs: the verdict on its pairs, whose length baseline holds for the score too.
    """
    score, lead = (find(rows, metric=m, part="") for m in ("score", "lead_over_length"))
    if score is None or score["value"] is None:
        sections = [row for row in select(rows, family="section", metric="score") if _is_top(row)]
        here = [
            f"{_name(row)} {format.number(row['value'], PERCENT)}" for row in sections if row["n"]
        ]
        absent = [leaf(row) for row in sections if not row["n"]]
        n, expected = (sum(row[key] or 0 for row in sections) for key in ("n", "expected"))
        missing = f" Nothing is here of {format.listed(absent)}." if absent else ""
        sentence = (
            f"No overall score: {n:,} of {expected:,} items are here. "
            f"{'; '.join(here)}.{missing} {pairs.sentence}"
        )
        label = f"Incomplete. On what is here: {pairs.label[0].lower()}{pairs.label[1:]}"
        return Verdict(pairs.tone, label, sentence)
    sentence = (
        f"{format.value(score, PERCENT)} overall on all {score['n']:,} items; chance is "
        f"{benchmark['chance']:.0%}. {pairs.sentence}"
    )
    return verdict_of({"chance": score, "counting characters": lead}, sentence)


def benchmark_figures(rows: Sequence[Mapping], benchmark: Mapping) -> list[Figure]:
    """A picture of all sections; those that lack items are hollow, and without others' scores."""
    scores = [row for row in select(rows, metric="score") if row["part"] == "" or _is_top(row)]
    tracks = []
    for row in scores:
        complete = row["value"] is not None and row.get("complete", False)
        others = select(rows, metric="published", part=row["part"])
        marks = [other["value"] for other in others] if complete else []
        note = _of(row) if complete or not row["n"] else f"part: {_of(row)}"
        name = leaf(row) or "Overall"
        tracks.append(charts.track(row, name, note=note, marks=marks, hollow=not complete))
    chance = benchmark["chance"]
    svg = charts.intervals(tracks, span=(0, 1), reference=chance, mark_name="published")
    caption = "Scores by section"
    if any(track.hollow for track in tracks):
        caption += " (hollow: over a part of its items, not comparable with published scores)"
    return [Figure(caption, svg, chief=True)]


def benchmark_tables(rows: Sequence[Mapping], benchmark: Mapping) -> list[Table]:
    """The scores of sections and subsets, what they are made of, and what others published."""
    missing = [[text] for text in benchmark.get("missing") or ()]
    styles = select(rows, family="style")
    shares = [Column("weight", "share", ".2f", "weight")]
    shares.append(Column("", "share", show=lambda row: row.get("note") or ""))
    return [
        _scores(rows, benchmark),
        Table(f"What is missing ({len(missing):,})", ["missing"], missing, folded=True),
        _matrix("By difficulty", select(rows, family="level")),
        _matrix("Style of the right response, against that of the wrong one", styles),
        table_of("What the score is made of", select(rows, metric="share"), _name, further=shares),
        _published(rows),
    ]


def _scores(rows: Sequence[Mapping], benchmark: Mapping) -> Table:
    absent = [r["part"] for r in rows if r["part"].count("/") > 1 and r["n"] == 0]
    found = [row for row in select(rows, family=["section", "apart"]) if row["part"] not in absent]
    found += select(rows, part="", metric=["score", "score_with_prior"])
    names = {row["part"]: _name(row) for row in found}
    parts = names | {row["part"]: _name(row) for row in select(found, metric="score")}
    found = [row for row in found if row["metric"] not in ("published", "share")]
    strong = [part for part in parts if part.count("/") < 2]
    note = f"{benchmark['rule']} Source: {benchmark['source']}."
    items = [Column("items in all", "score", format.COUNT, "expected")]
    # By part, for sections may have subsets of one name.
    table = table_of("Scores by subset", found, "part", further=items, note=note, strong=strong)
    return table._replace(rows=[[parts[line[0]], *line[1:]] for line in table.rows])


def _matrix(title: str, rows: Sequence[Mapping]) -> Table:
    """A table with a line for the first names of a part, and a column for its last."""
    split = [{**row, "across": leaf(row).split("/")[-1]} for row in rows]
    return table_of(title, split, lambda row: leaf(row).rpartition("/")[0], across="across")


def _published(rows: Sequence[Mapping]) -> Table:
    """This model first, then what papers report, as published."""
    published = select(rows, metric="published")
    parts = dict.fromkeys(row["part"] for row in published)
    ours = [
        {**row, "metric": "published", "method": f"this model{_partly(row)}"}
        for row in select(rows, metric="score", part=list(parts))
    ]
    columns = [Column(_name({"part": part}), "published", where={"part": part}) for part in parts]
    columns.append(Column("source", "published", show=lambda row: row.get("source") or ""))
    note = (
        "As published by their authors, not measured here. A score over a part of the items is not "
        "comparable with a published one: other items may be easier or harder."
    )
    title = "Published scores"
    found = ours + published
    return table_of(title, found, "method", columns, heading="model", note=note, folded=True)


def _partly(row: Mapping) -> str:
    return "" if row.get("complete") else ", on a part of the items"


def _is_top(row: Mapping) -> bool:
    """A section itself, not one of its subsets."""
    return row["part"].startswith("section/") and row["part"].count("/") == 1


def _name(row: Mapping) -> str:
    name = row["part"].split("/")[-1] or "Overall"
    if row.get("metric") == "score" and _is_top(row) and not row.get("complete", True):
        name += ", of what is here" if row["n"] else ", absent"
    return name


def _of(row: Mapping) -> str:
    expected = row.get("expected")
    return f"{row['n'] or 0:,} of {expected:,}" if expected is not None else f"{row['n'] or 0:,}"
