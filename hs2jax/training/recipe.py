"""Recipes: stages worked through in order, each in its own folder of the run.

A recipe is a config of kind "recipe": `stages`, their names in order, and a config by each name.
"{NAME}" in a stage's texts stands for an earlier stage's folder. A killed recipe goes on where it
was: each stage knows whether it has come to its end.
"""

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from ml_collections import ConfigDict

from hs2jax import configs, survey, workdir

log = logging.getLogger(__name__)

Verb = Callable[[ConfigDict, Path], list[dict]]  # (config, folder of the stage) -> rows


def run(recipe: ConfigDict, folder: Path | str, verb_of: Callable[[str], Verb]) -> list[dict]:
    """Work through a recipe. Returns the stages' rows, each with the name of its `stage`.

    verb_of: a kind's verb, as in `cli.function`. Every stage's config, and its data and models but
    for those that earlier ones make, are checked before the first runs. Raises what `configs.check`
    and `survey.check` raise for a stage that cannot be.
    """
    folder = Path(folder).absolute()  # The same run however it is named.
    configs.check(recipe)
    places = {name: folder / name for name in recipe.stages}
    stages = {name: filled_in(recipe[name], places) for name in recipe.stages}
    for name in recipe.stages:
        survey.check(recipe[name], f"config.{name}")
    # The folder is not claimed: stages may be added, and each has claimed its own.
    workdir.take(folder, recipe)
    rows = []
    for name, config in stages.items():
        log.info("stage %s", name)
        made = verb_of(config.kind)(config, places[name])
        rows += [{**row, "stage": name} for row in made]
    done = [workdir.read_json(place / "result.json") for place in places.values()]
    result = {"stages": [*places], "seconds": sum(each.get("seconds", 0) for each in done)}
    return workdir.finish(folder, recipe, result | {"environment": done[-1]["environment"]}, rows)


def filled_in(config: ConfigDict, folders: Mapping[str, Path]) -> ConfigDict:
    """Replace "{NAME}" in a config's texts by the folder of that name."""
    if wrong := sorted(set("[]*,") & set("".join(map(str, folders.values())))):
        raise ValueError(
            f"{', '.join(map(str, folders.values()))}: {' '.join(wrong)} mean something else in "
            "data specifications and lists; give another --workdir"
        )
    config = config.copy_and_resolve_references()
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            config[key] = filled_in(value, folders)
        elif isinstance(value, str):
            config[key] = re.sub(r"\{([^{}]+)\}", lambda x: str(folders.get(x[1], x[0])), value)
    return config
