"""JudgeBench (Tan et al. 2024, arXiv 2410.12784): which of two answers is objectively correct."""

from collections.abc import Iterable

from hs2jax.evaluation.benchmarks import parts, published

# Who wrote the responses: the pairs of each category.
SPLITS = {
    "GPT-4o": {"knowledge": 154, "reasoning": 98, "math": 56, "coding": 42},
    "Claude 3.5 Sonnet": {"knowledge": 154, "reasoning": 51, "math": 34, "coding": 31},
}
RULE = (
    "A pair is right where the correct response has the strictly higher reward; overall is the "
    "accuracy over all pairs. Judges are asked in both orders, and a tie over the two is wrong, as "
    "equal rewards are here."
)


def score(items: Iterable[dict]) -> dict:
    """The benchmark's result; the split is Claude's where an item's `writer` is, else GPT-4o's.

    Raises ValueError for a category that is not JudgeBench's.
    """
    items = list(items)
    found = parts.by_name(items, "subset", SPLITS["GPT-4o"])
    claude = any(item["about"].get("writer", "").startswith("claude") for item in items)
    split = "Claude 3.5 Sonnet" if claude else "GPT-4o"
    sections = []
    for name, rows in found.items():
        expected = SPLITS[split][name]
        part = parts.subset(name, rows, expected, parts.one_pair, expected)
        sections.append(parts.section(name.capitalize(), [part]))
    everything = parts.scored(
        parts.credit_table(
            rows := [item for rows in found.values() for item in rows],
            [item["rewards"] for item in rows],
            parts.one_pair,
        )
    )
    complete = all(part["complete"] for part in sections)
    return {
        "title": f"JudgeBench (pairs by {split})",
        "source": "arXiv 2410.12784",
        "rule": RULE,
        "chance": 0.5,
        "sections": sections,
        "missing": parts.missing(sections),
        "overall": {**everything, "complete": True} if complete else None,
        "extras": [],
        "published": published.JUDGE_BENCH if split == "GPT-4o" else [],
    }
