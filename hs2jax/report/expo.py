"""The page of an ExPO sweep: how far it pays to go beyond the trained model, verdict first."""

from hs2jax.report import format, made
from hs2jax.report.page import Section, Verdict, verdict_of
from hs2jax.report.run import Run, find
from hs2jax.report.views import view


def sections(run: Run) -> list[Section]:
    """Say whether going beyond the trained model helps, by pairs that had no say in how far."""
    factor = f"{run.result['factor']:g}"
    folds = ", ".join(f"{each:g}" for each in run.result["fold_factors"] or ())
    verdicts = [_verdict(run), _chosen(run), *made.warnings(run)]
    note = f"The folds of cross-validation chose {folds}." if folds else ""
    return [Section(f"Factor {factor}", verdicts, view("expo", run.rows, [factor]), note=note)]


def _verdict(run: Run) -> Verdict:
    """Judge the gain by pairs that had no say in the factor."""
    for name in ("test", "held_out"):
        if row := find(run.rows, set=name, metric="gain"):
            pairs = "test pairs" if name == "test" else "cross-validation over coarse factors"
            note = f"On pairs that had no say in the factor: {pairs}."
            return verdict_of({"the trained model": row}, subject="ExPO", note=note)
    sentence = "There are too few groups to tell; name other pairs in config.test."
    return Verdict("unsure", "Whether it helps is not known", sentence)


def _chosen(run: Run) -> Verdict:
    """Say what the pairs that chose the factor saw."""
    about = {"set": "validation", "part": ""}
    best = find(run.rows, metric="accuracy", method="chosen", **about)
    sentence = (
        f"{format.sentence([best, find(run.rows, metric='gain', **about)])} The factor was chosen "
        "on these very pairs, so this is too high an estimate."
    )
    if run.result["at_edge"]:
        sentence += " It lies at the end of the range: try larger ones (config.factors)."
    return Verdict("unsure", "On the pairs that chose it", sentence)
