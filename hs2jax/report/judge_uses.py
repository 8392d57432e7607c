"""The pages of a judge's other tasks (pairs, selection, emotions, knowledge), and what they share
with that of scores."""

from collections.abc import Mapping, Sequence

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
# What is measured, by its name: where it stands in the rows.
MEASURES = {metric.title(): ("", metric) for metric in ("spearman", "pearson", "kendall")}
KNOWLEDGE = {
    "AUC": ("", "auc"),
    "F1, published threshold": ("threshold/published", "f1"),
    "F1, fitted threshold": ("threshold/fitted", "f1"),
}
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


def section(run: Run) -> Section:
    """The section of a task other than scores."""
    make = {"pairs": pairs, "selection": selection, "emotions": emotions, "knowledge": knowledge}
    made = make[run.result["task"]](run)
    return made._replace(tables=[*made.tables, methods_table(run.rows, run)])


# What all have ----------------------------------------------------------------------------------


def best_of(rows: Sequence[dict]) -> dict | None:
    """The row with the greatest value."""
    return max((r for r in rows if r["value"] is not None), key=lambda r: r["value"], default=None)


def layers_verdict(rows: list[dict], metric: str = "spearman", name: str = "Spearman"):
    """Say by the paired difference whether the cross-layer score follows people better than the
    last layer's: the tuned one where it was tested, else the untuned one; None where neither was.
    """
    about = {"part": "", "against": "e_score"}
    tests = [find(rows, metric=metric, method=m, **about) for m in lager.CROSS_LAYER]
    test = next((each for each in tests if each and each["value"] is not None), None)
    if test is None:
        return None
    kind = "tuned" if test["method"] in lager.WEIGHTED else "untuned"
    sentence = (
        f"In {name} the {kind} cross-layer score ({test['method']}) differs by "
        f"{format.value(test, '+.3f')} from e_score, on the same items."
    )
    if within := find(rows, metric=f"{metric}_within", method=test["method"], **about):
        sentence += f" In the mean within criteria it differs by {format.value(within, '+.3f')}."
    found = verdict_of({"the last one": test}, sentence)
    return found._replace(label=f"All layers, {kind}: {found.label[0].lower()}{found.label[1:]}")


def agreement_verdict(rows: list[dict]) -> Verdict:
    """Say how well the best method follows people."""
    found = select(rows, part="", metric="spearman", against=None)
    top = best_of(found)
    if top is None:
        sentence = "No correlation with people is defined: all ratings or all scores are equal."
        return Verdict("unsure", "Scored, not judged", sentence)
    sentence = (
        f"{top['method']} follows people's ratings best of {format.count(len(found), 'way')} to "
        f"score: Spearman {format.value(top)} over {format.count(top['n'], 'rating')}. As the best "
        "of several, picked by these ratings, it looks a little too good."
    )
    held = {"chance": top}
    within = find(rows, part="", metric="spearman_within", method=top["method"], against=None)
    if within:
        held = {"chance over all criteria": top, "within them": within}
        sentence += (
            " It counts what differs between criteria, too; within a criterion it is "
            f"{format.value(within)} in the mean."
        )
    return verdict_of(held, sentence)


def agreement_figures(rows: list[dict]) -> list[Figure]:
    """The methods' correlations, that of each layer, and the layers' weights."""
    found = select(rows, part="", metric="spearman", against=None)
    tracks = [charts.track(row, row["method"]) for row in found]
    forest = charts.intervals(tracks, "number", reference=0, reference_name="no relation")
    layers = select(rows, family="layer", metric="spearman")
    lines = {
        words: [(int(leaf(row)), row["value"]) for row in select(layers, method=norm)]
        for norm, words in NORMS.items()
    }
    named = select(found, method=[*lager.CROSS_LAYER, *lager.LAST_LAYER])
    across = {row["method"]: row["value"] for row in named if row["value"] is not None}
    curve = charts.curves(lines, "layer", "number", across=across) if layers else ""
    return [
        Figure("Spearman's correlation with people, 95% intervals", forest, chief=True),
        Figure("Spearman's correlation of each layer's own score", curve, chief=True),
        weights_figure(rows),
    ]


def weights_figure(rows: list[dict]) -> Figure:
    """The layers' weights, those of each fold faint."""
    found = select(rows, family="layer", metric="weight")
    lines: dict[int | None, list] = {}
    for row in found:
        lines.setdefault(row.get("fold"), []).append((int(leaf(row)), row["value"]))
    mean = lines.pop(None, [])
    drawn = charts.curves({"weight": mean}, "layer", "number", faint=[*lines.values()])
    return Figure("Weights by layer", drawn if mean else "")


def paired_table(rows: list[dict], measures: Mapping[str, tuple[str, str]]) -> Table:
    """Differences of two methods on the same items."""
    columns = []
    for words, (part, metric) in measures.items():
        where = {"part": part}
        columns.append(Column(words, metric, "+.3f", where=where))
        columns.append(Column(f"{words}, p", metric, show="p", where=where))
    note = (
        "On the same items; p counts that those of one prompt hang together. Of many tests some "
        "come out below 0.05 by chance: p is not corrected for that."
    )
    return table_of(
        "Paired differences",
        [row for row in rows if row.get("against")],
        lambda row: f"{row['method']}\u00a0−\u00a0{row['against']}",  # Stays on one line.
        columns,
        note=note,
    )


def published_table(title: str, rows: list[dict], metric: str, others: dict[str, dict]) -> Table:
    """The paper's numbers for the same methods."""
    names = list(next(iter(others.values())))
    here = {row["method"]: row["value"] for row in select(rows, metric=metric)}
    lines = [
        [model, *(format.number(of.get(name)) for name in names)]
        for model, of in {"this run": here, **others}.items()
    ]
    note = (
        "LAGER (arXiv 2508.03550). Other models, prompts and selections of the data: how methods "
        "compare, not what to expect here."
    )
    return Table(f"Published for {title}", ["", *names], lines, note, strong=(0,))


def methods_table(rows: list[dict], run: Run) -> Table:
    """The meaning of the methods' names, and where tuned weights come from."""
    meaning = dict(BASELINES)
    for name, way in lager.AGGREGATIONS.items():
        layers = f"{way.of} of all layers, {'tuned' if way.weighted else 'even'} weights"
        by = "the last layer" if way.of == "last" else layers
        meaning[name] = f"{'expected' if way.expectation else 'likeliest'} score by {by}"
    names = dict.fromkeys(row.get("method") for row in rows)
    lines = [[name, meaning[name]] for name in names if name in meaning]
    note = "The names are those of LAGER's Table 2 (arXiv 2508.03550) and its repository."
    if run.result["weights_from"]:
        note += f" Tuned weights are from: {run.result['weights_from']}."
    return Table("What the methods are", ["", ""], lines, note, folded=True)


# Tasks ------------------------------------------------------------------------------------------


def pairs(run: Run) -> Section:
    """The page of pairs: the better of two responses."""
    asked = {
        "question": "Asked which of two is better, in both orders",
        "pointwise": "Scoring each response by itself",
    }
    made = Section("Which response is better", [], [], [])
    rules = select(run.rows, part="")
    for way, words in asked.items():
        rows = select(run.rows, part=f"way/{way}")
        accuracies = select(rows, metric="accuracy", against=None)
        name = next(m for m in lager.CROSS_LAYER if find(accuracies, method=m))
        own, both = find(accuracies, method=name), find(rows, metric="consistency", method=name)
        (lead,) = [r for r in rows if r.get("against") and r["method"] == name]
        sentence = (
            f"{words}, {name} agrees with people on {format.value(own, 'percent')} of "
            f"{format.count(own['n'], 'pair')}, {format.value(lead, 'points')} more than "
            f"the rule that the {lead['against']} response wins."
        )
        if both:
            share = format.number(both["value"], "percent")
            sentence += f" Both orders name the same response in {share}."
        made.verdicts.append(verdict_of({"chance": own, "counting characters": lead}, sentence))
        tracks = [
            charts.track(r, r["method"]) for r in accuracies + select(rules, metric="accuracy")
        ]
        drawn = charts.intervals(tracks, "percent", span=(0, 1), reference=0.5)
        made.figures.append(Figure(f"{words}: share of pairs", drawn, chief=True))
        columns = [
            Column("right", "accuracy", "percent", where={"against": None}),
            Column("lead, points", "accuracy", "points", where={"against": lead["against"]}),
            Column("equal as half", "accuracy_half_credit", "percent"),
            Column("equal", "equal", "count"),
            Column("same in both orders", "consistency", "percent"),
            Column("says A", "says_a", "percent"),
        ]
        note = (
            f"Lead: over “the {lead['against']} response wins”, on the same pairs. Equal scores "
            "count as wrong, or as half a point where it says so."
        )
        made.tables.append(table_of(words, rows + rules, "method", columns, note=note))
    return made


def emotions(run: Run) -> Section:
    """The page of feelings in dialogues."""
    rows, alone = run.rows, select(run.rows, part="", against=None)
    columns = [Column(words, metric) for words, (_, metric) in MEASURES.items()]
    columns += [Column(metric, metric, ".2f", "plain") for metric in ("mean", "sd")]
    note = (
        "People rate from 0 to 10, the judge from 1 to 9. Intervals count that what is asked about "
        "one dialogue hangs together."
    )
    tables = [
        table_of("Agreement with people", alone, "method", columns, note=note),
        paired_table(rows, MEASURES),
        published_table("EQ-Bench, Spearman", alone, "spearman", PUBLISHED_EMOTIONS),
    ]
    verdicts = [each for each in (layers_verdict(rows), agreement_verdict(rows)) if each]
    return Section("Emotions in dialogues", verdicts, agreement_figures(rows), tables)


def knowledge(run: Run) -> Section:
    """The page of questions that can be answered or not."""
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
    held = {"chance": top, "calling everything unanswerable": fitted}
    tracks = [charts.track(row, row["method"]) for row in found]
    forest = charts.intervals(tracks, "number", reference=0.5)
    columns, thresholds = [], []
    for words, (part, metric) in KNOWLEDGE.items():
        where = {"part": part, "against": None}
        columns.append(Column(words, metric, where=where))
        thresholds += [
            Column(f"{leaf(where)} {each}", each, show="plain", where=where)
            for each in ("threshold", "precision", "recall")
        ]
    note = (
        "Unanswerable is the class that F1 is of. Published threshold: three quarters of the way "
        "from the least score to the greatest. Fitted: the one that is best on the other folds."
    )
    published = select(rows, part="threshold/published", against=None)
    tables = [
        table_of("Telling what cannot be answered", rows, "method", columns, note=note),
        paired_table(rows, KNOWLEDGE),
        published_table("SelfAware, F1", published, "f1", PUBLISHED_KNOWLEDGE),
        table_of("Thresholds", rows, "method", thresholds, folded=True),
    ]
    verdicts = [layers_verdict(rows, "auc", "AUC"), verdict_of(held, sentence)]
    figures = [Figure("AUC, 95% intervals", forest, chief=True), weights_figure(rows)]
    return Section("What can be answered", list(filter(None, verdicts)), figures, tables)


def selection(run: Run) -> Section:
    """The page of rows to train on."""
    ways, by_criterion = select(run.rows, part=""), select(run.rows, family="criterion")
    name = by_criterion[0]["method"]
    overlaps = select(ways, metric="overlap")
    share = {row["method"]: format.number(row["value"], "percent") for row in overlaps}
    n, size = (int(find(ways, metric=metric)["value"]) for metric in ("rows", "selected"))
    tied = find(ways, metric="tied", method=name)["value"]
    sentence = (
        f"{size:,} of {format.count(n, 'row')} chosen: those with the highest mean of the criteria "
        f"by {name}. Whether it is better to train on them is not measured here. They share "
        f"{share['longest response']} with as many of the longest responses, {share['chance']} "
        f"with a random choice, and {share['e_score']} with what the last layer would choose."
    )
    if tied > 1:
        sentence += f" {tied:,.0f} rows are as good as the last one chosen: chance decided there."
    scores = sorted(_lines(run, "scores.jsonl"), key=lambda line: -line["means"][name])
    figure = charts.histograms({name: [line["means"][name] for line in scores]}, "mean score")
    columns = [
        *(Column(metric, metric, "count") for metric in ("response", "prompt")),
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
    extremes = []
    for line in [*scores[:SHOWN], *scores[SHOWN:][-SHOWN:]]:
        file = line["source"].rpartition("/")[2]  # A whole path would fill a phone.
        extremes.append([file, f"{line['means'][name]:.2f}", f"{line['characters']:,}"])
    cases = []
    for place, line in enumerate(_lines(run, "selected.jsonl")[:SHOWN], 1):
        facts = "\n".join(f"{key}: {value}" for key, value in line.items())
        cases.append(Case(f"{place}.", "", [Answer("Row", "", facts[:600])]))
    return Section(
        "Training data to choose",
        [Verdict("unsure", "Chosen, not judged", sentence)],
        [Figure("Mean scores of all rows", figure)],
        [
            table_of("Ways to choose", ways, "method", columns, note=note, strong=[name]),
            table_of("Scores by criterion", by_criterion, "leaf", means),
            Table("Highest and lowest scores", ["", "mean", "characters"], extremes, folded=True),
        ],
        cases,
        "The first rows that were chosen, in the file's order",
    )


def _lines(run: Run, name: str) -> list[dict]:
    path = run.folder / name
    return workdir.read_rows(path) if path.exists() else []
