"""Steering: policies answer the same prompts, asked for the values of one attribute in turn while
the others stay as they are, and a reward model measures what comes. The folder gets
samples/NAME/ of each policy, as `hs2jax sample` makes it, and items/NAME.jsonl, which `following`
reads:

    {"source": "file:line", "prompt": [turns], "condition": {"verbosity": 2, ...},
     "responses": [texts], "finished": [bool], "tokens": [int],
     "measured": [{"verbosity": 1.7, ...} or null, ...],      null: empty or too long to be measured
     "rewards": [float or null], "log_ratio": [float or null]}
"""

import itertools
from collections.abc import Mapping, Sequence

from hs2jax import config_rules, configs
from hs2jax.alignment import following, stage, weigh
from hs2jax.alignment.sample import sample
from hs2jax.data.groups import Group
from hs2jax.data.record import Record
from hs2jax.models.hf import hub
from hs2jax.reward_model import RewardModel
from hs2jax.workdir import read_json, read_rows

SAMPLING = ("seed", "data", "n", "temperature", "top_p", "max_new_tokens", "on_error", "mesh")
# Of a sampled row; the last three are unknown, None for each response, where they are not there.
KEPT = ("source", "prompt", "condition", "responses", "finished", "tokens")
KEPT += ("measured", "rewards", "log_ratio")


@stage.verb
def steer(config, run: stage.Run) -> list[dict]:
    """Measure how closely policies follow the attributes that they are asked for, with one model in
    memory at a time."""
    policies = config_rules.parse_policies(config.policies)
    # Before any is loaded.
    stage.wanted(config, config.reward_model, hub.open_model(config.reward_model)[0].outputs)
    for model in filter(None, (*policies.values(), config.reference)):
        hub.open_model(model)
    sampled = {}
    for name, model in policies.items():
        place = run.workdir / "samples" / name
        sample(_sampling(config, model), place)
        sampled[name] = read_rows(place / "samples.jsonl")
        run.records[f"{name}, sampled"] = read_json(place / "result.json")["records"]["data"]
    _measure(run, sampled)
    if config.reference:
        _hold_against_reference(run, sampled)
    items = {}
    for name, rows in sampled.items():
        items[name] = [
            {key: row[key] if key in row else [None] * len(row["responses"]) for key in KEPT}
            | {"tokens": [len(ids) for ids in row["tokens"]]}
            for row in rows
        ]
        run.write(f"items/{name}.jsonl", items[name])
    return results(config, items)


def results(config, items: Mapping[str, Sequence[dict]]) -> list[dict]:
    """Say how each policy follows, and whether more closely than the one before it."""
    base = config_rules.parse_condition(config.base)
    sweeps = {
        name: {each: following.sweep(rows, each, base) for each in config.attributes}
        for name, rows in items.items()
    }
    ratio = "kl" if config.temperature == 1 and config.top_p == 1 else "log_ratio"
    found = []
    for name, rows in items.items():
        found += following.totals(name, rows, ratio)
        for each in config.attributes:
            found += following.follow(name, sweeps[name][each], each)
    for earlier, later in itertools.pairwise(items):
        for each in config.attributes:
            pair = sweeps[later][each], sweeps[earlier][each]
            found += following.compare((later, earlier), *pair, each)
    return found


# Steps --------------------------------------------------------------------------------------------


def _sampling(config, model: str):
    """Make the config by which a policy is sampled: each setting once, as the base is in every
    sweep."""
    base = config_rules.parse_condition(config.base)
    asked = [base | {name: value} for name in config.attributes for value in config.requested]
    texts = [",".join(f"{name}={value}" for name, value in each.items()) for each in asked]
    found = configs.defaults("sample")
    found.update({name: config[name] for name in SAMPLING})
    found.model.name, found.model.dtype = model, config.dtype
    found.conditions = tuple(dict.fromkeys(texts))
    return found


def _group(row: dict, some: Sequence[int]) -> Group:
    """Make a group of some responses of a row, asked for nothing."""
    return Group(
        tuple(row["prompt"]),
        tuple(row["responses"][i] for i in some),
        tokens=tuple(tuple(row["tokens"][i]) for i in some),
        source=row["source"],
    )


def _measure(run: stage.Run, sampled: Mapping[str, list[dict]]) -> None:
    """Measure the attributes and rewards of each row's responses; they stay unknown where one says
    nothing (a reward model reads no empty one) or is too long. Prompts that were cut to fit and
    responses that did not are counted in the policy's record."""
    model = run.load(RewardModel, run.config.reward_model)
    scalar = model.scalar_weights()
    for name, rows in sampled.items():
        saying = [[i for i, text in enumerate(row["responses"]) if text.strip()] for row in rows]
        groups = [_group(row, some) for row, some in zip(rows, saying, strict=True) if some]
        record = Record(rows=len(rows), groups=len(groups))
        outputs = run.rate(model, groups, record, skip=True, leave_out=False)
        for row, some in zip(rows, saying, strict=True):
            row["measured"], row["rewards"] = ([None] * len(row["responses"]) for _ in range(2))
            table = next(outputs) if some else None
            for i, values in zip(some, () if table is None else table, strict=False):
                row["measured"][i] = dict(zip(model.outputs, map(float, values), strict=True))
                row["rewards"][i] = None if scalar is None else float(values @ scalar)
        run.records[f"{name}, measured"] = record.to_dict()
        if not any(each for row in rows for each in row["measured"]):
            raise ValueError(f"config.data: no response of {name} can be measured: {record}")


def _hold_against_reference(run: stage.Run, sampled: Mapping[str, list[dict]]) -> None:
    """Find log Q(y|a,x) - log P(y|x) of each row's responses in nats, over the same tokens, of
    those that say nothing too: the policy is asked for attributes, the reference P for nothing.
    Rows that the reference cannot read are counted in the policy's record."""
    every = [row for rows in sampled.values() for row in rows]
    groups = [_group(row, range(len(row["responses"]))) for row in every]
    found = weigh.log_probabilities(run, "reference", groups)
    for row, prior in zip(every, found, strict=True):
        if prior is not None:
            row["log_ratio"] = [q - p for q, p in zip(row["log_proposal"], prior, strict=True)]
    for name, rows in sampled.items():
        too_long = sum("log_ratio" not in row for row in rows)
        record = Record(rows=len(rows), groups=len(rows), too_long=too_long)
        run.records[f"{name}, reference"] = record.to_dict()
