"""The page of a best-of-n selection: what picking is worth over the number of candidates."""

from hs2jax.report import charts, format
from hs2jax.report.page import Figure, Section, Verdict, verdict_of
from hs2jax.report.run import Run, find, leaf, points, select, table_of


def sections(run: Run) -> list[Section]:
    """Say what the best of n is worth, and how often it beats the reference."""
    curve = select(run.rows, family="n")
    rewards = select(curve, metric="reward")
    # Only what all prompts have can be compared: means for more candidates are of fewer.
    same = [row for row in rewards if row["n"] == rewards[0]["n"]]
    verdicts = []
    if len(same) > 1:
        said = [f"{format.value(row)} for the best of {leaf(row)}" for row in (same[0], same[-1])]
        sentence = (
            f"The mean reward is {' and '.join(said)}, n={same[0]['n']:,}. The reward is the one "
            "that picked: it says how far picking goes, not that people agree."
        )
        verdicts.append(Verdict("unsure", f"Best of {leaf(same[-1])}", sentence))
    if won := find(run.rows, metric="win_rate"):
        note = f"Equal rewards count half ({won['ties']})."
        verdicts.append(verdict_of({"the reference": won}, note=note))
    if not verdicts:
        sentence = "There are prompts with a single candidate, or none: nothing to pick from."
        verdicts = [Verdict("unsure", "Best of 1", sentence)]
    lines = points(rewards) if len(rewards) > 1 else {}
    svg = charts.curves(lines, "n, candidates for each prompt")
    table = table_of("Best of n", curve, heading="of")
    return [Section("Best of n", verdicts, [Figure("Reward of the best of n", svg)], [table])]
