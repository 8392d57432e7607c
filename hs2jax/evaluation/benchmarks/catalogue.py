"""The benchmarks, from benchmarks.json: what they consist of, and what others published."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Benchmark(NamedTuple):
    """A benchmark's own rule.

    sections: {section: {subset: published rows}}. field: of an item's `about`, which names its
    subset. credit: the name of a rule of `credits`. weigh: a subset counts in its section by its
    published "rows", its rows that are "here", or they count "equal"; `weights` are exceptions.
    overall: of complete sections, "mean" (unweighted), "pooled" (over all items) or "" (there is
    none). apart: subsets that are in no section, of which `averaged` have a mean. chance: what a
    coin has. published: scores of others, {"part" as rows name it, "value", "method": the model,
    "source"}.
    """

    title: str
    source: str
    rule: str
    chance: float
    field: str
    credit: str
    weigh: str
    weights: Mapping[str, float]
    overall: str
    sections: Mapping[str, Mapping[str, int]]
    apart: Mapping[str, int]
    averaged: Sequence[str]
    published: Sequence[Mapping]

    def weight(self, name: str, rows: int, here: int) -> float:
        """The weight of a subset in its section."""
        return self.weights.get(name, {"rows": rows, "here": here or rows, "equal": 1}[self.weigh])


def _benchmark(found: dict) -> Benchmark:
    published = [
        {
            "part": {"Overall": "", "Prior sets": "apart"}.get(column, f"section/{column}"),
            "value": value / 100,
            "method": model,
            "source": table["source"],
        }
        for table in found.pop("published")
        for model, values in table["rows"].items()
        for column, value in zip(table["columns"], values, strict=True)
        if value is not None
    ]
    found.pop("notes", None)
    return Benchmark(**found, published=published)


_TEXT = Path(__file__).with_name("benchmarks.json").read_text(encoding="utf-8")
BENCHMARKS = {name: _benchmark(found) for name, found in json.loads(_TEXT).items()}


def benchmark_of(name: str, items: Sequence[Mapping]) -> Benchmark | None:
    """Find a benchmark by the format of its data; JudgeBench's split is Claude's where an item's
    writer is."""
    claude = (str(item.get("about", {}).get("writer", "")).startswith("claude") for item in items)
    return BENCHMARKS.get("judge_bench_claude" if name == "judge_bench" and any(claude) else name)
