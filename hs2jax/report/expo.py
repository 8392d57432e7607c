"""The page of an ExPO sweep: how far it pays to go beyond the trained model, verdict first."""

from collections.abc import Mapping

from hs2jax.report import charts, format, made
from hs2jax.report.page import Figure, Section, Table, Verdict, verdict_of
from hs2jax.report.run import Column, Run, find, leaf, select, table_of

GAINS = {
    "validation": "validation pairs, which chose it",
    "held_out": "cross-validation over coarse factors",
    "test": "test pairs",
}
MODELS = (
    Column("accuracy", "accuracy", "percent"),
    Column("ties of rewards as half", "accuracy_ties_as_half", "percent", "plain"),
    Column("margin", "margin", "signed", "plain"),
    Column("loss", "loss", ".4f", "plain"),
    Column("pairs", "accuracy", show="n"),
)
GAIN = (
    Column("points", "gain", "points"),
    Column("right only beyond", "gain", "count", "only_second"),
    Column("right only at 1", "gain", "count", "only_first"),
    Column("McNemar's p", "gain", show="p_mcnemar"),
)


def sections(run: Run) -> list[Section]:
    """Say whether going beyond the trained model helps, by pairs that had no say in how far."""
    curve = select(run.rows, set="validation", family="factor")
    factor = run.result["factor"]
    tables = [
        _models_table(run, name, f"On the {name} pairs")
        for name in run.sets()
        if name != "held_out"
    ]
    gains = select(run.rows, metric="gain")
    note = "Points are of accuracy, on the same pairs; p is two-sided, with a vote for each prompt."
    if folds := run.result["fold_factors"]:
        note += f" The folds chose {format.listed(f'{each:g}' for each in folds)}."
    tables.append(
        table_of("Gain over the trained model", gains, lambda r: GAINS[r["set"]], GAIN, note=note)
    )
    note = (
        "0 is the initial model, which cannot be chosen, and 1 the trained one. The highest "
        "accuracy is chosen, and of equal ones the lowest loss."
    )
    chosen = (f"{factor:g}",)
    tables.append(
        table_of("All factors", curve, "leaf", MODELS, heading="factor", note=note, strong=chosen)
    )
    longer = find(run.rows, set="validation", metric="longer_wins")
    across = {"the longer wins": longer["value"]} if longer else {}
    points = {
        metric: [
            (float(leaf(row)), row["value"], *ends)
            for row in select(curve, metric=metric)
            for ends in [(row["low"], row["high"]) if row["low"] is not None else ()]
        ]
        for metric in ("accuracy", "loss")
    }
    drawn = {
        "Accuracy over the factor": charts.curves(
            {"accuracy": points["accuracy"]}, "factor", "percent", across=across, whole=False
        ),
        "Loss over the factor": charts.curves({"loss": points["loss"]}, "factor", whole=False),
    }
    figures = [
        Figure(caption, svg, chief=i == 0) for i, (caption, svg) in enumerate(drawn.items()) if svg
    ]
    verdicts = [_verdict(run), _seen(run, curve, gains), *made.warnings(run)]
    return [Section(f"Factor {factor:g}", verdicts, figures, tables)]


def _models_table(run: Run, name: str, title: str) -> Table:
    rows = select(run.rows, set=name, part="")
    rows = [row for row in rows if row["metric"] != "gain"]
    rules = {"longer_wins": "longer response wins", "shorter_wins": "shorter response wins"}
    lines = [
        row | {"method": rules[row["metric"]], "metric": "accuracy"}
        if row["metric"] in rules
        else row | {"method": f"{row['method']} model"}
        for row in rows
    ]
    return table_of(title, lines, "method", MODELS)


def _verdict(run: Run) -> Verdict:
    tested = find(run.rows, set="test", metric="gain")
    row = tested or find(run.rows, set="held_out", metric="gain")
    if row is None:
        sentence = (
            "There are too few groups to tell whether going beyond the trained model helps; name "
            "other pairs in config.test."
        )
        return Verdict("unsure", "Not known", sentence)
    pairs = format.count(row["n"], "pair")
    where = (
        f"On {pairs} that had no say in the factor" if tested else f"In cross-validation ({pairs})"
    )
    sentence = f"{where}, ExPO gains {format.value(row, 'points')} of accuracy."
    verdict = verdict_of({"the trained model": row}, sentence)
    return verdict._replace(label=f"Beyond the trained model: {verdict.label.lower()}")


def _seen(run: Run, curve: list[Mapping], gains: list[Mapping]) -> Verdict:
    """Say what the pairs that chose the factor saw."""
    factor, seen = run.result["factor"], find(gains, set="validation")
    best, start = (
        find(run.rows, set="validation", method=each, metric="accuracy")
        for each in ("chosen", "initial")
    )
    accuracy = format.number(best["value"], "percent")
    tried = format.count(len(select(curve, metric="accuracy")), "factor")
    sentence = (
        f"Of {tried} tried, {factor:g} is the best: right on {accuracy} of "
        f"{format.count(best['n'], 'validation pair')}, {format.value(seen, 'points')} over "
        "the trained model. The factor was chosen on these very pairs, so this is too high an "
        "estimate."
    )
    if factor == 1:
        sentence = f"Of {tried} tried, none beats 1, the trained model as it is: {accuracy}."
    if run.result["at_edge"]:
        sentence += " It lies at the end of the range: try larger ones (config.factors)."
    if start["value"] > best["value"]:
        initial = format.number(start["value"], "percent")
        sentence += f" The initial model is better than any of them: {initial}."
    return Verdict("unsure", "On the pairs that chose it", sentence)
