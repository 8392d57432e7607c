"""Weighing for SteerLM 2.0: groups.jsonl, sampled responses with what their weights are made of
(HelpSteer2, section 4.5).

Each row of samples.jsonl that is left, with lists of one entry for each response: predicted (what
the reward model rates), log_attribute = log P(a|x,y), log_prior = log P(y|x) and log_proposal =
log Q'(y|a,x), in nats. Read the file as "sampled:FILE". Training computes the weights from them.
"""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np

from hs2jax.alignment import sampled_rows, stage
from hs2jax.alignment.sampled_rows import Sampled
from hs2jax.data import formats
from hs2jax.data.groups import Group
from hs2jax.data.record import Record
from hs2jax.identity import content_key
from hs2jax.language_model import LanguageModel
from hs2jax.losses import steerlm
from hs2jax.reward_model import RewardModel
from hs2jax.workdir import row

log = logging.getLogger(__name__)

CHUNK = 64  # Groups whose log-probabilities are computed, and kept, at a time.


@stage.verb
def weigh(config, run: stage.Run) -> list[dict]:
    """Find the log-probabilities of sampled responses that SteerLM 2.0 weighs them by, with one
    model in memory at a time."""
    rows = _rated(run, read(config, run.record))
    for name, model in (("log_prior", "prior"), ("log_proposal", "proposal")):
        if config[model]:
            groups = [each.group for each in rows]
            if name == "log_prior":
                groups = [dataclasses.replace(group, condition={}) for group in groups]
            for each, nats in zip(rows, log_probabilities(run, model, groups), strict=True):
                each.row[name] = nats
            fitting = [each for each in rows if each.row[name] is not None]
            run.record.too_long += len(rows) - len(fitting)
            rows = fitting
    if not rows:
        raise ValueError(f"config.data: nothing of {config.data} fits the models: {run.record}")
    for each, nats in zip(rows, _log_attribute(rows), strict=True):
        each.row["log_attribute"] = nats
    run.write("groups.jsonl", [each.row for each in rows])
    columns = [np.array([each.row[name] for name in formats.LOGS], "f4").T for each in rows]
    asked = {name for each in rows for name in each.group.condition}
    unrated = ", ".join(sorted(asked - set(rows[0].row["predicted"][0])))
    others = "log P(a|x,y) is of the other attributes"
    warnings = [f"{config.reward_model} does not rate {unrated}: {others}"] if unrated else []
    run.result["warnings"] = warnings + steerlm.collapse(columns)
    for warning in run.result["warnings"]:
        log.warning("%s", warning)
    return results(columns)


def read(config, record: Record) -> list[Sampled]:
    """Read the rows that have enough responses.

    Raises ValueError where one lacks what it would be weighed by, or none is left.
    """
    settings = {"unfinished": config.unfinished, "on_error": config.on_error, "record": record}
    every = sampled_rows.read(config.data, **settings)
    for each in every:
        _check(config, *each)
    found = [each for each in every if len(each.group.responses) >= config.least]
    if len(found) < len(every):
        record.skip("too few responses", len(every) - len(found))
    if not found:
        raise ValueError(f"config.data: nothing is left of {config.data}; {record}")
    return found


def _check(config, row: dict, group: Group) -> None:
    if not group.condition:
        raise ValueError(
            f"config.data: {group.source} asks for no attributes (condition), and what is asked "
            "for is what SteerLM 2.0 weighs by"
        )
    if not group.tokens and False in row.get("finished", ()):
        raise ValueError(
            f"config.unfinished: {group.source} has responses that were cut, but not their tokens, "
            'without which they cannot be scored: "drop" them'
        )
    if row.get("instruction"):
        raise ValueError(
            f"config.data: {group.source} was sampled under the instruction {row['instruction']!r},"
            " so that the probability it was sampled with is not log Q'(y|a,x); such responses are "
            "for SteerLM (hs2jax annotate), not for SteerLM 2.0"
        )
    if "log_proposal" not in row and not config.proposal:
        raise ValueError(
            f"config.proposal: {group.source} has no log_proposal, as it was sampled elsewhere; "
            "name the model that wrote it"
        )


# Models -------------------------------------------------------------------------------------------


def _rated(run: stage.Run, rows: Sequence[Sampled]) -> list[Sampled]:
    """Rate the responses of each row, "predicted": [{attribute: value}], and leave out those that
    do not fit, which are counted.

    Raises ValueError for a row of which nothing that it asks for is rated.
    """
    name = run.config.reward_model
    model = run.load(RewardModel, name)
    for each in rows:
        if not set(each.group.condition) & set(model.outputs):
            raise ValueError(
                f"config.reward_model: {name} has the outputs {', '.join(model.outputs)}, and none "
                f"of {', '.join(each.group.condition)}, which {each.group.source} asks for"
            )
    found = []
    rated = run.rate(model, [each.group for each in rows], truncate=False)
    for each, outputs in zip(rows, rated, strict=True):
        if outputs is not None:
            named = [dict(zip(model.outputs, line, strict=True)) for line in outputs.tolist()]
            each.row["predicted"] = named
            found.append(each)
    return found


def log_probabilities(
    run: stage.Run, key: str, groups: Sequence[Group]
) -> list[list[float] | None]:
    """Find the log-probabilities of whole responses under the model that `key` of the config names;
    None for a group that does not fit. They are kept under the model and what it reads."""
    model = run.load(LanguageModel, run.config[key])
    for group in groups:
        for text, ids in zip(group.responses, group.tokens, strict=False):
            # The tokens that were sampled may be other words to this model.
            fits = max(ids) < model.config.vocab_size
            said = model.tokenizer.decode(ids, clean_up_tokenization_spaces=False) if fits else ""
            if not said.startswith(text):
                raise ValueError(
                    f"config.{key}: {run.config[key]} has another vocabulary than the model that "
                    f"sampled {group.source}: to it the tokens of {text[:40]!r} are {said[:40]!r}"
                )
    identity = stage.identity(model)

    def compute(some: Sequence[Group], numbers: Sequence[int]) -> list:
        found = model.log_probability_groups(some, skip=run.config.on_error == "skip")
        return [each and [float(x.sum(dtype=np.float64)) for x in each] for each in found]

    keys = [
        content_key(identity, each.prompt, each.condition, each.responses, each.tokens)
        for each in groups
    ]
    return run.each(f"log-probabilities of config.{key}", groups, keys, CHUNK, compute)


# Numbers ------------------------------------------------------------------------------------------


def _log_attribute(rows: Sequence[Sampled]) -> list[list[float]]:
    """Sum log P(a|x,y) of each response over the attributes that were asked for and rated."""
    rated, asked, counts = [], [], []
    for each in rows:
        for predicted in each.row["predicted"]:
            names = [name for name in each.group.condition if name in predicted]
            rated += [predicted[name] for name in names]
            asked += [each.group.condition[name] for name in names]
            counts.append(len(names))
    levels = steerlm.attribute_log_probability(np.float32(rated), np.float32(asked))
    starts = np.cumsum([0, *counts[:-1]])
    sums = iter(np.add.reduceat(np.asarray(levels, np.float64), starts).tolist())
    return [[next(sums) for _ in each.row["responses"]] for each in rows]


def results(columns: Sequence[np.ndarray]) -> list[dict]:
    """Say how the weights w' lie, as means over groups: their effective sample size, what part of
    the group that is, and the distance KL(w'||b') of the policy that sampled, for which b' is
    uniform; and how many groups have collapsed. columns: see `steerlm.weigh_groups`."""
    weights = steerlm.weigh_groups(columns, [each[:, 2] for each in columns])
    means = steerlm.mean_effective(weights)
    means["distance"] = np.mean([of["distance"].sum(dtype=np.float64) for of in weights])
    collapsed = sum(of["effective"][0] < steerlm.LEAST_EFFECTIVE for of in weights)
    n, shown = len(columns), ("effective_sample_size", "distance")
    return [
        row("", "", "groups", n, headline=True),
        row("", "", "responses", sum(map(len, columns))),
        *(row("", "", name, x, n=n, headline=name in shown) for name, x in means.items()),
        row("", "", "collapsed", collapsed, n=n),
    ]
