"""Weighing for SteerLM 2.0, from a config to a folder: groups.jsonl, sampled responses with what
their weights are made of (HelpSteer2, section 4.5).

Each row of samples.jsonl that is left, with lists of one entry for each response: predicted (what
the reward model rates), log_attribute = log P(a|x,y), log_prior = log P(y|x) and log_proposal =
log Q'(y|a,x), in nats. Read the file as "sampled:FILE". Training computes the weights from them.
"""

import dataclasses
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import ml_collections
import numpy as np

from hs2jax import choices, folder
from hs2jax.alignment import sampled_rows
from hs2jax.alignment.row_file import RowFile
from hs2jax.alignment.sampled_rows import Sampled
from hs2jax.data import loader, whole_rows
from hs2jax.data.groups import Group
from hs2jax.data.record import Record
from hs2jax.evaluation import items, scores
from hs2jax.evaluation.score import progress_of
from hs2jax.language_model import LanguageModel
from hs2jax.losses import attribute_log_probability, steerlm
from hs2jax.models import sharding
from hs2jax.reward_model import RewardModel

log = logging.getLogger(__name__)

CHUNK = 64  # Groups whose log-probabilities are computed, and kept, at a time.


def weigh(config: ml_collections.ConfigDict, workdir: Path | str) -> dict:
    """Weighs, or goes on where a killed run of this folder was. Returns result.json's content.

    One model is in memory at a time. Raises ValueError or FileNotFoundError for a config that
    cannot be, naming the key.
    """
    workdir, started = Path(workdir), time.time()
    check(config)
    if finished := folder.resume(workdir, config):
        return finished
    record = Record()
    rows = _rows(config, record)
    log.info("samples: %s", items.describe(record))
    _check_left(config, rows, record)
    _check_proposal(config, rows)

    # Reward model, prior and proposal, one after the other ----------------------------------------
    rows = _with(rows, _predicted(config, rows, record))
    _check_predicted(config, rows)
    files = {name: RowFile(workdir / f"{name}.jsonl") for name in ("log_prior", "log_proposal")}
    unasked = [dataclasses.replace(each.group, condition={}) for each in rows]
    found = log_probabilities("prior", config, unasked, files["log_prior"])
    rows = _with(rows, [None if x is None else {"log_prior": x} for x in found], record)
    if config.proposal:
        found = log_probabilities(
            "proposal", config, [each.group for each in rows], files["log_proposal"]
        )
        rows = _with(rows, [None if x is None else {"log_proposal": x} for x in found], record)
    _check_left(config, rows, record)

    # What they say together -----------------------------------------------------------------------
    rows = _with(rows, [{"log_attribute": x} for x in _log_attribute(rows)])
    measured = _measured(rows)
    measured["warnings"] = [*_unrated(config, rows), *measured["warnings"]]
    result = {
        "rows": len(rows),
        "responses": sum(len(each.row["responses"]) for each in rows),
        **measured,
        "record": record.to_dict(),
        "seconds": time.time() - started,
        "environment": folder.environment(),
        "config": config.to_dict(),
    }
    for warning in result["warnings"]:
        log.warning("%s", warning)
    if jax.process_index() == 0:
        items.write(workdir / "groups.jsonl", [each.row for each in rows])
    folder.finish(workdir, result)
    for file in files.values():
        file.remove()
    return result


def describe(result: dict) -> str:
    """A result in a line or two."""
    text = (
        f"{result['rows']} groups, {result['responses']} responses; effective sample size "
        f"{result['effective_sample_size']:.2f} ({result['effective_fraction']:.0%}), distance to "
        f"the target {result['distance']:.3f} nats"
    )
    return "\n".join([text, *result["warnings"]])


def check(config) -> None:
    """Raises ValueError or FileNotFoundError for settings that cannot be, naming the key."""
    for name in ("data", "reward_model", "prior"):
        if not config[name]:
            raise ValueError(f"config.{name} is not set")
    choices.check(
        config,
        {
            "dtype": choices.DTYPES,
            "unfinished": sampled_rows.UNFINISHED,
            "on_error": loader.ON_ERROR,
        },
    )
    if config.least < 1:
        raise ValueError(f"config.least is {config.least}; expected 1 or more")
    sampled_rows.check(config.data)


def _rows(config, record: Record) -> list[Sampled]:
    """The rows that have enough responses."""
    every = sampled_rows.read(
        config.data, unfinished=config.unfinished, on_error=config.on_error, record=record
    )
    for each in every:
        if not each.group.condition:
            raise ValueError(
                f"config.data: {each.group.source} asks for no attributes (condition), and what is "
                "asked for is what SteerLM 2.0 weighs by"
            )
        if not each.group.tokens and False in each.row.get("finished", ()):
            raise ValueError(
                f"config.unfinished: {each.group.source} has responses that were cut, but not "
                'their tokens, without which they cannot be scored: "drop" them'
            )
    found = [each for each in every if len(each.group.responses) >= config.least]
    for _ in range(len(every) - len(found)):
        record.skip("too few responses")
    return found


def _check_proposal(config, rows: Sequence[Sampled]) -> None:
    """Raises ValueError unless log Q'(y|a,x) is with all rows, or a model is named that has it."""
    for each in rows:
        if each.row.get("instruction"):
            raise ValueError(
                f"config.data: {each.group.source} was sampled under the instruction "
                f"{each.row['instruction']!r}, which no policy is trained with, so that the "
                "probability it was sampled with is not log Q'(y|a,x); such responses are for "
                "SteerLM (hs2jax annotate), not for SteerLM 2.0"
            )
        if "log_proposal" not in each.row and not config.proposal:
            raise ValueError(
                f"config.proposal: {each.group.source} has no log_proposal, as it was sampled "
                "elsewhere; name the model that wrote it"
            )


def _check_left(config, rows: Sequence[Sampled], record: Record) -> None:
    if not rows:
        raise ValueError(f"config.data: nothing is left of {config.data}; {items.describe(record)}")


def _with(
    rows: Sequence[Sampled], more: Sequence[dict | None], record: Record | None = None
) -> list[Sampled]:
    """The rows with more fields each; without those that get None, counted in the record."""
    found = [
        each._replace(row=each.row | fields)
        for each, fields in zip(rows, more, strict=True)
        if fields is not None
    ]
    if record is not None:
        record.too_long += len(rows) - len(found)
    return found


# Models -------------------------------------------------------------------------------------------


def _predicted(config, rows: Sequence[Sampled], record: Record) -> list[dict | None]:
    """What the reward model rates the responses of each, {"predicted": [{attribute: value}]}; None
    for those that do not fit, which are counted. Its scores are kept by themselves."""
    model = RewardModel.load(
        config.reward_model, mesh=sharding.mesh_of(config.mesh), dtype=choices.dtype(config.dtype)
    )
    asked = {name for each in rows for name in each.group.condition}
    if not asked & set(model.outputs):
        raise ValueError(
            f"config.reward_model: {config.reward_model} has the outputs "
            f"{', '.join(model.outputs)}, and none of {', '.join(sorted(asked))}, which the "
            "responses were asked to have"
        )
    with progress_of("attributes", len(rows)) as show:
        scored = scores.stream(
            model,
            [each.group for each in rows],
            scores.Cache(scores.model_key(model)),
            truncate=False,
            skip=config.on_error == "skip",
            record=record,
            progress=show,
        )
        return [
            None
            if each.outputs is None
            else {
                "predicted": [
                    dict(zip(model.outputs, row.tolist(), strict=True)) for row in each.outputs
                ]
            }
            for each in scored
        ]


def _check_predicted(config, rows: Sequence[Sampled]) -> None:
    """Raises ValueError for a row of which nothing that it asks for is rated."""
    for each in rows:
        if not set(each.group.condition) & set(each.row["predicted"][0]):
            raise ValueError(
                f"config.reward_model: {config.reward_model} rates nothing that "
                f"{each.group.source} asks for ({', '.join(each.group.condition)})"
            )


def _unrated(config, rows: Sequence[Sampled]) -> list[str]:
    """A warning of attributes that were asked for and that nothing measures."""
    asked = {name for each in rows for name in each.group.condition}
    names = ", ".join(sorted(asked - set(rows[0].row["predicted"][0])))
    text = f"{config.reward_model} does not rate {names}: log P(a|x,y) is of the other attributes"
    return [text] if names else []


def log_probabilities(
    key: str, config, groups: Sequence[Group], file: RowFile
) -> list[list[float] | None]:
    """log-probabilities of whole responses by the model that `key` of the config names; None for a
    group that does not fit. The file keeps them."""
    if not file.path.exists() and groups:
        model = LanguageModel.load(
            config[key], mesh=sharding.mesh_of(config.mesh), dtype=choices.dtype(config.dtype)
        )
        for group in groups:
            _check_vocabulary(f"config.{key}: {config[key]}", model, group)
        for start in range(file.counts.get("done", 0), len(groups), CHUNK):
            some = groups[start : start + CHUNK]
            found = model.log_probability_groups(some, skip=config.on_error == "skip")
            rows = [
                {"nats": each and [float(x.sum(dtype=np.float64)) for x in each]} for each in found
            ]
            file.add(rows, {"done": start + len(some)})
            log.info("%s: %d of %d", key, start + len(some), len(groups))
        file.finish()
    return [row["nats"] for row in items.read(file.path)] if groups else []


def _check_vocabulary(name: str, model: LanguageModel, group: Group) -> None:
    """Raises ValueError where the tokens that were sampled are other words to this model."""
    for text, ids in zip(group.responses, group.tokens, strict=False):
        fits = max(ids) < model.config.vocab_size
        read = model.tokenizer.decode(ids, clean_up_tokenization_spaces=False) if fits else ""
        if not read.startswith(text):
            raise ValueError(
                f"{name} has another vocabulary than the model that sampled {group.source}: to it "
                f"the tokens of {text[:40]!r} are {read[:40]!r}"
            )


# Numbers ------------------------------------------------------------------------------------------


def _log_attribute(rows: Sequence[Sampled]) -> list[list[float]]:
    """log P(a|x,y) of each response: the sum over the attributes that were asked for and rated."""
    rated, asked, counts = [], [], []
    for each in rows:
        for predicted in each.row["predicted"]:
            names = [name for name in each.group.condition if name in predicted]
            rated += [predicted[name] for name in names]
            asked += [each.group.condition[name] for name in names]
            counts.append(len(names))
    levels = np.asarray(attribute_log_probability(np.float32(rated), np.float32(asked)), np.float64)
    sums = iter(np.add.reduceat(levels, np.cumsum([0, *counts[:-1]])).tolist())
    return [[next(sums) for _ in each.row["responses"]] for each in rows]


def _measured(rows: Sequence[Sampled]) -> dict:
    """How the weights w' lie, means over groups: effective sample size, what part of the group that
    is, and the distance KL(w'||b') of the policy that sampled, for which b' is uniform; how many
    groups have collapsed; and warnings."""
    columns = [
        np.stack([np.float32(each.row[name]) for name in whole_rows.LOGS], axis=1) for each in rows
    ]
    weights = steerlm.weigh_groups(columns, [each.row["log_proposal"] for each in rows])
    return {
        **steerlm.mean_effective(weights),
        "collapsed": sum(bool(of["effective"][0] < steerlm.LEAST_EFFECTIVE) for of in weights),
        "distance": float(np.mean([of["distance"].sum(dtype=np.float64) for of in weights])),
        "warnings": steerlm.collapse(columns),
    }
