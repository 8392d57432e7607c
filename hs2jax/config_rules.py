"""Rules for the settings of `configs`: a rule takes a value and returns what was expected where it
is not that, else None. Those of data raise what `data.corpora` raises."""

import difflib
import functools
import importlib.util
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from hs2jax.data import corpora, files
from hs2jax.losses.steerlm import HIGHEST

Rule = Callable[[object], str | None]

CROSS_VALIDATE = "cross-validate"
OF_PAIRS = ("dpo", "ipo")  # Objectives of policies that learn from preference pairs.


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


def some_of(*names) -> Rule:
    what = f"some of {', '.join(names)}, joined with commas"
    return expect(what, lambda value: not value or set(value.split(",")) <= set(names))


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
    lambda x: x in ("", CROSS_VALIDATE) or os.path.isfile(os.path.expanduser(x)) or "{" in x,
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


def data(spec: str, prompts: bool = False) -> None:
    """A data specification of known formats whose files are there, or will be where they are those
    of a recipe's stage. Raises ValueError or FileNotFoundError."""
    for part in corpora.split(spec) if spec else ():
        if re.search(r"\{\w+\}", part):
            corpora.parse(part)
        else:
            corpora.read(part, prompts=prompts)


prompts = needed(functools.partial(data, prompts=True), "data as in 'format:path[slice]'")
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


def can_be_swept(c) -> bool:
    """Tell if runs of a config can be arms of a sweep, which compares them on pairs or ratings."""
    kind = c.get("kind") if isinstance(c, ConfigDict) else None
    pairs = kind == "train_policy" and c.objective.kind in OF_PAIRS
    return pairs or kind == "train_reward_model"


# Texts that stand for dicts -----------------------------------------------------------------------


def parsed(parse: Callable[[str], object]) -> Rule:
    """Refuse a text, or one of several, that a parser raises ValueError for."""

    def rule(value) -> None:
        for text in (value,) if isinstance(value, str) else value:
            parse(text)

    return rule


def parse_weights(text: str) -> dict[str, float] | None:
    """Parse weights of outputs, "helpfulness=0.65,verbosity=-0.4"; None for ""."""
    return _parse_pairs(text, _finite, "weights as in name=number,name=number") or None


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError
    return number


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
