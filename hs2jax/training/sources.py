"""Reward models whose parameters are read leaf by leaf, from exports and from runs that go on."""

from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import SingleDeviceSharding

from hs2jax import workdir
from hs2jax.data import templates
from hs2jax.inference import count_layers
from hs2jax.models import merge, sharding
from hs2jax.models.checksum import checksum
from hs2jax.models.hf import hub, weights
from hs2jax.training import trainable
from hs2jax.training.checkpoint import Checkpoints


def open_source(name: str, mesh=None) -> merge.Source:
    """A reward model by name: what `merge.open_source` opens, or the folder of a run.

    Of a finished run it is the exported model; of one that goes on or was stopped, the best step so
    far, whose checkpoint's shards are read straight onto the mesh.
    """
    place = Path(name)
    finished = workdir.finished(place)
    if finished and (place / "model" / "config.json").exists():
        return merge.open_source(str(place / "model"), mesh)
    if (place / "best").is_dir():
        return open_run(place, mesh)
    return merge.open_source(name, mesh)


def open_run(place: Path, mesh=None) -> merge.Source:
    """The best step of a run so far. What the run does not train is read from its base model.

    Raises FileNotFoundError where there is none yet, and ValueError where the base is another now
    or the run is one of a policy.
    """
    config = ml_collections.ConfigDict(workdir.read_json(place / "config.json"))
    if config.kind != "train_reward_model":
        raise ValueError(f"{place} is the run of a policy, and ExPO is of two reward models")
    checkpoints = Checkpoints(place / "best", read_only=True)
    step = checkpoints.latest
    if step is None:
        raise FileNotFoundError(f"{place} has no checkpoint of a best step yet")
    meta = checkpoints.read_meta(step)
    base, tensors = hub.open_model(config.model.name)
    weights.check(tensors, base.config)
    outputs = base.outputs or tuple(config.model.outputs)
    bias = config.model.bias if base.head is None else "bias" in base.head
    template, read = base.template, base.read
    if config.model.get("template"):
        template = config.model.template
        base.tokenizer.chat_template, read = templates.choose(template)

    shapes = merge.reward_shapes(base.config, len(outputs), bias=bias)
    whole = jax.eval_shape(lambda params: trainable.begin(params, config), shapes)
    trained, frozen = (
        {sharding.path_name(path): x.shape for path, x in jax.tree.leaves_with_path(part)}
        for part in trainable.split(whole, config)
    )
    where, where_trained = merge.places(shapes, mesh), merge.places(whole, mesh)
    frozen_layers = count_layers(whole["decoder"].get("frozen"))

    def piece(name: str):
        """A leaf as it is trained, from the checkpoint or, where it is frozen, from the base."""
        if name in trained:
            at = where_trained[name] or SingleDeviceSharding(jax.devices()[0])
            like = jax.ShapeDtypeStruct(trained[name], jnp.float32, sharding=at)
            return jax.tree.leaves(checkpoints.restore_part(step, weights.nest([(name, like)])))[0]
        if name == "lora_scale":
            return jnp.float32(config.lora.alpha / config.lora.rank)
        path = name.replace("decoder/frozen/", "decoder/layers/")
        x = weights.load_leaf(path.removeprefix("decoder/"), tensors, base.config, where[path])
        if path != name:
            return x[:frozen_layers]
        return x[frozen_layers:] if name.startswith("decoder/layers/") else x

    if frozen:
        for name, expected in zip(frozen, meta["frozen"].split("-"), strict=True):
            trainable.check_frozen(checksum([piece(name)]), expected, config.model.name, place)

    def leaf(path: str):
        layer = path.removeprefix("decoder/layers/")
        parts = [path, f"decoder/frozen/{layer}"]
        parts += [f"lora/layers/{layer}/{side}" for side in "ab"]
        parts = [name for name in parts if name in trained or name in frozen]
        if any(name.startswith("lora/") for name in parts):
            parts.append("lora_scale")
        tree = {"decoder": {}, "head": {}} | weights.nest((name, piece(name)) for name in parts)
        (x,) = jax.tree.leaves(trainable.finish(tree))
        return merge.put(x, where[path])

    return merge.Source(
        name=str(place),
        config=merge.without_unembed(base.config),
        outputs=outputs,
        weights=meta["weights"],
        template=template,
        read=read,
        tokenizer=base.tokenizer,
        shapes=shapes,
        leaf=leaf,
    )
