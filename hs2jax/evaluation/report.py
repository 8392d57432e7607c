"""A run's report: what came out, in one page to look at and one text file to quote.

`write` turns the stages of a run into `report.html` (self-contained: nothing is loaded from
anywhere) and `report.md` (the same verdicts, tables and mistakes). This file decides what is said;
`plots` draws and `page` sets it.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from hs2jax.evaluation import page, plots
from hs2jax.evaluation.tables import (
    Table,
    count,
    evaluation_loss,
    percent,
    points,
    signed,
    stage_tables,
)

MISTAKES = 5


class Verdict(NamedTuple):
    tone: str  # "good", "unsure" or "bad"
    label: str
    sentence: str


class Answer(NamedTuple):
    """One response of a mistaken pair; `facts` are its reward, ratings and length."""

    role: str
    facts: str
    text: str


class Mistake(NamedTuple):
    heading: str
    prompt: str
    answers: list[Answer]


class Section(NamedTuple):
    """What the page says of one stage."""

    name: str
    verdicts: list[Verdict]
    pictures: list[tuple[str, str]]  # caption, <svg> element
    rating_pictures: list[tuple[str, str]]  # the same, one per attribute
    tables: list[Table]
    mistakes: list[Mistake]
    mistakes_title: str = "Worst mistakes"
    chief_pictures: Sequence[tuple[str, str]] = ()  # shown before the others, and larger
    confusion_pictures: Sequence[tuple[str, str]] = ()  # one per attribute


def write(
    folder: str | Path, *, title: str, command: str | None = None, stages: list[dict]
) -> Path:
    """Write `report.html` and `report.md` into `folder` (made if missing); returns the former.

    A stage is a dict; all but its name may be missing, and what is missing is left out:

    * name; config: the settings, flat or nested; seconds: wall time; environment: dict
    * metrics: rows {"step", "loss", ...} of training (rows of another "kind" than "train" are
      passed over); evaluations: summaries with their "step" (and "loss", for the loss curve)
    * summary: of the checkpoint that was selected; items: its scored groups (see `statistics`)
    * names: the outputs' names in order; needed only for pictures of predicted ratings where they
      are not the summary's attributes
    * record: what became of the data (rows read, ties, skipped, padding, ...)
    """
    return write_page(folder, title, command, [section(stage) for stage in stages])


def write_page(
    folder: str | Path, title: str, command: str | None, sections: list[Section]
) -> Path:
    """Write sections as `report.html` and `report.md` into `folder`; returns the former."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"report.md": _markdown(title, command, sections)}
    texts["report.html"] = page.render(title, command, sections)
    for name, text in texts.items():
        # Data may hold lone surrogates, which no encoding of a file can hold.
        scratch = folder / f"{name}.tmp"
        scratch.write_text(text, encoding="utf-8", errors="replace")
        scratch.replace(folder / name)  # Whole or not at all.
    return folder / "report.html"


def section(stage: dict) -> Section:
    """What the page says of a stage of training."""
    summary = stage.get("summary") or {}
    items = stage.get("items") or []
    verdicts = []
    if summary.get("preferences"):
        verdicts.append(preference_verdict(summary["preferences"]))
    if summary.get("attributes"):
        verdicts.append(rating_verdict(summary["attributes"]))
    return Section(
        name=stage["name"],
        verdicts=verdicts,
        pictures=_pictures(stage, summary, items),
        rating_pictures=rating_pictures(stage.get("names"), summary, items),
        tables=stage_tables(stage, summary),
        mistakes=worst_mistakes(items),
    )


def preference_verdict(p: dict) -> Verdict:
    """Whether the model tells chosen from rejected, beyond chance and beyond counting characters.

    "Clearly" is said only where the 95 % interval agrees; the lead over length is judged on the
    same pairs, and over the better of "longer wins" and "shorter wins".
    """
    low, high = p["interval"]
    chance = above_chance(p["accuracy"], p["interval"], 0.5)
    tone, label = tone_of(p["accuracy"], p["interval"], 0.5, p["length_baseline"])
    return Verdict(
        tone,
        label,
        f"The model agrees with people on {percent(p['accuracy'])} of {count(p['pairs'], 'pair')} "
        f"(95% interval {100 * low:.1f} to {100 * high:.1f}). {chance}, and "
        f"{above_length(p['length_baseline'])}.",
    )


def above_chance(score: float, interval: list[float], chance: float) -> str:
    """The beginning of a sentence."""
    if interval[0] > chance:
        return f"That is clearly above chance ({chance:.0%})"
    if score > chance:
        return f"That is above chance ({chance:.0%}), but the interval reaches it"
    return f"That is not above chance ({chance:.0%})"


def above_length(length: dict) -> str:
    """The end of a sentence: how far the model is above the better rule of length."""
    share = length["accuracy"] if length["best"] == "longer" else length["shorter_accuracy"]
    rule = f"always preferring the {length['best']} response ({percent(share)})"
    lead, (lead_low, lead_high) = length["lead"], length["lead_interval"]
    interval = f"95% interval {points(lead_low)} to {points(lead_high)}"
    if lead_low > 0:
        return f"clearly above {rule}: {points(lead)} points ({interval})"
    if lead > 0:
        return f"above {rule}, but not surely: {points(lead)} points ({interval})"
    return f"it is not above {rule}: {points(lead)} points ({interval})"


def tone_of(score: float, interval: list[float], chance: float, length: dict) -> tuple[str, str]:
    """A verdict's tone and label."""
    if score <= chance:
        return "bad", "No better than chance"
    if length["lead"] <= 0:
        return "bad", "No better than counting characters"
    if interval[0] > chance and length["lead_interval"][0] > 0:
        return "good", "Clearly above chance and length"
    return "unsure", "Above chance and length, but not surely"


def rating_verdict(attributes: dict[str, dict]) -> Verdict:
    """On how many attributes the predictions beat always answering the mean."""
    better = [name for name, a in attributes.items() if a["mse"] < a["mse_of_mean"]]
    worse = [name for name in attributes if name not in better]
    source = next(iter(attributes.values()))["mean_from"]
    n = len(attributes)
    if not worse:
        tone, label = "good", "Better than the mean"
        which = f"all {n} attributes" if n > 1 else f"the one attribute, {better[0]}"
    else:
        tone, label = ("unsure", "Partly") if better else ("bad", "No")
        label += " better than the mean"
        which = f"{len(better)} of {count(n, 'attribute')} (not on {', '.join(worse)})"
    sentence = (
        f"Predicted ratings are closer to people's than always answering the mean of {source}"
    )
    return Verdict(tone, label, f"{sentence} on {which}.")


def worst_mistakes(
    items: Iterable[dict], most: int = MISTAKES, chosen_role: str = "People chose"
) -> list[Mistake]:
    """The pairs where the rejected response got the higher reward, the largest gap first."""
    wrong = []
    for item in items:
        for chosen, rejected, strength in item["pairs"]:
            margin = item["rewards"][chosen] - item["rewards"][rejected]
            if margin < 0:
                wrong.append((margin, item, chosen, rejected, strength))
    wrong.sort(key=lambda entry: entry[0])
    return [
        Mistake(
            heading=f"Margin {signed(margin)}, strength {strength:g}, {item.get('source', '?')}",
            prompt=item["prompt"],
            answers=[
                answer(chosen_role, item, chosen),
                answer("The model preferred", item, rejected),
            ],
        )
        for margin, item, chosen, rejected, strength in wrong[:most]
    ]


def answer(role: str, item: dict, r: int) -> Answer:
    """A response of a scored group, with its reward, length and ratings."""
    facts = [f"reward {signed(item['rewards'][r])}"]
    if item.get("tokens"):
        facts.append(count(item["tokens"][r], "token"))
    ratings = (item["ratings"][r] or {}) if item.get("ratings") else {}
    facts += [f"{name} {value:g}" for name, value in ratings.items() if value is not None]
    return Answer(role, ", ".join(facts), item["responses"][r])


def _pictures(stage: dict, summary: dict, items: list[dict]) -> list[tuple[str, str]]:
    train = [row for row in stage.get("metrics") or [] if row.get("kind", "train") == "train"]
    pairs = [(item["rewards"], c, r) for item in items for c, r, _ in item["pairs"]]
    chosen, rejected = [x[c] for x, c, _ in pairs], [x[r] for x, _, r in pairs]
    drawn = {
        "Loss": plots.loss_curve(_curve(train), _curve(stage.get("evaluations") or [])),
        "Rewards": plots.reward_histograms(chosen, rejected),
    }
    if preferences := summary.get("preferences"):
        levels = len(preferences["by_strength"])
        drawn["Accuracy by strength" if levels > 1 else "Accuracy"] = plots.accuracy_by_strength(
            preferences
        )
    return [(caption, svg) for caption, svg in drawn.items() if svg]


def rating_pictures(
    names: Sequence[str] | None, summary: dict, items: list[dict]
) -> list[tuple[str, str]]:
    """Captions and pictures, one per rated attribute; `names` of the outputs, in their order."""
    attributes = summary.get("attributes") or {}
    names = list(names or attributes)
    if not items or len(names) != len(items[0]["outputs"][0]):
        return []
    drawn = {
        name: plots.predicted_against_rating(name, *_predictions(items, names.index(name), name))
        for name in attributes
    }
    return [(name, svg) for name, svg in drawn.items() if svg]


def _curve(rows: list[dict]) -> list[tuple[float, float]]:
    """(step, loss) of the rows that have both."""
    return [
        (row["step"], loss)
        for row in rows
        if row.get("step") is not None and (loss := evaluation_loss(row)) is not None
    ]


def _predictions(items: list[dict], column: int, name: str) -> tuple[list[float], list[float]]:
    rated = [
        (outputs[column], ratings[name])
        for item in items
        for outputs, ratings in zip(item["outputs"], item["ratings"], strict=True)
        if (ratings or {}).get(name) is not None
    ]
    return [p for p, _ in rated], [r for _, r in rated]


def _markdown(title: str, command: str | None, sections: list[Section]) -> str:
    parts = [f"# {_plain(title)}"]
    for section in sections:
        parts += [
            f"**{_plain(section.name)}: {_plain(v.label)}.** {_plain(v.sentence)}"
            for v in section.verdicts
        ]
    if command:
        parts.append(_quoted(command))
    for section in sections:
        parts.append(f"## {_plain(section.name)}")
        for table in section.tables:
            parts.append(f"### {_plain(table.title)}")
            parts.append(_rows(table))
            if table.note:
                parts.append(_plain(table.note))
        if section.mistakes:
            parts.append(f"### {section.mistakes_title}")
        for mistake in section.mistakes:
            parts += [f"**{_plain(mistake.heading)}**", "Prompt:", _quoted(mistake.prompt)]
            for answer in mistake.answers:
                parts += [f"{answer.role} ({_plain(answer.facts)}):", _quoted(answer.text)]
    return "\n\n".join(parts) + "\n"


def _rows(table: Table) -> str:
    lines = [list(map(_plain, row)) for row in (table.columns, *table.rows)]
    for row in table.strong:
        lines[row + 1] = [cell and f"**{cell}**" for cell in lines[row + 1]]
    lines.insert(1, ["---"] * len(table.columns))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Text that cannot end a table cell or begin markup."""
    return re.sub(r"([\\|<>`*\[\]])", r"\\\1", " ".join(text.split()))


def _quoted(text: str) -> str:
    """As a code block of indented lines, which no content can close."""
    return "\n".join("    " + line for line in (text or "(empty)").splitlines())
