"""Rules for the settings of `configs`: a rule takes a value and returns what was expected where it
is not that, else None. Those of data raise what `data.corpora` raises."""

import difflib
import importlib.util
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from hs2jax.data import corpora, files
from hs2jax.losses.steerlm import HIGHEST

Rule = Callable[[object], str | None]

CROSS_VALIDATE = "cross-validate"


def expect(what: str, test: Callable[[object], bool]) -> Rule:
    """Expect what passes a test; the rule's `what` says so."""

    def rule(value) -> str | None:
        return None if test(value) else what

    rule.what = what
    return rule


def one_of(*choices) -> Rule:
    return expect(f"one of {', '.join(map(repr, choices))}", lambda value: value in choices)


def topology(value: str) -> str | None:
    """Expect a TPU slice, its chip and its shape: "v5e:4x4", "v5p:4x4x4"."""
    expected = "a TPU slice, as in 'v5p:4x4x4', of v4, v5e, v5p or v6e"
    return None if re.fullmatch(r"v(4|5e|5p|6e):\d+x\d+(x\d+)?", value) else expected


def at_least(low: float) -> Rule:
    return expect(f"{low} or more", lambda value: low <= value < math.inf)


def above(low: float) -> Rule:
    return expect(f"more than {low}", lambda value: low < value < math.inf)


def anything(value) -> None:
    """Accept what the default's type accepts."""


def needed(rule: Rule = anything, what: str = "a text") -> Rule:
    """Refuse an empty value, and what another rule refuses."""
    return lambda value: rule(value) if value else what


def _different(values) -> bool:
    return len(set(values)) == len(values)


share = expect("more than 0 and at most 1", lambda x: 0 < x <= 1)
decay = expect("0 or more and less than 1", lambda x: 0 <= x < 1)
smoothing = expect("0 or more and less than 0.5", lambda x: 0 <= x < 0.5)
seed = expect("a whole number from 0 to 2,147,483,647", lambda x: 0 <= x < 2**31)
seeds = expect(
    "different whole numbers, one or more",
    lambda xs: xs and _different(xs) and all(isinstance(x, int) and not seed(x) for x in xs),
)
names = expect(
    "different names, written as \"('helpfulness', 'verbosity')\"",
    lambda xs: (
        all(isinstance(x, str) and re.fullmatch(r"[^\s,=]+", x) for x in xs) and _different(xs)
    ),
)
factors = expect(
    "numbers, 0 or more",
    lambda xs: all(isinstance(x, int | float) and 0 <= x < math.inf for x in xs),
)
attribute_values = expect(
    f"two whole numbers or more from 0 to {HIGHEST}, each once",
    lambda xs: len(xs) > 1 and _different(xs) and set(xs) <= set(range(HIGHEST + 1)),
)
layer_weights = expect(
    f'the weights.json of another run (there is no such file), "{CROSS_VALIDATE}", or "" for even '
    "weights",
    lambda x: x in ("", CROSS_VALIDATE) or Path(x).is_file() or "{" in x,
)
arms = expect(
    'pairs like ("scaled", {"objective.preference": "scaled"})',
    lambda xs: xs and all([*map(type, x)] == [str, dict] for x in xs),
)


def whole_vocabulary(off) -> Rule:
    """Expect a setting of sampling that is off where what is sampled is trained."""
    why = "as the policy that is trained is the one that is sampled, with all of its tokens"
    return expect(f"{off}, {why}", lambda x: x == off)


def regex(value: str) -> str | None:
    try:
        re.compile(value)
    except re.error as error:
        return f"a regular expression: {error}"


def data(spec: str) -> None:
    """A data specification of known formats whose files are there, or will be where they are those
    of a recipe's stage. Raises ValueError or FileNotFoundError."""
    for part in corpora.split(spec) if spec else ():
        read = corpora.parse if re.search(r"\{\w+\}", part) else corpora.read
        read(part)


needed_data = needed(data, "data as in 'format:path[slice]'")


def sampled_data(spec: str) -> str | None:
    """Whole files of sampled responses."""
    if spec and any(each.format != "sampled" or each.selector for each in corpora.parse(spec)):
        return "whole files of sampled responses, as in 'sampled:runs/samples/samples.jsonl'"
    return needed_data(spec)


def file(path: str) -> None:
    """A file that is there, or will be. Raises FileNotFoundError."""
    if "{" not in path:
        files.expand(path)


def wandb(project: str) -> str | None:
    """A project of Weights & Biases where its package is installed."""
    if project and importlib.util.find_spec("wandb") is None:
        return '"" while wandb is not installed: pip install wandb, or the extra "wandb"'
    return None


def reward_weights(value: str) -> None:
    """How an evaluation makes one reward of several outputs: a name, or weights."""
    if value not in ("llama3_70b", "nemotron4_340b", "search"):
        parse_weights(value)


# Settings that do not go together -----------------------------------------------------------------

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
OF_PAIRS = ("dpo", "ipo")  # Objectives of policies that learn from preference pairs.
# The objectives of a policy that read a setting.
OBJECTIVES = {
    "objective.normalize_tokens": ("steerlm2",),
    "objective.preference": ("dpo",),
    "objective.label_smoothing": ("dpo",),
    "objective.smoothing": ("dpo",),
    "objective.reduction": ("ipo",),
    **dict.fromkeys(("objective.beta", "objective.max_drift", "select"), OF_PAIRS),
    **dict.fromkeys(("data.derive", "data.pairs"), OF_PAIRS),
}
# The algorithms of reinforcement that read a setting.
_OF_PPO = ("learning_rate", "value_clip", "discount", "decay")
ALGORITHMS = {"baseline": ("reinforce",), **{f"ppo.{name}": ("ppo",) for name in _OF_PPO}}
BASELINES = ("gpt_score", "ridge_probe", "reward_model")


def refusals(c: ConfigDict, default: ConfigDict) -> Iterator[str]:
    """Say of settings that contradict one another: "KEY ...", each a sentence."""
    match c.kind:
        case "train_reward_model":
            compared, outputs = c.objective.output, c.model.outputs
            if outputs and compared not in ("", *outputs):
                yield f"objective.output is {compared!r}; the model's outputs are {outputs}"
        case "train_policy":
            yield from _policy(c, default)
        case "evaluate":
            if c.model.weights == "search" and not c.validation:
                yield 'model.weights is "search": name the pairs to search on in config.validation'
        case "sample":
            if c.responses and c.server:
                yield "responses and config.server both say who answers: set one of them"
            if not c.model.name and not c.responses:
                yield "model.name is not set"
            if c.responses and c.instruction:
                yield "instruction: the responses of a file are written already; leave it empty"
            if c.responses and len(c.conditions) > 1:
                yield "conditions: the responses of a file were written for one attribute setting"
        case "annotate" if c.reward and c.attributes:
            yield "attributes are not written where config.reward is: leave them empty"
        case "judge":
            yield from _judge(c, default)
        case "sweep" if not can_be_swept(c.get("base")):
            yield "base: expected a config of kind train_reward_model, or train_policy on pairs"
        case "plan" if c.get("base", {}).get("kind") not in ("train_reward_model", "train_policy"):
            yield "base: expected a config of kind train_reward_model or train_policy"
        case "reinforce":
            yield from _reinforce(c, default)
    trained = c.get("trainable", {})
    if trained.get("cache") and (trained.last_layers < 0 or c.data.layout == "padded"):
        yield (
            "trainable.cache keeps what frozen layers give: it needs config.trainable.last_layers "
            'and a layout other than "padded"'
        )


def _policy(c: ConfigDict, default: ConfigDict) -> Iterator[str]:
    kind, given, usual = c.objective.kind, flat(c), flat(default)
    yield from _unread(OBJECTIVES, "objective.kind", given, usual)
    if kind == "steerlm2":
        end = 'so with config.objective.kind "steerlm2" it must be'
        if c.data.condition:
            held = "sampled groups have conditions of their own"
            yield f'data.condition is {c.data.condition!r}; {held}, {end} ""'
        if c.data.too_long != "skip":
            held = "the log-probabilities of sampled groups are those after whole prompts"
            yield f'data.too_long is {c.data.too_long!r}; {held}, {end} "skip"'
    if kind in OF_PAIRS and c.data.condition:
        held = "makes each response a group of its own, which has no pairs"
        yield f"data.condition is {c.data.condition!r}, which {held}: leave it empty"
    if c.data.pairs == "extremes" and not c.data.derive:
        yield "data.pairs is 'extremes': name in config.data.derive of what"
    how = c.objective.smoothing
    if kind == "dpo" and how != "conservative" and not c.objective.label_smoothing:
        yield f"objective.smoothing is {how!r}, and config.objective.label_smoothing is 0: set it"


def _unread(readers: dict, key: str, given: dict, usual: dict) -> Iterator[str]:
    """Say which settings that are not as usual the choice of another, `key`, does not read."""
    for name, choices in readers.items():
        if given[key] not in choices and given[name] != usual[name]:
            yield f"{name} is for config.{key} {' and '.join(choices)}, not for {given[key]}"


def can_be_swept(c) -> bool:
    """Tell if runs of a config can be arms of a sweep, which compares them on pairs or ratings."""
    kind = c.get("kind") if isinstance(c, ConfigDict) else None
    pairs = kind == "train_policy" and c.objective.kind in OF_PAIRS
    return pairs or kind == "train_reward_model"


def _reinforce(c: ConfigDict, default: ConfigDict) -> Iterator[str]:
    yield from _unread(ALGORITHMS, "algorithm", flat(c), flat(default))
    if c.n < 2 and c.algorithm == "reinforce":
        yield "n is 1; expected 2 or more, as a response is held against the others to its prompt"
    names, weights = [*parse_policies(c.reward_models)], parse_weights(c.reward_weights)
    if weights and (unknown := set(weights) - set(names)):
        yield f"reward_weights: {', '.join(unknown)} is none of {', '.join(names)}"
    if weights and not any(weights.values()):
        yield f"reward_weights is {c.reward_weights!r}, so that nothing is rewarded"
    if c.batch_size % c.updates:
        yield f"updates is {c.updates}, which does not divide config.batch_size {c.batch_size}"
    if c.max_new_tokens >= c.row_length:
        yield f"row_length is {c.row_length}; it must hold a prompt and config.max_new_tokens"


def _judge(c: ConfigDict, default: ConfigDict) -> Iterator[str]:
    baselines = parse_names(c.baselines)
    if set(baselines) - set(BASELINES):
        yield f"baselines are {c.baselines!r}; expected some of {', '.join(BASELINES)}"
    if ("reward_model" in baselines) != bool(c.reward_model):
        yield 'reward_model names the model of "reward_model" in config.baselines: set both or none'
    if "gpt_score" in baselines and c.criteria == "rubric":
        yield (
            "baselines: gpt_score asks by the same criteria for every row; name them in "
            "config.criteria instead of 'rubric', or leave gpt_score out"
        )
    if "ridge_probe" in baselines and c.folds < 3:
        yield f"folds is {c.folds}; expected 3 or more for ridge_probe"
    if c.validation and c.weights:
        yield "validation and config.weights both say where weights come from: set one of them"
    if c.task in ("pairs", "selection") and c.weights == CROSS_VALIDATE:
        yield (
            f"weights is {c.weights!r}, but {c.task} has no ratings: give the weights.json of "
            'another run, or "" for even weights'
        )
    yield from _unread(JUDGE_TASKS, "task", c, default)
    try:
        (file if c.task in ("emotions", "knowledge") else data)(c.data)
    except (ValueError, FileNotFoundError) as error:
        yield f"data: {error}"


# Keys and texts -----------------------------------------------------------------------------------

COUNT = r"\d*,?\d*"  # What braces hold in a regular expression.


def like(value: object) -> str:
    """Say what a value of this one's type is."""
    kinds = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
    return kinds.get(type(value), "its settings one by one, as in --config.KEY.NAME=VALUE")


def flat(config: ConfigDict) -> dict[str, object]:
    """Return the settings by their dotted keys."""
    return flatten_dict(config.to_dict(), sep=".")


def references(config: ConfigDict) -> list[tuple[str, str, str]]:
    """List each "{NAME}" in a config's texts, a stage of a recipe or an arm of a sweep, as (dotted
    key, text, name)."""
    return [
        (key, text, name)
        for key, text in flat(config).items()
        for name in (re.findall(r"\{([^{}]+)\}", text) if isinstance(text, str) else ())
        if not re.fullmatch(COUNT, name)
    ]


# Of earlier versions, by what stands there now.
OLD_KEYS = {
    "micro_rows": "micro_batch_size",
    "optimizer.clip": "optimizer.max_grad_norm",
    "optimizer.first_moment": "optimizer.mu_dtype",
}


def unknown_key(keys: Iterable[str], key: str, where: str = "config") -> str:
    """Say that there is no such key (dotted), and which of `keys` may be meant."""
    now = {old.split(".")[-1]: new for old, new in OLD_KEYS.items()}.get(key.split(".")[-1])
    near = nearest(keys, now or key)
    return f"there is no {where}.{key}; {'it is now' if now else 'the nearest is'} {where}.{near}"


def nearest(keys: Iterable[str], key: str) -> str:
    """Find the key that is closest by the whole of it, its last part, or that part's initials."""

    def closeness(other: str) -> tuple[float, float]:
        last, end = (x.split(".")[-1] for x in (key, other))
        initials = "".join(word[:1] for word in end.split("_"))
        pairs = (key, other), (last, end)
        whole, part = (difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)
        within = 0.9 * ({*end.split("_")} <= {*last.split("_")})
        return max(whole, part, initials == last, within), whole

    return max(keys, key=closeness, default="kind")


class Config(ConfigDict):
    """A ConfigDict that names the nearest key where one is not there."""

    def _generate_did_you_mean_message(self, request, message=""):
        near = nearest(flat(self), str(request))
        return f'Key "{request}" does not exist. Did you mean "{near}"?'


def nested(values: Mapping) -> Config:
    """Make a config of dicts in dicts."""
    config = Config()
    for key, value in values.items():
        config[key] = nested(value) if isinstance(value, Mapping) else value
    return config


def changed(config: ConfigDict, changes: Mapping[str, object], where: str = "") -> ConfigDict:
    """Copy a config with values by dotted key. Raises ValueError that says `where` and names the
    key: for one that is not there the nearest, and for a value of another type what is expected."""
    config = config.copy_and_resolve_references()
    for key, value in changes.items():
        keys = flat(config)
        if key not in keys:
            raise ValueError(where + unknown_key(keys, key))
        try:
            config.update_from_flattened_dict({key: value})
        except TypeError as error:
            expected = like(keys[key])
            raise ValueError(f"{where}config.{key} is {value!r}; expected {expected}") from error
    return config


# Texts that stand for dicts -----------------------------------------------------------------------


def parsed(parse: Callable[[str], object]) -> Rule:
    """Refuse a text, or one of several, that a parser raises ValueError for."""

    def rule(value) -> None:
        for text in (value,) if isinstance(value, str) else value:
            parse(text)

    return rule


def parse_weights(text: str) -> dict[str, float] | None:
    """Parse weights of outputs, "helpfulness=0.65,verbosity=-0.4"; None for ""."""
    return _parse_pairs(text, float, "weights as in name=number,name=number") or None


def parse_condition(text: str) -> dict[str, int]:
    """Parse attribute values that are asked for, "helpfulness=4,verbosity=2"; {} for ""."""
    levels = {str(value): value for value in range(HIGHEST + 1)}
    expected = f"name=value,name=value with whole numbers from 0 to {HIGHEST}"
    return _parse_pairs(text, levels.__getitem__, expected)


def parse_policies(text: str) -> dict[str, str]:
    """Parse names of policies with their models, "before=runs/sft/model,after=runs/dpo/model"."""
    most = 4  # As many as charts can tell apart.
    expected = f"name=MODEL,name=MODEL, one to {most}, names of letters, digits, points and dashes"
    found = _parse_pairs(text, str, expected)
    named = re.fullmatch(r"[\w.,-]+", ",".join(found)) and all(found.values())
    if not named or len(found) > most:
        raise ValueError(f"{text!r}: expected {expected}")
    return found


def parse_names(text: str) -> list[str]:
    """Parse names joined with ","."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _parse_pairs(text: str, parse: Callable[[str], object], expected: str) -> dict:
    """Raises ValueError that says what is expected."""
    found = {}
    for part in parse_names(text):
        name, _, value = map(str.strip, part.partition("="))
        try:
            if not name or name in found:
                raise KeyError
            found[name] = parse(value)
        except (KeyError, ValueError):
            raise ValueError(f"{text!r}: expected {expected}, each once, not {part!r}") from None
    return found
