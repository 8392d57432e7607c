"""The page of an ExPO sweep: how far it pays to go beyond the trained model, verdict first."""

from collections.abc import Mapping

from hs2jax.report import charts, format, made
from hs2jax.report.page import Figure, Section, Verdict, side_of, verdict_of
from hs2jax.report.run import Column, Run, find, leaf, select, table_of

GAINS = {
    "validation": "validation pairs, which chose it",
    "held_out": "cross-validation over coarse factors",
    "test": "test pairs",
}
LABELS = {
    "better": "Going beyond the trained model helps",
    "worse": "Going beyond the trained model harms",
    "not shown": "Going beyond the trained model: no more than noise",
}
VOTES = (
    Column("right only beyond", "gain", "count", "only_second"),
    Column("right only at 1", "gain", "count", "only_first"),
    Column("McNemar's p", "gain", ".3f", "p_mcnemar"),
)


def sections(run: Run) -> list[Section]:
    """Say whether going beyond the trained model helps, by pairs that had no say in how far."""
    curve = select(run.rows, set="validation", family="factor")
    factor, gains = run.result["factor"], select(run.rows, metric="gain")
    tables = []
    for name in run.sets():
        models = [row for row in select(run.rows, set=name, part="") if row["metric"] != "gain"]
        tables.append(table_of(f"On the {name} pairs", models, _model, across=""))
    note = "Points are of accuracy, on the same pairs; p is two-sided, with a vote for each prompt."
    if folds := run.result["fold_factors"]:
        note += f" The folds chose {format.listed(f'{each:g}' for each in folds)}."
    title = "Gain over the trained model"
    tables.append(table_of(title, gains, lambda row: GAINS[row["set"]], further=VOTES, note=note))
    note = (
        "0 is the initial model, which cannot be chosen, and 1 the trained one. The highest "
        "accuracy is chosen, and of equal ones the lowest loss."
    )
    strong = {"strong": [f"{factor:g}"], "note": note}
    tables.append(table_of("All factors", curve, "leaf", heading="factor", **strong))
    points: dict[str, list] = {}
    for row in curve:
        point = (float(leaf(row)), row["value"], row["low"], row["high"])
        points.setdefault(row["metric"], []).append(point)
    longer = find(run.rows, set="validation", metric="longer_wins")
    style = {"across": {"longer wins": longer["value"]} if longer else {}, "whole": False}
    accuracy = charts.curves({"ExPO": points["accuracy"]}, "factor", format.PERCENT, **style)
    figures = [
        Figure("Accuracy over the factor", accuracy, chief=True),
        Figure("Loss", charts.curves({"": points["loss"]}, "factor", whole=False)),
    ]
    verdicts = [_verdict(run.rows), _seen(run, curve), *made.warnings(run)]
    return [Section(f"Factor {factor:g}", verdicts, figures, tables)]


def _model(row: Mapping) -> str:
    return row.get("method") or "rules of length"


def _verdict(rows: list[Mapping]) -> Verdict:
    tested = find(rows, set="test", metric="gain")
    row = tested or find(rows, set="held_out", metric="gain")
    if row is None:
        sentence = (
            "There are too few groups to tell whether going beyond the trained model helps; name "
            "other pairs in config.test."
        )
        return Verdict("unsure", "Not known", sentence)
    pairs = format.count(row["n"], "pair")
    where = f"{pairs} that had no say in the factor" if tested else f"{pairs}, by cross-validation"
    sentence = f"On {where}, ExPO gains {format.value(row, format.POINTS)} of accuracy."
    return verdict_of({"the trained model": row}, sentence)._replace(label=LABELS[side_of(row)])


def _seen(run: Run, curve: list[Mapping]) -> Verdict:
    """Say what the pairs that chose the factor saw."""
    factor, whole = run.result["factor"], select(run.rows, set="validation", part="")
    best, start = (find(whole, metric="accuracy", method=each) for each in ("chosen", "initial"))
    tried = format.count(len(select(curve, metric="accuracy")), "factor")
    sentence = (
        f"Of {tried} tried, {factor:g} is the best: right on "
        f"{format.number(best['value'], format.PERCENT)} of "
        f"{format.count(best['n'], 'validation pair')}, "
        f"{format.value(find(whole, metric='gain'), format.POINTS)} over the trained model. The "
        "factor was chosen on these very pairs, so this is too high an estimate."
    )
    if run.result["at_edge"]:
        sentence += " It lies at the end of the range: try larger ones (config.factors)."
    if start["value"] > best["value"]:
        initial = format.number(start["value"], format.PERCENT)
        sentence += f" The initial model is better than any of them: {initial}."
    return Verdict("unsure", "On the pairs that chose it", sentence)
