"""The page of what a judge was used for: pairs, selection, emotions or knowledge, verdict first.

It reads what a run left in a folder and decides what is said; the numbers are ready, `use_tables`
shows them, and `evaluation.report` and `page` set them. `judge_report` is the page of scores.
"""

import heapq
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hs2jax.data import corpora
from hs2jax.data.formats import FORMATS
from hs2jax.data.groups import FieldError, Group, prompt_text
from hs2jax.evaluation import report
from hs2jax.evaluation.evaluation_report import parsed
from hs2jax.evaluation.report import Answer, Mistake, Section, Verdict
from hs2jax.evaluation.tables import Table, between, count, percent
from hs2jax.judging import judge_plots, judge_report, selection, use_tables
from hs2jax.judging.judge_tables import best, ends, number

TITLES = {
    "pairs": "Which response is better",
    "selection": "Training data to choose",
    "emotions": "Emotions in dialogues",
    "knowledge": "What can be answered",
}
SHOWN = 10  # Rows of a selection, with their texts or scores.
CHARACTERS = 600  # Of a text that is shown.


def write(workdir: str | Path) -> Path:
    """Writes `report.html` and `report.md` of a use of a judge; returns the former.

    Reads `judge.json` in `workdir`, and of a selection the rows in `selected.jsonl` and
    `scores.jsonl` where they are still there. Raises FileNotFoundError where judge.json is missing
    and ValueError where one of them cannot be read.
    """
    workdir = Path(workdir)
    evaluation = judge_report.read_result(workdir)
    task, result = evaluation["task"], evaluation["result"]
    said = {
        "pairs": pairs_verdicts,
        "selection": selection_verdicts,
        "emotions": emotions_verdicts,
        "knowledge": knowledge_verdicts,
    }[task](result)
    weights = result.get("weights")
    shown = Section(
        name=TITLES[task],
        verdicts=judge_report.with_left_out(said, result["left_out"]),
        pictures=[("Weights by layer", judge_plots.layer_weights(weights, []))] if weights else [],
        rating_pictures=[],
        tables=use_tables.tables(evaluation),
        mistakes=[],
    )
    if task == "selection":
        shown = _with_rows(shown, result, workdir)
    made = Section("How it was made", [], [], [], use_tables.making_tables(evaluation), [])
    title = f"{evaluation['model']['name']} as a judge"
    return report.write_page(workdir, title, None, [shown, made])


# Verdicts -----------------------------------------------------------------------------------------


def pairs_verdicts(result: dict) -> list[Verdict]:
    """Of each way to ask, whether it tells better responses from worse beyond length."""
    said = []
    for way, asked in (
        ("question", "Asked which of two is better, in both orders"),
        ("pointwise", "Scoring each response by itself"),
    ):
        rows = result["ways"][way]
        name = use_tables.chief(rows)
        row, last = rows[name], rows["e_score"]
        length = {
            "accuracy": result["baselines"]["longer"]["accuracy"],
            "shorter_accuracy": result["baselines"]["shorter"]["accuracy"],
            "best": result["best_baseline"],
            **{key: row[key] for key in ("lead", "lead_interval")},
        }
        tone, label = report.tone_of(row["accuracy"], row["interval"], 0.5, length)
        sentence = (
            f"{asked}, {name} agrees with people on {percent(row['accuracy'])} of "
            f"{count(result['pairs'], 'pair')} (95% interval "
            f"{between(row['interval'])}). "
            f"{report.above_chance(row['accuracy'], row['interval'], 0.5)}, and "
            f"{report.above_length(length)}. By the last layer alone (e_score) it is "
            f"{percent(last['accuracy'])}."
        )
        if way == "question":
            sentence += f" Both orders name the same response in {percent(row['consistency'])}."
        said.append(Verdict(tone, f"{label} ({way})", sentence))
    return said


def selection_verdicts(result: dict) -> list[Verdict]:
    """What was chosen, and how near that is to simpler ways."""
    choices, name = result["choices"], result["chosen_by"]
    sentence = (
        f"{result['selected']:,} of {count(result['rows'], 'row')} chosen: those with the highest "
        f"mean of {len(result['criteria'])} criteria by {name}. Whether it is better to train on "
        "them is not measured here. They share "
        f"{percent(choices['longest response']['overlap'])} with as many of the longest responses, "
        f"{percent(choices['chance']['overlap'])} with a random choice, and "
        f"{percent(choices['e_score']['overlap'])} with what the last layer alone (e_score) would "
        "choose."
    )
    if (tied := choices[name]["tied"]) > 1:
        sentence += f" {tied:,} rows are as good as the last one chosen: chance decided there."
    return [Verdict("unsure", "Chosen, not judged", sentence)]


def emotions_verdicts(result: dict) -> list[Verdict]:
    """How well intensities follow people's, and whether all layers do better than the last."""
    top = best(result["scores"])
    if not top:
        sentence = (
            f"{result['n']:,} intensities read, but no correlation with people is defined: theirs "
            "or all methods' are all equal."
        )
        return [Verdict("unsure", "Scored, not judged", sentence)]
    said = [judge_report.agreement_verdict([result], top)]
    return said + [each for each in [judge_report.layers_verdict(result)] if each]


def knowledge_verdicts(result: dict) -> list[Verdict]:
    """Whether it tells unanswerable questions from others, and whether that is of use."""
    scores, always = result["scores"], result["always"]
    name = use_tables.best_auc(scores)
    auc, f1 = scores[name]["auc"], scores[name]["fitted"]["f1"]
    tone, label = _tone(auc, 0.5, "chance")
    said = [
        Verdict(
            tone,
            label,
            f"{name} tells unanswerable questions from others best of {len(scores)} ways to score: "
            f"AUC {number(auc['value'])} (95% interval {ends(auc['interval'])}; chance is 0.5) "
            f"over {count(result['n'], 'question')}, {result['unanswerable']:,} of them "
            "unanswerable. As the best of several, picked by these questions, it looks a little "
            "too good.",
        )
    ]
    tone, label = _tone(f1, always, "calling everything unanswerable")
    said.append(
        Verdict(
            tone,
            label,
            f"F1 of {name} is {number(f1['value'])} by a threshold fitted on other questions (95% "
            f"interval {ends(f1['interval'])}) and "
            f"{number(scores[name]['published']['f1']['value'])} by the published rule; calling "
            f"all questions unanswerable has {number(always)}.",
        )
    )
    return said + [each for each in [judge_report.layers_verdict(result, "AUC")] if each]


def _tone(found: dict, least: float, what: str) -> tuple[str, str]:
    """A verdict's tone and label, of a value with its interval against the least of any use."""
    if found["interval"][0] > least:
        return "good", f"Clearly better than {what}"
    if found["value"] > least:
        return "unsure", f"Better than {what}, but not surely"
    return "bad", f"No better than {what}"


# Rows of a selection ------------------------------------------------------------------------------


def _with_rows(shown: Section, result: dict, workdir: Path) -> Section:
    """The same with what of the chosen rows and of all scores is still in the folder."""
    path, name = workdir / "scores.jsonl", result["chosen_by"]
    pictures, tables = shown.pictures, list(shown.tables)
    if path.exists():
        means, extremes = parsed(path, lambda file: _scores(file, name))
        pictures = [("Mean scores", judge_plots.histogram(selection.VALUES, None, means, name))]
        tables[-1:-1] = extremes  # What the methods are stays the last.
    chosen = workdir / "selected.jsonl"
    return shown._replace(
        pictures=pictures,
        tables=tables,
        mistakes=parsed(chosen, lambda file: _chosen(file, result)) if chosen.exists() else [],
        mistakes_title="The first rows that were chosen, in the file's order",
    )


def _scores(path: Path, name: str) -> tuple[np.ndarray, list[Table]]:
    """All means, and tables of the highest and the lowest.

    The file is read again for each, as it may have more rows than fit into memory.
    """

    def mean(line: dict) -> float:
        return line["means"][name]

    picks = {"Highest": heapq.nlargest, "Lowest": heapq.nsmallest}
    tables = [
        use_tables.extremes_table(f"{which} mean scores", pick(SHOWN, _lines(path), mean), name)
        for which, pick in picks.items()
    ]
    return np.fromiter(map(mean, _lines(path)), float), tables


def _chosen(path: Path, result: dict) -> list[Mistake]:
    found = []
    for place, row in enumerate(itertools.islice(_lines(path), SHOWN), 1):
        group = _group(row, result["data"])
        prompt, response = prompt_text(group), group.responses[0]
        facts = count(len(response), "character")
        found.append(
            Mistake(
                heading=f"{place}. {_cut(' '.join(prompt.split()), 80)}",
                prompt=_cut(prompt, CHARACTERS),
                answers=[Answer("Response", facts, _cut(response, CHARACTERS))],
            )
        )
    return found


def _group(row: dict, data: str) -> Group:
    """A row by the first of the data's formats that it fits. Raises ValueError for none."""
    for each in corpora.parse(data):
        try:
            return FORMATS[each.format].group(row)
        except FieldError:
            continue
    raise ValueError(f"a row is not as in {data}")


def _lines(path: Path) -> Iterator[dict]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most].rstrip()} …"
