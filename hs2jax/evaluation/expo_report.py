"""The page of an ExPO sweep: how far it pays to go beyond the trained model, verdict first.

It reads what `hs2jax expo` left in a folder; `drawing`, `tables`, `report` and `page` show it.
"""

import json
from pathlib import Path

import numpy as np

from hs2jax.evaluation import drawing, report
from hs2jax.evaluation.report import Section, Verdict
from hs2jax.evaluation.tables import (
    Table,
    between,
    count,
    duration,
    listing,
    percent,
    points,
    signed,
)

NAMES = {"initial": "initial model", "trained": "trained model", "chosen": "chosen model"}


def write(workdir: str | Path) -> Path:
    """Writes `report.html` and `report.md` into the folder of a sweep; returns the former.

    Raises FileNotFoundError where the sweep is not finished.
    """
    workdir = Path(workdir)
    said = section(workdir)
    name = json.loads((workdir / "expo.json").read_text(encoding="utf-8"))["trained"]
    return report.write_page(workdir, f"ExPO of {name}", None, [said])


def section(workdir: Path) -> Section:
    """What the page says of a sweep. Raises as `write` does."""
    path = workdir / "expo.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: a sweep writes it when it is finished; run `hs2jax expo` again "
            f"with --workdir={workdir}"
        )
    result = json.loads(path.read_text(encoding="utf-8"))
    tables = [_models_table("On the validation pairs", result["validation"])]
    if result["test"]:
        tables.append(_models_table("On the test pairs", result["test"]))
    tables += [_gain_table(result), _curve_table(result), *_making_tables(result)]
    pictures = [("Loss over the factor", loss_curve(result["curve"], result["factor"]))]
    length = result["validation"]["trained"]["length_baseline"]
    chief = ("Accuracy over the factor", accuracy_curve(result["curve"], result["factor"], length))
    return Section(
        f"Factor {result['factor']:g}", verdicts(result), pictures, [], tables, []
    )._replace(chief_pictures=[chief])


def verdicts(result: dict) -> list[Verdict]:
    """Whether going beyond the trained model helps, by pairs that had no say in how far; then what
    the sweep itself saw."""
    first = _held_out_verdict(result)
    factor, gain = result["factor"], result["validation"]["gain"]
    chosen = result["validation"]["chosen"]
    sentence = (
        f"Of {count(len(result['curve']), 'factor')} tried, {factor:g} is the best: it is right on "
        f"{percent(chosen['accuracy'])} of {count(chosen['pairs'], 'validation pair')}, the "
        f"trained model on {percent(gain['first'])} ({_gain(gain)}). The factor was chosen on "
        "these very pairs, so this gain is too high an estimate, and its p-value too low."
    )
    if factor == 1:
        sentence = (
            f"Of {count(len(result['curve']), 'factor')} tried, none beats 1, the trained model as "
            f"it is: {percent(chosen['accuracy'])} of {count(chosen['pairs'], 'validation pair')}."
        )
    if result["at_edge"]:
        sentence += " It lies at the end of the range: try larger ones (config.factors)."
    start = result["validation"]["initial"]["accuracy"]
    if start > chosen["accuracy"]:
        sentence += f" The initial model is better than any of them: {percent(start)}."
    return [first, Verdict("unsure", "On the pairs that chose it", sentence)]


def _held_out_verdict(result: dict) -> Verdict:
    if result["test"]:
        gain = result["test"]["gain"]
        where = f"On {count(gain['pairs'], 'test pair')} that had no say in the factor"
    elif result["held_out"]:
        gain = result["held_out"]
        where = (
            f"In cross-validation, where {count(gain['pairs'], 'pair')} are judged with factors "
            "that others chose"
        )
    else:
        return Verdict(
            "unsure",
            "Not known",
            "There are too few groups to tell whether going beyond the trained model helps; name "
            "other pairs in config.test.",
        )
    sentence = (
        f"{where}, ExPO is right on {percent(gain['second'])} and the trained model on "
        f"{percent(gain['first'])}: {_gain(gain)}."
    )
    if gain["interval"][0] > 0:
        return Verdict("good", "Going beyond the trained model helps", sentence)
    if gain["interval"][1] < 0:
        return Verdict("bad", "Going beyond the trained model harms", sentence)
    return Verdict("unsure", "No more than noise", f"{sentence} That may be noise.")


def _gain(gain: dict) -> str:
    low, high = gain["interval"]
    return (
        f"{points(gain['difference'])} points, 95% interval {points(low)} to {points(high)}, "
        f"McNemar's p = {gain['p_mcnemar']:.2g}"
    )


# Pictures -----------------------------------------------------------------------------------------


def accuracy_curve(curve: list[dict], chosen: float, length: dict) -> str:
    """Accuracy over the factor with its 95 % band, beside "longer wins". Factor 1, the trained
    model, and the chosen one are marked."""
    factors, accuracy, low, high = (
        np.array(column)
        for column in zip(
            *((row["factor"], row["accuracy"], *row["interval"]) for row in curve), strict=True
        )
    )
    ends = min(low.min(), length["accuracy"]), max(high.max(), length["accuracy"])
    # Six points at least, so that the numbers at the side are whole percents.
    wider = max(0.0, 0.06 - (ends[1] - ends[0])) / 2
    axes = drawing.Axes(
        drawing.padded(factors.min(), factors.max(), 0.03),
        drawing.padded(ends[0] - wider, ends[1] + wider, 0.05),
    )
    sides = [tick for tick in drawing.round_ticks(*axes.y) if 0 <= tick <= 1]
    below = drawing.round_ticks(*axes.x)
    body = drawing.frame(axes, below, sides, "factor", percent=True)
    band = np.concatenate([factors, factors[::-1]]), np.concatenate([low, high[::-1]])
    body += [
        drawing.polyline(axes, *band, "band one"),
        drawing.line(
            axes, axes.x[0], length["accuracy"], axes.x[1], length["accuracy"], "rule two dashed"
        ),
        *_curve(axes, factors, accuracy, chosen),
    ]
    best = next(row for row in curve if row["factor"] == chosen)
    label = (
        f"Accuracy is {best['accuracy']:.1%} at the chosen factor {chosen:g}, and "
        + ", ".join(f"{row['accuracy']:.1%} at {row['factor']:g}" for row in curve)
        + f". The longer response wins on {length['accuracy']:.1%}."
    )
    body += drawing.legend([("one", "accuracy"), ("two dashed", "longer wins")])
    return drawing.svg("Accuracy over the factor", label, axes, body)


def loss_curve(curve: list[dict], chosen: float) -> str:
    """Bradley-Terry loss over the factor, which margins that grow with it change too."""
    factors = np.array([row["factor"] for row in curve])
    loss = np.array([row["loss"] for row in curve])
    axes = drawing.Axes(
        drawing.padded(factors.min(), factors.max(), 0.03),
        drawing.padded(loss.min(), loss.max(), 0.08),
    )
    body = drawing.frame(axes, drawing.round_ticks(*axes.x), drawing.round_ticks(*axes.y), "factor")
    body += _curve(axes, factors, loss, chosen)
    label = "Loss: " + ", ".join(f"{row['loss']:.4f} at {row['factor']:g}" for row in curve) + "."
    body += drawing.legend([("one", "loss")])
    return drawing.svg("Loss over the factor", label, axes, body)


def _curve(axes, factors: np.ndarray, values: np.ndarray, chosen: float) -> list[str]:
    """The curve, a line at factor 1, and the chosen factor as a hollow dot with its number."""
    at = values[factors == chosen][0]
    return [
        drawing.line(axes, 1, axes.y[0], 1, axes.y[1], "rule dotted"),
        drawing.words(axes.at(1, 0)[0] + 4, axes.top + 10, "trained", "note"),
        drawing.polyline(axes, factors, values, "curve one"),
        *(drawing.dot(axes, *point, "one", 2.5) for point in zip(factors, values, strict=True)),
        drawing.dot(axes, chosen, at, "one hollow", 6),
        drawing.words(*drawing.shift(axes.at(chosen, at), 0, -12), f"{chosen:g}", "value middle"),
    ]


# Tables -------------------------------------------------------------------------------------------


def _models_table(title: str, found: dict) -> Table:
    rows = [
        [
            name,
            percent(found[key]["accuracy"]),
            between(found[key]["interval"]),
            percent(found[key]["accuracy_half_credit"]),
            signed(found[key]["margin"]),
            f"{found[key]['loss']:.4f}",
        ]
        for key, name in NAMES.items()
    ]
    p = found["trained"]
    length = p["length_baseline"]
    for kind, key in (("longer", "accuracy"), ("shorter", "shorter_accuracy")):
        interval = length["interval" if kind == "longer" else "shorter_interval"]
        rows.append([f"{kind} response wins", percent(length[key]), between(interval), "", "", ""])
    note = f"{count(p['pairs'], 'pair')} of {found['data']}; {p['ties']:,} ties left out."
    columns = ["", "accuracy", "95% interval", "ties of rewards as half", "margin", "loss"]
    return Table(title, columns, rows, note)


def _gain_table(result: dict) -> Table:
    gains = {"validation pairs, which chose it": result["validation"]["gain"]}
    if result["held_out"]:
        gains["cross-validation over coarse factors"] = result["held_out"]
    if result["test"]:
        gains["test pairs"] = result["test"]["gain"]
    rows = [
        [
            name,
            points(gain["difference"]),
            f"{points(gain['interval'][0])} to {points(gain['interval'][1])}",
            f"{gain['only_second']:,}",
            f"{gain['only_first']:,}",
            f"{gain['p_mcnemar']:.2g}",
            f"{gain['p_bootstrap']:.2g}",
        ]
        for name, gain in gains.items()
    ]
    note = "Points are of accuracy, on the same pairs; p-values are two-sided."
    if result["held_out"]:
        folds = ", ".join(f"{factor:g}" for factor in result["held_out"]["factors"])
        note += f" In cross-validation the folds chose the factors {folds}."
    columns = ["", "points", "95% interval", "right only beyond", "right only at 1"]
    columns += ["McNemar's p", "bootstrap p"]
    return Table("Gain over the trained model", columns, rows, note)


def _curve_table(result: dict) -> Table:
    curve = result["curve"]
    rows = [
        [
            f"{row['factor']:g}",
            percent(row["accuracy"]),
            between(row["interval"]),
            f"{row['loss']:.4f}",
            signed(row["margin"]),
        ]
        for row in curve
    ]
    chosen = next(i for i, row in enumerate(curve) if row["factor"] == result["factor"])
    note = (
        "0 is the initial model, which cannot be chosen, and 1 the trained one. The highest "
        "accuracy is chosen, and of equal ones the lowest loss."
    )
    columns = ["factor", "accuracy", "95% interval", "loss", "margin"]
    return Table("All factors", columns, rows, note, folded=True, strong=(chosen,))


def _making_tables(result: dict) -> list[Table]:
    record = {**result["record"], "time for all factors": duration(result["seconds"])}
    parts = (
        ("Data and time", record, ","),
        ("Settings", result["config"], "d"),  # As one would type them.
        ("Environment", result["environment"], "d"),
    )
    return [
        Table(name, ["", "value"], listing(values, integer), folded=values is not record)
        for name, values, integer in parts
    ]
