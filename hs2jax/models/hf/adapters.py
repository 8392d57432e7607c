"""PEFT's LoRA adapters (arXiv 2106.09685), merged into their base as its tensors are read."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hs2jax.models.hf.checkpoint_files import WRAPPED, open_file
from hs2jax.models.hf.reward_checkpoints import HEADS
from hs2jax.models.hf.weights import Tensor

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Settings that change what an adapter computes, with the only values that are supported.
FIXED = {
    "peft_type": ("LORA",),
    "use_dora": (None, False),
    "fan_in_fan_out": (None, False),
    "alpha_pattern": (None, {}),
    "layer_replication": (None,),
}
PART = re.compile(r"(.*)\.lora_([AB])(?:\.default)?\.weight")


def settings_of(folder: Path) -> dict[str, Any] | None:
    """Read the settings of the adapter that a folder holds, None where it holds none. Raises
    ValueError for an adapter that is not supported, or that lies beside a whole model."""
    if not (folder / SETTINGS).exists():
        return None
    found = json.loads((folder / SETTINGS).read_text("utf-8"))
    base = found.get("base_model_name_or_path")
    what = f"{folder}: an adapter (PEFT) of {base!r}"
    merge = "merge it with merge_and_unload().save_pretrained(FOLDER) in peft, and give that folder"
    for key, allowed in FIXED.items():
        if found.get(key) not in allowed:
            raise ValueError(f"{what} with {key} {found[key]!r}, which is not supported: {merge}")
    if any(folder.glob("model*.safetensors")):
        raise ValueError(f"{what} lies beside a whole model: give each a folder of its own")
    if not isinstance(base, str) or not base:
        raise ValueError(f"{folder / SETTINGS}: base_model_name_or_path is missing; name the base")
    if not (folder / WEIGHTS).exists():
        raise ValueError(f"{what}, but there is no {WEIGHTS}: {merge}")
    return found


def merge(tensors: dict[str, Tensor], folder: Path, settings: Mapping[str, Any]) -> None:
    """Put an adapter into the base's tensors: W + scale B A for each pair, and the tensors that it
    holds whole, such as a head. Nothing is read yet. Raises ValueError for what has no place."""
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in open_file(folder / WEIGHTS).items():
        short = WRAPPED.sub("", name.removeprefix("base_model.model."))
        short = short.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")
        if part := PART.fullmatch(short):
            pairs.setdefault(f"{part[1]}.weight", {})[part[2]] = tensor
        elif short in tensors or short.rpartition(".")[0] in HEADS:
            tensors[short] = tensor
        else:
            raise ValueError(f"{folder}: tensor {name} of the adapter has no place in its base")
    for name, pair in pairs.items():
        if name not in tensors or pair.keys() != {"A", "B"}:
            raise ValueError(f"{folder}: the adapter's {name} is not whole, or not its base's")
        rank = pair["A"].shape[0]
        size = math.sqrt(rank) if settings.get("use_rslora") else rank
        tensors[name] = _added(tensors[name], pair["A"], pair["B"], settings["lora_alpha"] / size)


def _added(base: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    def read() -> np.ndarray:
        product = np.asarray(b.read(), np.float32) @ np.asarray(a.read(), np.float32)
        return np.asarray(base.read(), np.float32) + np.float32(scale) * product

    if (b.shape[0], a.shape[1]) != base.shape:
        raise ValueError(f"{a.where}: the adapter of {base.name} is not of shape {base.shape}")
    return base._replace(read=read)
