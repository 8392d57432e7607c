"""Benchmarks with published scoring rules, from scored items to a score."""

from collections.abc import Iterable

from hs2jax.evaluation.benchmarks import judge_bench, llmbar, reward_bench, reward_bench_2, rm_bench

RULES = {
    "judge_bench": judge_bench.score,
    "llmbar": llmbar.score,
    "reward_bench": reward_bench.score,
    "reward_bench_2": reward_bench_2.score,
    "rm_bench": rm_bench.score,
}


def score(name: str, items: Iterable[dict]) -> dict | None:
    """What a benchmark's own rule makes of scored items; None for a format that has no rule.

    Args:
        name: the format of the data, as in RULES.
        items: as in `hs2jax.evaluation.statistics`, with `about` (what the benchmark says of the
            row: `subset`, or RM-Bench's `domain`, and `id`) and `cut` (tokens cut from the prompt).

    Returns:
        A dict that JSON can hold: title, source, rule (in words), chance; sections, each with its
        subsets; missing (what is absent, in words); overall, None where it cannot be complete;
        extras (tables); published (rows of others, in percent). Scores and intervals (95 %) are
        shares; `effective` is the number of independent comparisons that a score is worth. The
        score of an incomplete section is the same formula over what is there.

    Raises ValueError, with the item's source, for an item that is not of the benchmark.
    """
    return RULES[name](items) if name in RULES else None
