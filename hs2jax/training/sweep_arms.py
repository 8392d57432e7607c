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
    if not isinstance(config.arms, tuple | list):
        raise ValueError(f"config.arms is {config.arms!r}; {_ARMS}")
    folder = folder.absolute()  # The same run from wherever it is named.
    arms: dict[str, Arm] = {}
    for entry in config.arms:
        pair = isinstance(entry, tuple | list) and len(entry) == 2
        if not pair or not isinstance(entry[0], str) or not isinstance(entry[1], dict):
            raise ValueError(f"config.arms has {entry!r}; {_ARMS}")
        name, changes = entry
        place = folder / _slug(name)
        for other in arms.values():  # Some file systems do not tell capitals.
            if other.folder.name.lower() == place.name.lower():
                raise ValueError(f"the arms {other.name!r} and {name!r} would share a folder")
        changed = _changed(config.base, changes, f"arm {name!r}")
        arms[name] = Arm(name, place, changed, _needs(name, changed, list(arms)), {})
    reference = config.reference or next(iter(arms))
    if reference not in arms:
        raise ValueError(f"config.reference is {reference!r}, which is no arm")
    found = Arms(_with_settings(list(arms.values())), tuple(config.seeds), reference)
    for arm, seed in itertools.product(found.arms, found.seeds):
        try:
            configs.check(found.run_config(arm, seed))
            workdir.check_config(found.run_folder(arm, seed), found.run_config(arm, seed))
        except (ValueError, OSError) as error:
            raise ValueError(f"arm {arm.name!r}: {error}") from error
    return found


_ARMS = 'it must be a tuple of pairs like ("scaled", {"objective.preference": "scaled"})'


def of_grid(base: ConfigDict, over: Sequence[str]) -> ConfigDict:
    """Make a sweep's config of every choice of one value from each of "KEY=VALUE,VALUE,...".

    base: a config for `hs2jax train`; its seed is the sweep's. Values are written as in Python, or
    as bare words without commas of their own: `regular,scaled`, `1e-5,3`, `("a", "b"),("c",)`.
    Raises ValueError for a key that is named twice.
    """
    if not over:
        raise ValueError("nothing to sweep over: give --over=KEY=VALUE,VALUE or a config with arms")
    values = {}
    for text in over:
        key, _, listed = text.partition("=")
        if key in values:
            raise ValueError(f"--over names {key} twice; give one list of values")
        values[key] = _values(listed)
    last = [key.split(".")[-1] for key in values]
    short = {
        key: name if last.count(name) == 1 else key for key, name in zip(values, last, strict=True)
    }
    config = configs.defaults("sweep")
    config.base, config.seeds = base, (base.seed,)
    config.arms = tuple(
        (", ".join(f"{short[key]}={value}" for key, value in choice), dict(choice))
        for choice in itertools.product(*([(k, v) for v in of] for k, of in values.items()))
    )
    return config


def _values(text: str) -> list[object]:
    try:
        return list(ast.literal_eval(f"({text},)"))
    except (SyntaxError, ValueError):
        return [word.strip() for word in text.split(",")]


def _changed(base: ConfigDict, changes: dict[str, object], where: str) -> ConfigDict:
    """Copy the base with values by dotted key. Raises ValueError naming `where` and the key."""
    config = base.copy_and_resolve_references().lock()
    for key, value in changes.items():
        if key == "seed":
            raise ValueError(f"{where}: config.seed cannot be an arm's; set the sweep's seeds")
        try:
            config.update_from_flattened_dict({key: value})
        except KeyError:
            raise ValueError(f"{where}: {configs.unknown_key(config.kind, key)}") from None
        except TypeError as error:
            raise ValueError(f"{where}: config.{key} is {value!r}: {error}") from error
    return config


def _needs(name: str, config: ConfigDict, earlier: Sequence[str]) -> tuple[str, ...]:
    """Find the arms that "{ARM}" in an arm's texts names."""
    found = []
    texts = [x for x in flatten_dict(config.to_dict()).values() if isinstance(x, str)]
    for text, other in [(x, name) for x in texts for name in re.findall(r"\{([^{}]+)\}", x)]:
        if re.fullmatch(r"\d*,?\d*", other):
            continue  # A count in a regular expression.
        if other not in earlier:
            raise ValueError(
                f"arm {name!r}: {text!r} names no earlier arm; earlier are: "
                f"{', '.join(earlier) or 'none'}"
            )
        found.append(other)
    return tuple(dict.fromkeys(found))


def _slug(name: str) -> str:
    slug = re.sub(r"[^\w.=-]+", "-", name).strip("-.")
    if not slug or re.fullmatch(r"\d*,?\d*", name):
        raise ValueError(f"an arm cannot be called {name!r}; use letters")
    return slug


def _with_settings(arms: Sequence[Arm]) -> tuple[Arm, ...]:
    flat = [flatten_dict(arm.config.to_dict(), sep=".") for arm in arms]
    keys = [key for key in flat[0] if any(other[key] != flat[0][key] for other in flat)]
    return tuple(
        arm._replace(settings={key: each[key] for key in keys})
        for arm, each in zip(arms, flat, strict=True)
    )
