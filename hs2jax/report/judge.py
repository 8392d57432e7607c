"""The page of a judge: how well its scores follow people's, and whether all layers do better than
the last one. `judge_uses` has the other tasks."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import rankdata

from hs2jax.judging import lager
from hs2jax.report import charts, format, judge_uses
from hs2jax.report.page import Answer, Case, Figure, Group, Section, Table, Verdict
from hs2jax.report.run import Column, Run, find, select, table_of

SHOWN = ("lager_w", "lager_wo")  # Whose scores are drawn: the first that is there.
NORMS = {"none": "as they are", "final": "after the final norm"}
CASES = 10  # Of the worst disagreements.
# Spearman and Pearson in LAGER (arXiv 2508.03550), Tables 1 and 5, HelpSteer without reasoning.
PUBLISHED_METHODS = ("direct", "e_score", "lager_wo", "lager_w")
PUBLISHED = {
    "Llama-3.1-8B, Spearman": (0.374, 0.464, 0.520, 0.515),
    "Llama-3.1-8B, Pearson": (0.376, 0.427, 0.483, 0.486),
    "Qwen2.5-14B, Spearman": (0.420, 0.447, 0.433, 0.443),
    "Qwen2.5-14B, Pearson": (0.428, 0.448, 0.430, 0.443),
    "Llama-3.3-70B, Spearman": (0.435, 0.444, 0.506, 0.504),
    "Llama-3.3-70B, Pearson": (0.435, 0.444, 0.506, 0.503),
}


def sections(run: Run) -> list[Section]:
    """A section for each set of scores, or the one of another task."""
    if run.result["task"] != "scores":
        return judge_uses.sections(run)
    return [_section(run, name) for name in run.sets()]


def _section(run: Run, name: str) -> Section:
    rows = select(run.rows, set=name)
    own = select(rows, preset=None)
    alone, items = select(own, part="", against=None), run.items(name)
    methods = list(dict.fromkeys(r["method"] for r in select(alone, metric="sd")))[:]
    shown = next(method for method in SHOWN if method in methods)
    scored = [item for item in items if item["scores"].get(shown) is not None]
    rated = [item for item in scored if item["human"] is not None]
    found = select(alone, metric="spearman")
    figures = judge_uses.agreement_figures(own) if found else []
    spread = charts.spread(
        run.result["scale"],
        [item["human"] for item in rated],
        [item["scores"][shown] for item in scored],
        shown,
    )
    figures.append(Figure(f"Scores by {shown}", spread))
    by_rating = Group(f"{shown} by people's rating", "Median, middle half, and 90% of the scores.")
    for criterion in dict.fromkeys(item["criterion"] for item in rated):
        some = [item for item in rated if item["criterion"] == criterion]
        drawn = charts.predicted_by_rating(
            [item["scores"][shown] for item in some], [item["human"] for item in some]
        )
        figures.append(Figure(criterion, drawn, group=by_rating))
    return Section(
        name,
        _verdicts(own, len(scored)),
        figures,
        _tables(run, rows, own),
        _worst(rated, shown),
        f"Where {shown} is farthest from people",
    )


def _verdicts(own: list[dict], scored: int) -> list[Verdict]:
    if not select(own, part="", metric="spearman", against=None):
        sentence = (
            f"{format.count(scored, 'score')}; without people's ratings nothing can be said of how "
            "good they are."
        )
        return [Verdict("unsure", "Scored, not judged", sentence)]
    return [
        verdict
        for verdict in (judge_uses.layers_verdict(own), judge_uses.agreement_verdict(own))
        if verdict
    ]


def _tables(run: Run, rows: list[dict], own: list[dict]) -> list[Table]:
    measures = [
        Column("Spearman", "spearman"),
        Column("within criteria", "spearman_within"),
        Column("Pearson", "pearson", show="plain"),
        Column("Kendall", "kendall", show="plain"),
        Column("KL", "kl", show="plain"),
        Column("MSE", "mse", show="plain"),
        Column("mean", "mean", ".2f", show="plain"),
        Column("sd", "sd", ".2f", show="plain"),
        Column("ratings", "spearman", show="n"),
    ]
    note = (
        "All criteria pooled, as the paper does, so what differs between criteria counts as well; "
        "the mean of Spearman within each criterion does not count it. KL and MSE: distance of the "
        "scores' distribution from people's. Intervals are 95%, over prompts."
    )
    alone = select(own, part="", against=None)
    tables = [table_of("Agreement with people", alone, "method", measures, note=note)]
    parts = list(dict.fromkeys(row["part"] for row in select(own, family="criterion")))
    parts = [part for part in parts if part.count("/") == 1]
    if len(parts) > 1:
        columns = [
            Column(part.partition("/")[2], "spearman", where={"part": part, "against": None})
            for part in parts
        ]
        tables.append(table_of("Spearman by criterion", own, "method", columns))
        columns = [
            Column(part.partition("/")[2], "mean", ".2f", "plain", {"part": part}) for part in parts
        ]
        tables.append(table_of("Mean scores", own, "method", columns, folded=True))
    tables.append(judge_uses.paired_table(select(own, part="")))
    others = [row for row in rows if row["part"] == "" and row.get("preset")]
    used = run.config["preset"]
    others += [row | {"preset": used} for row in select(alone, metric="spearman")]
    columns = [Column(m, "spearman", where={"method": m}) for m in lager.CROSS_LAYER]
    title = "Spearman by preset, the ways to read the method"
    tables.append(table_of(title, others, "preset", columns, strong=[used]))
    if re.search(r"helpsteer(?![0-9])", run.config["data"], re.IGNORECASE):  # Not its successors.
        tables.append(_published_table(alone))
    tables += [judge_uses.layers_table(own), judge_uses.methods_table(own, run)]
    return [table for table in tables if table.rows]


def _published_table(alone: list[dict]) -> Table:
    lines = [
        [f"this run, {metric.title()}", *(_value(alone, metric, m) for m in PUBLISHED_METHODS)]
        for metric in ("spearman", "pearson")
    ]
    lines += [[name, *(f"{x:.3f}" for x in values)] for name, values in PUBLISHED.items()]
    note = (
        "LAGER, Tables 1 and 5 (arXiv 2508.03550), HelpSteer without reasoning. Other models, "
        "other prompts and other data (2,001 ratings of its validation split): how methods "
        "compare, not what to expect here."
    )
    columns = ["", *PUBLISHED_METHODS]
    return Table("Published for HelpSteer", columns, lines, note, strong=(0, 1))


def _value(rows: Sequence[Mapping], metric: str, method: str) -> str:
    row = find(rows, metric=metric, method=method)
    return format.number(row["value"]) if row else ""


def _worst(items: list[dict], method: str) -> list[Case]:
    """Where the judge's place for an item is farthest from people's, a text only once.

    Places (shares of lower scores, of the same criterion) rather than scores: a judge that never
    leaves 2.9 to 3.1 disagrees as well.
    """
    found = []
    for name in dict.fromkeys(item["criterion"] for item in items):
        here = [item for item in items if item["criterion"] == name]
        human = (rankdata([item["human"] for item in here]) - 0.5) / len(here)
        judge = (rankdata([item["scores"][method] for item in here]) - 0.5) / len(here)
        found += zip(np.abs(judge - human), judge, here, strict=True)
    cases, seen = [], set()
    for gap, place, item in sorted(found, key=lambda entry: -entry[0]):
        text = (item["prompt"], item["response"])
        if gap == 0 or len(cases) == CASES:
            break
        if text in seen:
            continue
        seen.add(text)
        facts = [f"{key} {x:.2f}" for key, x in item["scores"].items() if x is not None]
        heading = (
            f"{item['criterion']}: people {item['human']:g}, judge {item['scores'][method]:.2f} "
            f"(above {place:.0%} of its scores), {item['source']}"
        )
        answer = Answer("Response", ", ".join(facts), item["response"])
        cases.append(Case(heading, item["prompt"], [answer]))
    return cases
