"""The page of a comparison: whether one reward model is better than another, set by set.

Both were evaluated before; `comparison` compares what both scored, this decides what is said.
"""

from collections.abc import Sequence
from pathlib import Path

from hs2jax.evaluation import benchmark_plots, comparison, evaluation_report, report
from hs2jax.evaluation.benchmark_tables import share
from hs2jax.evaluation.report import Answer, Mistake, Section, Verdict
from hs2jax.evaluation.tables import Table, between, count, listing, percent, points, signed

SHOWN = 5  # disagreements, with their texts


def write(first_workdir: str | Path, second_workdir: str | Path, output: str | Path) -> Path:
    """Writes `report.html` and `report.md` into `output` (made if missing); returns the former.

    The two folders hold evaluations (see `evaluation_report`); sets of the same name are compared.
    Raises FileNotFoundError or ValueError where an evaluation is not whole, where no set is in
    both, and where a set's items have nothing in common (the set is named).
    """
    folders = Path(first_workdir), Path(second_workdir)
    both = [evaluation_report.read(folder) for folder in folders]
    evaluations = [evaluation for evaluation, _ in both]
    by_name = [{each["name"]: each for each in evaluation["sets"]} for evaluation in evaluations]
    shared = [name for name in by_name[0] if name in by_name[1]]
    if not shared:
        sets = " and ".join(
            f"{', '.join(found) or 'none'} in {folder}"
            for found, folder in zip(by_name, folders, strict=True)
        )
        raise ValueError(f"no set is in both evaluations: {sets}. Evaluate both on the same data")
    labels = names(evaluations, folders)
    outputs = [evaluation["model"]["outputs"] for evaluation in evaluations]
    sections = []
    for name in shared:
        try:
            result = comparison.compare(*(items[name] for _, items in both), *outputs, shown=SHOWN)
        except ValueError as error:
            raise ValueError(f"set {name}: {error}") from error
        sections.append(_section(labels, [sets[name] for sets in by_name], result))
    only = [[name for name in found if name not in shared] for found in by_name]
    tables = _making_tables(labels, evaluations, by_name, shared, only)
    sections.append(Section("What was compared", [], [], [], tables, []))
    return report.write_page(output, f"{labels[1]} against {labels[0]}", None, sections)


def names(evaluations: Sequence[dict], folders: Sequence[Path]) -> list[str]:
    """What the two models are called: by the last part of their names that differs, else by their
    evaluations' folders."""
    found = [evaluation["model"]["name"] for evaluation in evaluations]
    parts = [name.rstrip("/").split("/") for name in found]
    while min(map(len, parts)) > 1 and parts[0][-1] == parts[1][-1]:
        parts = [each[:-1] for each in parts]
    for first, second in ([each[-1] for each in parts], found, [folder.name for folder in folders]):
        if first != second:
            return [first, second]
    return list(map(str, folders))


def verdict(labels: Sequence[str], result: dict) -> Verdict:
    """Whether the second is better; said only where the interval of the difference agrees."""
    if not result["pairs"]:
        return Verdict("unsure", "No pairs to compare on", "Neither can be said to be better.")
    low, high = result["interval"]
    if low > 0:
        tone, label = "good", f"{labels[1]} is better"
    elif high < 0:
        tone, label = "bad", f"{labels[1]} is worse"
    else:
        tone, label = "unsure", "No difference beyond chance"
    return Verdict(
        tone,
        label,
        f"On {count(result['pairs'], 'pair')} that both scored, {labels[1]} is right on "
        f"{percent(result['second'])} and {labels[0]} on {percent(result['first'])}: "
        f"{points(result['difference'])} points (95% interval {points(low)} to {points(high)}; "
        f"p = {probability(result['p_mcnemar'])} by McNemar's exact test, "
        f"{probability(result['p_bootstrap'])} by paired bootstrap).",
    )


def attribute_verdict(labels: Sequence[str], attributes: dict[str, dict]) -> Verdict:
    """On which attributes the second's ratings are nearer to people's, by the intervals."""
    better = [name for name, each in attributes.items() if each["interval"][1] < 0]
    worse = [name for name, each in attributes.items() if each["interval"][0] > 0]
    parts = [
        f"{word} on {', '.join(found)}"
        for word, found in (("clearly nearer to people's", better), ("clearly farther", worse))
        if found
    ]
    tone = "unsure" if bool(better) == bool(worse) else "good" if better else "bad"
    said = " and ".join(parts) or "neither clearly nearer to people's nor clearly farther from them"
    n = count(len(attributes), "attribute")
    return Verdict(tone, "Ratings", f"Of {n}, the ratings by {labels[1]} are {said}.")


def probability(p: float) -> str:
    return "under 0.001" if p < 0.001 else f"{p:.3f}"


def _section(labels: Sequence[str], sets: Sequence[dict], result: dict) -> Section:
    verdicts, parts = [verdict(labels, result)], []
    if result["attributes"]:
        verdicts.append(attribute_verdict(labels, result["attributes"]))
    if result["pairs"]:
        parts = [{**result, "name": "all pairs"}, *(s for s in result["subsets"] if s["pairs"])]
    picture = benchmark_plots.differences(parts)
    caption = f"{labels[1]} minus {labels[0]}"
    return Section(
        name=evaluation_report.set_title(sets[0]),
        verdicts=verdicts,
        pictures=[],
        rating_pictures=[],
        tables=_set_tables(labels, sets, result, parts),
        mistakes=[_disagreement(labels, each) for each in result["disagreements"][:SHOWN]],
        mistakes_title="Where they differ most",
        chief_pictures=[(caption, picture)] if picture else [],
    )


def _set_tables(
    labels: Sequence[str], sets: Sequence[dict], result: dict, parts: Sequence[dict]
) -> list[Table]:
    tables = []
    if parts:
        rows = [
            [
                part["name"],
                f"{part['pairs']:,}",
                percent(part["first"]),
                percent(part["second"]),
                points(part["difference"]),
                f"{points(part['interval'][0])} to {points(part['interval'][1])}",
                probability(part["p_mcnemar"]),
                probability(part["p_bootstrap"]),
            ]
            for part in parts
        ]
        columns = ["", "pairs", *labels, "difference, points", "95% interval"]
        columns += ["p, McNemar", "p, bootstrap"]
        note = "Equal rewards count as wrong."
        if len(parts) > 2:
            note += (
                " Of many subsets some differ by chance: their p-values are not corrected for that."
            )
        tables.append(Table("Right on pairs", columns, rows, note, strong=(0,)))
        rows = [
            [name, f"{result[key]:,}"]
            for name, key in (
                ("both right", "both"),
                (f"only {labels[0]} right", "only_first"),
                (f"only {labels[1]} right", "only_second"),
                ("neither right", "neither"),
            )
        ]
        tables.append(Table("Pairs that they agree on, and not", ["", "pairs"], rows))
    if attributes := result["attributes"]:
        rows = [
            [
                name,
                f"{each['n']:,}",
                f"{each['first_mse']:.3f}",
                f"{each['second_mse']:.3f}",
                f"{each['difference']:+.3f}".replace("-", "−"),
                "{:+.3f} to {:+.3f}".format(*each["interval"]).replace("-", "−"),
                probability(each["p_bootstrap"]),
            ]
            for name, each in attributes.items()
        ]
        columns = ["attribute", "ratings", *labels, "difference", "95% interval", "p, bootstrap"]
        note = "Squared errors; a difference below 0 is for " + f"{labels[1]}."
        tables.append(Table("Ratings", columns, rows, note))
    if all(each["benchmark"] for each in sets):
        tables.append(_benchmark_table(labels, [each["benchmark"] for each in sets]))
    facts = {
        "items compared": result["groups"],
        f"items that only {labels[0]} scored": result["missing_second"],
        f"items that only {labels[1]} scored": result["missing_first"],
    }
    tables.append(Table("Items", ["", "items"], listing(facts, ",")))
    return tables


def _benchmark_table(labels: Sequence[str], benchmarks: Sequence[dict]) -> Table:
    """Both scores by the benchmark's own rule, each over all that it scored."""
    found = []
    for benchmark in benchmarks:
        parts = {part["name"]: part for part in benchmark["sections"]}
        overall = benchmark["overall"]
        found.append({"Overall": overall, **parts} if overall else parts)
    rows = []
    for name in dict.fromkeys(name for parts in found for name in parts):
        cells = [name]
        for part in (parts.get(name) for parts in found):
            there = part is not None and part["score"] is not None
            partly = there and not part["complete"]
            cells.append(share(part["score"]) + (" (part)" if partly else "") if there else "")
            cells.append(between(part["interval"]) if there and part["interval"] else "")
        rows.append(cells)
    columns = ["", labels[0], "95% interval", labels[1], "95% interval"]
    title = benchmarks[0]["title"]
    note = f"{benchmarks[0]['rule']} Source: {benchmarks[0]['source']}."
    return Table(f"{title}'s own scores", columns, rows, note)


def _disagreement(labels: Sequence[str], each: dict) -> Mistake:
    chosen, rejected, *_ = each["pair"]
    first, second = signed(each["first_margin"]), signed(each["second_margin"])
    return Mistake(
        heading=f"Margin {first} by {labels[0]}, {second} by {labels[1]}, {each['source']}",
        prompt=each["prompt"],
        answers=[
            Answer("Marked right", "", each["responses"][chosen]),
            Answer("Marked wrong", "", each["responses"][rejected]),
        ],
    )


def _making_tables(
    labels: Sequence[str],
    evaluations: Sequence[dict],
    sets: Sequence[dict],
    shared: Sequence[str],
    only: Sequence[Sequence[str]],
) -> list[Table]:
    """The models and their settings side by side, and what could not be compared."""
    sides = []
    for evaluation, by_name, alone in zip(evaluations, sets, only, strict=True):
        facts = {**evaluation["model"], "max_tokens": evaluation["max_tokens"]}
        facts |= {f"data of {name}": by_name[name]["data"] for name in shared}
        facts |= {"sets of its own, not compared": alone or "none"}
        facts |= {"environment": evaluation["environment"]}
        sides.append(dict(listing(facts, "d")))
    keys = dict.fromkeys(key for side in sides for key in side)
    rows = [[key, *(side.get(key, "") for side in sides)] for key in keys]
    different = [row for row in rows if row[1] != row[2]]
    tables = [
        Table("What differs between them", ["", *labels], different),
        Table(
            "What is the same",
            ["", "value"],
            [row[:2] for row in rows if row[1] == row[2]],
            folded=True,
        ),
    ]
    return [table for table in tables if table.rows]
