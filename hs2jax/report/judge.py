"""The page of a judge: whether all layers do better than the last one, and how well scores follow
people's. `judge_uses` has the tasks other than scores."""

import re
from collections.abc import Mapping

import numpy as np
from scipy.stats import rankdata

from hs2jax.judging import lager
from hs2jax.report import charts, format, judge_uses
from hs2jax.report.judge_uses import MEASURES, NORMS
from hs2jax.report.page import Answer, Case, Figure, Group, Section, Table, Verdict
from hs2jax.report.run import Column, Run, find, select, table_of

CASES = 10  # Of the worst disagreements.
# LAGER (arXiv 2508.03550), Table 1, HelpSteer without reasoning: Spearman.
PUBLISHED = {
    "Llama-3.1-8B": {"direct": 0.374, "e_score": 0.464, "lager_wo": 0.520, "lager_w": 0.515},
    "Qwen2.5-14B": {"direct": 0.420, "e_score": 0.447, "lager_wo": 0.433, "lager_w": 0.443},
    "Llama-3.3-70B": {"direct": 0.435, "e_score": 0.444, "lager_wo": 0.506, "lager_w": 0.504},
}


def sections(run: Run) -> list[Section]:
    """A section for each set of scores, or the one of another task."""
    if run.result["task"] != "scores":
        return [judge_uses.section(run)]
    return [_section(run, name) for name in run.sets()]


def _section(run: Run, name: str) -> Section:
    rows, items = select(run.rows, set=name, preset=None), run.items(name)
    shown = next(m for m in lager.CROSS_LAYER if find(rows, metric="mean", method=m))
    scored = [item for item in items if item["scores"].get(shown) is not None]
    rated = [item for item in scored if item["human"] is not None]
    people, scores = ([item["human"] for item in rated], [i["scores"][shown] for i in scored])
    figures = judge_uses.agreement_figures(rows) if rated else []
    spread = charts.histograms({"people": people, shown: scores}, "score")
    figures.append(Figure(f"Scores by {shown}", spread))
    by_rating = Group(f"{shown} by people's rating", "Median, middle half, and 90% of the scores.")
    for criterion in dict.fromkeys(item["criterion"] for item in rated):
        some = [item for item in rated if item["criterion"] == criterion]
        sides = [item["scores"][shown] for item in some], [item["human"] for item in some]
        figures.append(Figure(criterion, charts.predicted_by_rating(*sides), group=by_rating))
    verdicts = [judge_uses.layers_verdict(rows), judge_uses.agreement_verdict(rows)]
    if not rated:
        sentence = (
            f"{format.count(len(scored), 'score')}; without people's ratings nothing can be said "
            "of how good they are."
        )
        verdicts = [Verdict("unsure", "Scored, not judged", sentence)]
    tables, title = _tables(run, name, rows), f"Where {shown} is farthest from people"
    return Section(name, list(filter(None, verdicts)), figures, tables, _worst(rated, shown), title)


def _tables(run: Run, name: str, rows: list[dict]) -> list[Table]:
    columns = [
        Column("Spearman", "spearman"),
        Column("within criteria", "spearman_within"),
        *(Column(metric.title(), metric, show="plain") for metric in ("pearson", "kendall")),
        *(Column(metric.upper(), metric, show="plain") for metric in ("kl", "mse")),
        *(Column(metric, metric, ".2f", "plain") for metric in ("mean", "sd")),
        Column("ratings", "spearman", show="n"),
    ]
    note = (
        "All criteria pooled, as the paper does, so what differs between criteria counts as well; "
        "the mean of Spearman within each criterion does not count it. KL and MSE: distance of the "
        "scores' distribution from people's. Intervals are 95%, over prompts."
    )
    alone = select(rows, part="", against=None)
    parts = dict.fromkeys(r["part"] for r in select(rows, family="criterion", metric="mean"))
    of_each = {part.partition("/")[2]: {"part": part, "against": None} for part in parts}
    used = run.config["preset"]
    presets = [row for row in select(run.rows, set=name, part="") if row.get("preset")]
    presets += [row | {"preset": used} for row in select(alone, metric="spearman")]
    layers = [Column(w, "spearman", show="plain", where={"method": n}) for n, w in NORMS.items()]
    layers.append(Column("weight", "weight", show="plain", where={"fold": None}))
    return [
        table_of("Agreement with people", alone, "method", columns, note=note),
        table_of(
            "Spearman by criterion",
            rows,
            "method",
            [Column(words, "spearman", where=where) for words, where in of_each.items()],
        ),
        table_of(
            "Mean scores by criterion",
            rows,
            "method",
            [Column(words, "mean", ".2f", "plain", where) for words, where in of_each.items()],
            folded=True,
        ),
        judge_uses.paired_table(rows, MEASURES | {"within criteria": ("", "spearman_within")}),
        table_of(
            "Spearman by preset, the ways to read the method",
            presets,
            "preset",
            [Column(m, "spearman", where={"method": m}) for m in lager.CROSS_LAYER],
            strong=[used],
        ),
        *(
            [judge_uses.published_table("HelpSteer, Spearman", alone, "spearman", PUBLISHED)]
            if re.search("helpsteer(?![0-9])", run.config["data"])  # Not its successors.
            else []
        ),
        table_of("By layer", select(rows, family="layer"), "leaf", layers, folded=True),
        judge_uses.methods_table(rows, run),
    ]


def _worst(items: list[dict], method: str) -> list[Case]:
    """The items where the judge's place is farthest from people's, a text only once.

    Places (shares of lower scores, of the same criterion) rather than scores: a judge that never
    leaves 2.9 to 3.1 disagrees as well.
    """
    found: list[tuple[float, float, Mapping]] = []
    for name in dict.fromkeys(item["criterion"] for item in items):
        here = [item for item in items if item["criterion"] == name]
        human = (rankdata([item["human"] for item in here]) - 0.5) / len(here)
        judge = (rankdata([item["scores"][method] for item in here]) - 0.5) / len(here)
        found += zip(np.abs(judge - human), judge, here, strict=True)
    cases = {}
    for gap, place, item in sorted(found, key=lambda entry: -entry[0]):
        if gap > 0 and len(cases) < CASES:
            facts = [f"{key} {x:.2f}" for key, x in item["scores"].items() if x is not None]
            heading = (
                f"{item['criterion']}: people {item['human']:g}, judge "
                f"{item['scores'][method]:.2f} (above {place:.0%} of its scores), {item['source']}"
            )
            answer = Answer("Response", ", ".join(facts), item["response"])
            case = Case(heading, item["prompt"], [answer])
            cases.setdefault((item["prompt"], item["response"]), case)
    return list(cases.values())
