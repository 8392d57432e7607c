"""Evaluate a reward model, from a config to a folder: results.jsonl and items/NAME.jsonl.

Every set of data is scored, its items are kept, and the rows of `evaluation` are made from them. A
benchmark's files make one set, scored by its published rule.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import ml_collections
import numpy as np

from hs2jax import configs, locks, workdir
from hs2jax.config_rules import parse_weights
from hs2jax.data import corpora
from hs2jax.data.record import Record
from hs2jax.evaluation import attribute_weights, calibration, justifier, length, measures, scores
from hs2jax.evaluation import items as scored_items
from hs2jax.evaluation.benchmarks import scoring
from hs2jax.evaluation.justifier import Justifier
from hs2jax.inference import progress_of
from hs2jax.models import sharding
from hs2jax.reward_model import RewardModel
from hs2jax.store import Store
from hs2jax.workdir import row

log = logging.getLogger(__name__)


@locks.released
def evaluate(config: ml_collections.ConfigDict, folder: Path | str) -> list[dict]:
    """Evaluate, and return the rows. A killed run goes on from the scores that are kept.

    Raises ValueError or FileNotFoundError for a config that cannot be, naming the key.
    """
    folder, started = Path(folder), time.monotonic()
    configs.check(config)
    if (done := workdir.claim(folder, config)) is not None:
        return done
    sets = corpora.sets_of(config.data)
    for name, spec in sets:
        log.info("%s: %s", name, spec)
    named, model = config.model.weights, _load(config)
    store = scores.store_of(model)
    workdir.settle(folder)

    # Validation: temperature and weights --------------------------------------------------------
    validation, temperature, weights = [], None, []
    if config.validation:
        validation, fitted_on = score_set("validation", config.validation, model, store, config)
        if not fitted_on.pairs:
            raise ValueError(f"config.validation: there are no pairs in {config.validation}")
        if named == "search":
            try:
                model.weights, weights = attribute_weights.search(
                    validation, model.outputs, seed=config.seed
                )
            except ValueError as error:
                raise ValueError(f"config.validation: {error}") from error
            scalar = model.scalar_weights()
            for item in validation:
                item["rewards"] = [float(np.float32(row) @ scalar) for row in item["outputs"]]
        temperature = calibration.fit_temperature(validation)

    # Sets ---------------------------------------------------------------------------------------
    rows, about, records, found = [], {}, {}, {}
    for name, spec in sets:
        items, record = score_set(name, spec, model, store, config)
        some, benchmark = scoring.rows(name, items)
        # A benchmark's own score stands for the other numbers of its set.
        whole = any(each["metric"] == "score" and each["part"] == "" for each in some)
        chief = "" if whole else "pairs" if record.pairs else "ratings"
        made = some + measures.rows(name, items, model.outputs, chief=chief)
        if not made:
            raise ValueError(
                f"config.data: {spec} has no pairs, nor ratings of {', '.join(model.outputs)}: "
                f"{record}. `hs2jax score` writes scores alone"
            )
        rows += made + length.rows(name, items) + calibration.rows(name, items)
        if temperature:
            rows += calibration.rows(name, items, temperature, "fitted temperature")
        if isinstance(model, Justifier):
            rows += justifier.rows(name, items, record)
        counts = {
            "groups": len(items),
            "responses": sum(len(item["responses"]) for item in items),
            "prompts_cut": sum(item["cut"] > 0 for item in items),
            "left_out": sum(record.left_out().values()),
        }
        rows += measures.rows_of(name, "", None, counts)
        found[name], records[name] = items, record.to_dict()
        about[name] = {"data": spec, "benchmark": benchmark}
    every = [item for items in found.values() for item in items]
    if temperature:
        rows.append(row("", "", "temperature", temperature, n=fitted_on.pairs))
    rows += weights
    for name, weight in (model.weights or {}).items():
        rows.append(row("", f"attribute/{name}", "weight", weight))
    if workdir.is_first():
        for name, items in found.items():
            workdir.write_rows(folder / "items" / f"{name}.jsonl", items)
    result = {
        "model": {
            "name": config.model.name,
            "outputs": list(model.outputs),
            "weights": model.weights,
            "template": model.template,
            "read": model.read,
            "dtype": str(np.dtype(model.dtype)),
            "checksum": scores.model_key(model),
        },
        "max_tokens": config.max_tokens or model.config.max_seq_len,
        "sets": about,
        "validation": config.validation,
        "warnings": _warnings(validation, every),
        "records": records,
        "seconds": time.monotonic() - started,
    }
    return workdir.finish(folder, config, result, rows)


def _load(config) -> RewardModel | Justifier:
    own = {"template": config.model.template, "mesh": sharding.mesh_of(config.mesh)}
    own["dtype"] = configs.dtype(config.model.dtype)
    if config.model.justifier:
        model = Justifier.load(config.model.name, **own)
        model.way = config.model.justifier
        return model
    named = config.model.weights
    weights = attribute_weights.PUBLISHED.get(named)
    if weights is None and named != "search":
        weights = parse_weights(named)
    return RewardModel.load(config.model.name, weights=weights, **own)


def score_set(
    name: str, spec: str, model: RewardModel | Justifier, store: Store, config
) -> tuple[list[dict], Record]:
    """Score a specification: its items, and what became of its rows. Raises ValueError where none
    is left."""
    record, scalar = Record(), model.scalar_weights()
    if scalar is None and config.model.weights == "search":
        scalar = np.ones(len(model.outputs), np.float32)  # Until weights are found.
    if scalar is None:
        raise ValueError(
            f"the model has the outputs {', '.join(model.outputs)}: say in config.model.weights "
            "how they make one reward"
        )
    skip = config.on_error == "skip"
    groups = list(corpora.read(spec, on_error=config.on_error, record=record))
    with progress_of(name, len(groups)) as show:
        how = {"leave_out": skip, "record": record, "progress": show}
        if isinstance(model, Justifier):
            scored = model.stream(groups, store, **how)
        else:
            how |= {"max_tokens": config.max_tokens or None, "skip": skip}
            scored = scores.stream(model, groups, store, **how)
        found = [
            scored_items.of(each, scalar, config.derive or None, record)
            for each in scored
            if each.outputs is not None
        ]
    record.pairs = sum(len(item["pairs"]) for item in found)
    record.ties = sum(item["ties"] for item in found)
    if not found:
        raise ValueError(f"nothing is left of {spec} to score: {record}")
    return found, record


def _warnings(validation: Sequence[dict], evaluated: Sequence[dict]) -> list[str]:
    """Tell of prompts that weights or a temperature were fitted on and that are evaluated too."""
    fitted, seen = ({i["prompt"].strip() for i in items} for items in (validation, evaluated))
    text = (
        f"{len(fitted & seen)} of {len(fitted)} prompts that weights or the temperature were "
        "fitted on are evaluated here too: what was tuned on a test set is not measured by it"
    )
    return [text] if fitted & seen else []
