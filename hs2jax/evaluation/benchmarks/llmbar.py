"""LLMBar (Zeng et al. 2023, arXiv 2310.07641): does an output follow its instruction?"""

from collections.abc import Iterable

from hs2jax.evaluation.benchmarks import parts, published

NATURAL = {"natural": 100}
ADVERSARIAL = {
    "adversarial-Neighbor": 134,
    "adversarial-GPTInst": 92,
    "adversarial-GPTOut": 47,
    "adversarial-Manual": 46,
}
# Sets of others that LLMBar's authors processed, with ties taken out.
APART = {"mt-bench": 200}
RULE = (
    "A pair is right where the output that follows the instruction has the strictly higher reward. "
    "Adversarial is the plain mean of its four subsets. Natural and Adversarial are two results: "
    "there is no overall score."
)


def score(items: Iterable[dict]) -> dict:
    """The benchmark's result. Raises ValueError for a subset that is not LLMBar's."""
    found = parts.by_name(items, "subset", [*NATURAL, *ADVERSARIAL, *APART])

    def subsets(counts: dict[str, int]) -> list[dict]:
        return [parts.subset(n, found[n], rows, parts.one_pair, 1.0) for n, rows in counts.items()]

    sections = [
        parts.section("Natural", subsets(NATURAL)),
        parts.section("Adversarial", subsets(ADVERSARIAL)),
    ]
    note = "What most of several people preferred, with ties left out. It is no part of LLMBar."
    table = parts.apart("MT-Bench, processed by LLMBar's authors", subsets(APART), note)
    return {
        "title": "LLMBar",
        "source": "arXiv 2310.07641",
        "rule": RULE,
        "chance": 0.5,
        "sections": sections,
        "missing": parts.missing(sections),
        "overall": None,
        "extras": [table] if table["rows"] else [],
        "published": published.LLMBAR,
    }
