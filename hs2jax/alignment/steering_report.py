"""The page of a steering run: whether policies do what they are asked for, verdict first.

It reads what `hs2jax steer` left in a folder and decides what is said; the numbers are ready,
`steering_tables` and `steering_plots` show them, and `evaluation.report` and `page` set them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from hs2jax.alignment import conditions, steering_plots
from hs2jax.alignment.steering_tables import ends, number, tables
from hs2jax.data.groups import Group, prompt_text
from hs2jax.evaluation import items, report
from hs2jax.evaluation.comparison_report import probability
from hs2jax.evaluation.evaluation_report import parsed
from hs2jax.evaluation.report import Answer, Mistake, Section, Verdict
from hs2jax.evaluation.tables import count

FILE = "steering.json"
SHOWN = 2  # Prompts of which samples are shown, for each attribute.
MOST_CHARACTERS = 700  # Of a sample that is shown.


def write(workdir: str | Path) -> Path:
    """Writes `report.html` and `report.md` of a finished steering run; returns the former.

    Raises FileNotFoundError where steering.json or rows/NAME.jsonl is missing, and ValueError where
    one cannot be read.
    """
    workdir = Path(workdir)
    return report.write_page(workdir, "Steering by attributes", None, [section(workdir)])


def section(workdir: Path) -> Section:
    """What the page says of a finished steering run. Raises as `write` does."""
    result = read_result(workdir)
    rows = {}
    for name in result["models"]:
        file = workdir / "rows" / f"{name}.jsonl"
        if not file.exists():
            raise FileNotFoundError(
                f"{file} is missing: it holds the samples of {name}; remove "
                f"{workdir / FILE} and run `hs2jax steer` again"
            )
        rows[name] = parsed(file, items.read)
    return Section(
        name="Requested against measured",
        verdicts=verdicts(result),
        pictures=pictures(result),
        rating_pictures=[],
        tables=tables(result),
        mistakes=samples(rows, result["config"]),
        mistakes_title="Samples side by side",
    )


def read_result(workdir: Path) -> dict:
    """steering.json. Raises FileNotFoundError or ValueError as `write` does."""
    path = workdir / FILE
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: `hs2jax steer` writes it when it is finished; run it with "
            f"--workdir={workdir}"
        )
    return parsed(path, lambda file: json.loads(file.read_text(encoding="utf-8")))


# Verdicts -----------------------------------------------------------------------------------------


def verdicts(result: dict) -> list[Verdict]:
    """One for each policy, in their order."""
    return [_verdict(policy, result["tests"]) for policy in result["policies"]]


def _verdict(policy: dict, tests: Sequence[dict]) -> Verdict:
    """Whether a policy follows what it is asked for, and more closely than the one before it.

    "Follows" is said only where the interval agrees, and so is "does not follow".
    """
    name, sweeps = policy["name"], policy["attributes"]
    sure = [of["attribute"] for of in sweeps if is_above(of["spearman"])]
    others = [of["attribute"] for of in sweeps if of["attribute"] not in sure]
    if sure:
        tone, label = "good", f"{name} follows {_listed(sure)}"
        if others:
            tone, label = "unsure", f"{label}, not surely {_listed(others)}"
    elif any(_may_be_above(of["spearman"]) for of in sweeps):
        tone, label = "unsure", f"{name} does not surely follow what it is asked for"
    else:
        tone, label = "bad", f"{name} does not follow what it is asked for"
    parts = [f"Spearman's correlation of requested and measured: {_followed(sweeps)}."]
    by_length = [
        f"{of['attribute']} ({number(of['length']['partial']['value'], 2)}; "
        f"{_extent(of['length']['partial'], short=True)})"
        for of in sweeps
        if of["attribute"] in sure and not is_above(of["length"]["partial"])
    ]
    if by_length:
        parts.append(
            f"Among responses of equal length there is no sure correlation for "
            f"{_listed(by_length)}: it may be length alone that follows."
        )
    mine = [test for test in tests if test["later"] == name]
    if mine:
        parts.append(
            f"Against {mine[0]['earlier']}, on the same prompts, it follows "
            f"{'; '.join(map(_tested, mine))}."
        )
        if any((test["spearman"]["interval"] or [0, 0])[1] < 0 for test in mine):
            tone = "bad" if tone == "bad" else "unsure"
    return Verdict(tone, label, " ".join(parts))


def is_above(of: dict) -> bool:
    """Whether an estimate is above 0 by its interval."""
    return bool(of["interval"]) and of["interval"][0] > 0


def _may_be_above(of: dict) -> bool:
    """Whether there is an estimate, and nothing says that it is not above 0."""
    return of["value"] is not None and (not of["interval"] or of["interval"][1] > 0)


def _followed(sweeps: Sequence[dict]) -> str:
    parts, said = [], False
    for of in sweeps:
        if of["spearman"]["value"] is None:
            parts.append(f"{of['attribute']} undefined ({of['note']})")
            continue
        change = number(of["slope"]["value"], 2, sign=True)
        parts.append(
            f"{of['attribute']} {number(of['spearman']['value'], 2)} "
            f"({_extent(of['spearman'], said)}; {change} for each unit requested)"
        )
        said = True
    return ", ".join(parts)


def _extent(of: dict, short: bool) -> str:
    if not of["interval"]:
        return "no interval"
    return f"{'' if short else '95% interval '}{ends(of['interval'], 2)}"


def _tested(test: dict) -> str:
    of = test["spearman"]
    if of["difference"] is None:
        return f"{test['attribute']} incomparably, as {test['note']}"
    difference = number(of["difference"], 2, sign=True)
    if not of["interval"]:
        return f"{test['attribute']} by {difference} (no interval)"
    low, high = of["interval"]
    said = "more closely" if low > 0 else "less closely" if high < 0 else "not surely otherwise"
    p = probability(of["p"])
    return (
        f"{test['attribute']} {said} ({difference}, {ends(of['interval'], 2, sign=True)}, "
        f"p {p if p.startswith('under') else f'= {p}'})"
    )


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


# Pictures and samples -----------------------------------------------------------------------------


def pictures(result: dict) -> list[tuple[str, str]]:
    """Captions and pictures; what cannot be drawn is left out."""
    attributes = [of["attribute"] for of in result["policies"][0]["attributes"]]
    curves = {
        name: {
            policy["name"]: of["values"]
            for policy in result["policies"]
            for of in policy["attributes"]
            if of["attribute"] == name
        }
        for name in attributes
    }
    found = {}
    for name in attributes:
        found[f"Measured {name}"] = steering_plots.by_request(
            curves[name],
            f"Measured {name}",
            key="measured",
            asked=f"requested {name}",
            ideal=True,
        )
    found["Correlation (Spearman)"] = steering_plots.correlations(result["policies"])
    for name in attributes:
        found[f"Characters, asked for {name}"] = steering_plots.by_request(
            curves[name],
            f"Characters, asked for {name}",
            key="characters",
            asked=f"requested {name}",
        )
    return [(caption, svg) for caption, svg in found.items() if svg]


def samples(rows: Mapping[str, Sequence[dict]], config: Mapping) -> list[Mistake]:
    """The first response of every policy to the lowest, the middle and the highest request."""
    base, values = conditions.parse(config["base"]), sorted(config["requested"])
    asked = sorted({values[0], values[len(values) // 2], values[-1]})
    found = {
        (name, row["source"], tuple(sorted(row["condition"].items()))): row
        for name, some in rows.items()
        for row in some
    }
    sources = list(dict.fromkeys(row["source"] for some in rows.values() for row in some))
    shown = []
    for attribute in config["attributes"]:
        for source in sources[:SHOWN]:
            answers, prompt = [], ()
            for name in rows:
                for value in asked:
                    condition = tuple(sorted((base | {attribute: value}).items()))
                    row = found.get((name, source, condition))
                    if row:
                        prompt = row["prompt"]
                        answers.append(_answer(name, attribute, value, row))
            if answers:
                # Of a group, only its prompt is read here.
                text = prompt_text(Group(tuple(prompt), ("-",)))
                shown.append(Mistake(f"{attribute}, {source}", text, answers))
    return shown


def _answer(name: str, attribute: str, value: int, row: dict) -> Answer:
    text, measured = row["responses"][0], row["measured"][0]
    facts = ["not measured" if measured is None else f"measured {number(measured[attribute], 2)}"]
    facts.append(count(len(text), "character"))
    if not row["finished"][0]:
        facts.append("unfinished")
    if len(text) > MOST_CHARACTERS:
        text = f"{text[:MOST_CHARACTERS].rstrip()} … [cut here]"
    return Answer(f"{name}, {attribute} {value}", ", ".join(facts), text)
