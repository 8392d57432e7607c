"""Items of simulated raters, for tests of statistics."""

import numpy as np


def of_margins(margins, *, per_group=1, lengths=None, subset=None):
    """Items whose pairs have these margins, `per_group` in each; every response is in one pair.

    lengths: characters [P, 2] of the chosen and the rejected response; 5 and 5 without.
    """
    margins = np.asarray(margins, float).tolist()
    lengths = [(5, 5)] * len(margins) if lengths is None else np.asarray(lengths).tolist()
    items = []
    for start in range(0, len(margins), per_group):
        part = range(start, min(start + per_group, len(margins)))
        rewards = [reward for p in part for reward in (margins[p], 0.0)]
        responses = [side * n for p in part for side, n in zip("cr", lengths[p], strict=True)]
        item = {
            "source": f"folder/made.jsonl:{start + 1}",
            "prompt": f"Question {start}",
            "responses": responses,
            "outputs": [[reward] for reward in rewards],
            "rewards": rewards,
            "ratings": [{} for _ in rewards],
            "pairs": [[2 * j, 2 * j + 1, 1.0] for j in range(len(part))],
            "ties": 0,
            "tokens": [1 for _ in rewards],
        }
        items.append(item if subset is None else {**item, "about": {"subset": subset}})
    return items


def of_candidates(rewards, ratings=None):
    """Items of candidate responses without pairs: one per list of rewards."""
    return [
        {
            "source": f"made.jsonl:{i + 1}",
            "prompt": f"Question {i}",
            "responses": [f"answer {r}" for r in range(len(row))],
            "outputs": [[float(x)] for x in row],
            "rewards": [float(x) for x in row],
            "ratings": [{} for _ in row] if ratings is None else ratings[i],
            "pairs": [],
            "ties": 0,
            "tokens": [1 for _ in row],
        }
        for i, row in enumerate(rewards)
    ]


def covered(count, of, rate=0.95, slack=0.03):
    """Whether an interval that should hold the truth at `rate` did so in `count` of `of` trials.

    Four standard errors below, and `slack` more for approximations; at most always.
    """
    return count / of >= rate - slack - 4 * np.sqrt(rate * (1 - rate) / of)
