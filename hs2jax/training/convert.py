"""Models from one place and form to another: folders, GGUF files, hub names, and runs.

Of a run that is not finished, it is the best step so far.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import huggingface_hub
import jax
import ml_collections
import numpy as np

from hs2jax import workdir
from hs2jax.models import merge
from hs2jax.models.checksum import checksum
from hs2jax.models.hf import card, hub
from hs2jax.models.hf.weights import gathered
from hs2jax.models.sharding import path_name, to_host
from hs2jax.training import tasks, trainable
from hs2jax.training.checkpoint import Checkpoints


def convert(
    model: str,
    output: Path | str,
    *,
    dtype: str = "float32",
    scalar: bool = False,
    weights: Mapping[str, float] | None = None,
    mesh=None,
) -> None:
    """Write safetensors, config, tokenizer and card as a folder that `transformers` loads. Of
    several processes that share a mesh all must call this; the first one writes.

    model: anything that can be loaded (a GGUF file becomes safetensors), or the folder of a run.
    dtype: float32 or bfloat16. scalar: make one output of a reward model's, by its weights.
    weights: in place of those that are recorded with it; None keeps them.
    """
    there = Path(output) / "config.json"
    if there.exists() and "model_type" not in workdir.read_json(there):
        raise ValueError(f"{output} is a run's folder, or another's, no model's; give another")
    model = exported(model)
    if (Path(model) / "best").is_dir():
        task = best_of_run(Path(model), mesh)
        found, params, head = task.model, task.params["decoder"], task.params.get("head")
    else:
        found = hub.load(model, mesh)
        params, head = found.params, found.head
    head = head and jax.tree.map(to_host, head)
    if head is None and (scalar or weights):
        raise ValueError(f"{model} is a language model, without outputs to be weighed")
    rewards = (
        {} if head is None else {"outputs": found.outputs, "weights": weights or found.weights}
    )
    if scalar:
        head, rewards = folded(head, **rewards), {"outputs": ("reward",)}
    params = gathered(params, found.config)
    if params is None:
        return
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
    if made := card.made_of(Path(model)):
        card.write(Path(output), made)


def folded(head, outputs: Sequence[str], weights: Mapping[str, float] | None) -> dict:
    """Make a head [D, 1] that gives the weighted sum of another's outputs [D, K].

    Raises ValueError where there are several and no weights, or weights of no output."""
    if weights is None and len(outputs) > 1:
        raise ValueError(
            f"one score of the outputs {', '.join(outputs)} needs weights, as in "
            f"--weights={','.join(f'{name}=1' for name in outputs)}"
        )
    weights = weights or {outputs[0]: 1.0}
    if unknown := set(weights) - set(outputs):
        raise ValueError(f"weights for {sorted(unknown)}, but the outputs are {list(outputs)}")
    column = np.array([[weights.get(name, 0.0)] for name in outputs])
    shapes = {"kernel": (-1, 1), "bias": (1,)}
    each = {name: np.asarray(jax.device_get(x), np.float64) @ column for name, x in head.items()}
    return {name: x.reshape(shapes[name]).astype(np.float32) for name, x in each.items()}


def push(folder: Path | str, repository: str, public: bool = False) -> str:
    """Put an exported folder on the hub, in a private repository unless it is to be public; return
    its address. Raises ValueError where it is public there already and was not asked to be."""
    api = huggingface_hub.HfApi()
    url = api.create_repo(repository, private=not public, exist_ok=True)
    if not public and not api.repo_info(repository).private:
        raise ValueError(f"{repository} is public on the hub; --public puts the model there")
    files = [*hub.HUB_FILES, card.NAME]
    api.upload_folder(repo_id=repository, folder_path=str(folder), allow_patterns=files)
    return str(url)


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
    trained, frozen = trainable.split(params, config, task.model.dtype)
    meta = checkpoints.read_meta(checkpoints.latest)
    if checksum(frozen, rounded=True) != meta["frozen"]:
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
