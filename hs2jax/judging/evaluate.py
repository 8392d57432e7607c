"""The verb `judge`: what a judge says of data, and how well that follows people.

It leaves results.jsonl, items/NAME.jsonl or a selection's files, and weights.json where weights
were fitted. Every response of the data is judged by every criterion, all criteria of one response
in one row; where people have rated it, the ten aggregations and the baselines are held against
them.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_collections
import numpy as np

from hs2jax import configs, workdir
from hs2jax.config_rules import CROSS_VALIDATE, parse_names
from hs2jax.data import corpora
from hs2jax.data.groups import prompt_text
from hs2jax.data.record import Record
from hs2jax.judging import (
    agreement,
    baselines,
    criteria,
    lager,
    layer_weights,
    pairwise,
    prompts,
    selection,
    uses,
)
from hs2jax.judging.criteria import Criterion
from hs2jax.judging.judge import Judge
from hs2jax.judging.judged_set import JudgedSet, judge_set
from hs2jax.judging.readings import Readings
from hs2jax.models import sharding
from hs2jax.models.checksum import checksum
from hs2jax.reward_model import RewardModel
from hs2jax.workdir import row

log = logging.getLogger(__name__)


def judge(config: ml_collections.ConfigDict, folder: Path | str) -> list[dict]:
    """Judge, and return the rows of results.jsonl.

    Raises ValueError or FileNotFoundError for a config that cannot be, naming the key.
    """
    configs.check(config)
    chosen = load_criteria(config)
    folder, started = Path(folder), time.time()
    if workdir.claim(folder, config) is not None:
        return workdir.read_rows(folder / "results.jsonl")
    mesh, dtype = sharding.mesh_of(config.mesh), configs.dtype(config.model.dtype)
    one = Judge.load(config.model.name, mesh=mesh, dtype=dtype)
    readings = Readings(one, folder / "readings.jsonl")
    rows, result = (score if config.task == "scores" else use)(config, readings, folder, chosen)
    model = {
        "name": config.model.name,
        "checksum": checksum(one.model.params),
        "layers": one.model.config.num_layers,
        "dtype": str(np.dtype(one.model.dtype)),
    }
    result = {"task": config.task, "model": model, **result, "seconds": time.time() - started}
    return workdir.finish(folder, config, result, rows)


def load_criteria(config) -> tuple[Criterion, ...]:
    """Load what responses are judged by, on one scale. Raises ValueError naming the key."""
    try:
        if config.task == "pairs":
            return (criteria.find(config.criteria),)
        chosen = criteria.load(config.criteria)
        prompts.scale_of(chosen)
    except ValueError as error:
        raise ValueError(f"config.criteria: {error}") from None
    return chosen


def given_weights(config, judge: Judge, *, any_template: bool = False) -> np.ndarray | None:
    """Load the weights of the file that a config names; None where it names none."""
    if config.weights in ("", CROSS_VALIDATE):
        return None
    preset = lager.PRESETS[config.preset]
    try:
        return judge.load_weights(config.weights, preset, any_template=any_template)
    except ValueError as error:
        raise ValueError(f"config.weights: {error}") from None


def use(
    config, readings: Readings, folder: Path, chosen: Sequence[Criterion]
) -> tuple[list[dict], dict]:
    """Compare pairs, or put the judge to one of the paper's downstream uses."""
    record = Record()
    # The paper fits weights once for a model, and uses them with every prompt and scale.
    weights = given_weights(config, readings.judge, any_template=True)
    options = {"preset": lager.PRESETS[config.preset], "weights": weights}
    if config.task == "pairs":
        groups = list(corpora.read(config.data, on_error=config.on_error, record=record))
        rows = pairwise.pair_rows(readings, groups, chosen[0], record, **options)
    elif config.task == "selection":
        for key in ("fraction", "max_tokens", "on_error", "seed"):
            options[key] = config[key]
        rows = selection.select(readings, config.data, folder, record, **options)
    else:
        options |= {"recipe": config.recipe, "seed": config.seed}
        function = {"emotions": uses.emotions, "knowledge": uses.knowledge}[config.task]
        rows = function(readings, config.data, record, **options)
    fitted = config.task in ("emotions", "knowledge") and weights is None
    return rows, {
        "records": {config.task: record.to_dict()},
        "weights_from": CROSS_VALIDATE if fitted else config.weights,
    }


# Scores -----------------------------------------------------------------------------------------


def score(
    config, readings: Readings, folder: Path, chosen: Sequence[Criterion]
) -> tuple[list[dict], dict]:
    """Judge responses by criteria."""
    wanted = parse_names(config.baselines)
    preset, judge, reward_model = lager.PRESETS[config.preset], readings.judge, None
    if config.reward_model:
        reward_model = RewardModel.load(config.reward_model, mesh=judge.model.mesh)

    def read(spec: str, states: bool = False) -> dict[str, JudgedSet]:
        options = {"condition": config.condition, "on_error": config.on_error, "states": states}
        named = corpora.sets_of(spec)
        return {name: judge_set(readings, name, each, chosen, **options) for name, each in named}

    fitted, weights = None, given_weights(config, judge)
    if config.validation:
        fitted = _fit(config, "validation", read(config.validation).values(), chosen)
        weights = fitted.weights
    sets = read(config.data, "ridge_probe" in wanted)
    if config.weights == CROSS_VALIDATE or "ridge_probe" in wanted:
        for name, each in sets.items():
            _check_folds(each, name, config.folds, chosen if "ridge_probe" in wanted else ())
    if config.weights == CROSS_VALIDATE:
        fitted = _fit(config, "data", sets.values(), chosen)
    rows, items = [], {}
    for name, each in sets.items():
        beside = _baselines(config, each, readings, chosen, wanted, reward_model)
        found, scores = set_rows(config, name, each, chosen, beside, weights)
        rows += found
        chances = np.asarray(lager.distribution(each.logits, preset, weights))
        items[name] = _items(each, chosen, scores, chances)
    template = prompts.key(judge.model.tokenizer.chat_template or "")
    model_checksum = checksum(judge.model.params)  # Of all processes' parts.
    if workdir.is_first():
        for name, each in items.items():
            workdir.write_rows(folder / "items" / f"{name}.jsonl", each)
        if fitted is not None:
            layer_weights.save(
                folder / "weights.json",
                fitted,
                model=config.model.name,
                checksum=model_checksum,
                template=template,
                preset=preset,
                scale=chosen[0].scale,
                data=config.validation or config.data,
            )
    return rows, {
        "template": template,
        "weights_from": config.validation or config.weights,
        "scale": list(chosen[0].scale),
        "records": {name: each.record.to_dict() for name, each in sets.items()},
    }


def _fit(config, key: str, sets, chosen: Sequence[Criterion]) -> layer_weights.Fit:
    """Fit weights to all ratings of the data that a key of the config names."""
    sets = [each.rated() for each in sets]
    if not any(len(each.human) for each in sets):
        raise ValueError(
            f"config.{key}: nobody has rated {config[key]} by any of "
            f"{', '.join(each.name for each in chosen)}, so no weights can be fitted to it"
        )
    if key == "validation":
        sets = _without_judged(sets, config)
    return layer_weights.fit(
        np.concatenate([each.logits for each in sets]),
        np.concatenate([each.human for each in sets]),
        chosen[0].scale,
        lager.PRESETS[config.preset],
        clusters=[cluster for each in sets for cluster in each.clusters],
        recipe=config.recipe,
        seed=config.seed,
    )


def _without_judged(sets: Sequence[JudgedSet], config) -> list[JudgedSet]:
    """Leave out the prompts that are judged. Raises ValueError where nothing is left."""
    groups = corpora.read(config.data, on_error=config.on_error, record=Record())
    judged = {prompt_text(group) for group in groups}
    left = [
        each.take(np.flatnonzero([cluster not in judged for cluster in each.clusters]))
        for each in sets
    ]
    n, before = (sum(len(each.human) for each in some) for some in (left, sets))
    if not n:
        raise ValueError(
            "config.validation: all of its prompts are in config.data, too, and weights are not "
            "judged by what they were fitted to: give other data, or "
            f"config.weights={CROSS_VALIDATE}"
        )
    if n < before:
        log.warning(
            "config.validation: %d ratings are of prompts that are judged, and left", before - n
        )
    return left


def _check_folds(one: JudgedSet, name: str, folds: int, alone: Sequence[Criterion]) -> None:
    """Raise ValueError where there are ratings, but not of a prompt for each fold; by each of the
    criteria that are fitted alone, too."""
    one = one.rated()
    clusters = np.asarray(one.clusters)
    parts = {"": np.ones(len(clusters), bool)}
    parts |= {f" by {each.name}": one.criterion == k for k, each in enumerate(alone)}
    for by, here in parts.items():
        if 0 < (rated := len(set(clusters[here]))) < folds:
            raise ValueError(
                f"config.folds is {folds}, but only {rated} prompts of {name} have ratings{by}: "
                "give more data, or fewer folds"
            )


def _baselines(
    config, one: JudgedSet, readings: Readings, chosen, wanted, reward_model
) -> dict[str, np.ndarray]:
    """Other scores [N] of the samples, by name; NaN where there is none."""
    found, groups, responses = {}, one.groups, one.response[:: len(chosen)]
    if "gpt_score" in wanted:
        texts = [(prompt_text(groups[g]), groups[g].responses[r]) for g, r in responses]
        model = readings.judge.model
        found["gpt_score"] = baselines.gpt_score(model, texts, chosen, readings=readings).ravel()
    if "ridge_probe" in wanted:
        # A probe of its own for each criterion: states do not say which one they were asked for as
        # plainly as a prompt says it to people.
        found["ridge_probe"] = np.full(len(one.human), np.nan, np.float32)
        for k in np.unique(one.criterion):
            places = np.flatnonzero((one.criterion == k) & np.isfinite(one.human))
            if len(places):
                some = one.take(places)
                found["ridge_probe"][places] = baselines.ridge_probe(
                    some.states, some.human, some.clusters, folds=config.folds, seed=config.seed
                ).scores
    if "reward_model" in wanted:
        record = Record()
        tables = baselines.reward_scores(reward_model, groups, chosen, record=record)
        if record.truncated:
            log.warning("%d prompts were cut from the left for the reward model", record.truncated)
        none = np.full(len(chosen), np.nan, np.float32)
        found["reward_model"] = np.concatenate(
            [none if tables[g] is None else tables[g][r] for g, r in responses]
        )
    return found


def _items(one: JudgedSet, chosen, scores: Mapping[str, np.ndarray], chances) -> list[dict]:
    """A line for each sample, with the probabilities [N, S] of the values of the scale."""
    items = []
    for i, (g, r) in enumerate(one.response):
        found = {name: float(score[i]) for name, score in scores.items()}
        items.append(
            {
                "source": one.groups[g].source,
                "criterion": chosen[one.criterion[i]].name,
                "prompt": one.clusters[i],
                "response": one.groups[g].responses[r],
                "human": float(one.human[i]) if np.isfinite(one.human[i]) else None,
                "scores": {name: x if np.isfinite(x) else None for name, x in found.items()},
                "distribution": chances[i].tolist(),
            }
        )
    return items


# Rows -------------------------------------------------------------------------------------------


def set_rows(
    config,
    name: str,
    one: JudgedSet,
    chosen: Sequence[Criterion],
    beside: Mapping[str, np.ndarray],
    weights: np.ndarray | None,
) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Make a set's rows; and all its scores, {method: [N]}.

    beside: scores of baselines. weights: [L'] for the weighted aggregations; where they are
    cross-validated instead, they are fitted to the ratings of the other folds.
    """
    scale, rated = chosen[0].scale, np.isfinite(one.human)
    by_preset, folds, some = {}, (), one.rated()
    for preset, each in lager.PRESETS.items():
        given = weights if preset == config.preset else None
        by_preset[preset] = scores = lager.scores(one.logits, scale, each, given)
        if config.weights == CROSS_VALIDATE and rated.any():
            options = {"folds": config.folds, "recipe": config.recipe, "seed": config.seed}
            arguments = (some.logits, some.human, some.clusters, scale, each)
            fitted = layer_weights.cross_validate(*arguments, **options)
            for method, score in fitted.on_one_level().items():
                scores[method] = np.full(len(rated), np.nan, np.float32)
                scores[method][rated] = score
            if preset == config.preset:
                weights, folds = fitted.mean, fitted.weights
    scores = by_preset.pop(config.preset)
    scores = {each: scores[each] for each in lager.AGGREGATIONS if each in scores} | dict(beside)
    rows = agreement.weight_rows(name, weights, folds)
    unrated = not np.isfinite(one.human).any()  # There is nothing else to say then.
    rows.append(row(name, "", "responses", len(one.human) // len(chosen), headline=unrated))
    parts = {"": np.arange(len(one.human))}
    for k, each in enumerate(chosen):
        parts[f"criterion/{each.name}"] = np.flatnonzero(one.criterion == k)
    for part, places in parts.items():
        some = one.take(places)
        here = {method: score[places] for method, score in scores.items()}
        rows += agreement.spread_rows(name, part, here, some.human, scale)
        if not np.isfinite(some.human).any():
            continue
        about = (name, part, some.human)
        options = {"criterion": some.criterion, "compared": agreement.compared(here)}
        found = agreement.correlation_rows(*about, here, some.clusters, **options)
        rows += agreement.with_headlines(found)
        rows += agreement.layer_rows(*about, some.logits, scale)
        for preset, each in by_preset.items():
            found = {m: each[m][places] for m in lager.CROSS_LAYER if m in each}
            made = agreement.correlation_rows(*about, found, some.clusters)
            rows += [r | {"preset": preset} for r in made if r["metric"] == "spearman"]
    return rows, scores
