"""Rules for the settings of `configs`: a rule takes a value and returns what was expected where it
is not that, else None. Those of data raise what `data.corpora` raises."""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ml_collections import ConfigDict

from hs2jax.data import corpora, files
from hs2jax.losses.steerlm import HIGHEST

Rule = Callable[[object], str | None]

CROSS_VALIDATE = "cross-validate"


def anything(value) -> None:
    """Accept what the default's type accepts."""


def one_of(*choices) -> Rule:
    return lambda value: None if value in choices else f"one of {', '.join(map(repr, choices))}"


def at_least(low: float) -> Rule:
    return lambda value: None if low <= value < math.inf else f"{low} or more"


def above(low: float) -> Rule:
    return lambda value: None if low < value < math.inf else f"more than {low}"


def share(value: float) -> str | None:
    return None if 0 < value <= 1 else "more than 0 and at most 1"


def smoothing(value: float) -> str | None:
    return None if 0 <= value < 0.5 else "0 or more and less than 0.5"


def seed(value: int) -> str | None:
    return None if 0 <= value < 2**31 else "a whole number from 0 to 2,147,483,647"


def seeds(values: Iterable[int]) -> str | None:
    values = list(values)
    whole = all(isinstance(each, int) and seed(each) is None for each in values)
    if whole and values and len(set(values)) == len(values):
        return None
    return "different whole numbers, one or more"


def needed(rule: Rule = anything, what: str = "a text") -> Rule:
    """Refuse an empty value, and what another rule refuses."""
    return lambda value: rule(value) if value else what


def regex(value: str) -> str | None:
    try:
        re.compile(value)
    except re.error as error:
        return f"a regular expression: {error}"


def names(values: Iterable[str]) -> str | None:
    """Names of outputs."""
    if all(isinstance(each, str) and re.fullmatch(r"[^\s,=]+", each) for each in values):
        return None
    return "names, written as \"('helpfulness', 'verbosity')\""


def factors(values: Iterable[float]) -> str | None:
    if all(isinstance(each, int | float) and 0 <= each < math.inf for each in values):
        return None
    return "numbers, 0 or more"


def attribute_values(values: Iterable[int]) -> str | None:
    values = list(values)
    if len(set(values)) == len(values) > 1 and set(values) <= set(range(HIGHEST + 1)):
        return None
    return f"two whole numbers or more from 0 to {HIGHEST}, each once"


def data(spec: str) -> str | None:
    """A data specification of known formats whose files are there, or will be where they are those
    of a recipe's stage. Raises ValueError or FileNotFoundError."""
    for part in corpora.split(spec) if spec else ():
        if re.search(r"\{\w+\}", part):
            corpora.parse(part)
        else:
            corpora.read(part)


needed_data = needed(data, "data as in 'format:path[slice]'")


def sampled_data(spec: str) -> str | None:
    """Whole files of sampled responses."""
    if spec and any(each.format != "sampled" or each.selector for each in corpora.parse(spec)):
        return "whole files of sampled responses, as in 'sampled:runs/samples/samples.jsonl'"
    return needed_data(spec)


def file(path: str) -> None:
    """A file that is there. Raises FileNotFoundError."""
    if "{" not in path:
        files.expand(path)


def layer_weights(value: str) -> str | None:
    if value in ("", CROSS_VALIDATE) or Path(value).is_file() or "{" in value:
        return None
    return (
        f'the weights.json of another run (there is no such file), "{CROSS_VALIDATE}", or "" for '
        "even weights"
    )


def reward_weights(value: str) -> None:
    """How an evaluation makes one reward of several outputs: a name, or weights."""
    if value not in ("llama3_70b", "nemotron4_340b", "search"):
        parse_weights(value)


# Settings that do not go together -----------------------------------------------------------------


def refusals(config: ConfigDict, default: ConfigDict) -> Iterator[str]:
    """Say of settings that do not go with others: "KEY ...", each a sentence."""
    return CROSS_CHECKS.get(config.kind, lambda *_: iter(()))(config, default)


def _train_reward_model(config: ConfigDict, default: ConfigDict) -> Iterator[str]:
    yield from _training(config)
    output, outputs = config.objective.output, config.model.outputs
    if output and outputs and output not in outputs:
        yield f"objective.output is {output!r}; the model's outputs are {', '.join(outputs)}"


def _train_policy(config: ConfigDict, default: ConfigDict) -> Iterator[str]:
    yield from _training(config)
    if config.objective.kind != "steerlm2":
        return
    if config.data.condition:
        yield (
            f"data.condition is {config.data.condition!r}; sampled groups have conditions of their "
            'own, so with config.objective.kind "steerlm2" it must be ""'
        )
    if config.data.too_long != "skip":
        yield (
            f"data.too_long is {config.data.too_long!r}; the log-probabilities of sampled groups "
            'are those after whole prompts, so with config.objective.kind "steerlm2" it must be '
            '"skip"'
        )


def _training(config: ConfigDict) -> Iterator[str]:
    freezes = config.trainable.last_layers >= 0
    if config.trainable.cache and (not freezes or config.data.layout == "padded"):
        yield (
            "trainable.cache keeps what frozen layers give: it needs config.trainable.last_layers "
            'and a layout other than "padded"'
        )


def _evaluate(config: ConfigDict, default: ConfigDict) -> Iterator[str]:
    if config.model.weights == "search" and not config.validation:
        yield 'model.weights is "search": name the pairs to search on in config.validation'


def _sample(config: ConfigDict, default: ConfigDict) -> Iterator[str]:
    if config.responses and config.server:
        yield "responses and config.server both say who answers: set one of them"
    if not config.model.name and not config.responses:
        yield "model.name is not set"
    if config.responses and config.instruction:
        yield "instruction: the responses of a file are written already; leave it empty"
    if config.responses and len(config.conditions) > 1:
        yield (
            "conditions: the responses of a file were written for one attribute setting, not for "
            f"{len(config.conditions)}"
        )


# The tasks of a judge that read a setting; it would be without effect in others.
JUDGE_TASKS = {
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


def _judge(config: ConfigDict, default: ConfigDict) -> Iterator[str]:
    baselines, known = parse_names(config.baselines), ("gpt_score", "ridge_probe", "reward_model")
    for name in baselines:
        if name not in known:
            yield f"baselines names {name!r}; expected some of {', '.join(known)}"
    if ("reward_model" in baselines) != bool(config.reward_model):
        yield (
            'reward_model names the model of "reward_model" in config.baselines: set both or none'
        )
    if "gpt_score" in baselines and config.criteria == "rubric":
        yield (
            "baselines: gpt_score asks by the same criteria for every row; name them in "
            "config.criteria instead of 'rubric', or leave gpt_score out"
        )
    if "ridge_probe" in baselines and config.folds < 3:
        yield f"folds is {config.folds}; expected 3 or more for ridge_probe"
    if config.validation and config.weights:
        yield (
            "validation says what weights are fitted on and config.weights where they come from: "
            "set one of them"
        )
    for key, tasks in JUDGE_TASKS.items():
        if config.task not in tasks and config[key] != default[key]:
            yield f"{key} is for config.task {' and '.join(tasks)}, not for {config.task}"
    if config.task in ("pairs", "selection") and config.weights == CROSS_VALIDATE:
        yield (
            f"weights is {CROSS_VALIDATE!r}, but {config.task} has no ratings: give the "
            'weights.json of another run, or "" for even weights'
        )
    try:
        (file if config.task in ("emotions", "knowledge") else data)(config.data)
    except (ValueError, FileNotFoundError) as error:
        yield f"data: {error}"


CROSS_CHECKS = {
    "train_reward_model": _train_reward_model,
    "train_policy": _train_policy,
    "evaluate": _evaluate,
    "judge": _judge,
    "sample": _sample,
}

# Texts that stand for dicts -----------------------------------------------------------------------


def parsed(parse: Callable[[str], object]) -> Rule:
    """Refuse a text, or one of several, that a parser raises ValueError for."""

    def rule(value) -> None:
        for text in (value,) if isinstance(value, str) else value:
            parse(text)

    return rule


def parse_weights(text: str) -> dict[str, float] | None:
    """Parse weights of outputs, "helpfulness=0.65,verbosity=-0.4"; None for "".

    Raises ValueError that says what is expected.
    """
    try:
        return {name: float(value) for name, value in _pairs(text)} or None
    except ValueError:
        raise ValueError(f"weights are {text!r}; expected name=number,name=number") from None


def parse_condition(text: str) -> dict[str, int]:
    """Parse attribute values that are asked for, "helpfulness=4,verbosity=2"; {} for "".

    Raises ValueError that says what is expected.
    """
    found = _pairs(text)
    for name, value in found:
        if not name or value not in map(str, range(HIGHEST + 1)):
            raise ValueError(
                f"{text!r} asks for '{name}={value}'; expected name=value,name=value with whole "
                f"numbers from 0 to {HIGHEST}"
            )
    return {name: int(value) for name, value in _once(found, text)}


def parse_policies(text: str) -> dict[str, str]:
    """Parse names of policies with their models, "before=runs/sft/model,after=runs/dpo/model".

    Raises ValueError that says what is expected.
    """
    found, most = _pairs(text), 4  # As many as charts can tell apart.
    good = all(re.fullmatch(r"[\w.-]+", name) and model for name, model in found)
    if not good or not 1 <= len(found) <= most:
        raise ValueError(
            f"policies are {text!r}; expected name=MODEL,name=MODEL, one to {most}, with names of "
            "letters, digits, points and dashes"
        )
    return dict(_once(found, text))


def parse_names(text: str) -> list[str]:
    """Parse names joined with ","."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _pairs(text: str) -> list[tuple[str, str]]:
    parts = [part.partition("=") for part in text.split(",") if part.strip()]
    return [(name.strip(), value.strip()) for name, _, value in parts]


def _once(pairs: list[tuple[str, str]], text: str) -> list[tuple[str, str]]:
    names = [name for name, _ in pairs]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{text!r} names {repeated[0]} twice")
    return pairs
