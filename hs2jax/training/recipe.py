"""Recipes: stages worked through in order, each in its own folder of the run.

A recipe is a config with `stages`, the names in order, and for each name a `verb` and a `config`.
"{name}" in a stage's texts stands for the folder of the stage of that name. A killed recipe goes on
where it was: what is trained or swept to its end is skipped, and an evaluation is made again from
the scores that are kept.
"""

import logging
from pathlib import Path

import ml_collections

from hs2jax.evaluation import evaluate
from hs2jax.training import expo, loop

log = logging.getLogger(__name__)

VERBS = {"train": loop.train, "expo": expo.expo, "evaluate": evaluate.evaluate}


def run(recipe: ml_collections.ConfigDict, workdir: Path | str) -> list[Path]:
    """Works through a recipe. Returns the stages' folders, in order."""
    folders: dict[str, Path] = {}
    for name in recipe.stages:
        stage = recipe.get(name, {})
        if "config" not in stage or stage.get("verb") not in VERBS:
            raise ValueError(
                f"config.{name}: a stage needs a verb ({', '.join(VERBS)}) and a config"
            )
    for name in recipe.stages:
        folder = Path(workdir).absolute() / name  # The same run from wherever it is named.
        log.info("stage %s", name)
        VERBS[recipe[name].verb](filled_in(recipe[name].config, folders), folder)
        folders[name] = folder
    return list(folders.values())


def filled_in(config: ml_collections.ConfigDict, folders: dict[str, Path]):
    """The config with "{stage}" replaced by the stage's folder."""
    config = config.copy_and_resolve_references()
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            config[key] = filled_in(value, folders)
        elif isinstance(value, str):
            for name, folder in folders.items():
                value = value.replace("{" + name + "}", str(folder))
            config[key] = value
    return config
