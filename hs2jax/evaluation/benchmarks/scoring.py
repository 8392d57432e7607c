"""From scored items to a benchmark's rows: subsets, sections and an overall score."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hs2jax.evaluation import statistics
from hs2jax.evaluation.benchmarks import credits, ties
from hs2jax.evaluation.benchmarks.catalogue import BENCHMARKS, Benchmark, benchmark_of
from hs2jax.evaluation.measures import rows_of
from hs2jax.workdir import row

SHRINK = 2.0
NOTHING = None, None, None


class Part(NamedTuple):
    """A score in [0, 1] with its 95% interval, of how many items of those that are published.

    effective: the number of independent comparisons that it is worth. All three are None where
    there is nothing.
    """

    name: str
    score: float | None
    interval: Sequence[float] | None
    effective: float | None
    items: int
    expected: int
    weight: float = 1.0

    @property
    def complete(self) -> bool:
        return self.items == self.expected


def rows(set: str, items: Sequence[Mapping]) -> tuple[list[dict], dict | None]:
    """Score items by their benchmark's own rule, and say what it is; [], None for a set that is no
    benchmark.

    set: the format of the data. Returns rows and {"title", "source", "rule", "chance", "missing":
    [what is absent, in words]}. Rows, with n items and how many are `expected`, and `complete`:

    * score: section/NAME, section/NAME/SUBSET, apart/SUBSET (in no section), and overall where all
      sections are complete. The score of an incomplete section is the same formula over what is
      there. Of subsets also ties_as_half, longer_wins and shorter_wins (the same rule where the
      response with more, or fewer, characters has the higher reward) and prompts_cut.
    * score_with_prior: RewardBench's overall score with its prior sets at half a weight.
    * strict: RewardBench 2's where the right response alone has the highest reward; section/Ties/..
      share: what its Ties score is made of.
    * level/LEVEL/DOMAIN, style/DOMAIN/RIGHT/WRONG: RM-Bench's comparisons.
    * published: scores of others, by `method` (a model) and `source`.

    Raises ValueError, with the item's source, for an item that is not of the benchmark.
    """
    benchmark = benchmark_of(set, items)
    if benchmark is None:
        return [], None
    names = [name for subsets in benchmark.sections.values() for name in subsets]
    found = by_name(items, benchmark.field, [*names, *benchmark.apart])
    said, sections, lines = [], [], []
    for name, subsets in benchmark.sections.items():
        parts = [_part(benchmark, sub, found[sub], n) for sub, n in subsets.items()]
        section = combine(name, parts)
        sections.append(section)
        place = f"section/{name}"
        said.append(_score(set, place, section, headline=True))
        alone = len(parts) == 1 and parts[0].name.lower() == name.lower()
        for part in parts:
            below = place if alone else f"{place}/{part.name}"
            if not alone and section.items:
                said.append(_score(set, below, part))
            if part.items:
                said += _beside(set, below, benchmark, found[part.name])
            lines += _missing(name, part)
    overall = _overall(benchmark, sections, found)
    if overall:
        verdict = {"reference": benchmark.chance, "better": "higher", "headline": True}
        said.insert(0, _score(set, "", overall, **verdict))
    said += _apart(set, benchmark, sections, found)
    if set == "reward_bench_2":
        said += _ties(set, found["Ties"])
    if set == "rm_bench":
        said += _styles(set, sections, found)
    said += [
        row(set, each.part, "published", each.score, method=each.model, source=each.source)
        for each in benchmark.published
    ]
    about = {key: getattr(benchmark, key) for key in ("title", "source", "rule", "chance")}
    return said, about | {"missing": lines}


def _rule(benchmark: Benchmark) -> credits.Rule:
    return getattr(credits, benchmark.credit)


def by_name(items: Iterable[Mapping], field: str, names: Iterable[str]) -> dict[str, list[Mapping]]:
    """Sort items by what `about[field]` says, [] where there are none of a name.

    Raises ValueError for an item that says nothing or another name, or has a reward that is not a
    finite number, with its source.
    """
    found: dict[str, list[Mapping]] = {name: [] for name in names}
    for item in items:
        name = item.get("about", {}).get(field)
        if name not in found:
            said = f"does not say its {field}" if name is None else f"has the {field} {name!r}"
            raise ValueError(
                f"{credits.source(item)}: the item {said}, expected one of: {', '.join(found)}"
            )
        for reward in item["rewards"]:
            if not math.isfinite(reward):
                raise ValueError(
                    f"{credits.source(item)}: rewards must be finite numbers, got {reward}"
                )
        found[name].append(item)
    return found


def table(items: Sequence[Mapping], rewards, rule: credits.Rule, equal: float = 0.0) -> np.ndarray:
    """The credits of the items, [items, comparisons]."""
    pairs = zip(items, rewards, strict=True)
    return np.array([rule(item, row, equal) for item, row in pairs], float)


def own(items: Sequence[Mapping]) -> list[Sequence[float]]:
    return [item["rewards"] for item in items]


def lengths(items: Sequence[Mapping], sign: int = 1) -> list[list[int]]:
    """The characters of each response, times `sign`: the rewards of the length baselines."""
    return [[sign * len(response) for response in item["responses"]] for item in items]


def scored(credit: np.ndarray) -> tuple[float | None, Sequence[float] | None, float | None]:
    """The mean of credits [items, comparisons], Wilson's interval, and the number of independent
    comparisons that they are worth, which is the number of items where each has one."""
    if not credit.size:
        return NOTHING
    item = np.repeat(np.arange(len(credit)), credit.shape[1])
    found = statistics.share(credit.ravel(), item)
    return found.value, found.interval, found.worth


def combine(name: str, parts: Sequence[Part], weights: Sequence[float] | None = None) -> Part:
    """Average independent scores, those that are there, by their weights.

    The interval is Wilson's at the effective number of comparisons, p (1 - p) / variance, where the
    variance is that of the weighted mean. Each score's own variance is taken as if SHRINK more
    comparisons had come out at the mean: else a few scores of exactly 1 would look certain. Where
    all are 0, or all 1, this is Kish's number (1965, Survey Sampling). Simulated 95% intervals of
    RewardBench's sections and overall score cover 91 to 97% for accuracies from 0.55 to 0.995.
    """
    weights = [part.weight for part in parts] if weights is None else weights
    size = sum(part.items for part in parts), sum(part.expected for part in parts)
    here = [(p, w) for p, w in zip(parts, weights, strict=True) if p.score is not None]
    if len(here) < 2:
        return Part(name, *(here[0][0][1:4] if here else NOTHING), *size)
    share = np.array([weight for _, weight in here], float)
    share /= share.sum()
    values = np.array([part.score for part, _ in here])
    score = float(share @ values)
    n = np.array([part.effective for part, _ in here])
    p = min(max(score, 0.0), 1.0)  # RewardBench 2's Ties score can be a hundredth outside.
    shrunk = np.clip((n * values + SHRINK * p) / (n + SHRINK), 0, 1)
    same = np.ptp(values) == 0 or not 0 < p < 1
    odds = np.ones_like(n) if same else shrunk * (1 - shrunk) / (p * (1 - p))
    effective = float(1 / (share**2 / n @ odds))
    low, high = statistics.wilson(p * effective, effective)
    return Part(name, score, (min(low, score), max(high, score)), effective, *size)


def _part(benchmark: Benchmark, name: str, items: Sequence[Mapping], expected: int) -> Part:
    found = ties.score(items, own(items))[:3] if _is_ties(items) else None
    found = found or scored(table(items, own(items), _rule(benchmark)))
    weight = benchmark.weight(name, expected, len(items))
    return Part(name, *found, len(items), expected, weight)


def _is_ties(items: Sequence[Mapping]) -> bool:
    return bool(items) and items[0].get("about", {}).get("subset") == "Ties"


def _score(set: str, place: str, part: Part, metric: str = "score", **more) -> dict:
    size = {"expected": part.expected, "complete": part.complete}
    return row(set, place, metric, part.score, part.interval, part.items, **size, **more)


def _beside(set: str, place: str, benchmark: Benchmark, items: Sequence[Mapping]) -> list[dict]:
    """The rows of what stands beside the score of a subset."""
    rule = _rule(benchmark)
    baselines = {"longer_wins": lengths(items), "shorter_wins": lengths(items, -1)}
    if _is_ties(items):
        values = {name: ties.score(items, rewards)[0] for name, rewards in baselines.items()}
    else:
        values = {"ties_as_half": table(items, own(items), rule, 0.5).mean()}
        values |= {name: table(items, r, rule).mean() for name, r in baselines.items()}
        if rule is credits.best:
            values["strict"] = (table(items, own(items), rule) == 1.0).mean()
    values["prompts_cut"] = sum(item.get("cut", 0) > 0 for item in items)
    return rows_of(set, place, len(items), values)


def _overall(benchmark: Benchmark, sections: Sequence[Part], found: Mapping) -> Part | None:
    """The overall score; None unless every section is complete."""
    if not benchmark.overall or not all(section.complete for section in sections):
        return None
    if benchmark.overall == "mean":
        return combine("overall", sections)
    items = [item for some in found.values() for item in some]
    credit = table(items, own(items), _rule(benchmark))
    return Part("overall", *scored(credit), len(items), len(items))


def _apart(set: str, benchmark: Benchmark, sections: Sequence[Part], found: Mapping) -> list[dict]:
    """The rows of subsets that are in no section, those that have items, and of their mean."""
    said, parts = [], {}
    for name, expected in benchmark.apart.items():
        parts[name] = _part(benchmark, name, found[name], expected)._replace(weight=1.0)
        if found[name]:
            said.append(_score(set, f"apart/{name}", parts[name]))
            said += _beside(set, f"apart/{name}", benchmark, found[name])
    averaged = combine("prior sets", [parts[name] for name in benchmark.averaged])
    if averaged.score is not None:
        said.append(_score(set, "apart", averaged))
        if all(part.complete for part in [*sections, averaged]):
            weights = [1.0] * len(sections) + [0.5]
            both = combine("with prior sets", [*sections, averaged], weights)
            said.append(_score(set, "", both, "score_with_prior"))
    return said


def _missing(section: str, part: Part) -> list[str]:
    """Say what keeps a subset from being complete."""
    place = section if part.name.lower() == section.lower() else f"{section}, {part.name}"
    if part.items < part.expected:
        absent = part.expected - part.items
        return [f"{place}: {absent:,} of {part.expected:,} rows are absent"]
    if part.items > part.expected:
        return [f"{place}: {part.items:,} rows, but {part.expected:,} are published"]
    return []


def _ties(set: str, items: Sequence[Mapping]) -> list[dict]:
    parts = ties.score(items, own(items))[3]
    return [
        row(set, f"section/Ties/{name}", "share", value, weight=weight, note=words)
        for name, value in parts.items()
        for weight, words in [ties.PARTS[name]]
    ]


def _styles(set: str, sections: Sequence[Part], found: Mapping) -> list[dict]:
    """RM-Bench's hard, normal and easy comparisons of each domain, and of all where all are
    complete; and every style of the right response against each of the wrong one. Rows of one
    domain count the same, whatever their file."""
    tables = {}
    for name, subsets in BENCHMARKS["rm_bench"].sections.items():
        items = [item for sub in subsets for item in found[sub]]
        if items:
            tables[name] = table(items, own(items), credits.nine)
    said = []
    for level, cells in credits.LEVELS.items():
        parts = [
            Part(name, *scored(credit[:, cells]), len(credit), section.expected)
            for name, credit in tables.items()
            for section in sections
            if section.name == name
        ]
        said += [_score(set, f"level/{level}/{part.name}", part) for part in parts]
        if all(section.complete for section in sections):
            said.append(_score(set, f"level/{level}", combine(level, parts)))
    for name, credit in tables.items():
        for (i, j), cell in zip(credits.CELLS, credit.mean(axis=0), strict=True):
            place = f"style/{name}/{credits.STYLES[i]}/{credits.STYLES[j]}"
            said.append(row(set, place, "score", cell, n=len(credit)))
    return said
