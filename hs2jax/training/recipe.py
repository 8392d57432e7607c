"""Recipes: stages worked through in order, each in its own folder of the run.

A recipe is a config of kind "recipe": `stages`, their names in order, and a config by each name.
"{NAME}" in a stage's texts stands for an earlier stage's folder. A killed recipe goes on where it
was: each stage knows whether it has come to its end.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from ml_collections import ConfigDict

from hs2jax import configs, workdir

log = logging.getLogger(__name__)

Verb = Callable[[ConfigDict, Path], list[dict]]  # (config, folder of the stage) -> rows


def run(recipe: ConfigDict, folder: Path | str, verb_of: Callable[[str], Verb]) -> list[dict]:
    """Work through a recipe. Returns the stages' rows, each with the name of its `stage`.

    verb_of: a kind's verb, as in `cli.function`. Every stage's config is checked before the first
    runs. Raises ValueError for a stage that cannot be.
    """
    folder = Path(folder).absolute()  # The same run however it is named.
    configs.check(recipe)
    places = {name: folder / name for name in recipe.stages}
    stages = {name: filled_in(recipe[name], places) for name in recipe.stages}
    # The folder is not claimed: stages may be added, and each has claimed its own.
    rows = []
    for name, config in stages.items():
        log.info("stage %s", name)
        made = verb_of(config.kind)(config, places[name])
        rows += [{**row, "stage": name} for row in made]
    done = [workdir.read_json(place / "result.json") for place in places.values()]
    result = {
        "stages": list(recipe.stages),
        "seconds": sum(each.get("seconds", 0) for each in done),
    }
    if workdir.is_first():
        workdir.write_json(folder / "config.json", recipe.to_dict())
    return workdir.finish(folder, recipe, result, rows)


def filled_in(config: ConfigDict, folders: Mapping[str, Path]) -> ConfigDict:
    """Replace "{NAME}" in a config's texts by the folder of that name."""
    config = config.copy_and_resolve_references()
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            config[key] = filled_in(value, folders)
        elif isinstance(value, str):
            # These mean something in data specs, and commas in lists.
            special, filled = set("[]*," if "," in value else "[]*"), value
            for name, folder in folders.items():
                if "{" + name + "}" not in value:
                    continue
                if wrong := sorted(special & set(str(folder))):
                    raise ValueError(
                        f"{folder} cannot stand in the config's {value!r}, where {' '.join(wrong)} "
                        "means something else; give another --workdir"
                    )
                filled = filled.replace("{" + name + "}", str(folder))
            config[key] = filled
    return config
