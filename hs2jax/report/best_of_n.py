"""The page of a best-of-n selection: what picking is worth over the number of candidates."""

from hs2jax.report import format
from hs2jax.report.page import Section, Verdict, verdict_of
from hs2jax.report.run import Run, field, find, select
from hs2jax.report.views import view


def sections(run: Run) -> list[Section]:
    """Say what the best of n is worth, and how often it beats the reference."""
    rewards, verdicts = select(run.rows, family="n", metric="reward"), []
    # Only what all prompts have can be compared: means for more candidates are of fewer.
    same = [row for row in rewards if row["n"] == rewards[0]["n"]]
    if len(same) > 1:
        ends = same[0], same[-1]
        said = [f"{format.value(row)} for the best of {field(row, 'leaf')}" for row in ends]
        sentence = (
            f"The mean reward is {' and '.join(said)}, n={same[0]['n']:,}. The reward is the one "
            "that picked: it says how far picking goes, not that people agree."
        )
        verdicts.append(Verdict("unsure", f"Best of {field(same[-1], 'leaf')}", sentence))
    if won := find(run.rows, metric="win_rate"):
        note = f"Equal rewards count half ({won['ties']})."
        verdicts.append(verdict_of({"the reference": won}, note=note))
    if not verdicts:
        sentence = "There are prompts with a single candidate, or none: nothing to pick from."
        verdicts = [Verdict("unsure", "Best of 1", sentence)]
    return [Section("Best of n", verdicts, view("best_of_n", run.rows))]
