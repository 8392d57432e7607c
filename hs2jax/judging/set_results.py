"""How well a judge's scores of one set follow people's: all ways to score, and baselines beside."""

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hs2jax.data.groups import prompt_text
from hs2jax.data.record import Record
from hs2jax.evaluation import correlation, statistics
from hs2jax.evaluation import items as item_files
from hs2jax.judging import baselines as baseline_scores
from hs2jax.judging import lager, layer_weights, readings, score_distribution, tasks
from hs2jax.judging.criteria import Criterion
from hs2jax.judging.judge import Judge
from hs2jax.judging.samples import Samples
from hs2jax.reward_model import RewardModel

log = logging.getLogger(__name__)

ALL = "all"  # Criteria pooled, as in the paper's tables: each rating is a sample.
CROSS_LAYER = ("lager_w", "lager_wo")
LAST_LAYER = ("e_score", "direct")


def baselines(
    samples: Samples,
    judge: Judge,
    criteria: Sequence[Criterion],
    wanted: Sequence[str],
    reward_model: RewardModel | None,
    config,
    folder: Path,
) -> dict[str, np.ndarray]:
    """Other scores [N] of the samples, by name; NaN where there is none. folder: where likelihoods
    are kept."""
    found, responses = {}, samples.response[:: len(criteria)]
    groups = samples.groups
    if "gpt_score" in wanted:
        texts = [(prompt_text(groups[g]), groups[g].responses[r]) for g, r in responses]
        kept = functools.partial(readings.kept_array, readings.judge_key(judge), folder)
        with tasks.progress_of("gpt_score", len(texts) * len(criteria)) as show:
            table = baseline_scores.gpt_score(
                judge.model, texts, criteria, kept=kept, progress=show
            )
        found["gpt_score"] = table.reshape(-1)
    if "ridge_probe" in wanted:
        found["ridge_probe"] = _probe(samples, config)
    if "reward_model" in wanted:
        record = Record()
        tables = baseline_scores.reward_scores(reward_model, groups, criteria, record=record)
        if record.truncated:
            log.warning("%d prompts were cut from the left for the reward model", record.truncated)
        none = np.full(len(criteria), np.nan, np.float32)
        found["reward_model"] = np.concatenate(
            [none if tables[g] is None else tables[g][r] for g, r in responses]
        )
    return found


def _probe(samples: Samples, config) -> np.ndarray:
    """A probe of its own for each criterion: states do not say which one they were asked for as
    plainly as a prompt says it to people."""
    scores = np.full(len(samples.human), np.nan, np.float32)
    for k in np.unique(samples.criterion):
        places = np.flatnonzero((samples.criterion == k) & np.isfinite(samples.human))
        if not len(places):
            continue
        some = samples.take(places)
        scores[places] = baseline_scores.ridge_probe(
            some.states, some.human, some.clusters, folds=config.folds, seed=config.seed
        ).scores
    return scores


def measure(
    samples: Samples,
    criteria: Sequence[Criterion],
    beside: Mapping[str, np.ndarray],
    *,
    preset: str,
    weights: np.ndarray | None,
    folds: int,
    recipe: str,
    seed: int,
) -> tuple[dict, list[dict]]:
    """A set's entry in judge.json, and its items.

    weights: [L'] for the weighted aggregations; with `folds` instead they are fitted to the ratings
    of the other folds.
    """
    values, rated = criteria[0].scale, np.isfinite(samples.human)
    scores = lager.scores(samples.logits, values, lager.PRESETS[preset], weights)
    fitted, by_preset = None, {}
    for name, each in lager.PRESETS.items():
        by_preset[name] = {
            "lager_wo": np.asarray(lager.aggregate(samples.logits, values, "lager_wo", each))
        }
        if not (folds and rated.any()):
            continue
        some = samples.rated()
        found = layer_weights.cross_validate(
            some.logits,
            some.human,
            some.clusters,
            values,
            each,
            folds=folds,
            recipe=recipe,
            seed=seed,
        )
        tuned = {way: _spread(score, rated) for way, score in found.on_one_level().items()}
        by_preset[name] = {"lager_w": tuned["lager_w"], **by_preset[name]}
        if name == preset:
            fitted, scores = found, {**tuned, **scores}
    scores = {**{name: scores[name] for name in lager.AGGREGATIONS if name in scores}, **beside}
    shown = None
    if fitted is not None:
        shown = {"mean": fitted.mean.tolist(), "folds": fitted.weights.tolist()}
    elif weights is not None:
        shown = {"mean": np.asarray(weights).tolist(), "folds": []}
    entry = {
        "items": len(samples.human) // len(criteria),
        "left_out": item_files.left_out(samples.record.to_dict()),
        "criteria": [
            _criterion(samples, scores, by_preset, values, name, places)
            for name, places in _parts(samples, criteria)
        ],
        "weights": shown,
    }
    return entry, _items(samples, criteria, scores, preset, weights)


def describe(result: dict) -> str:
    """A set's result in a few lines."""
    pooled = result["criteria"][-1]
    if pooled["human"] is None:
        return f"{result['name']}: {result['items']} responses judged, none rated by people"
    several = any("criteria_mean" in found for found in pooled["scores"].values())
    heading = "Spearman, pooled and mean of criteria" if several else "Spearman"
    lines = [f"{result['name']}: {pooled['n']} ratings of {result['items']} responses, {heading}"]
    for name, found in pooled["scores"].items():
        kinds = ("spearman", "criteria_mean") if several else ("spearman",)
        shown = "".join(f"{_shown(found[kind]):24}" for kind in kinds).rstrip()
        lines.append(f"  {name:24}{shown}")
    return "\n".join(lines)


def _shown(found: dict) -> str:
    if found["value"] is None:
        return "none"
    return f"{found['value']:.3f}{tasks.describe_interval(found['interval'])}"


def _spread(some: np.ndarray, places: np.ndarray) -> np.ndarray:
    """[N] with NaN where `places` [N] is False."""
    every = np.full(len(places), np.nan, np.float32)
    every[places] = some
    return every


def _parts(samples: Samples, criteria: Sequence[Criterion]):
    """(name, numbers of its samples) of each criterion, and of all."""
    for k, each in enumerate(criteria):
        yield each.name, np.flatnonzero(samples.criterion == k)
    yield ALL, np.arange(len(samples.criterion))


def _criterion(samples, scores, by_preset, values, name, places) -> dict:
    some = samples.take(places)
    rated = np.isfinite(some.human)
    here = {way: score[places] for way, score in scores.items()}
    entry = {
        "name": name,
        "scale": list(values),
        "n": int(rated.sum()) if rated.any() else len(places),
        "human": None,
        "scores": {way: _moments(score) for way, score in here.items()},
    }
    if not rated.any():
        return entry
    people = some.human[rated]
    nearest = np.abs(people[:, None] - np.asarray(values)).argmin(axis=1)
    entry["human"] = {
        "mean": float(people.mean()),
        "sd": float(people.std()),
        "counts": np.bincount(nearest, minlength=len(values)).tolist(),
    }
    for way, score in here.items():
        there = rated & np.isfinite(score)
        entry["scores"][way] |= correlation.correlations(some.human, score, some.clusters)
        entry["scores"][way] |= (
            score_distribution.distances(some.human[there], score[there], values[0], values[-1])
            if way in lager.AGGREGATIONS
            else {"kl": None, "mse": None}
        )
    entry["tests"] = [
        {"a": a, "b": b, **correlation.paired(some.human, here[a], here[b], some.clusters)}
        for a, b in _compared(here)
    ]
    if len(set(some.criterion[rated].tolist())) > 1:
        # Pooled, methods are also rewarded for what they say of criteria as such.
        by = some.clusters, some.criterion
        for way, score in here.items():
            found = correlation.mean_of_parts(some.human, score, *by)
            entry["scores"][way]["criteria_mean"] = found
        for test in entry["tests"]:
            a, b = here[test["a"]], here[test["b"]]
            test["criteria_mean"] = correlation.paired_mean_of_parts(some.human, a, b, *by)
    entry["by_layer"] = {
        norm: _by_layer(some.logits[rated, n], values, people) for n, norm in enumerate(lager.NORMS)
    }
    entry["presets"] = {
        preset: {
            way: correlation.correlations(some.human, score[places], some.clusters)["spearman"]
            for way, score in ways.items()
        }
        for preset, ways in by_preset.items()
    }
    return entry


def _moments(score: np.ndarray) -> dict:
    there = score[np.isfinite(score)].astype(float)
    if not len(there):
        return {"mean": None, "sd": None}
    return {"mean": float(there.mean()), "sd": float(there.std())}


def _compared(scores: Mapping[str, np.ndarray]):
    """The cross-layer scores with the last layer's and with every baseline."""
    others = [*LAST_LAYER, *(name for name in scores if name not in lager.AGGREGATIONS)]
    ours = [name for name in CROSS_LAYER if name in scores]
    yield from [(a, b) for a in ours for b in others]
    if len(ours) == 2:
        yield tuple(ours)


def _by_layer(logits: np.ndarray, values, people: np.ndarray) -> list[float | None]:
    """Spearman's correlation of each layer's expected score; logits [N, L + 1, S]."""
    chances = np.exp(logits - logits.max(axis=-1, keepdims=True))
    expected = (chances * np.asarray(values)).sum(axis=-1) / chances.sum(axis=-1)
    people = statistics.ranks(people)
    return [
        statistics.pearson(statistics.ranks(layer), people) if np.ptp(layer) > 0 else None
        for layer in expected.T
    ]


def _items(samples: Samples, criteria, scores, preset: str, weights) -> list[dict]:
    """A line for each sample. Its distribution is by the given weights, else by even ones, also
    where weights are cross-validated."""
    chances = np.asarray(lager.distribution(samples.logits, lager.PRESETS[preset], weights))
    items = []
    for i, (g, r) in enumerate(samples.response):
        group, human = samples.groups[g], samples.human[i]
        items.append(
            {
                "source": group.source,
                "criterion": criteria[samples.criterion[i]].name,
                "prompt": prompt_text(group),
                "response": group.responses[r],
                "human": float(human) if np.isfinite(human) else None,
                "scores": {
                    way: float(score[i]) if np.isfinite(score[i]) else None
                    for way, score in scores.items()
                },
                "distribution": chances[i].tolist(),
            }
        )
    return items
