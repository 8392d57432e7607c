"""The page of a judge's evaluation: how well it follows people, verdict first.

It reads what an evaluation left in a folder and decides what is said; the numbers are ready,
`judge_tables` and `judge_plots` show them, and `evaluation.report` and `page` set them.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hs2jax.evaluation import items as item_files
from hs2jax.evaluation import plots, report, statistics
from hs2jax.evaluation.comparison_report import probability
from hs2jax.evaluation.evaluation_report import parsed
from hs2jax.evaluation.report import Answer, Mistake, Section, Verdict
from hs2jax.evaluation.tables import count
from hs2jax.judging import judge_plots
from hs2jax.judging.judge_tables import (
    MEAN,
    best,
    ends,
    interval_of,
    is_above,
    making_tables,
    number,
    set_tables,
    signed,
)

FILE = "judge.json"
SHOWN = ("lager_w", "lager_wo", "e_score")  # Whose scores are drawn: the first that is there.
CROSS_LAYER = {"lager_w": "tuned", "lager_wo": "untuned"}
LAST_LAYER = ("e_score", "direct")


def write(workdir: str | Path) -> Path:
    """Writes `report.html` and `report.md` of a judge's evaluation; returns the former.

    Reads `judge.json` and `items/NAME.jsonl` of every set in `workdir`. Raises FileNotFoundError
    where one is missing and ValueError where one cannot be read.
    """
    workdir = Path(workdir)
    evaluation, items = read(workdir)
    sections = [_set_section(each, items[each["name"]], evaluation) for each in evaluation["sets"]]
    sections.append(Section("How it was made", [], [], [], making_tables(evaluation), []))
    return report.write_page(workdir, f"{evaluation['model']['name']} as a judge", None, sections)


def read(workdir: Path) -> tuple[dict, dict[str, list[dict]]]:
    """An evaluation and the items of its sets by name. Raises as `write` does."""
    evaluation, items = read_result(workdir), {}
    for each in evaluation["sets"]:
        file = workdir / "items" / f"{each['name']}.jsonl"
        if not file.exists():
            raise FileNotFoundError(
                f"{file} is missing: it holds the scores of the set {each['name']!r}; run the same "
                "evaluation again"
            )
        items[each["name"]] = parsed(file, item_files.read)
    return evaluation, items


def read_result(workdir: Path) -> dict:
    """judge.json of any task. Raises FileNotFoundError or ValueError as `write` does."""
    path = workdir / FILE
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: `hs2jax judge` writes it when it is finished; run it with "
            f"--workdir={workdir}"
        )
    return parsed(path, lambda file: json.loads(file.read_text(encoding="utf-8")))


def _set_section(each: dict, items: Sequence[dict], evaluation: dict) -> Section:
    if not each["criteria"]:
        return Section(each["name"], verdicts(each), [], [], [], [])
    pooled = each["criteria"][-1]
    method = next((name for name in SHOWN if name in pooled["scores"]), None)
    read_items = [item for item in items if item["scores"].get(method) is not None]
    values = {
        name: (of.get("spearman") or {}).get("value") for name, of in pooled["scores"].items()
    }
    chief = {
        "Spearman correlation by layer": pooled.get("by_layer")
        and judge_plots.by_layer(pooled["by_layer"], values)
    }
    weights = each.get("weights")
    pictures = {
        "Weights by layer": weights
        and judge_plots.layer_weights(weights["mean"], weights["folds"]),
        "Scores": judge_plots.histogram(
            pooled["scale"],
            (pooled["human"] or {}).get("counts"),
            [item["scores"][method] for item in read_items],
            method,
        ),
    }
    rated = [item for item in read_items if item["human"] is not None]
    by_rating = {
        name: plots.predicted_against_rating(
            name,
            [item["scores"][method] for item in rated if item["criterion"] == name],
            [item["human"] for item in rated if item["criterion"] == name],
        )
        for name in dict.fromkeys(item["criterion"] for item in rated)
    }
    return Section(
        name=each["name"],
        verdicts=verdicts(each),
        pictures=_drawn(pictures),
        rating_pictures=_drawn(by_rating),
        tables=set_tables(each, evaluation),
        mistakes=worst_disagreements(rated, method),
        mistakes_title=f"Worst disagreements ({method})",
        chief_pictures=_drawn(chief),
    )


def _drawn(pictures: dict[str, str | None]) -> list[tuple[str, str]]:
    return [(caption, svg) for caption, svg in pictures.items() if svg]


def verdicts(each: dict) -> list[Verdict]:
    """What is to be said of a set, and what of it had to be left out."""
    pooled = each["criteria"][-1] if each["criteria"] else None
    top = pooled and pooled["human"] and best(pooled["scores"])
    if top:
        said = [agreement_verdict(each["criteria"], top)]
        if test := layers_verdict(pooled):
            said.append(test)
    else:
        if not pooled:
            sentence = "There is nothing of it."
        elif pooled["human"]:
            sentence = (
                f"{count(each['items'], 'item')} scored, but no correlation with people is "
                "defined: their ratings or all methods' scores are all equal."
            )
        else:
            sentence = (
                f"{count(each['items'], 'item')} scored; without people's ratings nothing can be "
                "said of how good the scores are."
            )
        said = [Verdict("unsure", "Scored, not judged", sentence)]
    return with_left_out(said, each["left_out"])


def with_left_out(said: Sequence[Verdict], left_out: dict[str, int]) -> list[Verdict]:
    """The first of the verdicts says what had to be left out."""
    first, *others = said
    if left := {reason: n for reason, n in left_out.items() if n}:
        counted = ", ".join(f"{reason} {n:,}" for reason, n in left.items())
        first = first._replace(sentence=f"{first.sentence} Left out: {counted}.")
    return [first, *others]


def agreement_verdict(criteria: Sequence[dict], top: str) -> Verdict:
    """How well the best method follows people, and which of the methods may be noise."""
    pooled = criteria[-1]
    scores, of = pooled["scores"], pooled["scores"][top]
    value, interval = of["spearman"]["value"], interval_of(of)
    mean = of.get(MEAN)
    if is_above(of) and mean and not is_above(of, MEAN):
        tone, label = "unsure", "Above chance over all criteria, not surely within them"
    elif is_above(of):
        tone, label = "good", "Clearly above chance"
    elif value > 0:
        tone, label = "unsure", "Above chance, but not surely"
    else:
        tone, label = "bad", "No better than chance"
    extent = f"95% interval {ends(interval)}" if interval else "without an interval"
    sentence = f"{top} follows people's ratings best"
    sentence += f" of {len(scores)} ways to score" if len(scores) > 1 else ""
    sentence += f": Spearman {number(value)} ({extent}) over {count(pooled['n'], 'rating')}"
    sentence += ", all criteria pooled." if mean else "."
    if mean:
        extent = f"95% interval {ends(mean['interval'])}" if mean["interval"] else "no interval"
        sentence += (
            " That counts what differs between criteria, too; within a criterion it is "
            f"{number(mean['value'])} in the mean ({extent})."
        )
    if len(scores) > 1:
        sentence += " As the best of several, picked by these ratings, it looks a little too good."
    if len(criteria) > 2:
        weak = [c["name"] for c in criteria[:-1] if not is_above(c["scores"].get(top) or {})]
        if weak:
            sentence += f" By criterion it is not surely above chance on {', '.join(weak)}."
        else:
            sentence += f" It is above chance on each of the {len(criteria) - 1} criteria."
    weak = [name for name, each in scores.items() if not is_above(each)]
    if len(weak) == len(scores) > 1:
        sentence += " No method is surely above chance, so all of this may be noise."
    elif weak:
        sentence += f" Not surely above chance: {', '.join(weak)}."
    return Verdict(tone, label, sentence)


def layers_verdict(pooled: dict, measure: str = "Spearman") -> Verdict | None:
    """Whether the cross-layer score follows people better than the last layer's, by the tests.

    The tuned one where it was tested, else the untuned one; None where neither was. measure: what
    the tests compare, by the name that the verdict calls it.
    """
    tested = {
        method: {
            other: test
            for other in LAST_LAYER
            if (test := _test(pooled.get("tests") or [], method, other, measure.lower()))
        }
        for method in CROSS_LAYER
    }
    method = next((method for method, found in tested.items() if found), None)
    if not method:
        return None
    found, kind = tested[method], CROSS_LAYER[method]
    parts = [f"by {_difference(test)}" for test in found.items()]
    name, first = next(iter(found.items()))
    # Over several criteria a difference may be one of how they are placed against each other.
    within = _test(pooled.get("tests") or [], method, name, MEAN)
    low, high = first["interval"] or (-1, 1)
    if low > 0:
        tone, label = "good", "beat the last one"
    elif high < 0:
        tone, label = "bad", "are worse than the last one"
    elif first["difference"] > 0:
        tone, label = "unsure", "are better than the last one, but not surely"
    else:
        tone, label = "bad", "are not better than the last one"
    sentence = (
        f"In {measure} the {kind} cross-layer score ({method}) differs {' and '.join(parts)}, on "
        "the same items."
    )
    if within:
        label += ", all criteria pooled"
        sentence += f" In the mean within criteria it differs by {_difference((name, within))}."
    return Verdict(tone, f"{kind.title()} layers {label}", sentence)


def _difference(of: tuple[str, dict]) -> str:
    """The difference from a method, with what the test says of it."""
    name, test = of
    extent = "without an interval"
    if test["interval"]:
        extent = f"95% interval {ends(test['interval'], signed)}{_p(test.get('p'))}"
    return f"{signed(test['difference'])} from {name} ({extent})"


def _p(p: float | None) -> str:
    if p is None:
        return ""
    said = probability(p)
    return f"; p {said}" if said.startswith("under") else f"; p = {said}"


def _test(tests: Sequence[dict], method: str, other: str, measure: str) -> dict | None:
    """The test of a method minus another, whichever way round it was made."""
    for test in tests:
        found = test.get(measure)
        if not found or found["difference"] is None:
            continue
        if (test["a"], test["b"]) == (method, other):
            return found
        if (test["a"], test["b"]) == (other, method):
            low, high = found["interval"] or (None, None)
            return {
                **found,
                "difference": -found["difference"],
                "interval": None if low is None else [-high, -low],
            }
    return None


def worst_disagreements(
    items: Sequence[dict], method: str | None, most: int = report.MISTAKES
) -> list[Mistake]:
    """Where the judge's place for an item is farthest from people's, a text only once.

    Places (shares of lower scores, of the same criterion) rather than scores: a judge that never
    leaves 2.9 to 3.1 disagrees as well.
    """
    found = []
    for name in dict.fromkeys(item["criterion"] for item in items):
        here = [item for item in items if item["criterion"] == name]
        human, judge = (
            (statistics.ranks(np.array(side, float)) - 0.5) / len(here)
            for side in (
                [item["human"] for item in here],
                [item["scores"][method] for item in here],
            )
        )
        found += zip(np.abs(judge - human).tolist(), judge.tolist(), here, strict=True)
    found.sort(key=lambda entry: -entry[0])
    mistakes, seen = [], set()
    for gap, place, item in found:
        text = (item["prompt"], item["response"])
        if gap == 0 or len(mistakes) == most:
            break
        if text in seen:
            continue
        seen.add(text)
        score = item["scores"][method]
        facts = [
            f"{key} {number(value, 2)}"
            for key, value in item["scores"].items()
            if value is not None
        ]
        mistakes.append(
            Mistake(
                heading=f"{item['criterion']}: people {item['human']:g}, judge {number(score, 2)} "
                f"(above {place:.0%} of its scores), {item['source']}",
                prompt=item["prompt"],
                answers=[Answer("Response", ", ".join(facts), item["response"])],
            )
        )
    return mistakes
