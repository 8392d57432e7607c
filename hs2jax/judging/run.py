"""A judge's run, from a config to a folder: judge.json, items/NAME.jsonl, weights.json, the report.

Every response of the data is judged by every criterion, all criteria of one response in one row.
Where people have rated it, the ten aggregations and the baselines are held against them.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import ml_collections
import numpy as np

from hs2jax import choices, folder
from hs2jax.data import corpora, files, loader
from hs2jax.data.groups import prompt_text
from hs2jax.data.record import Record
from hs2jax.evaluation import items as item_files
from hs2jax.judging import (
    criteria,
    emotions,
    judge_report,
    knowledge,
    lager,
    layer_weights,
    pairwise,
    prompts,
    samples,
    selection,
    set_results,
    tasks,
    use_report,
)
from hs2jax.judging.judge import Judge
from hs2jax.judging.samples import Samples
from hs2jax.models import sharding
from hs2jax.models.checksum import checksum
from hs2jax.reward_model import RewardModel
from hs2jax.training import defaults

log = logging.getLogger(__name__)

USES = {"pairs": pairwise, "selection": selection, "emotions": emotions, "knowledge": knowledge}
TASKS = ("scores", *USES)
BASELINES = ("gpt_score", "ridge_probe", "reward_model")
CROSS_VALIDATE = "cross-validate"
# The tasks that read a setting; it would be without effect in others.
USERS = {
    "criteria": ("scores", "pairs"),
    "condition": ("scores",),
    "validation": ("scores",),
    "baselines": ("scores",),
    "folds": ("scores",),
    "on_error": ("scores", "pairs", "selection"),
    "recipe": ("scores", "emotions", "knowledge"),
    "fraction": ("selection",),
    "max_tokens": ("selection",),
}


def judge(config: ml_collections.ConfigDict, workdir: Path | str) -> dict:
    """Judges, and returns judge.json's content.

    Raises ValueError or FileNotFoundError for a config that cannot be, naming the key.
    """
    workdir, started = Path(workdir), time.time()
    first = jax.process_index() == 0
    check(config)
    if first:
        folder.claim(workdir, config)
    mesh = sharding.mesh_of(config.mesh)
    dtype = choices.dtype(config.model.dtype)
    found = Judge.load(config.model.name, mesh=mesh, dtype=dtype)
    model = {
        "name": config.model.name,
        "checksum": checksum(found.model.params),
        "layers": found.model.config.num_layers,
        "dtype": str(np.dtype(found.model.dtype)),
    }
    work = _scores if config.task == "scores" else _use
    result = {
        "model": model,
        "task": config.task,
        "preset": config.preset,
        **work(config, found, model, workdir),
        "environment": folder.environment(),
        "seconds": time.time() - started,
        "config": config.to_dict(),
    }
    if first:
        folder.write_json(workdir / judge_report.FILE, result)
        write_report(workdir)
    return result


def write_report(workdir: Path | str) -> Path:
    """Writes the page of a finished run, as `judge_report.write` and `use_report.write` do."""
    task = judge_report.read_result(Path(workdir))["task"]
    return (use_report if task in USES else judge_report).write(workdir)


def describe(result: dict) -> str:
    """A result in a few lines."""
    if result["task"] in USES:
        return USES[result["task"]].describe(result["result"])
    return "\n".join(set_results.describe(each) for each in result["sets"])


def check(config) -> None:
    """Raises ValueError or FileNotFoundError for settings that cannot be, naming the key."""
    for name, value in (("model.name", config.model.name), ("data", config.data)):
        if not value:
            raise ValueError(f"config.{name} is not set")
    choices.check(
        config,
        {
            "task": TASKS,
            "condition": tuple(prompts.FORMS),
            "preset": tuple(lager.PRESETS),
            "recipe": layer_weights.RECIPES,
            "model.dtype": choices.DTYPES,
            "on_error": loader.ON_ERROR,
        },
    )
    for name in names_of(config.baselines):
        if name not in BASELINES:
            raise ValueError(f"config.baselines names {name!r}; expected some of {list(BASELINES)}")
    if ("reward_model" in names_of(config.baselines)) != bool(config.reward_model):
        raise ValueError(
            'config.reward_model names the model of "reward_model" in config.baselines: set both '
            "or none"
        )
    if "gpt_score" in names_of(config.baselines) and config.criteria == criteria.ROWS_OWN.name:
        raise ValueError(
            "config.baselines: gpt_score asks by the same criteria for every row; name them in "
            f"config.criteria instead of {criteria.ROWS_OWN.name!r}, or leave gpt_score out"
        )
    least = 3 if "ridge_probe" in names_of(config.baselines) else 2
    if config.folds < least:
        raise ValueError(f"config.folds is {config.folds}; expected {least} or more")
    if not 0 < config.fraction <= 1:
        raise ValueError(
            f"config.fraction is {config.fraction}; expected a share of the rows, such as 0.1"
        )
    if config.max_tokens < 0:
        raise ValueError(f"config.max_tokens is {config.max_tokens}; expected 0 or more")
    if config.weights not in ("", CROSS_VALIDATE) and not Path(config.weights).is_file():
        raise FileNotFoundError(
            f"config.weights is {config.weights!r}: there is no such file; expected the "
            f'weights.json of another run, "{CROSS_VALIDATE}", or "" for even weights'
        )
    if config.validation and config.weights:
        raise ValueError(
            "config.validation says what weights are fitted on and config.weights where they come "
            "from: set one of them"
        )
    unused = defaults.judging()
    for key, users in USERS.items():
        if config.task not in users and config[key] != unused[key]:
            raise ValueError(
                f"config.{key} is for config.task {' and '.join(users)}, not for {config.task}"
            )
    if config.task in ("pairs", "selection") and config.weights == CROSS_VALIDATE:
        raise ValueError(
            f"config.weights is {CROSS_VALIDATE!r}, but {config.task} has no ratings: give "
            'the weights.json of another run, or "" for even weights'
        )
    if config.task in ("emotions", "knowledge"):
        files.expand(config.data)  # Raises where there is no such file.
        return
    for spec in filter(None, (config.data, config.validation)):
        corpora.read(spec)  # Raises where there is no such format or file.
    try:
        if config.task == "pairs":
            criteria.find(config.criteria)
        else:
            prompts.scale_of(criteria.load(config.criteria))
    except ValueError as error:
        raise ValueError(f"config.criteria: {error}") from None


def names_of(text: str) -> list[str]:
    """Names joined with ","."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _use(config, found: Judge, model: dict, workdir: Path) -> dict:
    """Pairs, or one of the paper's downstream uses."""
    options = {"preset": config.preset, "weights": None, "seed": config.seed}
    if config.weights not in ("", CROSS_VALIDATE):
        # The paper fits weights once for a model, and uses them with every prompt and scale.
        options["weights"] = _given_weights(config, found, any_template=True)
    if config.task == "selection":
        options |= {"fraction": config.fraction, "on_error": config.on_error}
        options["max_tokens"] = config.max_tokens or None
        return {"result": selection.select(found, config.data, workdir, **options)}
    if config.task == "pairs":
        return {"result": _pairs(config, found, workdir, options)}
    options["recipe"] = config.recipe
    return {"result": USES[config.task].evaluate(found, config.data, workdir, **options)}


def _pairs(config, found: Judge, workdir: Path, options: dict) -> dict:
    """Which of two responses is better."""
    record = Record()
    groups = list(corpora.read(config.data, on_error=config.on_error, record=record))
    del options["seed"]  # Nothing is drawn.
    with tasks.progress_of("pairs") as show:
        result = pairwise.evaluate(
            found,
            groups,
            criteria.find(config.criteria),
            workdir / "readings",
            progress=show,
            **options,
        )
    for reason, n in record.skipped.items():
        tasks.count(result["left_out"], reason, n)
    return result


def _scores(config, found: Judge, model: dict, workdir: Path) -> dict:
    """Responses by criteria."""
    preset, chosen = lager.PRESETS[config.preset], criteria.load(config.criteria)
    template = prompts.key(found.model.tokenizer.chat_template or "")
    wanted, sets = names_of(config.baselines), corpora.sets_of(config.data)
    reward_model = None
    if config.reward_model:
        reward_model = RewardModel.load(config.reward_model, mesh=found.model.mesh)

    def read(name: str, spec: str, states: bool) -> Samples:
        return samples.read(
            found,
            name,
            spec,
            chosen,
            workdir / "readings",
            states=states,
            condition=config.condition,
            on_error=config.on_error,
        )

    def fit(some: Sequence[Samples], key: str) -> layer_weights.Fit:
        """To all ratings of the data that a key of the config names."""
        every = [each.rated() for each in some]
        if not any(len(each.human) for each in every):
            raise ValueError(
                f"config.{key}: nobody has rated {config[key]} by any of "
                f"{', '.join(each.name for each in chosen)}, so no weights can be fitted to it"
            )
        if key == "validation":
            every = _apart(every, config)
        return layer_weights.fit(
            np.concatenate([each.logits for each in every]),
            np.concatenate([each.human for each in every]),
            chosen[0].scale,
            preset,
            clusters=[cluster for each in every for cluster in each.clusters],
            recipe=config.recipe,
            seed=config.seed,
        )

    weights = fitted = None
    if config.validation:
        rated = corpora.sets_of(config.validation)
        fitted = fit([read(name, spec, False) for name, spec in rated], "validation")
        weights = fitted.weights
    elif config.weights not in ("", CROSS_VALIDATE):
        weights = _given_weights(config, found)
    every = [read(name, spec, "ridge_probe" in wanted) for name, spec in sets]
    if config.weights == CROSS_VALIDATE or "ridge_probe" in wanted:
        for (_, spec), each in zip(sets, every, strict=True):
            _check_folds(each, spec, config.folds, chosen if "ridge_probe" in wanted else ())
    weights_from = config.validation or config.weights or None
    if config.weights == CROSS_VALIDATE:
        weights_from = "cross-validation"
        fitted = fit(every, "data")
    results, items = [], {}
    for (name, spec), each in zip(sets, every, strict=True):
        result, items[name] = set_results.measure(
            each,
            chosen,
            set_results.baselines(
                each, found, chosen, wanted, reward_model, config, workdir / "readings"
            ),
            preset=config.preset,
            weights=weights,
            folds=config.folds if config.weights == CROSS_VALIDATE else 0,
            recipe=config.recipe,
            seed=config.seed,
        )
        results.append({"name": name, "data": spec, **result})
    if jax.process_index() == 0:
        # All that is shown together is written together: an earlier result stays whole till then.
        for name, each in items.items():
            item_files.write(workdir / "items" / f"{name}.jsonl", each)
        if fitted is not None:
            layer_weights.save(
                workdir / "weights.json",
                fitted,
                model=model["name"],
                checksum=model["checksum"],
                template=template,
                preset=preset,
                scale=chosen[0].scale,
                data=config.validation or config.data,
            )
    return {"template": template, "weights_from": weights_from, "sets": results}


def _given_weights(config, found: Judge, **options) -> np.ndarray:
    try:
        return found.load_weights(config.weights, lager.PRESETS[config.preset], **options)
    except ValueError as error:
        raise ValueError(f"config.weights: {error}") from None


def _apart(fitted_on: Sequence[Samples], config) -> list[Samples]:
    """Without the prompts that are judged. Raises ValueError where nothing is left."""
    groups = corpora.read(config.data, on_error=config.on_error, record=Record())
    judged = {prompt_text(group) for group in groups}
    left = [
        each.take(np.flatnonzero([cluster not in judged for cluster in each.clusters]))
        for each in fitted_on
    ]
    n, before = (sum(len(each.human) for each in some) for some in (left, fitted_on))
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


def _check_folds(some: Samples, spec: str, folds: int, alone: Sequence[criteria.Criterion]) -> None:
    """Raises ValueError where there are ratings, but not of a prompt for each fold; by each of the
    criteria that are fitted alone, too."""
    some = some.rated()
    counts = {"": len(set(some.clusters))}
    for k, each in enumerate(alone):
        counts[f" by {each.name}"] = len(set(np.asarray(some.clusters)[some.criterion == k]))
    for by, rated in counts.items():
        if 0 < rated < folds:
            raise ValueError(
                f"config.folds is {folds}, but only {rated} prompts of {spec} have ratings{by}: "
                "give more data, or fewer folds"
            )
