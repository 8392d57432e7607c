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

from ml_collections import ConfigDict

from hs2jax import config_rules, configs, survey, workdir
from hs2jax.training.recipe import filled_in


class Arm(NamedTuple):
    """`config` is whole, but for the places of the arms in `needs`."""

    name: str
    folder: Path
    config: ConfigDict
    needs: tuple[str, ...]


class Arms(NamedTuple):
    """All arms in their order, the seeds that each is run with, and what arms are held against."""

    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    reference: str

    def run_folder(self, arm: Arm, seed: int) -> Path:
        return arm.folder / f"seed-{seed}"

    def run_config(self, arm: Arm, seed: int) -> ConfigDict:
        """Make the config of one run: with its seed, and the folders of what it starts from."""
        places = {x.name: self.run_folder(x, seed) for x in self.arms if x.name in arm.needs}
        config = filled_in(arm.config, places)
        config.seed = seed
        return config

    def settings(self) -> dict[str, dict[str, object]]:
        """List what differs between arms, by arm and key."""
        flat = {arm.name: config_rules.flat(arm.config) for arm in self.arms}
        first, *others = flat.values()
        keys = [key for key in first if any(each[key] != first[key] for each in others)]
        return {name: {key: each[key] for key in keys} for name, each in flat.items()}


def plan(config: ConfigDict, folder: Path) -> Arms:
    """Plan a sweep's runs in a folder.

    Raises ValueError that names the arm and the key for what cannot be, also where a folder holds
    a run of another config.
    """
    folder = folder.absolute()  # The same run from wherever it is named.
    arms: dict[str, Arm] = {}
    for name, changes in config.arms:
        slug = re.sub(r"[^\w.=-]+", "-", name).strip("-.")
        if not slug or re.fullmatch(config_rules.COUNT, name):
            raise ValueError(f"an arm cannot be called {name!r}; use letters")
        for other in arms.values():  # Some file systems do not tell capitals.
            if other.folder.name.lower() == slug.lower():
                raise ValueError(f"the arms {other.name!r} and {name!r} would share a folder")
        if "seed" in changes:
            raise ValueError(f"arm {name!r}: config.seed cannot be an arm's; set the sweep's seeds")
        changed = config_rules.changed(config.base, changes, f"arm {name!r}: ")
        if not config_rules.can_be_swept(changed):
            raise ValueError(f"arm {name!r} would be judged on neither pairs nor ratings")
        needs = [needed for _, _, needed in config_rules.references(changed)]
        if unknown := [each for each in needs if each not in arms]:
            raise ValueError(
                f"arm {name!r}: {{{unknown[0]}}} names no earlier arm; earlier are: "
                f"{', '.join(arms) or 'none'}"
            )
        arms[name] = Arm(name, folder / slug, changed, tuple(dict.fromkeys(needs)))
    reference = config.reference or next(iter(arms))
    if reference not in arms:
        raise ValueError(f"config.reference is {reference!r}, which is no arm")
    found = Arms(tuple(arms.values()), tuple(config.seeds), reference)
    for arm, seed in itertools.product(found.arms, found.seeds):
        try:
            configs.check(found.run_config(arm, seed))
            survey.check(arm.config)
            workdir.check(found.run_folder(arm, seed), found.run_config(arm, seed))
        except (ValueError, OSError) as error:
            raise ValueError(f"arm {arm.name!r}: {error}") from error
    return found


def of_grid(base: ConfigDict, over: Sequence[str]) -> ConfigDict:
    """Make a sweep's config of every choice of one value from each of "KEY=VALUE,VALUE,...".

    base: a config for `hs2jax train`; its seed is the sweep's. Values are written as in Python, or
    as bare words without commas of their own: `regular,scaled`, `1e-5,3`, `("a", "b"),("c",)`.
    Raises ValueError for a key that is named twice.
    """
    if not over:
        raise ValueError("nothing to sweep over: give --over=KEY=VALUE,VALUE or a config with arms")
    values: dict[str, list] = {}
    for key, _, listed in (text.partition("=") for text in over):
        if key in values:
            raise ValueError(f"--over names {key} twice; give one list of values")
        try:
            values[key] = list(ast.literal_eval(f"({listed},)"))
        except (SyntaxError, ValueError):
            values[key] = [word.strip() for word in listed.split(",")]
    last = [key.split(".")[-1] for key in values]
    short = [name if last.count(name) == 1 else key for key, name in zip(values, last, strict=True)]
    config = configs.defaults("sweep")
    config.base, config.seeds = base, (base.seed,)
    config.arms = tuple(
        (
            ", ".join(f"{name}={value}" for name, value in zip(short, choice, strict=True)),
            dict(zip(values, choice, strict=True)),
        )
        for choice in itertools.product(*values.values())
    )
    return config
