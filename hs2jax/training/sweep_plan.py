"""What a sweep is to do: its arms, their configs and folders, seen to be possible beforehand.

A sweep is said in one of two ways. A config file names its arms, which run in this order:

    sweep = ConfigDict()
    sweep.base = defaults.reward_model()  # With whatever all arms share.
    sweep.seeds = (0, 1, 2)
    sweep.arms = (
        ("regression", {"objective.kind": "regression"}),
        ("scaled from regression", {"model.name": "{regression}/model"}),
    )
    sweep.reference = "regression"  # What the others are compared with; else the first arm.

"{ARM}" in a text stands for the folder of an earlier arm's run of the same seed. Or any config for
`hs2jax train` is swept over a grid, by texts like "objective.preference=regular,margin,scaled".
"""

import ast
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from hs2jax import configs
from hs2jax import workdir as folders
from hs2jax.training.recipe import filled_in

KEYS = ("kind", "base", "seeds", "arms", "reference")


class Arm(NamedTuple):
    """`config` is whole, but for the places of the arms in `needs`; `settings` are what differs."""

    name: str
    folder: Path
    config: ConfigDict
    needs: tuple[str, ...]
    settings: dict[str, object]


class Plan(NamedTuple):
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    reference: str

    def run_folder(self, arm: Arm, seed: int) -> Path:
        return arm.folder / f"seed-{seed}"

    def run_config(self, arm: Arm, seed: int) -> ConfigDict:
        """The config of one run: with its seed, and the folders of the runs that it starts from."""
        places = {other.name: self.run_folder(other, seed) for other in self.arms}
        config = filled_in(arm.config, {name: places[name] for name in arm.needs})
        config.seed = seed
        return config


def make(
    config: ConfigDict, workdir: Path | str, *, over: Sequence[str] = (), seeds: Sequence[int] = ()
) -> Plan:
    """The plan of a sweep's config, or of a train config with `over`, lists of values by key.

    seeds: in place of the config's. Raises ValueError that names the arm and the key for what
    cannot be, also where a folder holds a run of another config.
    """
    if "arms" in config:
        if over:
            raise ValueError("this config has arms of its own; --over is for a config without")
        base, named, own_seeds, reference = _from_config(config)
    else:
        base, named, own_seeds = config, grid(config, over), (config.seed,)
        reference = named[0][0]
    workdir = Path(workdir).absolute()  # The same run from wherever it is named.
    arms = []
    for name, changes in named:
        config = changed(base, changes, f"arm {name!r}")
        earlier = [arm.name for arm in arms]
        needs = tuple(_needs(name, flatten_dict(config.to_dict()).values(), earlier))
        arms.append(Arm(name, workdir / _slug(name), config, needs, {}))
    _check_names(arms, reference)
    plan = Plan(_with_settings(arms), _check_seeds(seeds or own_seeds), reference)
    for arm in plan.arms:
        for seed in plan.seeds:
            _check_run(plan, arm, seed)
    return plan


def _from_config(config: ConfigDict):
    unknown = sorted(set(config) - set(KEYS))
    if unknown or not isinstance(config.get("base"), ConfigDict):
        what = f"there is no config.{unknown[0]}" if unknown else "config.base is missing"
        raise ValueError(f"{what}; a sweep's config has {', '.join(KEYS)}")
    arms = config.arms
    if isinstance(arms, ConfigDict):
        raise ValueError("config.arms is a dict, which would lose its order; " + _ARMS)
    if not arms:
        raise ValueError("config.arms is empty; " + _ARMS)
    for arm in arms:
        pair = isinstance(arm, (tuple, list)) and len(arm) == 2
        if not pair or not isinstance(arm[0], str) or not isinstance(arm[1], dict):
            raise ValueError(f"config.arms has {arm!r}; {_ARMS}")
    return config.base, arms, config.get("seeds", (0,)), config.get("reference") or arms[0][0]


_ARMS = 'it must be a tuple of pairs like ("scaled", {"objective.preference": "scaled"})'


# Changes ------------------------------------------------------------------------------------------


def changed(base: ConfigDict, changes: dict[str, object], where: str) -> ConfigDict:
    """A copy of the base with values by dotted key; ValueErrors name `where` and the key."""
    config = base.copy_and_resolve_references().unlock()
    for key, value in changes.items():
        if key == "seed":
            raise ValueError(f"{where}: config.seed cannot be an arm's; set the sweep's seeds")
        node, name = _place(config, key, where)
        # To ml_collections a bool is a number, but who writes one for a number errs.
        as_bool = isinstance(value, bool) != isinstance(node[name], bool)
        try:
            if as_bool:
                raise TypeError
            node[name] = value
        except TypeError as error:
            raise ValueError(
                f"{where}: config.{key} is {value!r}; it must be of the kind of {node[name]!r}"
            ) from error
    return config.lock()


def _place(config: ConfigDict, key: str, where: str) -> tuple[ConfigDict, str]:
    *parents, name = key.split(".")
    node = config
    for parent in parents:
        node = node.get(parent) if isinstance(node, ConfigDict) else None
    if not isinstance(node, ConfigDict) or name not in node:
        raise ValueError(f"{where}: there is no config.{key}")
    if isinstance(node[name], ConfigDict):
        raise ValueError(f"{where}: config.{key} is a group of settings; name one, as {key}.KEY")
    return node, name


def grid(base: ConfigDict, over: Sequence[str]) -> list[tuple[str, dict]]:
    """Arms for every choice of one value from each of "KEY=VALUE,VALUE,...", as (name, changes).

    Values are of the kind that the base has there. Texts with commas are quoted, tuples are written
    in brackets: 'model.outputs=("a", "b"),("a",)'.
    """
    choices = []
    keys = [text.partition("=")[0].strip() for text in over]
    if not over:
        raise ValueError("nothing to sweep over: give --over=KEY=VALUE,VALUE or a config with arms")
    for key, text in zip(keys, over, strict=True):
        if keys.count(key) > 1:
            raise ValueError(f"--over names {key} twice; give one list of values")
        where = f"--over={text}"
        node, name = _place(base, key, where)
        values = _split(text.partition("=")[2])
        short = name if [k.split(".")[-1] for k in keys].count(name) == 1 else key
        choices.append([(f"{short}={v}", key, _parse(v, node[name], where)) for v in values])
    return [
        (", ".join(label for label, _, _ in choice), {key: value for _, key, value in choice})
        for choice in itertools.product(*choices)
    ]


def _split(text: str) -> list[str]:
    """At the commas that are in no quotes and no brackets."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        else:
            depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not quote and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _parse(text: str, like: object, where: str) -> object:
    try:
        if isinstance(like, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(like, (int, float)):
            return type(like)(text)
        if isinstance(like, str):
            return ast.literal_eval(text) if text[:1] in ("'", '"') else text
        if isinstance(like, tuple) and isinstance(value := ast.literal_eval(text), (tuple, list)):
            return tuple(value)
    except (KeyError, SyntaxError, ValueError) as error:
        raise ValueError(f"{where}: {text!r} is not of the kind of {like!r}") from error
    raise ValueError(f"{where}: {text!r} is not of the kind of {like!r}")


# Checks -------------------------------------------------------------------------------------------


def _needs(name: str, values, earlier: list[str]) -> list[str]:
    """The arms that "{ARM}" in an arm's texts names."""
    found = []
    for value in values:
        for other in re.findall(r"\{([^{}]+)\}", value) if isinstance(value, str) else ():
            if re.fullmatch(r"\d*,?\d*", other):
                continue  # A count in a regular expression.
            if other not in earlier:
                raise ValueError(
                    f"arm {name!r}: {value!r} names no earlier arm; earlier are: "
                    f"{', '.join(earlier) or 'none'}"
                )
            found.append(other)
    return list(dict.fromkeys(found))


def _slug(name: str) -> str:
    slug = re.sub(r"[^\w.=-]+", "-", name).strip("-.")
    if not slug or re.fullmatch(r"\d*,?\d*", name):
        raise ValueError(f"an arm cannot be called {name!r}; use letters")
    return slug


def _check_names(arms: Sequence[Arm], reference: str) -> None:
    taken = {}
    for arm in arms:
        slug = arm.folder.name.lower()  # Some file systems do not tell capitals.
        if slug in taken:
            raise ValueError(f"the arms {taken[slug]!r} and {arm.name!r} would share a folder")
        taken[slug] = arm.name
    if reference not in [arm.name for arm in arms]:
        raise ValueError(f"config.reference is {reference!r}, which is no arm")


def _check_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    whole = all(isinstance(seed, int) and seed >= 0 for seed in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"the seeds are {tuple(seeds)}; they must be different whole numbers")
    return tuple(seeds)


def _with_settings(arms: Sequence[Arm]) -> tuple[Arm, ...]:
    flat = [flatten_dict(arm.config.to_dict(), sep=".") for arm in arms]
    keys = [key for key in flat[0] if any(other[key] != flat[0][key] for other in flat)]
    return tuple(
        arm._replace(settings={key: each[key] for key in keys})
        for arm, each in zip(arms, flat, strict=True)
    )


def _check_run(plan: Plan, arm: Arm, seed: int) -> None:
    config, place = plan.run_config(arm, seed), plan.run_folder(arm, seed)
    try:
        configs.check(config)
        if config.kind != "train_reward_model":
            raise ValueError("this config is a policy's, and a sweep compares reward models")
        if place.exists():
            folders.claim(place, config)
    except (ValueError, OSError) as error:
        raise ValueError(f"arm {arm.name!r}: {error}") from error
