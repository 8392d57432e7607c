"""The report's tables: the numbers of a stage as text, the same for HTML and Markdown."""

import math
from typing import NamedTuple

from hs2jax.evaluation.plots import STRENGTHS


class Table(NamedTuple):
    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""
    folded: bool = False  # long listings, shown when asked for
    strong: tuple[int, ...] = ()  # rows that sum up others


def stage_tables(stage: dict, summary: dict) -> list[Table]:
    tables = []
    if p := summary.get("preferences"):
        tables.append(preference_table(p))
        if len(p["by_strength"]) > 1:  # one level only: the corpus has no strengths
            tables.append(strength_table(p))
    if attributes := summary.get("attributes"):
        tables.append(attribute_table(attributes))
    if evaluations := stage.get("evaluations"):
        tables.append(_evaluation_table(evaluations))
    record = dict(stage.get("record") or {})
    if stage.get("seconds") is not None:
        record["wall time"] = duration(stage["seconds"])
    for name, values, integer in (
        ("Data and time", record, ","),
        ("Settings", stage.get("config") or {}, "d"),  # as one would type them
        ("Environment", stage.get("environment") or {}, "d"),
    ):
        if values:
            folded = values is not record
            tables.append(Table(name, ["", "value"], listing(values, integer), folded=folded))
    return tables


def preference_table(p: dict) -> Table:
    length = p["length_baseline"]
    rows = [
        ["accuracy", percent(p["accuracy"]), between(p["interval"])],
        ["longer response wins", percent(length["accuracy"]), between(length["interval"])],
        [
            "shorter response wins",
            percent(length["shorter_accuracy"]),
            between(length["shorter_interval"]),
        ],
        [
            f"lead over “{length['best']} wins”, points",
            points(length["lead"]),
            f"{points(length['lead_interval'][0])} to {points(length['lead_interval'][1])}",
        ],
        ["accuracy, equal rewards as half", percent(p["accuracy_half_credit"]), ""],
        ["mean margin", signed(p["margin"]), ""],
        ["loss", f"{p['loss']:.4f}", ""],
        ["pairs", f"{p['pairs']:,}", ""],
        ["equal rewards", f"{p['equal']:,}", ""],
        ["equal lengths", f"{length['equal']:,}", ""],
        ["ties left out", f"{p['ties']:,}", ""],
    ]
    note = f"Equal rewards and equal lengths count as wrong. Interval: {p['interval_kind']}."
    return Table("Preferences", ["", "value", "95% interval"], rows, note)


def strength_table(p: dict) -> Table:
    rows = [
        [
            f"{level} ({STRENGTHS[level]})",
            f"{r['pairs']:,}",
            percent(r["accuracy"]),
            between(r["interval"]),
            signed(r["margin"]),
        ]
        for level, r in p["by_strength"].items()
    ]
    return Table("By strength", ["strength", "pairs", "accuracy", "95% interval", "margin"], rows)


def attribute_table(attributes: dict[str, dict], agreement: dict[str, dict] | None = None) -> Table:
    """Errors per attribute and, where it was measured, the agreement of rounded predictions."""
    rows = [
        [
            name,
            f"{a['n']:,}",
            f"{a['mse']:.3f}",
            f"{a['mse_of_mean']:.3f}",
            correlation(a["pearson"]),
            correlation(a["spearman"]),
            f"{a['mean_prediction']:.2f}",
            f"{a['mean_rating']:.2f}",
        ]
        for name, a in attributes.items()
    ]
    columns = ["attribute", "ratings", "squared error", "of the mean", "Pearson", "Spearman"]
    columns += ["mean predicted", "mean rated"]
    source = next(iter(attributes.values()))["mean_from"]
    note = f"“Of the mean”: the squared error of always answering the mean of {source}."
    if agreement:
        columns += ["kappa", "95% interval", "outside"]
        for row in rows:
            if found := agreement.get(row[0]):
                interval = (
                    "{:.3f} to {:.3f}".format(*found["interval"]) if found["interval"] else ""
                )
                row += [correlation(found["kappa"]), interval, f"{found['outside']:,}"]
            else:
                row += ["", "", ""]
        note += (
            " Kappa: of rounded predictions, quadratic weights. Outside: predictions beyond the "
            "scale, which count as its ends."
        )
        reasons = [f"{name}: {each['note']}" for name, each in agreement.items() if each["note"]]
        note += "".join(f" {reason}." for reason in reasons)
    return Table("Ratings", columns, rows, note)


def _evaluation_table(evaluations: list[dict]) -> Table:
    """Only the columns that some evaluation has."""
    columns: dict[str, list[str]] = {"step": [], "loss": [], "accuracy": [], "95% interval": []}
    names = list(dict.fromkeys(n for e in evaluations for n in e.get("attributes") or {}))
    columns |= {f"{name} error": [] for name in names}
    for e in evaluations:
        p, attributes, loss = e.get("preferences"), e.get("attributes") or {}, evaluation_loss(e)
        columns["step"].append(f"{e['step']:,}" if e.get("step") is not None else "")
        columns["loss"].append("" if loss is None else f"{loss:.4f}")
        columns["accuracy"].append(percent(p["accuracy"]) if p else "")
        columns["95% interval"].append(between(p["interval"]) if p else "")
        for name in names:
            a = attributes.get(name)
            columns[f"{name} error"].append(f"{a['mse']:.3f}" if a else "")
    kept = {name: cells for name, cells in columns.items() if any(cells)}
    rows = [list(row) for row in zip(*kept.values(), strict=True)]
    # Dozens of them would push everything else off the page.
    return Table("Evaluations during training", list(kept), rows, folded=len(rows) > 12)


def evaluation_loss(row: dict) -> float | None:
    """The row's own loss, else the one its summary implies where only one can be meant."""
    if row.get("loss") is not None:
        return row["loss"]
    preferences, attributes = row.get("preferences"), row.get("attributes")
    if preferences and not attributes:
        return preferences["loss"]
    if attributes and not preferences:
        total = sum(a["n"] for a in attributes.values())
        return sum(a["mse"] * a["n"] for a in attributes.values()) / total
    return None


def listing(values: dict, integer: str, prefix: str = "") -> list[list[str]]:
    """Nested settings as rows ["a.b", value], in their order; whole numbers in the given format."""
    rows = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            rows += listing(value, integer, f"{prefix}{key}.")
        else:
            rows.append([f"{prefix}{key}", _value(value, integer)])
    return rows


def _value(value: object, integer: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return format(value, integer)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return "; ".join(_value(v, integer) for v in value)
    if isinstance(value, dict):  # An empty one, or `listing` would have gone into it.
        return "none"
    return "" if value is None else str(value)


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def between(interval: list[float]) -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def correlation(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def duration(seconds: float) -> str:
    if not math.isfinite(seconds) or seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
