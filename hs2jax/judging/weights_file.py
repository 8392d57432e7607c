"""A file of layer weights: it comes back as it was, and only to the judge it was made for."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict

from hs2jax import workdir
from hs2jax.judging import prompts
from hs2jax.judging.lager import Preset
from hs2jax.judging.layer_weights import Fit
from hs2jax.models.checksum import checksum

# What must be the same where weights are used.
BINDING = ("model.checksum", "template", "layers", "preset.layers", "preset.norm")


def save(path: Path, fitted: Fit, judge, preset: Preset, scale: Sequence[int], data: str) -> None:
    """Write weights to a small JSON file, with all that says where they may be used: the model's
    name and checksum, the name of the prompts' template, the scale and data of the fit."""
    fit = fitted._asdict()
    weights, loss = fit.pop("weights").tolist(), {x: fit.pop(x) for x in ("before", "after")}
    content = _head(judge, preset) | {"scale": [int(value) for value in scale], "weights": weights}
    content["fitted"] = {"loss": loss, "data": data, **fit}
    if workdir.is_first():
        workdir.write_json(path, content)


def load(path: Path | str, judge, preset: Preset, *, any_template: bool = False) -> np.ndarray:
    """Load the weights f32 [L'] that `save` wrote, for the very judge they were fitted for.

    any_template: take those that were fitted with other prompts, as the paper does. Of the preset,
    `layers` and `norm` must be those of the fit: they say what the weights multiply. Raises
    ValueError for a malformed file, and for another judge, naming all that differs.
    """
    try:
        saved = workdir.read_json(Path(os.path.expanduser(path)))
        weights, there = np.array(saved["weights"], np.float32), _binding(saved)
        if weights.shape != (saved["layers"],) or not (weights >= 0).all():
            raise ValueError("weights")
        if abs(weights.sum() - 1) > 1e-3:
            raise ValueError("the sum of weights")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no file of layer weights as they are saved ({error!r}): fit them again"
        ) from None
    here = _binding(_head(judge, preset))
    if any_template:
        del here["template"]
    differ = [f"{k} is {there[k]!r} there and {v!r} here" for k, v in here.items() if there[k] != v]
    if differ:
        raise ValueError(
            f"{path} has weights for another judge, {saved['model']['name']}: {'; '.join(differ)}. "
            "Fit weights for this one, or use it as they were fitted"
        )
    return weights


def _head(judge, preset: Preset) -> dict:
    """What a file says of the judge. All processes call this, for the checksum of their parts."""
    model = judge.model
    return {
        "model": {"name": model.name, "checksum": checksum(model.params, rounded=True)},
        "template": prompts.key(model.tokenizer.chat_template or ""),
        "preset": dataclasses.asdict(preset),
        "layers": model.config.num_layers + (preset.layers == "all"),
    }


def _binding(content: dict) -> dict:
    flat = flatten_dict(content, sep=".")
    return {name: flat[name] for name in BINDING}
