"""The page of a best-of-n selection: what picking is worth over the number of candidates."""

from hs2jax.report import charts, format
from hs2jax.report.format import PERCENT, SIGNED
from hs2jax.report.page import Figure, Section, Verdict, verdict_of
from hs2jax.report.run import Column, Run, find, leaf, select, table_of


def sections(run: Run) -> list[Section]:
    """Say what the best of n is worth, and how often it beats the reference."""
    curve = select(run.rows, family="n")
    rewards = select(curve, metric="reward")
    # Only what all prompts have can be compared: means for more candidates are of fewer.
    same = [row for row in rewards if row["n"] == rewards[0]["n"]]
    verdicts = [_picked(same[0], same[-1])] if same else []
    if won := find(run.rows, metric="win_rate"):
        sentence = (
            f"The picked response beats the reference's on {format.value(won, PERCENT)} of "
            f"{format.count(won['n'], 'prompt')}; equal rewards count half ({won['ties']})."
        )
        verdicts.append(verdict_of({"the reference": won}, sentence))
    if not verdicts:
        verdicts = [Verdict("unsure", "Nothing to pick from", "No prompt has been scored.")]
    points = [(int(leaf(row)), row["value"], row["low"], row["high"]) for row in rewards]
    svg = charts.curves({"reward": points}, "n, candidates for each prompt", dots=True)
    figures = [Figure("Reward of the best of n", svg)] if len(points) > 1 else []
    kl = [Column("KL at most", "reward", ".2f", "kl")]
    note = (
        "Over all subsets of n candidates, without drawing (unbiased). Only prompts with n "
        "candidates count. KL: log n − (n − 1)/n, which the distance from the sampler does not "
        "exceed, in nats."
    )
    table = table_of("Best of n", curve, "leaf", further=kl, heading="of", note=note)
    return [Section("Best of n", verdicts, figures, [table])]


def _picked(one: dict, most: dict) -> Verdict:
    n = leaf(most)
    if n == "1":
        sentence = "Of the prompts one or more have a single candidate: nothing to pick from."
        return Verdict("unsure", "Best of 1", sentence)
    sentence = (
        f"The best of {n} candidates has a mean reward of {format.number(most['value'], SIGNED)}, "
        f"one at random {format.number(one['value'], SIGNED)} ({format.count(one['n'], 'prompt')})."
        " The reward is the one that picked: it says how far picking goes, not that people agree."
    )
    return Verdict("unsure", f"Best of {n}", sentence)
