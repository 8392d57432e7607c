"""Steering, from a config to a folder: do policies follow the attribute values they are asked for?

Policies answer the same prompts, asked for the values of one attribute in turn while the others
stay as they are, and a reward model measures what came. The folder gets samples/NAME/ of each
policy (as `hs2jax sample` makes it), rows/NAME.jsonl (what `steering_statistics` reads),
steering.json, and the report. Killed, the same command goes on where it was.
"""

import itertools
import logging
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import ml_collections

from hs2jax import choices, configs, folder
from hs2jax.alignment import conditions, steering_report, steering_statistics, weigh
from hs2jax.alignment import sample as sampling
from hs2jax.alignment import settings as stage_settings
from hs2jax.alignment.row_file import RowFile
from hs2jax.data.groups import Group
from hs2jax.data.record import Record
from hs2jax.evaluation import items, scores
from hs2jax.evaluation.score import progress_of
from hs2jax.losses.steerlm import HIGHEST
from hs2jax.models import hub, sharding
from hs2jax.reward_model import RewardModel

log = logging.getLogger(__name__)

MOST_POLICIES = 4  # That the pictures can tell apart.
SAMPLING = ("seed", "data", "n", "temperature", "top_p", "max_new_tokens", "on_error")


def settings() -> ml_collections.ConfigDict:
    return configs.defaults("steer")


def steer(config: ml_collections.ConfigDict, workdir: Path | str) -> dict:
    """Samples, measures and compares, and returns steering.json's content.

    Raises ValueError or FileNotFoundError for a config that cannot be, naming the key.
    """
    workdir, started = Path(workdir), time.time()
    check(config)
    first = jax.process_index() == 0
    if first:
        folder.claim(workdir, config)
    reference = RowFile(workdir / "reference.jsonl")
    if (workdir / steering_report.FILE).exists():
        log.info("%s is finished", workdir)
        if first and not (workdir / "report.html").exists():  # Killed between the two.
            _close(workdir, reference)
        return steering_report.read_result(workdir)
    policies = policies_of(config)
    # One model at a time: each is let go before the next is loaded.
    sampled, records = {}, {}
    for name, model in policies.items():
        place = workdir / "samples" / name
        record = sampling.sample(_sampling(config, model), place)["record"]
        sampled[name], records[name] = items.read(place / "samples.jsonl"), {"sampled": record}
    names, measured = _measure(config, sampled, records)
    ratios = _log_ratios(config, sampled, reference, records) if config.reference else {}
    rows = {
        name: [
            _row(row, *of, ratio)
            for row, of, ratio in zip(
                some, measured[name], ratios.get(name, [None] * len(some)), strict=True
            )
        ]
        for name, some in sampled.items()
    }
    result = {
        "names": list(names),
        **compare(rows, config.attributes, conditions.parse(config.base)),
        "models": policies,
        "records": records,
        "environment": folder.environment(),
        "seconds": time.time() - started,
        "config": config.to_dict(),
    }
    if first:
        for name, some in rows.items():
            items.write(workdir / "rows" / f"{name}.jsonl", some)
        folder.write_json(workdir / steering_report.FILE, result)
        _close(workdir, reference)
    return result


def _close(workdir: Path, reference: RowFile) -> None:
    """What comes behind the result."""
    reference.remove()
    steering_report.write(workdir)


def compare(
    rows: Mapping[str, Sequence[dict]], attributes: Sequence[str], base: Mapping[str, int]
) -> dict:
    """How each policy follows, and whether more closely than the one before it.

    rows: of each policy by its name, as `steering_statistics` reads them. Returns {"policies":
    [{"name", "totals", "attributes": [`follow`, ...]}], "tests": [{"attribute", "later",
    "earlier", ...`compare`}]}.
    """
    sweeps = {
        name: {each: steering_statistics.sweep(some, each, base) for each in attributes}
        for name, some in rows.items()
    }
    return {
        "policies": [
            {
                "name": name,
                "totals": steering_statistics.totals(some),
                "attributes": [
                    steering_statistics.follow(sweeps[name][each], each) for each in attributes
                ],
            }
            for name, some in rows.items()
        ],
        "tests": [
            {
                "attribute": each,
                "later": later,
                "earlier": earlier,
                **steering_statistics.compare(sweeps[later][each], sweeps[earlier][each], each),
            }
            for earlier, later in itertools.pairwise(rows)
            for each in attributes
        ],
    }


def describe(result: dict) -> str:
    """A result in a few lines."""
    return "\n".join(f"{each.label}. {each.sentence}" for each in steering_report.verdicts(result))


# Settings -----------------------------------------------------------------------------------------


def check(config) -> None:
    """Raises ValueError or FileNotFoundError for settings that cannot be, naming the key."""
    for name in ("reward_model", "data", "attributes", "requested"):
        if not config[name]:
            raise ValueError(f"config.{name} is not set")
    choices.check(config, {"dtype": choices.DTYPES})
    values, allowed = list(config.requested), set(range(HIGHEST + 1))
    if len(set(values)) < max(2, len(values)) or not set(values) <= allowed:
        raise ValueError(
            f"config.requested is {values}; expected two whole numbers or more from 0 to "
            f"{HIGHEST}, each once"
        )
    for model in policies_of(config).values():
        sampling.check(_sampling(config, model))
    outputs = hub.open_model(config.reward_model)[0].outputs
    if unknown := [name for name in config.attributes if name not in outputs]:
        said = f"measures {', '.join(outputs)}" if outputs else "has no reward head"
        raise ValueError(
            f"config.attributes: the reward model {config.reward_model} {said}, and not "
            f"{', '.join(unknown)}"
        )
    for model in filter(None, (*policies_of(config).values(), config.reference)):
        hub.open_model(model)  # Raises where there is none.


def policies_of(config) -> dict[str, str]:
    """The policies' models by name. Raises ValueError."""
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in config.policies.split(","))):
        name, _, model = (piece.strip() for piece in part.partition("="))
        if not re.fullmatch(r"[\w.-]+", name) or not model:
            raise ValueError(
                f"config.policies has {part!r}; expected name=MODEL,name=MODEL with names of "
                "letters, digits, points and dashes"
            )
        if name in found:
            raise ValueError(f"config.policies names {name!r} twice")
        found[name] = model
    if not 1 <= len(found) <= MOST_POLICIES:
        raise ValueError(
            f"config.policies has {len(found)}; expected one to {MOST_POLICIES}, as in "
            "before=runs/sft/model,after=runs/steerlm/model"
        )
    return found


def requests_of(config) -> list[dict[str, int]]:
    """The attribute settings that are asked for, each once: the base is in every sweep."""
    try:
        base = conditions.parse(config.base)
    except ValueError as error:
        raise ValueError(f"config.base: {error}") from None
    found = [base | {name: value} for name in config.attributes for value in config.requested]
    return [each for i, each in enumerate(found) if each not in found[:i]]


def _sampling(config, model: str) -> ml_collections.ConfigDict:
    """The config by which a policy is sampled."""
    found = stage_settings.sample()
    found.update({name: config[name] for name in SAMPLING})
    found.mesh.update(config.mesh)
    found.model.name, found.model.dtype = model, config.dtype
    found.conditions = tuple(map(conditions.show, requests_of(config)))
    return found


# Steps --------------------------------------------------------------------------------------------


class Said(NamedTuple):
    """The responses of a row that say something, and which those are: a reward model reads no
    empty one."""

    row: int
    responses: list[int]
    group: Group


def _said(rows: Sequence[dict]) -> list[Said]:
    found = []
    for number, row in enumerate(rows):
        if kept := [i for i, text in enumerate(row["responses"]) if text.strip()]:
            found.append(Said(number, kept, _group(row, kept)))
    return found


def _group(row: dict, kept: Sequence[int]) -> Group:
    """Some responses of a row, asked for nothing."""
    return Group(
        tuple(row["prompt"]),
        tuple(row["responses"][i] for i in kept),
        tokens=tuple(tuple(row["tokens"][i]) for i in kept),
        source=row["source"],
    )


def _measure(
    config, sampled: Mapping[str, list[dict]], records: Mapping[str, dict]
) -> tuple[Sequence[str], dict[str, list]]:
    """The reward model's outputs by name, and for each policy's row the measured attributes of its
    responses, None where one says nothing or is too long, and their rewards, or None. Prompts that
    were cut to fit and responses that did not are counted in the policy's records."""
    model = RewardModel.load(
        config.reward_model, mesh=sharding.mesh_of(config.mesh), dtype=choices.dtype(config.dtype)
    )
    scalar, cache = model.scalar_weights(), scores.Cache(scores.model_key(model))
    found = {}
    for name, rows in sampled.items():
        said = _said(rows)
        found[name] = [([None] * len(row["responses"]), None) for row in rows]
        groups = [each.group for each in said]
        with progress_of(f"measure {name}", len(groups)) as show:
            record = Record(rows=len(rows), groups=len(groups))
            scored = scores.stream(model, groups, cache, skip=True, record=record, progress=show)
            for each, (_, outputs, *_) in zip(said, scored, strict=True):
                if outputs is None:
                    continue
                n = len(rows[each.row]["responses"])
                measured, rewards = [None] * n, [None] * n
                for i, row in zip(each.responses, outputs, strict=True):
                    measured[i] = dict(zip(model.outputs, map(float, row), strict=True))
                    rewards[i] = None if scalar is None else float(row @ scalar)
                found[name][each.row] = measured, None if scalar is None else rewards
        records[name]["measured"] = record.to_dict()
    return model.outputs, found


def _log_ratios(
    config, sampled: Mapping[str, list[dict]], file: RowFile, records: Mapping[str, dict]
) -> dict[str, list[list[float] | None]]:
    """For each policy's row, log Q(y|a,x) - log P(y|x) of its responses in nats, over the same
    tokens, of those that say nothing too: the policy is asked for attributes, the reference P for
    nothing. None for rows that the reference cannot read, which are counted in the policy's
    records. The file keeps what the reference says.
    """
    groups = [
        _group(row, range(len(row["responses"]))) for rows in sampled.values() for row in rows
    ]
    every = iter(weigh.log_probabilities("reference", config, groups, file))
    found = {}
    for name, rows in sampled.items():
        found[name], record = [], Record(rows=len(rows), groups=len(rows))
        for row, prior in zip(rows, every, strict=False):
            record.too_long += prior is None
            pairs = prior and zip(row["log_proposal"], prior, strict=True)
            found[name].append(pairs and [ours - theirs for ours, theirs in pairs])
        records[name]["reference"] = record.to_dict()
    return found


def _row(row: dict, measured: list, rewards: list | None, ratio: list | None) -> dict:
    kept = {key: row[key] for key in ("source", "prompt", "condition", "responses", "finished")}
    return {
        **kept,
        "tokens": [len(ids) for ids in row["tokens"]],
        "measured": measured,
        "rewards": rewards,
        "log_ratio": ratio,
    }
