"""The verb `judge`: what a judge says of data, and how well that follows people.

It leaves results.jsonl, items/NAME.jsonl or a selection's files, and weights.json where weights
were fitted. Every response of the data is judged by every criterion, all criteria of one response
in one row; where people have rated it, the ten aggregations and the baselines are held against
them.
"""

import collections
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import ml_collections
import numpy as np

from hs2jax import configs, locks, workdir
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
    weights_file,
)
from hs2jax.judging.criteria import Criterion
from hs2jax.judging.judge import Judge
from hs2jax.judging.judged_set import JudgedSet, judge_set, ratings_of
from hs2jax.judging.readings import Readings
from hs2jax.models import sharding
from hs2jax.models.checksum import checksum
from hs2jax.reward_model import RewardModel
from hs2jax.workdir import row

log = logging.getLogger(__name__)

READ = "readings.sqlite"


@locks.released
def judge(config: ml_collections.ConfigDict, folder: Path | str) -> list[dict]:
    """Judge, and return the rows of results.jsonl.

    Raises ValueError or FileNotFoundError for a config that cannot be, naming the key.
    """
    configs.check(config)
    chosen = load_criteria(config)
    folder, started = Path(folder), time.monotonic()
    if (done := workdir.claim(folder, config, [READ])) is not None:
        return done
    check_data(config, chosen)
    mesh, dtype = sharding.mesh_of(config.mesh), configs.dtype(config.model.dtype)
    one = Judge.load(config.model.name, mesh=mesh, dtype=dtype)
    readings = Readings(one, folder / READ)
    rows, result = (score if config.task == "scores" else use)(config, readings, folder, chosen)
    model = {
        "name": config.model.name,
        "checksum": checksum(one.model.params, rounded=True),
        "layers": one.model.config.num_layers,
        "dtype": str(np.dtype(one.model.dtype)),
    }
    result = {"task": config.task, "model": model, **result, "seconds": time.monotonic() - started}
    return workdir.finish(folder, config, result, rows, [READ])


def check_data(config, chosen: Sequence[Criterion]) -> None:
    """See, before the judge is loaded, that all rows are such as the task can use. Raises DataError
    or ValueError."""
    match config.task:
        case "scores":
            given = "+".join(filter(None, (config.data, config.validation)))
            for _, spec in corpora.sets_of(given):
                groups = corpora.read(spec, on_error=config.on_error, record=Record())
                ratings_of(spec, list(groups), chosen)
        case "selection":
            collections.deque(selection.candidates(config.data, config.on_error, Record()), 0)
        case "emotions":
            uses.read_dialogues(config.data)
        case "knowledge":
            uses.read_questions(config.data)


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


def given_weights(config, judge: Judge) -> np.ndarray | None:
    """Load the weights of the file that a config names; None where it names none."""
    if config.weights in ("", CROSS_VALIDATE):
        return None
    try:
        # The paper fits weights once for a model, and uses them with every prompt and scale.
        options = {"any_template": config.task != "scores"}
        return weights_file.load(config.weights, judge, lager.PRESETS[config.preset], **options)
    except ValueError as error:
        raise ValueError(f"config.weights: {error}") from None


def use(
    config, readings: Readings, folder: Path, chosen: Sequence[Criterion]
) -> tuple[list[dict], dict]:
    """Compare pairs, or put the judge to one of the paper's downstream uses."""
    record, weights = Record(), given_weights(config, readings.judge)
    options = {"preset": lager.PRESETS[config.preset], "weights": weights}
    weights_from = config.weights
    if config.task == "pairs":
        groups = list(corpora.read(config.data, on_error=config.on_error, record=record))
        options["skip"] = config.on_error == "skip"
        rows = pairwise.pair_rows(readings, groups, chosen[0], record, **options)
    elif config.task == "selection":
        for key in ("fraction", "max_tokens", "on_error", "seed"):
            options[key] = config[key]
        rows = selection.select(readings, config.data, folder, record, **options)
    else:
        options |= {"recipe": config.recipe, "seed": config.seed}
        function = {"emotions": uses.emotions, "knowledge": uses.knowledge}[config.task]
        rows = function(readings, config.data, record, **options)
        weights_from = config.weights or CROSS_VALIDATE
    return rows, {"records": {config.task: record.to_dict()}, "weights_from": weights_from}


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
        options["place"] = preset.place
        named = corpora.sets_of(spec)
        return {name: judge_set(readings, name, each, chosen, **options) for name, each in named}

    fitted, weights = None, given_weights(config, judge)
    if config.validation:
        fitted = _fit(config, "validation", read(config.validation).values(), chosen)
        weights = fitted.weights
    sets = read(config.data, "ridge_probe" in wanted)
    if config.weights == CROSS_VALIDATE:
        fitted = _fit(config, "data", sets.values(), chosen)
    rows = []
    for name, each in sets.items():
        beside = _baselines(config, each, readings, chosen, wanted, reward_model)
        found, scores = set_rows(config, name, each, chosen, beside, weights)
        rows += found
        chances = lager.distribution(each.logits, preset, weights)
        if workdir.is_first():
            items = _items(each, chosen, scores, chances)
            workdir.write_rows(folder / "items" / f"{name}.jsonl", items)
    data = config.validation or config.data
    if fitted is not None:
        path = folder / "weights.json"
        weights_file.save(path, fitted, judge, preset, chosen[0].scale, data)
    return rows, {
        "template": prompts.key(judge.model.tokenizer.chat_template or ""),
        "weights_from": config.validation or config.weights,
        "scale": list(chosen[0].scale),
        "records": {name: each.record.to_dict() for name, each in sets.items()},
    }


def _fit(
    config, key: str, sets: Iterable[JudgedSet], chosen: Sequence[Criterion]
) -> layer_weights.Fit:
    """Fit weights to all ratings of the data that a key of the config names; of validation data
    without the prompts that are judged."""
    rated = [each.rated() for each in sets]
    logits, human, clusters = (
        np.concatenate([getattr(each, name) for each in rated])
        for name in ("logits", "human", "clusters")
    )
    if not len(human):
        raise ValueError(
            f"config.{key}: nobody has rated {config[key]} by any of "
            f"{', '.join(each.name for each in chosen)}, so no weights can be fitted to it"
        )
    if key == "validation":
        groups = corpora.read(config.data, on_error=config.on_error, record=Record())
        judged = {prompt_text(group) for group in groups}
        new = np.array([cluster not in judged for cluster in clusters])
        if not new.any():
            raise ValueError(
                "config.validation: all of its prompts are in config.data, too, and weights are "
                "not judged by what they were fitted to: give other data, or "
                f"config.weights={CROSS_VALIDATE}"
            )
        if not new.all():
            left = (~new).sum()
            log.warning("config.validation: %d ratings of judged prompts are left out", left)
        logits, human, clusters = logits[new], human[new], clusters[new]
    options = {"recipe": config.recipe, "seed": config.seed}
    preset = lager.PRESETS[config.preset]
    return layer_weights.fit(logits, human, clusters, chosen[0].scale, preset, **options)


def _baselines(
    config, one: JudgedSet, readings: Readings, chosen, wanted, reward_model
) -> dict[str, np.ndarray]:
    """Other scores [N] of the samples, by name; NaN where there is none."""
    found, groups = {}, one.groups
    responses, of = np.unique(one.response, axis=0, return_inverse=True)
    if "gpt_score" in wanted:
        texts = [(prompt_text(groups[g]), groups[g].responses[r]) for g, r in responses]
        sources = [groups[g].source for g, _ in responses]
        table = baselines.gpt_score(readings, texts, chosen, sources)
        found["gpt_score"] = table[of, one.criterion]
    if "ridge_probe" in wanted:
        # A probe of its own for each criterion: states do not say which one they were asked for as
        # plainly as a prompt says it to people.
        found["ridge_probe"] = np.full(len(one.human), np.nan, np.float32)
        for k in np.unique(one.criterion):
            places = np.flatnonzero((one.criterion == k) & np.isfinite(one.human))
            if len(places):
                some, options = one.take(places), {"folds": config.folds, "seed": config.seed}
                probe = baselines.ridge_probe(some.states, some.human, some.clusters, **options)
                found["ridge_probe"][places] = probe.scores
    if "reward_model" in wanted:
        record = Record()
        tables = baselines.reward_scores(reward_model, groups, chosen, record)
        if record.truncated:
            log.warning("%d prompts were cut from the left for the reward model", record.truncated)
        none = np.full(len(chosen), np.nan, np.float32)
        table = np.stack([none if tables[g] is None else tables[g][r] for g, r in responses])
        found["reward_model"] = table[of, one.criterion]
    return found


def _items(one: JudgedSet, chosen, scores: Mapping[str, np.ndarray], chances) -> list[dict]:
    """A line for each sample, with the probabilities [N, S] of the values of the scale."""

    def known(x) -> float | None:
        return float(x) if np.isfinite(x) else None

    return [
        {
            "source": one.groups[g].source,
            "criterion": chosen[one.criterion[i]].name,
            "prompt": one.clusters[i],
            "response": one.groups[g].responses[r],
            "human": known(one.human[i]),
            "scores": {name: known(score[i]) for name, score in scores.items()},
            "distribution": chances[i].tolist(),
        }
        for i, (g, r) in enumerate(one.response)
    ]


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
    scale, rated = chosen[0].scale, one.rated()
    by_preset, folds, there = {}, (), np.isfinite(one.human)
    for preset, each in lager.PRESETS.items():
        given = weights if preset == config.preset else None
        by_preset[preset] = scores = lager.scores(one.logits, scale, each, given)
        if config.weights == CROSS_VALIDATE and there.any():
            options = {"folds": config.folds, "recipe": config.recipe, "seed": config.seed}
            arguments = (rated.logits, rated.human, rated.clusters, scale, each)
            fitted = layer_weights.cross_validate(*arguments, **options)
            for method, score in fitted.scores.items():
                scores[method] = np.full(len(there), np.nan, np.float32)
                scores[method][there] = score
            if preset == config.preset:
                weights, folds = fitted.weights.mean(axis=0), fitted.weights
    scores = by_preset.pop(config.preset)
    scores = {each: scores[each] for each in lager.AGGREGATIONS if each in scores} | dict(beside)
    rows = agreement.weight_rows(name, weights, folds)
    headline = not there.any()  # There is nothing else to say then.
    responses = len(np.unique(one.response, axis=0))
    rows.append(row(name, "", "responses", responses, headline=headline))
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
        rows += agreement.correlation_rows(*about, here, some.clusters, **options)
        rows += agreement.layer_rows(*about, some.logits, scale)
        for preset, each in by_preset.items():
            found = {m: each[m][places] for m in lager.CROSS_LAYER if m in each}
            made = agreement.correlation_rows(*about, found, some.clusters)
            more = {"preset": preset, "headline": False}
            rows += [r | more for r in made if r["metric"] == "spearman"]
    return rows, scores
