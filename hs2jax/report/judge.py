"""The page of a judge of any task: whether all layers do better than the last one, and how well
scores follow people's or the truth."""

from collections.abc import Mapping, Sequence

import numpy as np
import scipy

from hs2jax.judging import lager
from hs2jax.report import charts, format
from hs2jax.report.evaluate import rated_figure
from hs2jax.report.page import Answer, Case, Figure, Section, Table
from hs2jax.report.run import Run, find, select
from hs2jax.report.views import view

SHOWN = 10  # Of the worst disagreements, or of the rows chosen.


def sections(run: Run) -> list[Section]:
    """Show each set that was judged."""
    return [_section(run, name) for name in run.sets()]


def _section(run: Run, name: str) -> Section:
    every = select(run.rows, set=name)
    rows = select(every, preset=None)
    fitted, even = lager.CROSS_LAYER
    shown = fitted if find(rows, method=fitted, family=("", "way")) else even
    rated = [item for item in run.items(name) if item["human"] is not None]
    rated = [item for item in rated if item["scores"].get(shown) is not None]
    cases, title = _worst(rated, shown), f"Where {shown} is farthest from people"
    if chosen := run.read("selected.jsonl")[:SHOWN]:
        lines = [Answer("", "", "\n".join(format.listing(row).values())[:600]) for row in chosen]
        cases, title = [Case("Rows", "", lines)], "The first rows that were chosen"
    presets = [{"preset": run.config["preset"]} | row for row in every]
    verdicts, parts = view("judge", rows)
    parts = [
        *parts,
        *_scores(run, name, shown, rated),
        *view("presets", presets, [run.config["preset"]])[1],
        _meanings(rows, run.result["weights_from"]),
    ]
    return Section(name, verdicts, parts, cases, title, format.WORDS["tasks"][run.result["task"]])


def _scores(run: Run, name: str, shown: str, rated: Sequence[Mapping]) -> list[Figure]:
    """Draw how scores are spread, and how they follow people's by criterion."""
    given = [item["scores"].get(shown) for item in run.items(name)]
    given += [line["means"].get(shown) for line in run.read("scores.jsonl")]
    sides = {"people": [i["human"] for i in rated], shown: [x for x in given if x is not None]}
    drawn = [Figure(f"Scores by {shown}", charts.histograms(sides, "score"))]
    for criterion in dict.fromkeys(item["criterion"] for item in rated):
        some = [item for item in rated if item["criterion"] == criterion]
        both = [item["scores"][shown] for item in some], [item["human"] for item in some]
        drawn.append(rated_figure(criterion, *both))
    return drawn


def _meanings(rows: Sequence[Mapping], source: str) -> Table:
    """Say what methods are that rows have."""
    known, title = format.WORDS["methods"], "What the methods are"
    methods = dict.fromkeys(row["method"] for row in select(rows, method="*", against=None))
    lines = [[method, known[method]] for method in methods if method in known]
    note = "The names are those of LAGER's Table 2 (arXiv 2508.03550) and its repository."
    note += f" Tuned weights are from: {source}." if source else ""
    return Table(title, ["", ""], lines, note, folded=True)


def _worst(items: Sequence[Mapping], method: str) -> list[Case]:
    """Show where the judge's place for an item is farthest from people's, a text only once.

    Places among scores of the same criterion: a judge that never leaves 2.9 to 3.1 disagrees too.
    """
    found: list[tuple[float, float, Mapping]] = []
    for name in dict.fromkeys(item["criterion"] for item in items):
        here = [item for item in items if item["criterion"] == name]
        human, judge = (
            (scipy.stats.rankdata(scores) - 0.5) / len(here)
            for scores in ([i["human"] for i in here], [i["scores"][method] for i in here])
        )
        found += zip(np.abs(judge - human), judge, here, strict=True)
    cases: dict[tuple[str, str], Case] = {}
    for gap, place, item in sorted(found, key=lambda entry: -entry[0]):
        if gap > 0 and len(cases) < SHOWN:
            facts = [f"{key} {x:.2f}" for key, x in item["scores"].items() if x is not None]
            heading = f"{item['criterion']}: people {item['human']:g}, judge "
            heading += f"{item['scores'][method]:.2f} (above {place:.0%} of its scores), "
            answer = Answer("Response", ", ".join(facts), item["response"])
            case = Case(heading + item["source"], item["prompt"], [answer])
            cases.setdefault((item["prompt"], item["response"]), case)
    return list(cases.values())
