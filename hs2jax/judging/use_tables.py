"""Tables of what a judge was used for: pairs, selection, emotions, knowledge; numbers as text."""

from collections.abc import Sequence

from hs2jax.evaluation.tables import Table, between, count, percent, points
from hs2jax.judging import lager
from hs2jax.judging.judge_tables import (
    MEASURES,
    best,
    ends,
    intervals_table,
    methods_table,
    number,
    paired_table,
    record_tables,
    signed,
)

CHIEF = ("lager_w", "lager_wo")  # Whose choice counts: the first that is there.
# What of a result belongs to the record.
COUNTS = {
    "pairs": ("criterion", "prompts", "pairs", "ties"),
    "selection": ("fraction", "rows", "selected"),
    "emotions": ("questions", "dialogues", "n"),
    "knowledge": ("questions", "n", "unanswerable"),
}
OTHERS = "Other models and other prompts: how methods compare, not what to expect here."


def tables(evaluation: dict) -> list[Table]:
    """What is to be shown of a use; what it has not is left out."""
    result = evaluation["result"]
    made = {
        "pairs": pairs_tables,
        "selection": selection_tables,
        "emotions": emotions_tables,
        "knowledge": knowledge_tables,
    }[evaluation["task"]](result)
    names = result.get("scores") or result.get("choices") or result["ways"]["question"]
    names = [name for name in names if name in lager.AGGREGATIONS]
    return [*made, methods_table(names, weights_from(evaluation))]


def chief(names: Sequence[str]) -> str:
    return next(name for name in CHIEF if name in names)


def weights_from(evaluation: dict) -> str | None:
    """ "cross-validation", the file of given weights, or None."""
    found = evaluation["result"].get("weights_from")
    given = (evaluation.get("config") or {}).get("weights")
    if found == "cross-validation":
        return found
    # A selection does not say it, but it has been made by the weights that it was given.
    return given or found


# Pairs --------------------------------------------------------------------------------------------


def pairs_tables(result: dict) -> list[Table]:
    titles = {
        "question": "Asked which of the two is better, in both orders",
        "pointwise": "Each response scored by itself",
    }
    return [_way_table(titles[way], way, result) for way in titles]


def _way_table(title: str, way: str, result: dict) -> Table:
    habits = way == "question"
    rows = [
        [
            name,
            percent(row["accuracy"]),
            between(row["interval"]),
            points(row["lead"]),
            _points_between(row["lead_interval"]),
            percent(row["accuracy_half_credit"]),
            f"{row['equal']:,}",
            *([percent(row["consistency"]), percent(row["says_a"])] if habits else []),
        ]
        for name, row in result["ways"][way].items()
    ]
    rows += [
        [
            f"{rule} response wins",
            percent(row["accuracy"]),
            between(row["interval"]),
            "",
            "",
            percent(row["accuracy_half_credit"]),
            f"{row['equal']:,}",
            *(["", ""] if habits else []),
        ]
        for rule, row in result["baselines"].items()
    ]
    columns = ["", "right", "95% interval", "lead, points", "95% interval"]
    columns += ["equal as half", "equal"]
    note = (
        f"{count(result['pairs'], 'pair')} of {count(result['prompts'], 'prompt')} by "
        f"{result['criterion']}. Equal scores count as wrong, or as half a point where it says so. "
        f"Lead: over “{result['best_baseline']} response wins”, on the same pairs. Intervals count "
        "that pairs of one prompt hang together."
    )
    if habits:
        columns += ["same in both orders", "says A"]
        note += (
            " Same in both orders: how often both name the same response; a judge that only "
            "likes a letter never does."
        )
    names = list(result["ways"][way])
    return Table(title, columns, rows, note, strong=(names.index(chief(names)),))


def _points_between(interval: Sequence[float]) -> str:
    return f"{points(interval[0])} to {points(interval[1])}"


# Selection ----------------------------------------------------------------------------------------


def selection_tables(result: dict) -> list[Table]:
    rows = [
        [
            name,
            f"{row['response']:,.0f}",
            f"{row['prompt']:,.0f}",
            percent(row["overlap"]),
            number(row["spearman"]),
            f"{row['tied']:,}",
        ]
        for name, row in result["choices"].items()
    ]
    columns = ["", "response", "prompt", "the same rows", "Spearman", "tied"]
    note = (
        f"What each way chooses of {count(result['rows'], 'row')}, {result['selected']:,} each: "
        "mean characters, and how much of it was selected. Spearman: of the way's order of all "
        "rows with the order that was used. Tied: rows as good as the last one that it chooses, "
        "between which chance decides."
    )
    used = list(result["choices"]).index(result["chosen_by"])
    means = [
        [name, number(of["mean"], 2), number(of["sd"], 2)]
        for name, of in result["criteria"].items()
    ]
    means_note = f"By {result['chosen_by']}, over all rows that were judged."
    return [
        Table("Ways to choose", columns, rows, note, strong=(used,)),
        Table("Scores by criterion", ["", "mean", "sd"], means, means_note),
    ]


def extremes_table(title: str, lines: Sequence[dict], chosen_by: str) -> Table:
    """lines: of scores.jsonl, see `selection.select`."""
    rows = [
        [
            line["source"].rpartition("/")[2],  # Beside a whole path a phone shows nothing else.
            number(line["means"][chosen_by], 2),
            f"{line['characters']:,}",
            *(number(score, 2) for score in line["scores"].values()),
        ]
        for line in lines
    ]
    columns = ["", "mean", "characters", *lines[0]["scores"]]
    note = f"File and row, and the scores by {chosen_by}; characters: of the response."
    return Table(title, columns, rows, note, folded=True)


# Emotions -----------------------------------------------------------------------------------------


def emotions_tables(result: dict) -> list[Table]:
    scores, people = result["scores"], result["human"]
    note = (
        f"{result['n']:,} intensities of {count(result['questions'], 'question')} on "
        f"{count(result['dialogues'], 'dialogue')}. People rate from 0 to 10, the judge from 1 to "
        "9. Intervals count that what is asked about one dialogue hangs together."
    )
    top = best(scores)
    agreement = intervals_table(scores)._replace(
        title="Agreement with people",
        note=note,
        folded=False,
        strong=(list(scores).index(top),) if top else (),
    )
    made = [agreement]
    if result.get("tests"):
        made.append(paired_table("Paired tests", result["tests"]))
    if published := result.get("published"):
        here = {
            name: [of[key]["value"] for key in ("pearson", "spearman")]
            for name, of in scores.items()
        }
        names = _methods(published)
        rows = [
            [model, MEASURES[key], *(number(of[name][i]) if name in of else "" for name in names)]
            for model, of in {"this run": here, **published}.items()
            for i, key in enumerate(("pearson", "spearman"))
        ]
        note = f"LAGER (arXiv 2508.03550), on 430 intensities that its authors chose. {OTHERS}"
        columns = ["", "", *names]
        made.append(Table("Published for EQ-Bench", columns, rows, note, strong=(0, 1)))
    rows = [
        [name, number(of["mean"], 2), number(of["sd"], 2)]
        for name, of in {**scores, "people": people}.items()
    ]
    return [*made, Table("Scores", ["", "mean", "sd"], rows, folded=True)]


def _methods(published: dict[str, dict]) -> list[str]:
    return list(dict.fromkeys(name for of in published.values() for name in of))


# Knowledge ----------------------------------------------------------------------------------------

RULES = {"published": "published rule", "fitted": "fitted threshold"}


def knowledge_tables(result: dict) -> list[Table]:
    scores = result["scores"]
    rows = [
        [
            name,
            *(
                cell
                for found in (of["auc"], of["published"]["f1"], of["fitted"]["f1"])
                for cell in (number(found["value"]), ends(found["interval"]))
            ),
        ]
        for name, of in scores.items()
    ]
    always = [number(result["always"]), ""]
    rows.append(["all called unanswerable", "", "", *always, *always])
    columns = ["", "AUC", "95% interval"]
    columns += [cell for rule in RULES.values() for cell in (f"F1, {rule}", "95% interval")]
    note = (
        f"{count(result['n'], 'question')}, {result['unanswerable']:,} of them unanswerable, which "
        "is the class that F1 is of. AUC: how often an answerable question scores higher than an "
        "unanswerable one. Published rule: unanswerable at or below three quarters of the way from "
        "the least score to the greatest. Fitted threshold: the one that is best on the other "
        "folds."
    )
    top = best_auc(scores)
    made = [
        Table(
            "Telling what cannot be answered",
            columns,
            rows,
            note,
            strong=(list(scores).index(top),),
        )
    ]
    if result.get("tests"):
        made.append(_differences(result["tests"]))
    if published := result.get("published"):
        here = {name: of["published"]["f1"]["value"] for name, of in scores.items()}
        names = _methods(published)
        rows = [
            [model, *(number(of[name]) if name in of else "" for name in names)]
            for model, of in {"this run": here, **published}.items()
        ]
        note = (
            f"F1 by the published rule, LAGER (arXiv 2508.03550). {OTHERS} SimCSE: similarity of "
            "texts, which is not done here."
        )
        made.append(Table("Published for SelfAware", ["", *names], rows, note, strong=(0,)))
    made.append(_thresholds(scores))
    return made


def best_auc(scores: dict) -> str:
    return max(scores, key=lambda name: scores[name]["auc"]["value"])


def _differences(tests: Sequence[dict]) -> Table:
    measures = {"auc": "AUC", **{key: f"F1, {rule}" for key, rule in RULES.items()}}
    rows = [
        [
            f"{test['a']}\u00a0−\u00a0{test['b']}",  # Names and sign stay on one line.
            *(
                cell
                for key in measures
                for cell in (signed(test[key]["difference"]), ends(test[key]["interval"], signed))
            ),
        ]
        for test in tests
    ]
    columns = ["", *(cell for name in measures.values() for cell in (name, "95% interval"))]
    note = "Differences on the same resamples of the questions; thresholds stay as they are."
    return Table("Paired differences", columns, rows, note)


def _thresholds(scores: dict) -> Table:
    rows = []
    for name, of in scores.items():
        published, fitted = of["published"], of["fitted"]
        at = "; ".join(number(each) for each in fitted["thresholds"])
        rows.append(
            [
                name,
                number(of["mean"], 2),
                number(of["sd"], 2),
                number(published["threshold"]),
                percent(published["precision"]),
                percent(published["recall"]),
                at,
                percent(fitted["precision"]),
                percent(fitted["recall"]),
            ]
        )
    columns = ["", "mean", "sd", "published rule", "precision", "recall", "fitted, by fold"]
    columns += ["precision", "recall"]
    note = "Mean and sd: of the scores. Unanswerable is what scores at or below a threshold."
    return Table("Scores and thresholds", columns, rows, note, folded=True)


# The record ---------------------------------------------------------------------------------------


def making_tables(evaluation: dict) -> list[Table]:
    """The model, the data and the settings."""
    result = evaluation["result"]
    facts = {
        "model": evaluation["model"],
        "data": result.get("data") or (evaluation.get("config") or {}).get("data"),
        "preset": evaluation["preset"],
        "weights from": weights_from(evaluation) or "none: even weights only",
        **{name: result[name] for name in COUNTS[evaluation["task"]]},
        "left out": {reason: n for reason, n in result["left_out"].items() if n} or "none",
    }
    return record_tables(facts, evaluation)
