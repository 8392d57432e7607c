"""What a page says of a benchmark: its score by its own rule, beside what others published."""

from collections.abc import Mapping, Sequence

from hs2jax.report import charts, format
from hs2jax.report.format import PERCENT
from hs2jax.report.page import Cell, Figure, Table, Verdict, verdict_of
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
    tables = [_scores(rows, benchmark)]
    if missing := benchmark.get("missing"):
        title = f"What is missing ({len(missing):,})"
        tables.append(Table(title, ["missing"], [[text] for text in missing], folded=True))
    levels = [_split(row, "level", "domain") for row in select(rows, family="level")]
    tables.append(_matrix("By difficulty", levels, "domain", "level"))
    styles = [_split(row, "domain", "right", "wrong") for row in select(rows, family="style")]
    for domain in dict.fromkeys(row["domain"] for row in styles):
        title = f"{domain}: style of the right response, against that of the wrong one"
        found = select(styles, domain=domain)
        tables.append(_matrix(title, found, "right", "wrong")._replace(folded=True))
    columns = [
        "share",
        Column("weight", "share", ".2f", "weight"),
        Column("", "share", show=lambda row: row.get("note") or ""),
    ]
    title = "What the score of ties is made of"
    tables.append(table_of(title, select(rows, metric="share"), _name, columns))
    tables.append(_published(rows))
    return tables


def _scores(rows: Sequence[Mapping], benchmark: Mapping) -> Table:
    absent = [r["part"] for r in rows if r["part"].count("/") > 1 and r["n"] == 0]
    rows = [
        row
        for row in rows
        if row["part"].split("/")[0] in ("", "section", "apart") and row["part"] not in absent
    ]
    columns = [
        "score",
        Column("items", "score", show=_of),
        *("longer_wins", "shorter_wins", "ties_as_half", "strict", "prompts_cut"),
    ]
    scored = [row for row in rows if "/" in row["part"] or row["metric"] == "score"]
    parts = {row["part"]: _name(row) for row in select(scored, metric="score")}
    strong = [part for part in parts if part.count("/") < 2]
    note = f"{benchmark['rule']} Source: {benchmark['source']}."
    table = table_of("Scores by subset", scored, "part", columns, note=note, strong=strong)
    lines = [[parts[line[0]], *line[1:]] for line in table.rows]
    if prior := find(rows, metric="score_with_prior"):
        score = Cell(format.number(prior["value"], PERCENT), format.interval(prior, PERCENT))
        lines.append(["Overall with the prior sets", score, *[""] * (len(table.columns) - 2)])
    return table._replace(rows=lines)


def _split(row: Mapping, *names: str) -> dict:
    """A row with the names of its part as fields; "all" where there are fewer."""
    found = [*leaf(row).split("/"), *["all"] * len(names)]
    return {**row, **dict(zip(names, found, strict=False))}


def _matrix(title: str, rows: Sequence[Mapping], index: str, across: str) -> Table:
    values = dict.fromkeys(row[across] for row in rows)
    columns = [Column(value, "score", where={across: value}) for value in values]
    return table_of(title, rows, index, columns)


def _published(rows: Sequence[Mapping]) -> Table:
    """This model first, then what papers report, as published."""
    published = select(rows, metric="published")
    parts = list(dict.fromkeys(row["part"] for row in published))
    ours = []
    for part in parts:
        score = find(rows, metric="score", part=part)
        text = format.number(score["value"], PERCENT) if score else ""
        ours.append(f"{text} (part)" if text and not score.get("complete") else text)
    columns = [Column(_name({"part": part}), "published", where={"part": part}) for part in parts]
    columns.append(Column("source", "published", show=lambda row: row["source"]))
    note = (
        "As published by their authors, not measured here. A score over a part of the items is not "
        "comparable with a published one: other items may be easier or harder."
    )
    title = "Published scores"
    table = table_of(title, published, "method", columns, heading="model", note=note, folded=True)
    lines = [["this model", *ours, ""], *table.rows] if published else []
    return table._replace(rows=lines, strong=[0])


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
