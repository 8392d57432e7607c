"""The arms of a sweep, their configs and folders, seen to be possible before the first run.

A sweep is said in one of two ways. A config file names its arms, which run in this order:

    sweep = configs.defaults("sweep")
    sweep.base = configs.defaults("train_reward_model")  # With whatever all arms share.
    sweep.seeds = (0, 1, 2)
    sweep.arms = (
        ("regression", {"objective.kind": "regression"}),
        ("scaled from regression", {"model.name": "{regression}/model"}),
    )
    sweep.reference = "regression"  # What the others are compared with; else the first arm.

"{ARM}" in a text stands for the folder of an earlier arm's run of the same seed. Or `of_grid` makes
arms of any config for `hs2jax train`, from texts like "objective.preference=regular,scaled".
"""

import ast
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from hs2jax import configs, workdir
from hs2jax.training.recipe import filled_in


class Arm(NamedTuple):
    """`config` is whole, but for the places of the arms in `needs`; `settings` are what differs."""

    name: str
    folder: Path
    config: ConfigDict
    needs: tuple[str, ...]
    settings: dict[str, object]


class Arms(NamedTuple):
    """All arms in their order, the seeds that each is run with, and what arms are held against."""

    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    reference: str

    def run_folder(self, arm: Arm, seed: int) -> Path:
        return arm.folder / f"seed-{seed}"

    def run_config(self, arm: Arm, seed: int) -> ConfigDict:
        """Make the config of one run: with its seed, and the folders of what it starts from."""
        places = {other.name: self.run_folder(other, seed) for other in self.arms}
        config = filled_in(arm.config, {name: places[name] for name in arm.needs})
        config.seed = seed
        return config


def plan(config: ConfigDict, folder: Path) -> Arms:
    """Plan a sweep's runs in a folder.

    Raises ValueError that names the arm and the key for what cannot be, also where a folder holds
    a run of another config.
    """
    if isinstance(config.arms, ConfigDict):
        raise ValueError("config.arms is a dict, which would lose its order; " + _ARMS)
    folder = folder.absolute()  # The same run from wherever it is named.
    arms = []
    for entry in config.arms:
        pair = isinstance(entry, tuple | list) and len(entry) == 2
        if not pair or not isinstance(entry[0], str) or not isinstance(entry[1], dict):
            raise ValueError(f"config.arms has {entry!r}; {_ARMS}")
        name, changes = entry
        changed = _changed(config.base, changes, f"arm {name!r}")
        earlier = [arm.name for arm in arms]
        needs = tuple(_needs(name, flatten_dict(changed.to_dict()).values(), earlier))
        arms.append(Arm(name, folder / _slug(name), changed, needs, {}))
    reference = config.reference or arms[0].name
    _check_names(arms, reference)
    found = Arms(_with_settings(arms), tuple(config.seeds), reference)
    for arm, seed in itertools.product(found.arms, found.seeds):
        place = found.run_folder(arm, seed)
        try:
            configs.check(found.run_config(arm, seed))
            workdir.check_config(place, found.run_config(arm, seed))
        except (ValueError, OSError) as error:
            raise ValueError(f"arm {arm.name!r}: {error}") from error
    return found


_ARMS = 'it must be a tuple of pairs like ("scaled", {"objective.preference": "scaled"})'


def of_grid(base: ConfigDict, over: Sequence[str]) -> ConfigDict:
    """Make a sweep's config of every choice of one value from each of "KEY=VALUE,VALUE,...".

    base: a config for `hs2jax train`; its seed is the sweep's. Values are written as in Python, or
    as bare words without commas of their own: `regular,scaled`, `1e-5,3`, `("a", "b"),("c",)`.
    Raises ValueError for a key that is not there or is named twice.
    """
    if not over:
        raise ValueError("nothing to sweep over: give --over=KEY=VALUE,VALUE or a config with arms")
    keys = [text.partition("=")[0].strip() for text in over]
    choices = []
    for key, text in zip(keys, over, strict=True):
        if keys.count(key) > 1:
            raise ValueError(f"--over names {key} twice; give one list of values")
        _, name = _place(base, key, f"--over={text}")
        short = name if [each.split(".")[-1] for each in keys].count(name) == 1 else key
        values = _values(text.partition("=")[2])
        choices.append([(f"{short}={value}", key, value) for value in values])
    config = configs.defaults("sweep").unlock()
    config.base, config.seeds = base, (base.seed,)
    config.arms = tuple(
        (", ".join(label for label, _, _ in choice), {key: value for _, key, value in choice})
        for choice in itertools.product(*choices)
    )
    return config.lock()


def _values(text: str) -> list[object]:
    try:
        return list(ast.literal_eval(f"({text},)"))
    except (SyntaxError, ValueError):
        return [word.strip() for word in text.split(",")]


# Changes ------------------------------------------------------------------------------------------


def _changed(base: ConfigDict, changes: dict[str, object], where: str) -> ConfigDict:
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


# Names --------------------------------------------------------------------------------------------


def _needs(name: str, values, earlier: list[str]) -> list[str]:
    """Find the arms that "{ARM}" in an arm's texts names."""
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


def _with_settings(arms: Sequence[Arm]) -> tuple[Arm, ...]:
    flat = [flatten_dict(arm.config.to_dict(), sep=".") for arm in arms]
    keys = [key for key in flat[0] if any(other[key] != flat[0][key] for other in flat)]
    return tuple(
        arm._replace(settings={key: each[key] for key in keys})
        for arm, each in zip(arms, flat, strict=True)
    )
