"""Models from one place and form to another: folders, GGUF files, hub names, and runs.

Of a run that is not finished, it is the best step so far.
"""

from pathlib import Path

import jax
import ml_collections

from hs2jax import workdir
from hs2jax.models import merge
from hs2jax.models.checksum import checksum
from hs2jax.models.hf import hub
from hs2jax.models.sharding import path_name
from hs2jax.training import tasks, trainable
from hs2jax.training.checkpoint import Checkpoints


def convert(model: str, output: Path | str, *, dtype: str = "float32") -> None:
    """Write safetensors, config and tokenizer as a folder that `transformers` loads.

    model: anything that can be loaded (a GGUF file becomes safetensors), or the folder of a run.
    dtype: float32 or bfloat16.
    """
    model = exported(model)
    if (Path(model) / "best").is_dir():
        task = best_of_run(Path(model))
        found, params, head = task.model, task.params["decoder"], task.params.get("head")
    else:
        found = hub.load(model)
        params, head = found.params, found.head
    rewards = {} if head is None else {"outputs": found.outputs, "weights": found.weights}
    hub.save(
        output,
        config=found.config,
        params=params,
        tokenizer=found.tokenizer,
        head=head,
        template=found.template,
        read=found.read,
        dtype=dtype,
        **rewards,
    )


def exported(name: str) -> str:
    """Name the exported model of a finished run's folder; other names stay."""
    place = Path(name) / "model"
    done = workdir.finished(Path(name)) and (place / "config.json").exists()
    return str(place) if done else name


def best_of_run(run: Path, mesh=None) -> tasks.Task:
    """Load what a run trains, with the parameters of its best step so far.

    Raises FileNotFoundError where there is none yet, and ValueError where the model that the run
    starts from is another one now.
    """
    config = ml_collections.ConfigDict(workdir.read_json(run / "config.json"))
    checkpoints = Checkpoints(run / "best", read_only=True)
    if checkpoints.latest is None:
        raise FileNotFoundError(f"{run} has no checkpoint of a best step yet")
    task = tasks.make(config, mesh)
    params = trainable.begin(task.params, config, mesh)
    trained, frozen = trainable.split(params, config)
    meta = checkpoints.read_meta(checkpoints.latest)
    if checksum(frozen) != meta["frozen"]:
        raise ValueError(
            f"{config.model.name} is another model than the one that the run in {run} began with, "
            "and what that run does not train is not in its folder: bring the model back, or begin "
            "again in another --workdir"
        )
    best = checkpoints.restore(checkpoints.latest, trained)
    checkpoints.close()
    task.params = trainable.finish(trainable.join(best, frozen))
    return task


def open_source(name: str, mesh=None) -> merge.Source:
    """Open a reward model by name: what `merge.open_source` opens, or the folder of a run.

    The best step of a run that is not finished is held in memory, other models are read leaf by
    leaf. Raises as these two do, and ValueError where the run is one of a policy.
    """
    place = Path(name := exported(name))
    return open_run(place, mesh) if (place / "best").is_dir() else merge.open_source(name, mesh)


def open_run(run: Path, mesh=None) -> merge.Source:
    """Open the best step of a run so far. Raises as `open_source` does."""
    task = best_of_run(run, mesh)
    if "head" not in task.params:
        raise ValueError(f"{run} is the run of a policy, and ExPO is of two reward models")
    leaves = {path_name(path): x for path, x in jax.tree.leaves_with_path(task.params)}
    shapes = jax.eval_shape(lambda: task.params)
    return merge.Source(str(run), task.model, shapes, leaves.__getitem__)
