"""The tables of an evaluation: its numbers as text, the same for HTML and Markdown.

All numbers come ready-made; a cell is empty where there is nothing to say.
"""

from collections.abc import Sequence

from hs2jax.evaluation.tables import (
    Table,
    attribute_table,
    between,
    correlation,
    count,
    duration,
    listing,
    percent,
    points,
    preference_table,
    strength_table,
)

PART = "of what is here"


def overview(sets: Sequence[dict]) -> Table:
    """A row for each evaluated set."""
    rows = []
    for each in sets:
        benchmark, p = each["benchmark"], each["summary"]["preferences"]
        length = (p or {}).get("length_baseline") or {}
        controlled = (each["length"] or {}).get("controlled") or {}
        if benchmark:
            score, complete = benchmark["overall"], "yes" if is_complete(benchmark) else "no"
            value, interval = (score["score"], score["interval"]) if score else (None, None)
        else:
            value, interval, complete = p and p["accuracy"], p and p["interval"], ""
        rows.append(
            [
                each["name"],
                share(value),
                _interval(interval),
                complete,
                f"{p['pairs']:,}" if p else "",
                share(p and p["accuracy"]),
                share(length.get("accuracy")),
                share(length.get("shorter_accuracy")),
                share(controlled.get("accuracy")),
                f"{each['cut']:,}",
            ]
        )
    columns = ["set", "score", "95% interval", "complete", "pairs", "right on pairs"]
    columns += ["longer wins", "shorter wins", "at equal length", "prompts cut"]
    note = (
        "The score of a benchmark is its own overall score, given only where it is complete; that "
        "of other data is the accuracy on pairs."
    )
    return Table("Scores at a glance", columns, rows, note)


def is_complete(benchmark: dict) -> bool:
    """Whether all its published items are here, which an overall score asks for."""
    return all(section["complete"] for section in benchmark["sections"])


def set_tables(each: dict) -> list[Table]:
    """Everything that is known of one set, the data's record last."""
    benchmark, summary = each["benchmark"], each["summary"]
    p, attributes = summary["preferences"], summary["attributes"]
    tables = benchmark_tables(benchmark) if benchmark else []
    if p:
        tables.append(preference_table(p))
        if len(p["by_strength"]) > 1:
            tables.append(strength_table(p))
    if each["length"]:
        tables += length_tables(each["length"])
    if each["calibration"]:
        tables += calibration_tables(each["calibration"], each["calibrated"])
    if attributes:
        agreement = each["agreement"] or {}
        tables.append(attribute_table(attributes, agreement))
        if any(each["levels"] for each in agreement.values()):
            tables.append(confusion_table(agreement))
    facts = {"data": each["data"], "groups": summary["groups"], "responses": each["responses"]}
    facts |= {"prompts cut": each["cut"], **each["record"]}
    tables.append(Table("Data", ["", "value"], listing(facts, ","), folded=True))
    return tables


def benchmark_tables(benchmark: dict) -> list[Table]:
    tables = [_score_table(benchmark)]
    if missing := benchmark["missing"]:
        rows = [[text] for text in missing]
        tables.append(Table(f"What is missing ({len(rows):,})", ["missing"], rows, folded=True))
    tables += [
        Table(extra["title"], extra["columns"], extra["rows"], extra["note"] or "")
        for extra in benchmark["extras"]
    ]
    if benchmark["published"]:
        tables.append(_published_table(benchmark))
    return tables


def _score_table(benchmark: dict) -> Table:
    rows, strong = [], []
    if overall := benchmark["overall"]:
        strong.append(len(rows))
        rows.append(["Overall", share(overall["score"]), _interval(overall["interval"])])
    for section in benchmark["sections"]:
        subsets = section["subsets"]
        strong.append(len(rows))
        name = section["name"]
        if not section["complete"]:
            name += f", {PART}" if section["items"] else ", absent"
        if [subset["name"].lower() for subset in subsets] == [section["name"].lower()]:
            rows.append(_subset_row(name, subsets[0]))
            continue
        rows.append([name, share(section["score"]), _interval(section["interval"]), _of(section)])
        if section["items"]:  # else there is nothing but what is named as missing
            rows += [_subset_row(subset["name"], subset) for subset in subsets]
    columns = ["", "score", "95% interval", "items", "longer wins", "shorter wins"]
    columns += ["ties as half", "prompts cut"]
    rows = [row + [""] * (len(columns) - len(row)) for row in rows]
    note = f"{benchmark['rule']} Source: {benchmark['source']}."
    return Table("Scores by subset", columns, rows, note, strong=tuple(strong))


def _subset_row(name: str, subset: dict) -> list[str]:
    return [
        name,
        share(subset["score"]),
        _interval(subset["interval"]),
        _of(subset),
        share(subset["longer"]),
        share(subset["shorter"]),
        share(subset["half_credit"]),
        f"{subset['cut']:,}",
    ]


def _of(part: dict) -> str:
    return f"{part['items']:,} of {part['expected']:,}"


def _published_table(benchmark: dict) -> Table:
    """This model first, then what the papers report, as published."""
    parts = {section["name"]: section for section in benchmark["sections"]}
    if benchmark["overall"]:
        parts = {"Overall": benchmark["overall"], **parts}
    published = benchmark["published"]
    columns = list(dict.fromkeys(name for row in published for name in row["scores"]))
    ours = ["this model", ""]
    for name in columns:
        part = parts.get(name)
        if part is None or part["score"] is None:
            ours.append("")
            continue
        ours.append(f"{100 * part['score']:.1f}" + ("" if part["complete"] else " (part)"))
    rows = [ours]
    for row in published:
        scores = [row["scores"].get(name) for name in columns]
        cells = ["" if score is None else f"{score:.1f}" for score in scores]
        rows.append([row["model"], row["source"], *cells])
    note = "Percent, as published by their authors; not measured here."
    if not is_complete(benchmark):
        note += (
            " A score over a part of the items is not comparable with a published one: other items "
            "may be easier or harder."
        )
    return Table(
        "Published scores", ["model", "source", *columns], rows, note, folded=True, strong=(0,)
    )


def length_tables(length: dict) -> list[Table]:
    controlled = length["controlled"]
    rows = [
        ["reward and characters, Pearson", correlation(length["reward_pearson"]), ""],
        ["reward and characters, Spearman", correlation(length["reward_spearman"]), ""],
        ["margin and lead in characters, Pearson", correlation(length["margin_pearson"]), ""],
    ]
    note = ""
    if controlled:
        rows.append(
            [
                "accuracy at equal length",
                share(controlled["accuracy"]),
                _interval(controlled["interval"]),
            ]
        )
        rows.append(
            [
                "reward that twice the median length gains",
                correlation(controlled["coefficient"]),
                "",
            ]
        )
        note = controlled["method"]
    tables = [Table("Length", ["", "value", "95% interval"], rows, note)]
    if length["bands"]:
        rows = [
            [
                band["name"],
                f"{band['pairs']:,}",
                share(band["accuracy"]),
                _interval(band["interval"]),
                share(band["longer"]),
            ]
            for band in length["bands"]
        ]
        columns = ["chosen against rejected", "pairs", "accuracy", "95% interval", "longer wins"]
        tables.append(Table("By length", columns, rows))
    return tables


def calibration_tables(calibration: dict, calibrated: dict | None) -> list[Table]:
    """Of the scores as they are and, where one was fitted, at a temperature."""
    both = [calibration, *filter(None, [calibrated])]
    rows = [
        ["temperature", *(f"{each['temperature']:.4g}" for each in both)],
        ["expected calibration error", *(f"{each['ece']:.4f}" for each in both)],
        ["the same of a calibrated model", *(f"{each['ece_chance']:.4f}" for each in both)],
        ["Brier score", *(f"{each['brier']:.4f}" for each in both)],
        ["loss", *(f"{each['loss']:.4f}" for each in both)],
        ["pairs", *(f"{each['pairs']:,}" for each in both)],
    ]
    columns = ["", "as scored", "at the fitted temperature"][: 1 + len(both)]
    note = (
        "Of the probability sigmoid(margin / temperature). A calibrated model shows more than no "
        "error on few pairs. One that says one half to everything has Brier score 0.25 and loss "
        "0.6931."
    )
    tables = [Table("Calibration", columns, rows, note)]
    bins = [
        [
            f"{each['low']:.1%} to {each['high']:.1%}",
            f"{each['pairs']:,}",
            share(each["predicted"]),
            share(each["observed"]),
            _interval(each["interval"]),
        ]
        for each in calibration["bins"]
        if each["pairs"]
    ]
    if bins:
        columns = ["how sure", "pairs", "mean", "how often right", "95% interval"]
        tables.append(Table("Reliability by bin", columns, bins, folded=True))
    return tables


def confusion_table(agreement: dict[str, dict]) -> Table:
    levels = sorted({level for each in agreement.values() for level in each["levels"]})
    rows = []
    for name, each in agreement.items():
        for level, counts in zip(each["levels"], each["confusion"], strict=True):
            found = dict(zip(each["levels"], counts, strict=True))
            cells = [f"{found[at]:,}" if at in found else "" for at in levels]
            rows.append([f"{name}, rated {level:g}", *cells])
    columns = ["", *(f"predicted {level:g}" for level in levels)]
    return Table("Confusion of rounded ratings", columns, rows, folded=True)


def weights_tables(search: dict) -> list[Table]:
    """The search of attribute weights: what was found, and what it is worth on held-out pairs."""
    found = [
        ["accuracy on the pairs it was searched on", share(search["accuracy"]), ""],
        ["held-out accuracy", share(search["held_out"]), _interval(search["held_out_interval"])],
        ["accuracy of uniform weights", share(search["uniform"]), ""],
    ]
    if search["gain"] is not None:
        low, high = search["gain_interval"] or (None, None)
        interval = "" if low is None else f"{points(low)} to {points(high)}"
        found.append(["held-out gain, points", points(search["gain"]), interval])
    if single := search["single"]:
        name = f"held-out accuracy of {single['name']} alone"
        found.append([name, share(single["held_out"]), ""])
    found.append(["pairs", f"{search['pairs']:,}", ""])
    found.append(["folds", f"{search['folds']:,}", ""])
    note = f"{search['method']} Data: {search['data']}."
    weights = [[name, f"{w:+.3f}".replace("-", "−")] for name, w in search["weights"].items()]
    return [
        Table("Weights found", ["", "weight"], weights),
        Table("What they are worth", ["", "value", "95% interval"], found, note),
    ]


def making_tables(evaluation: dict) -> list[Table]:
    """The model, what was set, and where it ran."""
    facts = {**evaluation["model"], "max_tokens": evaluation["max_tokens"]}
    if fitted := evaluation["temperature"]:
        pairs = count(fitted["pairs"], "pair")
        facts["temperature"] = f"{fitted['value']:.4g}, fitted on {fitted['data']} ({pairs})"
    facts["wall time"] = duration(evaluation["seconds"])
    note = fitted["warning"] if fitted and fitted["warning"] else ""
    note = f"Temperature: {note}." if note else ""
    tables = [Table("Model and time", ["", "value"], listing(facts, "d"), note)]
    for title, values in (
        ("Settings", evaluation["config"]),
        ("Environment", evaluation["environment"]),
    ):
        if values:
            tables.append(Table(title, ["", "value"], listing(values, "d"), folded=True))
    return tables


def share(value: float | None) -> str:
    return "" if value is None else percent(value)


def _interval(interval: Sequence[float] | None) -> str:
    return "" if interval is None else between(interval)
