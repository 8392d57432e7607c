"""Configs that cannot be, told before anything is loaded or computed."""

import functools
import re
from collections.abc import Sequence

from hs2jax import choices, losses
from hs2jax.data import corpora, loader, packing, templates
from hs2jax.data.record import Record
from hs2jax.evaluation import items
from hs2jax.reward_model import parse_weights
from hs2jax.training import objectives, optimizer, policy_objectives

SELECT = {"loss": -1, "accuracy": 1}  # What the best step has least or most of.
CONDITIONS = ("", "ratings")  # Where a policy's data take the wanted attribute values from.

CHOICES = {
    "model.dtype": choices.DTYPES,
    "model.template": ("", *templates.TEMPLATES),
    "data.layout": packing.LAYOUTS,
    "data.too_long": loader.TOO_LONG,
    "data.on_error": ("raise", "skip"),
    "optimizer.schedule": optimizer.SCHEDULES,
    "optimizer.first_moment": ("float32", "bfloat16"),
}
REWARD_CHOICES = {
    "select": tuple(SELECT),
    "objective.kind": objectives.KINDS,
    "objective.preference": losses.reward.KINDS,
}
POLICY_CHOICES = {
    "select": ("loss",),
    "objective.kind": policy_objectives.KINDS,
    "data.condition": CONDITIONS,
}
AT_LEAST_ONE = ("batch_size", "micro_rows", "epochs", "evaluate_every", "checkpoint_every")


def check_config(config) -> None:
    """Raises ValueError or FileNotFoundError that names the config key."""
    rewards = "outputs" in config.model  # Else it is a policy's.
    choices.check(config, CHOICES | (REWARD_CHOICES if rewards else POLICY_CHOICES))
    for key in (*AT_LEAST_ONE, "data.row_length", "not_finite_limit"):
        value = _get(config, key)
        if value < 1:
            raise ValueError(f"config.{key} is {value}; it must be at least 1")
    if not config.optimizer.clip > 0:
        raise ValueError(f"config.optimizer.clip is {config.optimizer.clip}; it must be above 0")
    if config.lora.rank < 0 or not config.lora.alpha > 0:
        raise ValueError("config.lora: rank must be at least 0 and alpha above 0")
    freezes = config.trainable.last_layers >= 0
    if config.trainable.cache and (not freezes or config.data.layout == "padded"):
        raise ValueError(
            "config.trainable.cache keeps what frozen layers give: it needs "
            'config.trainable.last_layers and a layout other than "padded"'
        )
    for key in ("trainable.paths", "lora.targets"):
        pattern = _get(config, key)
        try:
            re.compile(pattern)
        except re.error as error:
            what = f"config.{key} is {pattern!r}, which is no regular expression: {error}"
            raise ValueError(what) from None
    if rewards:
        _check_outputs(config)
    elif config.objective.kind == "steerlm2":
        _check_steerlm2(config)
    for key in ("train", "validation"):
        spec = config.data[key]
        if not spec:
            raise ValueError(f"config.data.{key} is not set; it is a text, 'format:path[slice]'")
        corpora.read(spec, record=Record())  # Raises where there is no such format or file.


def _get(config, key: str):
    return functools.reduce(getattr, key.split("."), config)


def _check_outputs(config) -> None:
    for name in config.model.outputs:
        if not re.fullmatch(r"[^\s,=]+", name):
            raise ValueError(
                f"config.model.outputs has {name!r}; several names are written as "
                "--config.model.outputs=\"('helpfulness', 'verbosity')\""
            )
    parse_weights(config.model.weights)


def _check_steerlm2(config) -> None:
    if config.data.condition:
        raise ValueError(
            f"config.data.condition is {config.data.condition!r}; sampled groups have conditions "
            'of their own, so with config.objective.kind "steerlm2" it must be ""'
        )
    if config.data.too_long != "skip":
        raise ValueError(
            f"config.data.too_long is {config.data.too_long!r}; the log-probabilities of sampled "
            'groups are those after whole prompts, so with config.objective.kind "steerlm2" it '
            'must be "skip"'
        )


def check_rewarded(
    config, spec: str, outputs: Sequence[str], prepared: loader.Prepared, record: Record
) -> None:
    """Sees that a data set has what a reward model's objective needs, so that no run learns from
    nothing."""
    kind, rated = config.objective.kind, items.rating_means(prepared, outputs)
    needs_pairs = {
        "config.objective.kind": kind != "regression",
        "config.data.derive": bool(config.data.derive),
        "config.select": config.select == "accuracy",
    }
    for key, needs in needs_pairs.items():
        if needs and not record.pairs:
            raise ValueError(f"{spec}: no preference pairs, for {key}: {items.describe(record)}")
    unrated = [name for name in outputs if name not in rated]
    if (kind == "regression" and unrated) or (kind == "joint" and not rated):
        raise ValueError(
            f"{spec}: no row that fits rates {', '.join(unrated)}, named in config.model.outputs: "
            f"{items.describe(record)}"
        )


def check_sampled(spec: str, prepared: loader.Prepared, record: Record) -> None:
    """Sees that every response of a policy's sampled groups has what it is weighed by, and that
    there are responses to weigh against each other."""
    for group, example in zip(prepared.groups, prepared.examples, strict=True):
        if not example.rated.all():
            raise ValueError(
                f'{group.source}: config.objective.kind "steerlm2" needs '
                f"{', '.join(policy_objectives.COLUMNS)} of every response, which `hs2jax weigh` "
                "writes into its groups.jsonl"
            )
    if not any(len(example.rated) > 1 for example in prepared.examples):
        raise ValueError(
            f"{spec}: no group that fits has two responses or more to weigh against each other: "
            f"{items.describe(record)}"
        )
