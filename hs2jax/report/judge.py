"""The page of a judge of any task: whether all layers do better than the last one, and how well
scores follow people's or the truth."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import rankdata

from hs2jax import workdir
from hs2jax.judging import lager
from hs2jax.report import charts, format
from hs2jax.report.page import Answer, Case, Figure, Group, Section, Table, Verdict, verdict_of
from hs2jax.report.run import Run, find, leaf, select, table_of

SHOWN = 10  # Of the worst disagreements, or of the rows chosen.
MEASURES = ("accuracy", "auc", "spearman")  # What a task is judged by: the first that it has.
# What the method shown is held against, and the rows that do.
HELD = {
    "chance within criteria": {"metric": "spearman_within", "against": None},
    "counting characters": {"metric": "accuracy", "against": ("longer", "shorter")},
    "calling everything unanswerable": {"part": "threshold/fitted", "metric": "f1"},
}
WAYS = {
    "way/question": "Asked which of two is better, in both orders",
    "way/pointwise": "Scoring each response by itself",
    "threshold/published": "Threshold three quarters of the way from the least to the greatest",
    "threshold/fitted": "Threshold that is best on the other folds",
}
NOTES = {
    "scores": "All criteria pooled, as the paper does, so what differs between criteria counts as "
    "well; the mean of Spearman within each criterion does not count it. KL and MSE: distance of "
    "the scores' distribution from people's. Intervals are 95%, over prompts.",
    "pairs": "Equal scores count as wrong, or as half where it says so.",
    "emotions": "People rate from 0 to 10, the judge from 1 to 9. Intervals count that what is "
    "asked about one dialogue hangs together.",
    "knowledge": "Unanswerable is the class that F1, precision and recall are of.",
    "selection": "Mean characters of what each way chooses, and how much of it was selected. "
    "Spearman: of its order of all rows with the order that was used. Tied: rows as good as the "
    "last one that it chooses.",
}
UNJUDGED = (
    ("Scored, not judged", "without people's ratings nothing can be said of how good they are"),
    ("Chosen, not judged", "whether it is better to train on them is not measured here"),
)
PAIRED = (
    "On the same items; p counts that those of one prompt hang together. Of many tests some come "
    "out below 0.05 by chance: p is not corrected for that."
)
BASELINES = {
    "gpt_score": "mean log-probability of the response's tokens, after GPTScore",
    "ridge_probe": "linear regression on the model's states, by other prompts' ratings",
    "reward_model": "the score of a reward model",
}
# LAGER (arXiv 2508.03550), Table 1 without reasoning: Spearman on HelpSteer and on 430 of
# EQ-Bench's intensities that its authors chose; F1 by the published threshold on SelfAware.
METHODS = ("direct", "e_score", "lager_wo", "lager_w")
PUBLISHED = {
    "scores": {
        "Llama-3.1-8B": (0.374, 0.464, 0.520, 0.515),
        "Qwen2.5-14B": (0.420, 0.447, 0.433, 0.443),
        "Llama-3.3-70B": (0.435, 0.444, 0.506, 0.504),
    },
    "emotions": {
        "Mistral-7B-v0.3": (0.596, 0.618, 0.632, 0.635),
        "Llama-3.1-8B": (0.478, 0.652, 0.653, 0.657),
        "Qwen2.5-14B": (0.707, 0.759, 0.758, 0.763),
    },
    "knowledge": {
        "Mistral-7B-v0.3": (0.605, 0.620, 0.620, 0.624),
        "Llama-3.1-8B": (0.553, 0.574, 0.590, 0.570),
    },
}


def sections(run: Run) -> list[Section]:
    """Show each set that was judged."""
    return [_section(run, name) for name in run.sets()]


def _section(run: Run, name: str) -> Section:
    rows, task = select(run.rows, set=name, preset=None), run.result["task"]
    measured = [metric for metric in MEASURES if select(rows, metric=metric, reference=(0.0, 0.5))]
    shown = next(m for m in lager.CROSS_LAYER if find(rows, method=m, part=_main_parts(rows)))
    rated = [item for item in run.items(name) if item["human"] is not None]
    rated = [item for item in rated if item["scores"].get(shown) is not None]
    verdicts = [_layers(rows, measured[0]), *_held(rows, measured[0], shown)] if measured else []
    if not verdicts:
        known = select(rows, part="", metric=("responses", "rows", "selected"))
        numbers = [f"{row['value']:,.0f} {format.words_of(row['metric'])}" for row in known]
        label, lacking = UNJUDGED[task == "selection"]
        verdicts = [Verdict("unsure", label, f"{', '.join(numbers)}; {lacking}.")]
    cases, title = _worst(rated, shown), f"Where {shown} is farthest from people"
    if task == "selection":
        cases, title = _chosen(run), "The first rows that were chosen, in the file's order"
    figures = [*_methods(rows, measured), *_layers_figures(rows), *_scores(run, name, shown, rated)]
    tables = _tables(run, name, rows)
    return Section(name, list(filter(None, verdicts)), figures, tables, cases, title)


def _main_parts(rows: Sequence[Mapping]) -> list[str]:
    """Name the parts that stand for all of a set: ways to ask, or all of it."""
    return [way for way in WAYS if way.startswith("way/") and select(rows, part=way)] or [""]


# Verdicts ---------------------------------------------------------------------------------------


def _layers(rows: Sequence[Mapping], metric: str) -> Verdict | None:
    """Say by the paired difference whether the cross-layer score does better than the last layer's:
    the tuned one where it was tested, else the untuned one; None where neither was."""
    about = {"part": "", "against": "e_score"}
    tests = [find(rows, metric=metric, method=m, **about) for m in lager.CROSS_LAYER]
    test = next((each for each in tests if each and each["value"] is not None), None)
    if test is None:
        return None
    kind = "tuned" if test["method"] in lager.WEIGHTED else "untuned"
    sentence = (
        f"In {format.words_of(metric)} the {kind} cross-layer score ({test['method']}) differs by "
        f"{format.value(test, '+.3f')} from e_score, on the same items."
    )
    if within := find(rows, metric=f"{metric}_within", method=test["method"], **about):
        sentence += f" In the mean within criteria it differs by {format.value(within, '+.3f')}."
    found = verdict_of({"the last one": test}, sentence)
    return found._replace(label=f"All layers, {kind}: {found.label[0].lower()}{found.label[1:]}")


def _held(rows: Sequence[Mapping], metric: str, shown: str) -> list[Verdict]:
    """Hold the method that is shown against chance, and whatever else there is."""
    said = []
    for part in _main_parts(rows):
        own = find(rows, part=part, metric=metric, method=shown, against=None)
        if own is None or own["value"] is None:
            sentence = "All ratings or all scores are equal: nothing follows from them."
            said.append(Verdict("unsure", "Scored, not judged", sentence))
            continue
        held = {"chance": own}
        for than, where in HELD.items():
            if row := find(rows, **{"part": part, "method": shown, **where}):
                held[than] = row
        numbers = [
            f"{format.words_of(row['metric'])} {format.value(row, format.form_of(row['metric']))}"
            if row["reference"] or not row.get("against")
            else f"{format.value(row, format.POINTS)} over preferring the {row['against']} response"
            for row in held.values()
        ]
        way = f"{WAYS[part]}: " if part else ""
        sentence = f"{way}{shown} has {'; '.join(numbers)}; on {own['n']:,} in all."
        said.append(verdict_of(held, sentence))
    return said


# Figures ----------------------------------------------------------------------------------------


def _methods(rows: Sequence[Mapping], measured: Sequence[str]) -> list[Figure]:
    """Draw a forest of all methods, for each way to ask."""
    drawn = []
    for part in _main_parts(rows) if measured else []:
        metric = measured[0]
        found = select(rows, part=["", part], metric=metric, against=None)
        tracks = [charts.track(row, row["method"]) for row in found]
        form, chance = format.form_of(metric), found[0]["reference"]
        title = f"{WAYS[part]}: " if part else ""
        svg = charts.intervals(tracks, form, reference=chance)
        caption = f"{title}{format.words_of(metric)}, 95% intervals"
        drawn.append(Figure(caption, svg, chief=True))
    return drawn


def _layers_figures(rows: Sequence[Mapping]) -> list[Figure]:
    """Draw each layer's own score beside those of all layers, and the layers' weights."""
    lines: dict[str, list] = {}
    for row in select(rows, family="layer", metric="spearman"):
        lines.setdefault(f"norm: {row['method']}", []).append((int(leaf(row)), row["value"]))
    named = [*lager.CROSS_LAYER, *lager.LAST_LAYER]
    found = select(rows, part="", metric="spearman", method=named, against=None)
    across = {row["method"]: row["value"] for row in found if row["value"] is not None}
    weights: dict[int | None, list] = {None: []}
    for row in select(rows, family="layer", metric="weight"):
        weights.setdefault(row.get("fold"), []).append((int(leaf(row)), row["value"]))
    mean = {"weight": weights.pop(None)}
    return [
        Figure("Spearman of each layer's own score", charts.curves(lines, "layer", across=across)),
        Figure("Weights by layer", charts.curves(mean, "layer", faint=[*weights.values()])),
    ]


def _scores(run: Run, name: str, shown: str, rated: Sequence[Mapping]) -> list[Figure]:
    """Draw how scores are spread, and how they follow people's by criterion."""
    given = [item["scores"].get(shown) for item in run.items(name)]
    given += [line["means"].get(shown) for line in _lines(run, "scores.jsonl")]
    sides = {"people": [i["human"] for i in rated], shown: [x for x in given if x is not None]}
    drawn = [Figure(f"Scores by {shown}", charts.histograms(sides, "score"))]
    group = Group(f"{shown} by people's rating", "Median, middle half, and 90% of the scores.")
    for criterion in dict.fromkeys(item["criterion"] for item in rated):
        some = [item for item in rated if item["criterion"] == criterion]
        both = [item["scores"][shown] for item in some], [item["human"] for item in some]
        drawn.append(Figure(criterion, charts.predicted_by_rating(*both), group=group))
    return drawn


# Tables -----------------------------------------------------------------------------------------


def _tables(run: Run, name: str, rows: Sequence[Mapping]) -> list[Table]:
    task, methods = run.result["task"], [row for row in rows if row.get("method")]
    alone = select(methods, against=None)
    tests = [
        {**row, "of": row["part"] or None, "pair": f"{row['method']}\u00a0−\u00a0{row['against']}"}
        for row in rows
        if row.get("against")
    ]
    tables = []
    for part in ["", *WAYS]:
        note = "" if part else NOTES[task]
        title = WAYS.get(part, "Methods")
        tables.append(table_of(title, select(alone, part=part), "method", note=note))
    of_each = [{**row, "criterion": leaf(row)} for row in select(alone, family="criterion")]
    of_each = [row for row in of_each if "/" not in row["criterion"]]  # No single layers.
    for metric in ("spearman", "mean", "sd"):
        found, title = select(of_each, metric=metric), f"{format.words_of(metric)} by criterion"
        across = {"across": "criterion", "folded": metric != "spearman"}
        tables.append(table_of(title.capitalize(), found, "method", **across))
    between = [row for row in tests if not row["part"].startswith("criterion/")]
    tables.append(table_of("Paired differences", between, "pair", across="of", note=PAIRED))
    found = select(tests, family="criterion", metric="spearman")
    found = [{**row, "criterion": leaf(row)} for row in found]
    title = "Paired differences of Spearman by criterion"
    tables.append(table_of(title, found, "pair", across="criterion", folded=True))
    used = run.config["preset"]
    presets = [row for row in select(run.rows, set=name, part="") if row.get("preset")]
    if presets:
        own = select(alone, part="", metric="spearman", method=lager.CROSS_LAYER)
        presets += [{**row, "preset": used} for row in own]
    title = "Spearman by preset, the ways to read the method"
    tables.append(table_of(title, presets, "preset", strong=[used]))
    note = "The norm before each layer's scores: none, or the model's final one."
    layers = select(rows, family="layer", fold=None)
    tables.append(table_of("By layer", layers, "leaf", note=note, folded=True))
    return [*tables, _published(run, alone), _meanings(run, methods)]


def _published(run: Run, rows: Sequence[Mapping]) -> Table:
    """Tell the paper's numbers for the same methods."""
    task, data = run.result["task"], run.config["data"]
    known = task != "scores" or ("helpsteer" in data and "helpsteer2" not in data)
    others = PUBLISHED.get(task, {}) if known else {}
    metric, part = ("f1", "threshold/published") if task == "knowledge" else ("spearman", "")
    here = {row["method"]: row["value"] for row in select(rows, metric=metric, part=part)}
    lines = {"this run": [here.get(name) for name in METHODS], **others} if others else {}
    note = (
        "LAGER (arXiv 2508.03550). Other models, prompts and selections of the data: how methods "
        "compare, not what to expect here."
    )
    cells = [[model, *map(format.number, numbers)] for model, numbers in lines.items()]
    title = f"Published: {format.words_of(metric)}"
    return Table(title, ["", *METHODS], cells, note, strong=[0])


def _meanings(run: Run, rows: Sequence[Mapping]) -> Table:
    """Explain the methods' names, and where tuned weights come from."""
    meaning = dict(BASELINES)
    for name, way in lager.AGGREGATIONS.items():
        layers = f"{way.of} of all layers, {'tuned' if way.weighted else 'even'} weights"
        by = "the last layer" if way.of == "last" else layers
        meaning[name] = f"{'expected' if way.expectation else 'likeliest'} score by {by}"
    names = dict.fromkeys(row["method"] for row in rows)
    lines = [[name, meaning[name]] for name in names if name in meaning]
    note = "The names are those of LAGER's Table 2 (arXiv 2508.03550) and its repository."
    if run.result["weights_from"]:
        note += f" Tuned weights are from: {run.result['weights_from']}."
    return Table("What the methods are", ["", ""], lines, note, folded=True)


# Cases ------------------------------------------------------------------------------------------


def _worst(items: Sequence[Mapping], method: str) -> list[Case]:
    """Show where the judge's place for an item is farthest from people's, a text only once.

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
        if gap > 0 and len(cases) < SHOWN:
            facts = [f"{key} {x:.2f}" for key, x in item["scores"].items() if x is not None]
            heading = (
                f"{item['criterion']}: people {item['human']:g}, judge "
                f"{item['scores'][method]:.2f} (above {place:.0%} of its scores), {item['source']}"
            )
            answer = Answer("Response", ", ".join(facts), item["response"])
            case = Case(heading, item["prompt"], [answer])
            cases.setdefault((item["prompt"], item["response"]), case)
    return list(cases.values())


def _chosen(run: Run) -> list[Case]:
    cases = []
    for place, line in enumerate(_lines(run, "selected.jsonl")[:SHOWN], 1):
        facts = "\n".join(f"{key}: {value}" for key, value in line.items())
        cases.append(Case(f"{place}.", "", [Answer("Row", "", facts[:600])]))
    return cases


def _lines(run: Run, name: str) -> list[dict]:
    path = run.folder / name
    return workdir.read_rows(path) if path.exists() else []
