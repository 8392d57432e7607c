"""Recipes: stages worked through in order, each in its own folder of the run.

A recipe is a config with `stages`, the names in order, and for each name a `verb` and a `config`.
"{name}" in a stage's texts stands for the folder of the stage of that name. A killed recipe goes on
where it was: what has come to its end is skipped, and an evaluation is made again from the scores
that are kept.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import ml_collections

from hs2jax.evaluation import evaluate
from hs2jax.training import expo, loop

log = logging.getLogger(__name__)

Verb = Callable[[ml_collections.ConfigDict, Path], object]  # (config, folder of the stage)
VERBS: dict[str, Verb] = {
    "train": loop.train,
    "expo": expo.expo,
    "evaluate": evaluate.evaluate,
}


def run(
    recipe: ml_collections.ConfigDict,
    workdir: Path | str,
    verbs: Mapping[str, Verb] = VERBS,
) -> list[Path]:
    """Works through a recipe. Returns the stages' folders, in order.

    verbs: what its stages may do. Each goes on where a killed one of its folder was, and does
    nothing where the folder is finished. Raises ValueError for a stage that cannot be.
    """
    for name in recipe.stages:
        stage = recipe.get(name, {})
        if "config" not in stage or stage.get("verb") not in verbs:
            raise ValueError(
                f"config.{name}: a stage needs a verb ({', '.join(verbs)}) and a config"
            )
    folders: dict[str, Path] = {}
    configs = {}
    for name in recipe.stages:  # All before the first, so that none is refused after hours.
        configs[name] = filled_in(recipe[name].config, folders)
        folders[name] = Path(workdir).absolute() / name  # The same run from wherever it is named.
    for name, config in configs.items():
        log.info("stage %s", name)
        verbs[recipe[name].verb](config, folders[name])
    return list(folders.values())


def filled_in(config: ml_collections.ConfigDict, folders: dict[str, Path]):
    """The config with "{stage}" replaced by the stage's folder."""
    config = config.copy_and_resolve_references()
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
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
