"""Scored items of benchmarks, made up, or from groups of real files."""

from collections.abc import Callable, Iterable, Sequence

from hs2jax.data import groups
from hs2jax.data.groups import Group


def pair(subset: str, chosen: float, rejected: float, *, lengths=(3, 2), **fields) -> dict:
    """An item of two responses, with the chosen one first."""
    return {
        "source": f"{subset}.jsonl:1",
        "prompt": "Why?",
        "responses": ["x" * length for length in lengths],
        "rewards": [chosen, rejected],
        "ratings": [{}, {}],
        "pairs": [[0, 1, 1.0]],
        "ties": 0,
        "about": {"subset": subset},
        "cut": 0,
        **fields,
    }


def pairs(subset: str, right: int, wrong: int = 0, equal: int = 0) -> list[dict]:
    """Items of two responses, so many of which come out right, wrong and equal."""
    return (
        [pair(subset, 1.0, 0.0)] * right
        + [pair(subset, 0.0, 1.0)] * wrong
        + [pair(subset, 0.5, 0.5)] * equal
    )


def listwise(right: Sequence[float], wrong: Sequence[float], **about) -> dict:
    """An item of several right and several wrong responses with these rewards."""
    both = range(len(right)), range(len(right), len(right) + len(wrong))
    return {
        "source": "list.jsonl:1",
        "prompt": "Why?",
        "responses": ["x" * (k + 1) for k in range(len(right) + len(wrong))],
        "rewards": [*right, *wrong],
        "ratings": [{"correct": 1.0}] * len(right) + [{"correct": 0.0}] * len(wrong),
        "pairs": [[i, j, 1.0] for i in both[0] for j in both[1]],
        "ties": 0,
        "about": about,
        "cut": 0,
    }


def from_groups(found: Iterable[Group], reward: Callable[[str], float] = len) -> list[dict]:
    """Items of groups, with a function of the response's text as the reward."""
    items = []
    for group in found:
        compared, ties = groups.pairs(group)
        items.append(
            {
                "source": group.source,
                "prompt": group.prompt[-1]["content"],
                "responses": list(group.responses),
                "rewards": [float(reward(response)) for response in group.responses],
                "ratings": [dict(rating) for rating in group.ratings],
                "pairs": [list(each) for each in compared],
                "ties": ties,
                "about": dict(group.about),
                "cut": 0,
            }
        )
    return items
