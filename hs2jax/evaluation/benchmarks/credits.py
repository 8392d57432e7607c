"""The rules by which a benchmark's item is right.

A rule is a function (item, rewards [R], equal) -> credits: one number in [0, 1] for each comparison
that the item consists of, where `equal` is the credit for two equal rewards. It takes the rewards
apart from the item because the baselines are the same rule with lengths as the rewards. Items that
are not of the benchmark raise ValueError, with their source.
"""

from collections.abc import Mapping, Sequence

STYLES = ("concise", "detailed", "markdown")  # RM-Bench's, the plainest first.
S = len(STYLES)
# Cells (style of the right response, style of the wrong one) of the matrix, in its order of rows.
CELLS = [(i, j) for i in range(S) for j in range(S)]
LEVELS = {  # Hard: a plainer right response against a fancier wrong one.
    "Hard": [k for k, (i, j) in enumerate(CELLS) if i < j],
    "Normal": [k for k, (i, j) in enumerate(CELLS) if i == j],
    "Easy": [k for k, (i, j) in enumerate(CELLS) if i > j],
}


def above(better: float, worse: float, equal: float) -> float:
    """The credit for a reward that should be the higher one of two."""
    return 1.0 if better > worse else equal if better == worse else 0.0


def one_pair(item: Mapping, rewards: Sequence[float], equal: float) -> list[float]:
    """Benchmarks of pairs: the chosen response has the strictly higher reward."""
    if len(item["pairs"]) != 1:
        raise ValueError(
            f"{item['source']}: expected one pair of a better and a worse response, "
            f"found {len(item['pairs'])}"
        )
    chosen, rejected, _ = item["pairs"][0]
    return [above(rewards[chosen], rewards[rejected], equal)]


def best(item: Mapping, rewards: Sequence[float], equal: float) -> list[float]:
    """RewardBench 2: the one right response has the highest reward. Of n equal ones, it among them,
    it has 1/n, as published, whatever `equal`."""
    right = right_of(item)
    if right != 1:
        raise ValueError(f"{item['source']}: expected one right response, found {right}")
    return [1 / list(rewards).count(rewards[0]) if rewards[0] == max(rewards) else 0.0]


def nine(item: Mapping, rewards: Sequence[float], equal: float) -> list[float]:
    """RM-Bench: the nine cells, in the order of CELLS."""
    right = right_of(item)
    if (right, len(rewards)) != (S, 2 * S):
        raise ValueError(
            f"{item['source']}: expected {S} right and {S} wrong responses, one of each style, "
            f"found {right} and {len(rewards) - right}"
        )
    return [above(rewards[i], rewards[S + j], equal) for i, j in CELLS]


def right_of(item: Mapping) -> int:
    """Count the responses that are right, by their ratings `correct` of 1 or 0: those that are
    come first, and there are one of each at least."""
    correct = [rating.get("correct") for rating in item["ratings"]]
    right = correct.count(1.0)
    if not 0 < right < len(correct) or correct != [1.0] * right + [0.0] * (len(correct) - right):
        raise ValueError(
            f"{item['source']}: expected ratings 'correct' of 1 for the right responses, which "
            f"come first, and 0 for the wrong ones, at least one of each, found {correct}"
        )
    return right
