"""The pages of a judge's other tasks (pairs, selection, emotions, knowledge), and what they share
with that of scores."""

from collections.abc import Sequence

from hs2jax import workdir
from hs2jax.judging import lager
from hs2jax.report import charts, format
from hs2jax.report.page import Answer, Case, Figure, Section, Table, Verdict, verdict_of
from hs2jax.report.run import Column, Run, find, leaf, select, table_of

NORMS = {"none": "as they are", "final": "after the final norm"}
BASELINES = {
    "gpt_score": "mean log-probability of the response's tokens, after GPTScore",
    "ridge_probe": "linear regression on the model's states, by other prompts' ratings",
    "reward_model": "the score of a reward model",
}
MEASURES = {"spearman": "Spearman", "pearson": "Pearson", "kendall": "Kendall"}
SHOWN = 10  # Rows of a selection, with their texts or scores.
# LAGER (arXiv 2508.03550): Spearman on 430 of EQ-Bench's intensities that its authors chose, and F1
# by the published threshold on SelfAware.
PUBLISHED_EMOTIONS = {
    "Mistral-7B-v0.3": {"direct": 0.596, "e_score": 0.618, "lager_wo": 0.632, "lager_w": 0.635},
    "Llama-3.1-8B": {"direct": 0.478, "e_score": 0.652, "lager_wo": 0.653, "lager_w": 0.657},
    "Qwen2.5-14B": {"direct": 0.707, "e_score": 0.759, "lager_wo": 0.758, "lager_w": 0.763},
}
PUBLISHED_KNOWLEDGE = {
    "Mistral-7B-v0.3": {"direct": 0.605, "e_score": 0.620, "lager_wo": 0.620, "lager_w": 0.624},
    "Llama-3.1-8B": {"direct": 0.553, "e_score": 0.574, "lager_wo": 0.590, "lager_w": 0.570},
}


def sections(run: Run) -> list[Section]:
    """The section of a task other than scores."""
    made = {
        "pairs": _pairs,
        "selection": _selection,
        "emotions": _emotions,
        "knowledge": _knowledge,
    }[run.result["task"]](run)
    return [made._replace(tables=[table for table in made.tables if table.rows])]


# What all have ----------------------------------------------------------------------------------


def best_of(rows: Sequence[dict]) -> dict | None:
    """The row with the greatest value."""
    return max((r for r in rows if r["value"] is not None), key=lambda r: r["value"], default=None)


def layers_verdict(rows: list[dict], metric: str = "spearman", name: str = "Spearman"):
    """Whether the cross-layer score follows people better than the last layer's, by the paired
    difference; of the tuned one where it was tested, else of the untuned one."""
    tests = [
        find(rows, part="", metric=metric, method=ours, against="e_score")
        for ours in lager.CROSS_LAYER
    ]
    test = next((each for each in tests if each and each["value"] is not None), None)
    if test is None:
        return None
    kind = {"lager_w": "tuned", "lager_wo": "untuned"}[test["method"]]
    sentence = (
        f"In {name} the {kind} cross-layer score ({test['method']}) differs by "
        f"{format.value(test, '+.3f')} from e_score, on the same items."
    )
    within = {"part": "", "metric": f"{metric}_within"}
    if within := find(rows, **within, method=test["method"], against="e_score"):
        sentence += f" In the mean within criteria it differs by {format.value(within, '+.3f')}."
    found = verdict_of({"the last one": test}, sentence)
    return found._replace(label=f"All layers, {kind}: {found.label[0].lower()}{found.label[1:]}")


def agreement_verdict(rows: list[dict]) -> Verdict:
    """How well the best method follows people."""
    found = select(rows, part="", metric="spearman", against=None)
    top = best_of(found)
    if top is None:
        sentence = "No correlation with people is defined: all ratings or all scores are equal."
        return Verdict("unsure", "Scored, not judged", sentence)
    sentence = (
        f"{top['method']} follows people's ratings best of {format.count(len(found), 'way')} to "
        f"score: Spearman {format.value(top)} over {format.count(top['n'], 'rating')}."
    )
    within = find(rows, part="", metric="spearman_within", method=top["method"], against=None)
    if within:
        sentence += (
            " That counts what differs between criteria, too; within a criterion it is "
            f"{format.value(within)} in the mean."
        )
    if len(found) > 1:
        sentence += " As the best of several, picked by these ratings, it looks a little too good."
    held = {"chance": top}
    if within:
        held = {"chance over all criteria": top, "within them": within}
    return verdict_of(held, sentence)


def agreement_figures(rows: list[dict]) -> list[Figure]:
    """The methods' correlations, that of each layer, and the layers' weights."""
    found = select(rows, part="", metric="spearman", against=None)
    tracks = [charts.track(row, row["method"]) for row in found]
    forest = charts.intervals(tracks, "number", reference=0, reference_name="no relation")
    lines = {
        words: [(int(leaf(r)), r["value"]) for r in select(rows, family="layer", method=norm)]
        for norm, words in NORMS.items()
    }
    names = (*lager.CROSS_LAYER, "e_score", "direct")
    across = {r["method"]: r["value"] for r in found if r["method"] in names and r["value"]}
    curve = charts.curves(lines, "layer", "number", across=across) if any(lines.values()) else ""
    figures = [
        Figure("Spearman's correlation with people, 95% intervals", forest, chief=True),
        Figure("Spearman's correlation of each layer's own score", curve, chief=True),
        Figure("Weights by layer", weights_chart(rows)),
    ]
    return [figure for figure in figures if figure.svg]


def weights_chart(rows: list[dict]) -> str:
    """The layers' weights, those of each fold faint."""
    found = select(rows, family="layer", metric="weight")
    folds = dict.fromkeys(row["fold"] for row in found if "fold" in row)
    lines = {
        fold: [(int(leaf(r)), r["value"]) for r in select(found, fold=fold)]
        for fold in (None, *folds)
    }
    faint = [lines[fold] for fold in folds]
    return charts.curves({"weight": lines[None]}, "layer", "number", faint=faint) if found else ""


def paired_table(rows: list[dict], measures: dict[str, str] = MEASURES) -> Table:
    """Differences of two methods on the same items."""
    rows = [row for row in rows if row.get("against")]
    within = {"spearman_within": "within criteria"} if "spearman" in measures else {}
    columns = []
    for metric, words in (measures | within).items():
        columns += [Column(words, metric, "+.3f"), Column(f"{words}, p", metric, show="p")]
    note = (
        "On the same items; p counts that those of one prompt hang together. Of many tests some "
        "come out below 0.05 by chance: p is not corrected for that."
    )
    # Names and sign stay on one line.
    return table_of(
        "Paired differences",
        rows,
        lambda row: f"{row['method']}\u00a0−\u00a0{row['against']}",
        columns,
        note=note,
    )


def layers_table(rows: list[dict]) -> Table:
    """What stands in the curves."""
    columns = [
        Column(words, "spearman", show="plain", where={"method": norm})
        for norm, words in NORMS.items()
    ]
    columns.append(Column("weight", "weight", show="plain", where={"fold": None}))
    note = (
        "Spearman of each layer's own expected score. Layer 0 is the embedding; the last one is "
        "after the final norm in both."
    )
    found = select(rows, family="layer")
    return table_of("By layer", found, "leaf", columns, heading="layer", note=note, folded=True)


def methods_table(rows: list[dict], run: Run) -> Table:
    """The meaning of the methods' names, and where tuned weights come from."""
    lines = []
    for name in dict.fromkeys(filter(None, (row.get("method") for row in rows))):
        if way := lager.AGGREGATIONS.get(name):
            words = f"{'expected' if way.expectation else 'likeliest'} score by "
            words += (
                "the last layer"
                if way.of == "last"
                else f"{way.of} of all layers, {'tuned' if way.weighted else 'even'} weights"
            )
            lines.append([name, words])
        elif name in BASELINES:
            lines.append([name, BASELINES[name]])
    note = "The names are those of LAGER's Table 2 (arXiv 2508.03550) and its repository."
    if run.result["weights_from"] == "cross-validate":
        note += " Tuned weights are cross-validated: fitted on the ratings of other prompts."
    elif run.result["weights_from"]:
        note += f" Tuned weights are from {run.result['weights_from']}."
    return Table("What the methods are", ["", ""], lines, note, folded=True)


# Tasks ------------------------------------------------------------------------------------------


def _pairs(run: Run) -> Section:
    verdicts, figures, tables = [], [], []
    for way, asked in (
        ("question", "Asked which of two is better, in both orders"),
        ("pointwise", "Scoring each response by itself"),
    ):
        rows = select(run.rows, part=f"way/{way}")
        accuracies = select(rows, metric="accuracy", against=None)
        name = next(m for m in lager.CROSS_LAYER if find(accuracies, method=m))
        own = find(accuracies, method=name)
        (lead,) = [r for r in rows if r.get("against") and r["method"] == name]
        sentence = (
            f"{asked}, {name} agrees with people on {format.value(own, 'percent')} of "
            f"{format.count(own['n'], 'pair')}, {format.value(lead, 'points')} points more than "
            f"the rule that the {lead['against']} response wins."
        )
        if both := find(rows, metric="consistency", method=name):
            shown = format.number(both["value"], "percent")
            sentence += f" Both orders name the same response in {shown}."
        held = {"chance": own, "counting characters": lead}
        verdicts.append(verdict_of(held, sentence))
        baselines = select(run.rows, part="", metric="accuracy")
        tracks = [charts.track(row, row["method"]) for row in (*accuracies, *baselines)]
        drawn = charts.intervals(tracks, "percent", span=(0, 1), reference=0.5)
        figures.append(Figure(f"{asked}: share of pairs", drawn, chief=True))
        columns = [
            Column("right", "accuracy", "percent", where={"against": None}),
            Column("lead, points", "accuracy", "points", where={"against": lead["against"]}),
            Column("equal as half", "accuracy_half_credit", "percent"),
            Column("equal", "equal", "count"),
            Column("same in both orders", "consistency", "percent"),
            Column("says A", "says_a", "percent"),
        ]
        note = f"Lead: over “the {lead['against']} response wins”, on the same pairs. Equal scores "
        note += "count as wrong, or as half a point where it says so."
        tables.append(
            table_of(asked, rows + select(run.rows, part=""), "method", columns, note=note)
        )
    tables.append(methods_table(run.rows, run))
    return Section("Which response is better", verdicts, figures, tables)


def _emotions(run: Run) -> Section:
    rows = run.rows
    verdicts = [each for each in (layers_verdict(rows), agreement_verdict(rows)) if each]
    columns = [Column(words, metric) for metric, words in MEASURES.items()]
    columns += [Column("mean", "mean", ".2f", "plain"), Column("sd", "sd", ".2f", "plain")]
    note = (
        "People rate from 0 to 10, the judge from 1 to 9. Intervals count that what is asked about "
        "one dialogue hangs together."
    )
    alone = select(rows, part="", against=None)
    tables = [
        table_of("Agreement with people", alone, "method", columns, note=note),
        paired_table(select(rows, part="")),
        _published("Spearman published for EQ-Bench", alone, "spearman", PUBLISHED_EMOTIONS),
        layers_table(rows),
        methods_table(rows, run),
    ]
    return Section("Emotions in dialogues", verdicts, agreement_figures(rows), tables)


def _knowledge(run: Run) -> Section:
    rows = run.rows
    found = select(rows, part="", metric="auc", against=None)
    top = best_of(found)
    fitted = find(rows, part="threshold/fitted", metric="f1", method=top["method"], against=None)
    sentence = (
        f"{top['method']} tells unanswerable questions from others best of "
        f"{format.count(len(found), 'way')} to score: AUC {format.value(top)} over "
        f"{format.count(top['n'], 'question')}; picked as the best, it looks a little too good. By "
        f"a threshold fitted on other questions its F1 is {format.value(fitted)}; calling all "
        f"unanswerable has {format.number(fitted['reference'])}."
    )
    verdicts = [
        layers_verdict(rows, "auc", "AUC"),
        verdict_of({"chance": top, "calling everything unanswerable": fitted}, sentence),
    ]
    tracks = [charts.track(row, row["method"]) for row in found]
    forest = charts.intervals(tracks, "number", reference=0.5)
    figures = [
        Figure("AUC, 95% intervals", forest, chief=True),
        Figure("Weights by layer", weights_chart(rows)),
    ]
    parts = {"": "AUC"} | {f"threshold/{kind}": f"F1, {kind}" for kind in ("published", "fitted")}
    columns, threshold_columns = [], []
    for part, words in parts.items():
        where = {"part": part, "against": None}
        columns.append(Column(words, "f1" if part else "auc", where=where))
        for metric in ("threshold", "precision", "recall") if part else ():
            title = f"{metric}, {leaf({'part': part})}"
            threshold_columns.append(Column(title, metric, show="plain", where={"part": part}))
    note = (
        "Unanswerable is the class that F1 is of. Published threshold: three quarters of the way "
        "from the least score to the greatest. Fitted: the one that is best on the other folds."
    )
    published = select(rows, part="threshold/published", against=None)
    tables = [
        table_of("Telling what cannot be answered", rows, "method", columns, note=note),
        *(
            paired_table(select(rows, part=part), {metric: words})._replace(
                title=f"Paired differences, {words}"
            )
            for part, words in parts.items()
            for metric in ("f1" if part else "auc",)
        ),
        _published("F1 published for SelfAware", published, "f1", PUBLISHED_KNOWLEDGE),
        table_of("Thresholds", rows, "method", threshold_columns, folded=True),
        methods_table(rows, run),
    ]
    return Section("What can be answered", verdicts, figures, tables)


def _published(title: str, rows: list[dict], metric: str, others: dict[str, dict]) -> Table:
    names = list(next(iter(others.values())))
    here = {row["method"]: row["value"] for row in select(rows, metric=metric)}
    lines = [
        [model, *(format.number(of.get(name)) for name in names)]
        for model, of in {"this run": here, **others}.items()
    ]
    note = (
        "LAGER (arXiv 2508.03550). Other models and other prompts: how methods compare, not what "
        "to expect here."
    )
    return Table(title, ["", *names], lines, note, strong=(0,))


def _selection(run: Run) -> Section:
    rows = run.rows
    (name,) = {row["method"] for row in select(rows, family="criterion")}
    shares = {
        r["method"]: format.number(r["value"], "percent") for r in select(rows, metric="overlap")
    }
    n, size = (int(find(rows, metric=metric)["value"]) for metric in ("rows", "selected"))
    sentence = (
        f"{size:,} of {format.count(n, 'row')} chosen: those with the highest mean of the criteria "
        f"by {name}. Whether it is better to train on them is not measured here. They share "
        f"{shares['longest response']} with as many of the longest responses, {shares['chance']} "
        f"with a random choice, and {shares['e_score']} with what the last layer would choose."
    )
    if (tied := find(rows, metric="tied", method=name)["value"]) > 1:
        sentence += f" {tied:,.0f} rows are as good as the last one chosen: chance decided there."
    scores = _lines(run, "scores.jsonl")
    ordered = sorted(scores, key=lambda line: -line["means"][name])
    figure = charts.histograms({name: [line["means"][name] for line in scores]}, "mean score")
    columns = [
        Column("response", "response", "count"),
        Column("prompt", "prompt", "count"),
        Column("the same rows", "overlap", "percent"),
        Column("Spearman", "spearman"),
        Column("tied", "tied", "count"),
    ]
    note = (
        "Mean characters of what each way chooses, and how much of it was selected. Spearman: of "
        "its order of all rows with the order that was used. Tied: rows as good as the last one "
        "that it chooses."
    )
    means = [Column("mean", "mean", ".2f"), Column("sd", "sd", ".2f")]
    tables = [
        table_of(
            "Ways to choose", select(rows, part=""), "method", columns, note=note, strong=[name]
        ),
        table_of("Scores by criterion", select(rows, family="criterion"), "leaf", means),
        _extremes("Highest mean scores", ordered[:SHOWN], name),
        _extremes("Lowest mean scores", ordered[: -SHOWN - 1 : -1], name),
        methods_table(rows, run),
    ]
    cases = []
    for place, line in enumerate(_lines(run, "selected.jsonl")[:SHOWN], 1):
        facts = [f"{key}: {value}" for key, value in line.items()]
        cases.append(Case(f"{place}.", "", [Answer("Row", "", _cut("\n".join(facts)))]))
    return Section(
        "Training data to choose",
        [Verdict("unsure", "Chosen, not judged", sentence)],
        [Figure("Mean scores of all rows", figure)],
        tables,
        cases,
        "The first rows that were chosen, in the file's order",
    )


def _extremes(title: str, lines: list[dict], name: str) -> Table:
    columns = ["", "mean", "characters", *(lines[0]["scores"] if lines else ())]
    return Table(
        title,
        columns,
        [
            [
                line["source"].rpartition("/")[2],  # A whole path would fill a phone.
                f"{line['means'][name]:.2f}",
                f"{line['characters']:,}",
                *(f"{score:.2f}" for score in line["scores"].values()),
            ]
            for line in lines
        ],
        f"File and row, and the scores by {name}; characters: of the response.",
        folded=True,
    )


def _lines(run: Run, name: str) -> list[dict]:
    path = run.folder / name
    return workdir.read_rows(path) if path.exists() else []


def _cut(text: str, most: int = 600) -> str:
    return text if len(text) <= most else f"{text[:most].rstrip()} …"
