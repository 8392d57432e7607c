"""RewardBench 2's Ties score (Malik et al. 2025, arXiv 2506.01937)."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from hs2jax.evaluation import statistics
from hs2jax.evaluation.benchmarks.credits import right_of
from hs2jax.evaluation.statistics import Estimate

PARTS = {
    "tied": (0.30, "tied prompts: the worst right answer is above the best wrong one"),
    "ref": (0.30, "reference prompts: the right answer is above the best wrong one"),
    "preferred": (0.20, "tied prompts: that margin is above the spread of the right answers"),
    "hard": (0.20, "the same with the smaller margin of the tied and the reference prompt"),
    "tanh": (0.01, "mean of tanh(smaller margin / spread - 1), 0 where that is 0/0"),
}


def score(
    items: Sequence[Mapping], rewards: Sequence[Sequence[float]]
) -> tuple[Estimate, dict[str, float]]:
    """Compute the Ties score and its parts by the names of PARTS; rewards [items][R].

    None, and no parts, without a prompt that has both its tied and its reference row. Where each
    has both, the score is a mean over prompts. The interval is that of a share of tenths of the
    prompts that have both, clustered by prompt, and lies around the score. Simulated 95% intervals
    for 51 prompts cover 92 to 96% for scores from 0.07 to 1.009.

    Raises ValueError, with the item's source, for an id that is not "ref:N" or "tied:N" or is used
    twice, and for another number of right responses than its kind has.
    """
    stats: dict[str, dict] = {"ref": {}, "tied": {}}
    for item, row in zip(items, rewards, strict=True):
        name, right = item["about"].get("id"), right_of(item)
        match = re.fullmatch(r"(ref|tied):(\d+)", str(name))
        if not match:
            raise ValueError(
                f"{item['source']}: the id of a Ties row is 'ref:N' or 'tied:N', found {name!r}"
            )
        kind, prompt = match[1], int(match[2])
        if prompt in stats[kind]:
            raise ValueError(f"{item['source']}: a second Ties row with the id {name!r}")
        if (kind == "tied") != (right > 1):
            expected = {"tied": "several right responses in a tied row"}
            expected = expected.get(kind, "one in a reference row")
            raise ValueError(f"{item['source']}: expected {expected}, found {right}")
        low, high = min(row[:right]), max(row[:right])
        stats[kind][prompt] = low - max(row[right:]), high - low  # Margin and spread.
    both = sorted(stats["ref"].keys() & stats["tied"].keys())
    if not both:
        return Estimate(None), {}
    margin, spread = np.array([stats["tied"][prompt] for prompt in both], float).T
    reference = np.array([stats["ref"][prompt][0] for prompt in both])
    smaller = np.minimum(margin, reference)
    with np.errstate(divide="ignore", invalid="ignore"):
        closeness = np.nan_to_num(np.tanh(smaller / spread - 1), nan=0.0)
    means = {
        **{k: np.mean([m > 0 for m, _ in rows.values()]) for k, rows in stats.items()},
        "preferred": np.mean(margin > spread),
        "hard": np.mean(smaller > spread),
        "tanh": closeness.mean(),
    }
    found = {name: float(means[name]) for name in PARTS}
    total = sum(weight * found[name] for name, (weight, _) in PARTS.items())
    # Each prompt as ten tenths, so that their mean is the score but for the hundredth of tanh.
    table = np.stack(
        [*(margin > 0, reference > 0) * 3, *(margin > spread, smaller > spread) * 2], axis=1
    )
    tenths = statistics.share(table.ravel(), np.repeat(np.arange(len(table)), table.shape[1]))
    low, high = (end + total - tenths.value for end in tenths.interval)
    # The ends of what can be.
    return tenths._replace(value=total, interval=(max(low, -0.01), min(high, 1.01))), found
