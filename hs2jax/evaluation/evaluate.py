"""An evaluation, from a config to a folder: evaluation.json, items/NAME.jsonl and the report.

Every set of data is scored, its items are kept, and the statistics of `evaluation` are made from
them. A benchmark's files make one set, scored by its published rule.
"""

import itertools
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import ml_collections
import numpy as np

from hs2jax import choices, folder
from hs2jax.data import corpora, loader, templates
from hs2jax.data.record import Record
from hs2jax.evaluation import (
    agreement,
    attribute_weights,
    benchmarks,
    calibration,
    evaluation_report,
    length,
    scores,
    statistics,
)
from hs2jax.evaluation import items as scored_items
from hs2jax.evaluation.score import progress_of
from hs2jax.models import sharding
from hs2jax.reward_model import RewardModel, parse_weights

log = logging.getLogger(__name__)


def evaluate(config: ml_collections.ConfigDict, workdir: Path | str) -> dict:
    """Evaluates, and returns evaluation.json's content.

    Raises ValueError or FileNotFoundError for a config that cannot be, naming the key.
    """
    workdir, started = Path(workdir), time.time()
    first = jax.process_index() == 0
    check(config)
    if first:
        folder.claim(workdir, config)
    sets = corpora.sets_of(config.data)
    for name, spec in sets:
        log.info("%s: %s", name, spec)
    mesh = sharding.mesh_of(config.mesh)
    named = config.model.weights
    model = RewardModel.load(
        config.model.name,
        template=config.model.template,
        mesh=mesh,
        dtype=choices.dtype(config.model.dtype),
        weights=attribute_weights.PUBLISHED.get(named)
        or (None if named == "search" else parse_weights(named)),
    )
    key = scores.model_key(model)
    cache = scores.Cache(key)

    # Validation: temperature and weights --------------------------------------------------------
    validation, found_weights, temperature = [], None, None
    if config.validation:
        validation, _ = score_set("validation", config.validation, model, cache, config)
        if not _count_pairs(validation):
            raise ValueError(f"config.validation: there are no pairs in {config.validation}")
        if named == "search":
            try:
                found_weights = attribute_weights.search(
                    validation, model.outputs, seed=config.seed
                )
            except ValueError as error:
                raise ValueError(f"config.validation: {error}") from error
            model.weights = found_weights["weights"]
            scored_items.rescore(validation, model.scalar_weights())
        temperature = calibration.fit_temperature(validation)

    # Sets ---------------------------------------------------------------------------------------
    results, found = [], {}
    for name, spec in sets:
        items, record = score_set(name, spec, model, cache, config)
        found[name] = items
        summary = statistics.summarize(items, model.outputs)
        results.append(
            {
                "name": name,
                "data": spec,
                "summary": summary,
                "benchmark": benchmarks.score(name, items),
                "length": length.analysis(items),
                "calibration": calibration.measure(items),
                "calibrated": calibration.measure(items, temperature) if temperature else None,
                "agreement": agreement.ratings(items, model.outputs),
                "record": record.to_dict(),
                "cut": sum(item["cut"] > 0 for item in items),
                "responses": sum(len(item["responses"]) for item in items),
            }
        )
    _check_derived(config, found)
    everything = list(itertools.chain(*found.values()))
    shared = attribute_weights.overlap(validation, everything)
    warning = (
        f"{shared} of {attribute_weights.overlap(validation, validation)} prompts that it was "
        "fitted on are evaluated here too: what was tuned on a test set is not measured by it"
        if shared
        else None
    )
    fitted = {"data": config.validation, "warning": warning}
    result = {
        "model": {
            "name": config.model.name,
            "outputs": list(model.outputs),
            "weights": model.weights,
            "template": model.template,
            "read": model.read,
            "dtype": str(np.dtype(model.dtype)),
            "checksum": key,
        },
        "max_tokens": config.max_tokens or model.config.max_seq_len,
        "temperature": temperature
        and {"value": temperature, "pairs": _count_pairs(validation), **fitted},
        "weights_search": found_weights and {**found_weights, **fitted},
        "sets": results,
        "environment": folder.environment(),
        "seconds": time.time() - started,
        "config": config.to_dict(),
    }
    if first:
        # All that is shown together is written together: an earlier result stays whole till then.
        for name, items in found.items():
            scored_items.write(workdir / "items" / f"{name}.jsonl", items)
        folder.write_json(workdir / "evaluation.json", result)
        evaluation_report.write(workdir)
    return result


def describe(result: dict) -> str:
    """A line for each set: the benchmark's score where it has one, and the rest."""
    lines = []
    for each in result["sets"]:
        parts = [statistics.one_line(each["summary"])]
        if benchmark := each["benchmark"]:
            shown = [benchmark["overall"] and {**benchmark["overall"], "name": "overall"}]
            shown += benchmark["sections"]
            parts.insert(0, ", ".join(map(_score, filter(None, shown))))
        left = scored_items.left_out(each["record"])
        parts += [f"left out: {count} {reason}" for reason, count in left.items()]
        lines.append(f"{each['name']}: {'; '.join(filter(None, parts))}")
    return "\n".join(lines)


def _score(section: dict) -> str:
    if section["score"] is None:
        return f"{section['name']} absent"
    low, high = section["interval"]
    text = f"{section['name']} {section['score']:.1%} [{100 * low:.1f}, {100 * high:.1f}]"
    if section["complete"]:
        return text
    return f"{text} of {section['items']} of {section['expected']} items"


def check(config) -> None:
    """Raises ValueError or FileNotFoundError for settings that cannot be, naming the key."""
    for name, value in (("model.name", config.model.name), ("data", config.data)):
        if not value:
            raise ValueError(f"config.{name} is not set")
    if config.model.weights == "search" and not config.validation:
        raise ValueError(
            'config.model.weights is "search": name the pairs to search on in config.validation'
        )
    choices.check(
        config,
        {
            "model.dtype": choices.DTYPES,
            "model.template": ("", *templates.TEMPLATES),
            "on_error": loader.ON_ERROR,
        },
    )
    if config.max_tokens < 0:
        raise ValueError(f"config.max_tokens is {config.max_tokens}; expected 0 or more")
    for spec in filter(None, (config.data, config.validation)):
        corpora.read(spec)  # Raises where there is no such format or file.


def _check_derived(config, found: dict[str, list[dict]]) -> None:
    """Raises ValueError where preferences are to be made from an attribute that nobody rated."""
    ratings = (r for items in found.values() for item in items for r in item["ratings"])
    if config.derive and not any(config.derive in rating for rating in ratings):
        raise ValueError(f"config.derive is {config.derive!r}, but nothing in config.data rates it")


def score_set(
    name: str, spec: str, model: RewardModel, cache: scores.Cache, config
) -> tuple[list[dict], Record]:
    """The scored items of a specification, and what became of its rows."""
    record = Record()
    scalar = model.scalar_weights()
    if scalar is None and config.model.weights == "search":
        scalar = np.ones(len(model.outputs), np.float32)  # Until weights are found.
    if scalar is None:
        raise ValueError(
            f"the model has the outputs {', '.join(model.outputs)}: say in config.model.weights "
            "how they make one reward"
        )
    groups = list(corpora.read(spec, on_error=config.on_error, record=record))
    found = []
    with progress_of(name, len(groups)) as show:
        for each in scores.stream(
            model,
            groups,
            cache,
            max_tokens=config.max_tokens or None,
            skip=config.on_error == "skip",
            record=record,
            progress=show,
        ):
            if each.outputs is not None:
                found.append(scored_items.of(each, scalar, config.derive or None))
    record.pairs = _count_pairs(found)
    record.ties = sum(item["ties"] for item in found)
    return found, record


def _count_pairs(items: Sequence[dict]) -> int:
    return sum(len(item["pairs"]) for item in items)
