"""The page of an ExPO sweep: how far it pays to go beyond the trained model, verdict first."""

from hs2jax.report import charts, format, made
from hs2jax.report.page import Figure, Section, Verdict, verdict_of
from hs2jax.report.run import Run, find, points, select, table_of

GAINS = {
    "validation": "validation pairs, which chose it",
    "held_out": "cross-validation over coarse factors",
    "test": "test pairs",
}


def sections(run: Run) -> list[Section]:
    """Say whether going beyond the trained model helps, by pairs that had no say in how far."""
    curve = select(run.rows, set="validation", family="factor")
    factor, gains = f"{run.result['factor']:g}", select(run.rows, metric="gain")
    tables = []
    for name in run.sets():
        models = [row for row in select(run.rows, set=name, part="") if row["metric"] != "gain"]
        models = [{**row, "method": row.get("method") or "rules of length"} for row in models]
        tables.append(table_of(f"On the {name} pairs", models, "method"))
    folds = ", ".join(f"{each:g}" for each in run.result["fold_factors"])
    note = f"The folds chose {folds}." if folds else ""
    by_set = {"index": lambda row: GAINS[row["set"]], "across": "", "note": note}
    tables.append(table_of("Gain over the trained model", gains, **by_set))
    every = {"heading": "factor", "strong": [factor]}
    tables.append(table_of("All factors", curve, **every))
    lines = points(curve)
    longer = find(run.rows, set="validation", metric="longer_wins")
    across = {"longer wins": longer["value"]} if longer else {}
    accuracy = {"ExPO": lines["accuracy"]}
    svg = charts.curves(accuracy, "factor", format.PERCENT, across=across)
    figures = [
        Figure("Accuracy over the factor", svg, chief=True),
        Figure("Loss", charts.curves({"": lines["loss"]}, "factor")),
    ]
    verdicts = [_verdict(run), _chosen(run), *made.warnings(run)]
    return [Section(f"Factor {factor}", verdicts, figures, tables)]


def _verdict(run: Run) -> Verdict:
    """Judge the gain by pairs that had no say in the factor."""
    for name in ("test", "held_out"):
        if row := find(run.rows, set=name, metric="gain"):
            note = f"On pairs that had no say in the factor: {GAINS[name]}."
            return verdict_of({"the trained model": row}, subject="ExPO", note=note)
    sentence = "There are too few groups to tell; name other pairs in config.test."
    return Verdict("unsure", "Whether it helps is not known", sentence)


def _chosen(run: Run) -> Verdict:
    """Say what the pairs that chose the factor saw."""
    best, gain = (
        find(run.rows, set="validation", part="", metric=metric, method=method)
        for metric, method in (("accuracy", "chosen"), ("gain", None))
    )
    sentence = (
        f"{format.sentence([best, gain])} The factor was chosen on these very pairs, so this is "
        "too high an estimate."
    )
    if run.result["at_edge"]:
        sentence += " It lies at the end of the range: try larger ones (config.factors)."
    return Verdict("unsure", "On the pairs that chose it", sentence)
