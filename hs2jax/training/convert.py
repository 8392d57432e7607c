"""Models from one place and form to a folder that `transformers` and this package load."""

import json
from pathlib import Path

import ml_collections

from hs2jax.models import hub
from hs2jax.reward_model import RewardModel
from hs2jax.training import trainable
from hs2jax.training.checkpoint import Checkpoints


def convert(model: str, output: Path | str, *, dtype: str = "float32") -> None:
    """Writes safetensors, config and tokenizer.

    model: anything that can be loaded (a GGUF file becomes safetensors), or the folder of a run,
    also of one that was stopped: then its best step so far. dtype: float32 or bfloat16.
    """
    run = Path(model)
    if (run / "best").is_dir():
        found = best_of_run(run)
        parts = {"params": found.params["decoder"], "head": found.params["head"]}
        parts |= {"outputs": found.outputs, "weights": found.weights}
        parts |= {"template": found.template, "read": found.read}
    else:
        found = hub.load(model)
        parts = {"params": found.params, "head": found.head}
        if found.head is not None:
            recorded = found.hf_config.get("hs2jax") or {}
            parts |= {"outputs": found.outputs, "weights": recorded.get("weights")}
            parts |= {"template": found.template, "read": found.read}
    hub.save(output, config=found.config, tokenizer=found.tokenizer, dtype=dtype, **parts)


def best_of_run(folder: Path) -> RewardModel:
    """The best step of a run so far. Raises FileNotFoundError where there is none yet."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    checkpoints = Checkpoints(folder / "best", read_only=True)
    if checkpoints.latest is None:
        raise FileNotFoundError(f"{folder} has no checkpoint of a best step yet")
    settings = config["model"]
    model = RewardModel.load(
        settings["name"],
        outputs=settings["outputs"],
        bias=settings["bias"],
        template=settings.get("template", ""),
    )
    config = ml_collections.ConfigDict(config)
    params = trainable.begin(model.params, config)
    trained, kept = trainable.split(params, config)
    state, meta = checkpoints.restore(checkpoints.latest, {"params": trained})
    checkpoints.close()
    trainable.check_kept(kept, meta["kept"], settings["name"], folder)
    model.params = trainable.finish(trainable.join(state["params"], kept))
    model.weights = meta["weights"]
    return model
