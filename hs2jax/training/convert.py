"""Models from one place and form to a folder that `transformers` and this package load."""

from pathlib import Path

import ml_collections

from hs2jax import workdir
from hs2jax.models.checksum import checksum
from hs2jax.models.hf import hub
from hs2jax.training import tasks, trainable
from hs2jax.training.checkpoint import Checkpoints


def convert(model: str, output: Path | str, *, dtype: str = "float32") -> None:
    """Writes safetensors, config and tokenizer.

    model: anything that can be loaded (a GGUF file becomes safetensors), or the folder of a run,
    also of one that was stopped: then its best step so far. dtype: float32 or bfloat16.
    """
    run = Path(model)
    if (run / "best").is_dir():
        task = best_of_run(run)
        found, params, head = task.model, task.params["decoder"], task.params.get("head")
        weights = found.weights if head is not None else None
    else:
        found = hub.load(model)
        params, head = found.params, found.head
        weights = (found.hf_config.get("hs2jax") or {}).get("weights") if head is not None else None
    hub.save(
        output,
        config=found.config,
        params=params,
        tokenizer=found.tokenizer,
        head=head,
        outputs=found.outputs if head is not None else None,
        weights=weights,
        template=found.template,
        read=found.read,
        dtype=dtype,
    )


def best_of_run(run: Path) -> tasks.Task:
    """What a run trains, with the parameters of its best step so far.

    Raises FileNotFoundError where there is none yet.
    """
    config = ml_collections.ConfigDict(workdir.read_json(run / "config.json"))
    checkpoints = Checkpoints(run / "best", read_only=True)
    if checkpoints.latest is None:
        raise FileNotFoundError(f"{run} has no checkpoint of a best step yet")
    task = tasks.make(config, None)
    params = trainable.begin(task.params, config)
    trained, frozen = trainable.split(params, config)
    state, meta = checkpoints.restore(checkpoints.latest, {"params": trained})
    checkpoints.close()
    trainable.check_frozen(checksum(frozen), meta["frozen"], config.model.name, run)
    task.params = trainable.finish(trainable.join(state["params"], frozen))
    return task
