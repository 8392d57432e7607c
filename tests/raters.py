"""Scored items, made up or from groups of real files, for tests of statistics and benchmarks."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from hs2jax.data import groups
from hs2jax.data.groups import Group


def item(responses: Iterable[str], rewards: Iterable[float], pairs=(), **fields) -> dict:
    """An item of scored responses; without ratings, and uncut, where `fields` say nothing."""
    rewards = [float(reward) for reward in rewards]
    return {
        "source": "made.jsonl:1",
        "prompt": "Why?",
        "responses": list(responses),
        "outputs": [[reward] for reward in rewards],
        "rewards": rewards,
        "ratings": [{} for _ in rewards],
        "pairs": [list(each) for each in pairs],
        "ties": 0,
        "tokens": [1 for _ in rewards],
        "about": {},
        "cut": 0,
        **fields,
    }


# Simulated raters -----------------------------------------------------------------------------


def of_margins(margins, *, per_group=1, lengths=None, **about) -> list[dict]:
    """Items whose pairs have these margins, `per_group` in each; every response is in one pair.

    lengths: characters [P, 2] of the chosen and the rejected response; 5 and 5 without.
    """
    margins = np.asarray(margins, float).tolist()
    lengths = [(5, 5)] * len(margins) if lengths is None else np.asarray(lengths).tolist()
    items = []
    for start in range(0, len(margins), per_group):
        part = range(start, min(start + per_group, len(margins)))
        responses = [side * n for p in part for side, n in zip("cr", lengths[p], strict=True)]
        rewards = [reward for p in part for reward in (margins[p], 0.0)]
        pairs = [(2 * j, 2 * j + 1, 1.0) for j in range(len(part))]
        named = {"source": f"folder/made.jsonl:{start + 1}", "prompt": f"Question {start}"}
        items.append(item(responses, rewards, pairs, about=about, **named))
    return items


def of_candidates(rewards, ratings=None) -> list[dict]:
    """Items of candidate responses without pairs: one per list of rewards."""
    items = []
    for i, row in enumerate(rewards):
        named = {"source": f"made.jsonl:{i + 1}", "prompt": f"Question {i}"}
        named |= {} if ratings is None else {"ratings": ratings[i]}
        items.append(item([f"answer {r}" for r in range(len(row))], row, **named))
    return items


# Items of benchmarks --------------------------------------------------------------------------


def pair(subset: str, chosen: float, rejected: float, *, lengths=(3, 2), **fields) -> dict:
    """An item of two responses, with the chosen one first."""
    own = {"source": f"{subset}.jsonl:1", "about": {"subset": subset}, "pairs": [(0, 1, 1.0)]}
    return item(["x" * n for n in lengths], [chosen, rejected], **own | fields)


def pairs(subset: str, right: int, wrong: int = 0, equal: int = 0) -> list[dict]:
    """Items of two responses, so many of which come out right, wrong and equal."""
    counts = {(1.0, 0.0): right, (0.0, 1.0): wrong, (0.5, 0.5): equal}
    return [each for rewards, n in counts.items() for each in [pair(subset, *rewards)] * n]


def listwise(right: Sequence[float], wrong: Sequence[float], **about) -> dict:
    """An item of several right and several wrong responses with these rewards."""
    n = len(right) + len(wrong)
    compared = [(i, j, 1.0) for i in range(len(right)) for j in range(len(right), n)]
    credits = [{"correct": 1.0}] * len(right) + [{"correct": 0.0}] * len(wrong)
    texts = ["x" * (k + 1) for k in range(n)]
    return item(texts, [*right, *wrong], compared, ratings=credits, about=about)


def from_groups(found: Iterable[Group], reward: Callable[[str], float] = len) -> list[dict]:
    """Items of groups, with a function of the response's text as the reward."""
    items = []
    for group in found:
        compared, ties = groups.pairs(group)
        fields = {"source": group.source, "ratings": [dict(rating) for rating in group.ratings]}
        fields |= {"ties": ties, "about": dict(group.about)}
        items.append(item(group.responses, map(reward, group.responses), compared, **fields))
    return items
