"""From scored items to a benchmark's rows: subsets, sections and an overall score."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hs2jax.evaluation import statistics
from hs2jax.evaluation.benchmarks import credits, ties
from hs2jax.evaluation.benchmarks.catalogue import Benchmark, benchmark_of
from hs2jax.evaluation.measures import rows_of
from hs2jax.evaluation.statistics import Estimate
from hs2jax.workdir import row

SHRINK = 2.0


class Part(NamedTuple):
    """A score in [0, 1], of how many items of those that are published. complete: no subset has
    fewer or more."""

    score: Estimate
    items: int
    expected: int
    complete: bool = True


def rows(set: str, items: Sequence[Mapping]) -> tuple[list[dict], dict | None]:
    """Score items by their benchmark's own rule, and say what it is; [], None for a set that is no
    benchmark.

    set: the format of the data. Returns rows and {"title", "source", "rule", "chance"}. Rows, with
    n items and how many are `expected`, and `complete`:

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
    expected = {name: n for some in benchmark.sections.values() for name, n in some.items()}
    expected |= benchmark.apart
    found = by_name(items, benchmark.field, expected)
    parts = {
        name: Part(
            _measure(benchmark, name, found[name]), len(found[name]), n, len(found[name]) == n
        )
        for name, n in expected.items()
    }
    said, sections = [], {}
    for name, subsets in benchmark.sections.items():
        weights = [benchmark.weight(sub, n, len(found[sub])) for sub, n in subsets.items()]
        section = sections[name] = combine([parts[sub] for sub in subsets], weights)
        said.append(_score(set, f"section/{name}", section, headline=True))
        alone = [sub.lower() for sub in subsets] == [name.lower()]
        for sub in subsets:
            below = f"section/{name}" if alone else f"section/{name}/{sub}"
            if not alone and section.items:
                said.append(_score(set, below, parts[sub]))
            said += _beside(set, below, benchmark, sub, found[sub])
    complete = all(section.complete for section in sections.values())
    if complete and benchmark.overall:
        whole = combine([*sections.values()])
        if benchmark.overall == "pooled":
            whole = whole._replace(score=_share(_credit(benchmark, items)))
        verdict = {"reference": benchmark.chance, "better": "higher", "headline": True}
        said.insert(0, _score(set, "", whole, **verdict))
    for name in benchmark.apart:
        if found[name]:
            said.append(_score(set, f"apart/{name}", parts[name]))
            said += _beside(set, f"apart/{name}", benchmark, name, found[name])
    averaged = combine([parts[name] for name in benchmark.averaged])
    if averaged.items:
        said.append(_score(set, "apart", averaged))
        if complete and averaged.complete:
            weights = [1.0] * len(sections) + [0.5]
            both = combine([*sections.values(), averaged], weights)
            said.append(_score(set, "", both, metric="score_with_prior"))
    if set == "reward_bench_2":
        for name, value in ties.score(found["Ties"], _rewards(found["Ties"]))[1].items():
            weight, words = ties.PARTS[name]
            said.append(row(set, f"section/Ties/{name}", "share", value, weight=weight, note=words))
    if set == "rm_bench":
        said += _styles(set, benchmark, sections, found)
    said += [row(set, metric="published", **each) for each in benchmark.published]
    return said, {key: getattr(benchmark, key) for key in ("title", "source", "rule", "chance")}


def by_name(items: Iterable[Mapping], field: str, names: Iterable[str]) -> dict[str, list[Mapping]]:
    """Sort items by what `about[field]` says, [] where there are none of a name.

    Raises ValueError for an item that says nothing or another name, with its source.
    """
    found: dict[str, list[Mapping]] = {name: [] for name in names}
    for item in items:
        name = item["about"].get(field)
        if name not in found:
            said = f"does not say its {field}" if name is None else f"has the {field} {name!r}"
            raise ValueError(
                f"{item['source']}: the item {said}, expected one of: {', '.join(found)}"
            )
        found[name].append(item)
    return found


def combine(parts: Sequence[Part], weights: Sequence[float] | None = None) -> Part:
    """Average independent scores, those that are there, by their weights; equal ones by default.

    The interval is Wilson's at the effective number of comparisons, p (1 - p) / variance, where the
    variance is that of the weighted mean. Each score's own variance is taken as if SHRINK more
    comparisons had come out at the mean: else a few scores of exactly 1 would look certain. Where
    all are 0, or all 1, this is Kish's number (1965, Survey Sampling). Simulated 95% intervals of
    RewardBench's sections and overall score cover 91 to 97% for accuracies from 0.55 to 0.995.
    """
    weights = [1.0] * len(parts) if weights is None else weights
    items, expected = (sum(part[i] for part in parts) for i in (1, 2))
    size = items, expected, all(part.complete for part in parts)
    here = [(p.score, w) for p, w in zip(parts, weights, strict=True) if p.score.value is not None]
    if len(here) < 2:
        return Part(here[0][0] if here else Estimate(None), *size)
    share = np.array([weight for _, weight in here], float)
    share /= share.sum()
    values = np.array([each.value for each, _ in here])
    score = float(share @ values)
    n = np.array([each.worth for each, _ in here])
    p = min(max(score, 0.0), 1.0)  # RewardBench 2's Ties score can be a hundredth outside.
    shrunk = np.clip((n * values + SHRINK * p) / (n + SHRINK), 0, 1)
    same = np.ptp(values) == 0 or not 0 < p < 1
    odds = np.ones_like(n) if same else shrunk * (1 - shrunk) / (p * (1 - p))
    worth = float(1 / (share**2 / n @ odds))
    low, high = statistics.wilson(p * worth, worth)
    return Part(Estimate(score, (min(low, score), max(high, score)), None, worth), *size)


def _rewards(items: Sequence[Mapping]) -> list[Sequence[float]]:
    return [item["rewards"] for item in items]


def _credit(benchmark: Benchmark, items: Sequence[Mapping], rewards=None, equal=0.0) -> np.ndarray:
    """The credits of the items, [items, comparisons]; rewards: by default their own."""
    rule = getattr(credits, benchmark.credit)
    both = zip(items, _rewards(items) if rewards is None else rewards, strict=True)
    return np.array([rule(item, row, equal) for item, row in both], float)


def _share(credit: np.ndarray) -> Estimate:
    """Estimate the mean of credits [items, comparisons]."""
    cluster = np.repeat(np.arange(len(credit)), credit.shape[1]) if credit.size else None
    return statistics.share(credit.ravel(), cluster)


def _measure(benchmark: Benchmark, name: str, items: Sequence[Mapping], rewards=None) -> Estimate:
    """Estimate the score of a subset."""
    if name == "Ties":
        return ties.score(items, _rewards(items) if rewards is None else rewards)[0]
    return _share(_credit(benchmark, items, rewards))


def _score(set: str, place: str, part: Part, metric: str = "score", **more) -> dict:
    size = {"expected": part.expected, "complete": part.complete}
    return rows_of(set, place, part.items, {metric: part.score}, **size, **more)[0]


def _beside(
    set: str, place: str, benchmark: Benchmark, name: str, items: Sequence[Mapping]
) -> list[dict]:
    """The rows of what stands beside the score of a subset; [] without items."""
    if not items:
        return []
    lengths = [np.array([len(response) for response in item["responses"]]) for item in items]
    values = {
        "longer_wins": _measure(benchmark, name, items, lengths).value,
        "shorter_wins": _measure(benchmark, name, items, [-each for each in lengths]).value,
        "prompts_cut": sum(item.get("cut", 0) > 0 for item in items),
    }
    if name != "Ties":
        values["ties_as_half"] = _credit(benchmark, items, equal=0.5).mean()
        if benchmark.credit == "best":
            values["strict"] = (_credit(benchmark, items) == 1.0).mean()
    return rows_of(set, place, len(items), values)


def _styles(set: str, benchmark: Benchmark, sections: Mapping, found: Mapping) -> list[dict]:
    """RM-Bench's hard, normal and easy comparisons of each domain, and of all where all are
    complete; and every style of the right response against each of the wrong one. Rows of one
    domain count the same, whatever their file."""
    tables = {
        name: _credit(benchmark, [item for sub in subsets for item in found[sub]])
        for name, subsets in benchmark.sections.items()
        if sections[name].items
    }
    said = []
    for level, cells in credits.LEVELS.items():
        parts = {
            name: sections[name]._replace(score=_share(credit[:, cells]))
            for name, credit in tables.items()
        }
        said += [_score(set, f"level/{level}/{name}", part) for name, part in parts.items()]
        if all(section.complete for section in sections.values()):
            said.append(_score(set, f"level/{level}", combine([*parts.values()])))
    for name, credit in tables.items():
        for (i, j), cell in zip(credits.CELLS, credit.mean(axis=0), strict=True):
            place = f"style/{name}/{credits.STYLES[i]}/{credits.STYLES[j]}"
            said.append(row(set, place, "score", cell, n=len(credit)))
    return said
