"""The page of an evaluation: how good a reward model is, verdict first.

It reads what `hs2jax evaluate` left in a folder and decides what is said; the numbers are ready,
`benchmark_tables` and `benchmark_plots` show them, and `report` and `page` set them.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hs2jax.evaluation import benchmark_plots, plots, report
from hs2jax.evaluation import items as item_files
from hs2jax.evaluation.benchmark_tables import (
    is_complete,
    making_tables,
    overview,
    set_tables,
    share,
    weights_tables,
)
from hs2jax.evaluation.report import Mistake, Section, Verdict
from hs2jax.evaluation.tables import count, percent


def write(workdir: str | Path) -> Path:
    """Writes `report.html` and `report.md` of an evaluation into its folder; returns the former.

    Reads `evaluation.json` and `items/NAME.jsonl` of every set. Raises FileNotFoundError where one
    is missing and ValueError where one cannot be read.
    """
    workdir = Path(workdir)
    name = read(workdir)[0]["model"]["name"]
    return report.write_page(workdir, f"Evaluation of {name}", None, sections(workdir))


def sections(workdir: Path) -> list[Section]:
    """What the page says: all sets, each set, the search for weights, how it was made."""
    evaluation, items = read(workdir)
    sets = evaluation["sets"]
    said = [_set_section(evaluation, each, items[each["name"]]) for each in sets]
    if len(sets) > 1:
        tables = [overview(sets)]
        said.insert(0, Section("All sets", [], [], [], tables, []))
    if search := evaluation["weights_search"]:
        verdicts = [weights_verdict(search)]
        said.append(Section("Attribute weights", verdicts, [], [], weights_tables(search), []))
    return [*said, Section("How it was made", [], [], [], making_tables(evaluation), [])]


def read(workdir: Path) -> tuple[dict, dict[str, list[dict]]]:
    """An evaluation and the items of its sets by name. Raises as `write` does."""
    path = workdir / "evaluation.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: an evaluation writes it when it is finished; run "
            f"`hs2jax evaluate` with --workdir={workdir}"
        )
    evaluation = parsed(path, lambda file: json.loads(file.read_text(encoding="utf-8")))
    if "sets" not in evaluation:  # A training run writes a file of this name, too.
        raise ValueError(
            f"{path} is of a training run; expected the folder of an evaluation, which "
            "`hs2jax evaluate` makes"
        )
    items = {}
    for each in evaluation["sets"]:
        file = workdir / "items" / f"{each['name']}.jsonl"
        if not file.exists():
            raise FileNotFoundError(
                f"{file} is missing: it holds the scored responses of the set {each['name']!r}; "
                "run the same evaluation again"
            )
        items[each["name"]] = parsed(file, item_files.read)
    return evaluation, items


def parsed(path: Path, load: Callable[[Path], Any]) -> Any:
    """What `load` reads of a file of an evaluation. Raises ValueError where that is not whole."""
    try:
        return load(path)
    except ValueError as error:
        raise ValueError(f"{path}: not whole JSON ({error}); run the evaluation again") from error


def _set_section(evaluation: dict, each: dict, items: list[dict]) -> Section:
    benchmark, summary = each["benchmark"], each["summary"]
    p, attributes = summary["preferences"], summary["attributes"]
    names = evaluation["model"]["outputs"]
    caption = "Scores by section"
    if benchmark and not is_complete(benchmark):
        caption += " (hollow: over a part of its items, not comparable with published scores)"
    chief = {caption: benchmark and benchmark_plots.sections(benchmark)}
    pairs = [(item["rewards"], c, r) for item in items for c, r, _ in item["pairs"]]
    chosen, rejected = [x[c] for x, c, _ in pairs], [x[r] for x, _, r in pairs]
    pictures = {"Rewards": plots.reward_histograms(chosen, rejected)}
    if each["calibration"]:
        pictures["Calibration"] = benchmark_plots.reliability(
            each["calibration"], each["calibrated"]
        )
    if p and len(p["by_strength"]) > 1:
        pictures["Accuracy by strength"] = plots.accuracy_by_strength(p)
    elif p and not benchmark:
        pictures["Accuracy"] = plots.accuracy_by_strength(p)
    if each["length"]:
        pictures["Accuracy by length of the chosen response"] = benchmark_plots.length_bands(
            each["length"]["bands"]
        )
    confusions = {
        name: benchmark_plots.confusion(name, found)
        for name, found in (each["agreement"] or {}).items()
    }
    return Section(
        name=set_title(each),
        verdicts=verdicts(each, evaluation["max_tokens"]),
        pictures=_drawn(pictures),
        rating_pictures=report.rating_pictures(names, summary, items) if attributes else [],
        tables=set_tables(each),
        mistakes=worst_mistakes(items, "Marked right" if benchmark else "People chose"),
        chief_pictures=_drawn(chief),
        confusion_pictures=_drawn(confusions),
    )


def _drawn(pictures: dict[str, str | None]) -> list[tuple[str, str]]:
    return [(caption, svg) for caption, svg in pictures.items() if svg]


def set_title(each: dict) -> str:
    """The benchmark's own title, with the set's name where that says more."""
    title = (each["benchmark"] or {}).get("title") or each["name"]
    plain, name = (re.sub(r"\W|_", "", text).lower() for text in (title, each["name"]))
    return title if plain == name else f"{title} ({each['name']})"


def verdicts(each: dict, max_tokens: int) -> list[Verdict]:
    """What is to be said of a set, and what of it had to be left out or cut."""
    benchmark, summary = each["benchmark"], each["summary"]
    said = []
    if benchmark:
        said.append(benchmark_verdict(benchmark, summary["preferences"]))
    elif summary["preferences"]:
        said.append(report.preference_verdict(summary["preferences"]))
    if summary["attributes"]:
        said.append(report.rating_verdict(summary["attributes"]))
    if not said:
        sentence = (
            f"{count(each['responses'], 'response')} scored; without pairs or ratings nothing can "
            "be said of how good the scores are."
        )
        said.append(Verdict("unsure", "Scored, not judged", sentence))
    if left := item_files.left_out(each["record"]):
        counted = ", ".join(f"{reason} {n:,}" for reason, n in left.items())
        said[0] = said[0]._replace(sentence=f"{said[0].sentence} Left out: {counted}.")
    if each["cut"]:
        were = "was" if each["cut"] == 1 else "were"
        cut = (
            f" {count(each['cut'], 'prompt')} of {summary['groups']:,} {were} cut from the left to "
            f"fit into {max_tokens:,} tokens."
        )
        said[0] = said[0]._replace(sentence=said[0].sentence + cut)
    return said


def benchmark_verdict(benchmark: dict, p: dict | None) -> Verdict:
    """The score by the benchmark's own rule where it is complete, else what is here.

    Whether length explains it is judged on the pairs (`statistics.preferences`).
    """
    sections, overall = benchmark["sections"], benchmark["overall"]
    items, expected = (sum(section[key] for section in sections) for key in ("items", "expected"))
    if not p:
        return Verdict("unsure", "Nothing to judge", "Nothing of it is here.")
    length = p["length_baseline"]
    if overall:
        score, interval, chance = overall["score"], overall["interval"], benchmark["chance"]
        tone, label = report.tone_of(score, interval, chance, length)
        sentence = (
            f"{percent(score)} overall (95% interval {_ends(interval)}), on all {items:,} items. "
            f"{report.above_chance(score, interval, chance)}. On its {count(p['pairs'], 'pair')}, "
            f"right on {percent(p['accuracy'])}, it is {_after_is(length)}."
        )
        return Verdict(tone, label, sentence)
    tone, label = report.tone_of(p["accuracy"], p["interval"], 0.5, length)
    here = [
        f"{name}: {', '.join(map(phrase, there))}."
        for name, phrase, there in (
            ("Complete", _whole, [s for s in sections if s["complete"]]),
            ("Of what is here", _part, [s for s in sections if s["items"] and not s["complete"]]),
            (
                "Nothing of",
                lambda section: section["name"],
                [s for s in sections if not s["items"]],
            ),
        )
        if there
    ]
    extent = f"No overall score: {items:,} of {expected:,} items are here."
    if is_complete(benchmark):
        extent = f"All {items:,} items are here; its rule gives no overall score."
    sentence = (
        f"{extent} {' '.join(here)} "
        f"On the {count(p['pairs'], 'pair')} that are here it is right on "
        f"{percent(p['accuracy'])} (95% interval {_ends(p['interval'])}). "
        f"{report.above_chance(p['accuracy'], p['interval'], 0.5)}, and "
        f"{report.above_length(length)}."
    )
    if not is_complete(benchmark):
        label = f"Incomplete. {label}, on what is here"
    return Verdict(tone, label, sentence)


def _whole(section: dict) -> str:
    interval = f" (95% interval {_ends(section['interval'])})" if section["interval"] else ""
    return f"{section['name']} {share(section['score'])}{interval}"


def _part(section: dict) -> str:
    extent = f"{section['items']:,} of {section['expected']:,} items"
    return f"{section['name']} {share(section['score'])} ({extent})"


def _after_is(length: dict) -> str:
    return report.above_length(length).removeprefix("it is ")


def _ends(interval: list[float]) -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def weights_verdict(search: dict) -> Verdict:
    """Whether weights that were searched for are better than uniform ones on pairs held out."""
    sentence = (
        f"With the weights found, {percent(search['held_out'])} of held-out pairs are right; with "
        f"uniform weights {percent(search['uniform'])} are."
    )
    interval = search["gain_interval"]
    if search["gain"] is not None and interval and interval[0] > 0:
        tone, label = "good", "Searched weights are clearly better than uniform ones"
    elif search["gain"] is not None and search["gain"] > 0:
        tone, label = "unsure", "Searched weights are better than uniform ones, but not surely"
    else:
        tone, label = "bad", "Searched weights are not better than uniform ones"
    if search["warning"]:
        tone, sentence = "bad", f"{sentence} Warning: {search['warning']}"
    return Verdict(tone, label, sentence)


def worst_mistakes(items: list[dict], chosen_role: str) -> list[Mistake]:
    """As `report.worst_mistakes`, but a prompt only once, with its subset named."""
    single = []
    for item in items:
        if not item["pairs"]:
            continue
        rewards = item["rewards"]
        worst = min(item["pairs"], key=lambda pair: rewards[pair[0]] - rewards[pair[1]])
        subset = (item.get("about") or {}).get("subset")
        source = f"{item['source']}, {subset}" if subset else item["source"]
        single.append({**item, "pairs": [worst], "source": source})
    return report.worst_mistakes(single, chosen_role=chosen_role)
