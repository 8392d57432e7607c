"""PEFT's LoRA adapters (arXiv 2106.09685; DoRA 2402.09353), merged into their base as its tensors
are read."""

import dataclasses
import functools
import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hs2jax.models.config import Config
from hs2jax.models.hf.checkpoint_files import WRAPPED, open_file, read_json
from hs2jax.models.hf.reward_checkpoints import HEADS
from hs2jax.models.hf.weights import EMBED, UNEMBED, Tensor

log = logging.getLogger(__name__)

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Settings that are read here, or say how an adapter was trained and not what it computes. Any other
# that is on is refused: peft has new ones in each version, and some change the base (PiSSA) or hold
# for a part of the tokens (aLoRA).
KNOWN = {"base_model_name_or_path", "revision", "peft_type", "r", "lora_alpha", "alpha_pattern"}
KNOWN |= {"rank_pattern", "use_rslora", "use_dora", "bias", "modules_to_save", "init_lora_weights"}
KNOWN |= {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"}
KNOWN |= {"task_type", "auto_mapping", "peft_version", "inference_mode", "lora_dropout"}
KNOWN |= {"megatron_core", "qalora_group_size", "eva_config", "ensure_weight_tying"}
KNOWN |= {"trainable_token_indices"}
STARTS = (None, True, False, "gaussian", "orthogonal", "eva")  # Those that leave the base as it is.
TOKENS = "trainable_tokens_delta"
KINDS = f"A|B|embedding_A|embedding_B|magnitude_vector|{TOKENS}"
PART = re.compile(rf"(.*)\.(?:lora_|token_adapter\.)({KINDS})(?:\.default)?(?:\.weight)?")
MERGE = "merge it with merge_and_unload().save_pretrained(FOLDER) in peft, and give that folder"


def settings_of(folder: Path) -> dict[str, Any] | None:
    """Read the settings of the adapter that a folder holds, None where it holds none; the base's
    folder may lie beside the adapter. Raises ValueError for an adapter that is not supported, or
    that lies beside a whole model."""
    if not (folder / SETTINGS).exists():
        return None
    found = read_json(folder / SETTINGS)
    base = found.get("base_model_name_or_path")
    what = f"{folder}: an adapter (PEFT) of {base!r}"
    odd = [key for key, value in found.items() if value and key not in KNOWN]
    odd += ["peft_type"] * (found.get("peft_type") != "LORA")
    odd += ["init_lora_weights"] * (found.get("init_lora_weights") not in STARTS)
    if odd:
        value = found.get(odd[0])
        raise ValueError(f"{what} with {odd[0]} {value!r}, which is not supported: {MERGE}")
    if any(folder.glob("model*.safetensors")):
        raise ValueError(f"{what} lies beside a whole model: give each a folder of its own")
    for key, kind in (("base_model_name_or_path", str), ("lora_alpha", (int, float))):
        if not isinstance(found.get(key), kind) or not found[key]:
            raise ValueError(f"{folder / SETTINGS}: {key} is {found.get(key)!r}, and is needed")
    if not (folder / WEIGHTS).exists():
        raise ValueError(f"{what}, but there is no {WEIGHTS}: {MERGE}")
    if not Path(base).exists() and (folder / base).is_dir():
        found["base_model_name_or_path"] = str(folder / base)
    if found.get("revision") not in (None, "main"):
        log.warning("%s, of its revision %s, which is not looked at", what, found["revision"])
    return found


def merge(
    tensors: dict[str, Tensor], config: Config, folder: Path, settings: Mapping[str, Any]
) -> Config:
    """Put an adapter into the base's tensors: W + scale B A for each pair, the tensors it holds
    whole, such as a head, and the rows of single tokens. Nothing is read yet. Returns the config
    with the vocabulary that the adapter has, and untied where only one of two tied weights changes,
    as in peft. Raises ValueError for what has no place."""
    if tied := config.tied and EMBED in tensors:
        tensors[UNEMBED] = tensors[EMBED]
    parts: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for name, tensor in open_file(folder / WEIGHTS).items():
        short = WRAPPED.sub("", name.removeprefix("base_model.model."))
        if ".original_module." in short:
            continue  # The base's, of which the trained copy stands beside it.
        short = re.sub(r"\.(base_layer|modules_to_save(\.default)?)\.", ".", short)
        if part := PART.fullmatch(short):
            parts.setdefault(part[1], {})[part[2]] = tensor
        elif short in tensors or short.rpartition(".")[0] in HEADS:
            other = whole.setdefault(short, tensor)
            if other is not tensor and not np.array_equal(other.read(), tensor.read()):
                raise ValueError(f"{folder}: the adapter holds two different tensors {short}")
        else:
            raise ValueError(f"{folder}: tensor {name} of the adapter has no place in its base")
    tensors |= whole
    for module, of in parts.items():
        name = f"{module}.weight"
        if name not in tensors:
            raise ValueError(f"{folder}: the adapter's {name} is not its base's")
        changed = _changed(tensors[name], module, of, folder, settings)
        both = tied and TOKENS in of and name == EMBED
        tensors |= dict.fromkeys((EMBED, UNEMBED) if both else (name,), changed)
    if EMBED in whole:
        config = dataclasses.replace(config, vocab_size=whole[EMBED].shape[0])
    if tied and tensors[UNEMBED] is not tensors[EMBED]:
        return dataclasses.replace(config, tied=False, language_head=True)
    if tied:
        del tensors[UNEMBED]
    return config


def _changed(
    base: Tensor, module: str, of: dict[str, Tensor], folder: Path, settings: Mapping[str, Any]
) -> Tensor:
    """The tensor of a module with its parts of the adapter. Raises ValueError."""
    if of.keys() == {TOKENS}:
        rows = settings.get("trainable_token_indices")
        if isinstance(rows, Mapping):
            rows = next((rows[key] for key in rows if f".{module}".endswith(f".{key}")), None)
        return _replaced(base, rows, of[TOKENS])
    wanted = {"A", "B"} | ({"magnitude_vector"} if settings.get("use_dora") else set())
    if of.keys() == {"embedding_A", "embedding_B"}:  # Which are of the transposed weights.
        a, b = (
            each._replace(shape=each.shape[::-1], read=functools.partial(_transposed, each))
            for each in (of["embedding_B"], of["embedding_A"])
        )
        of, wanted = {"A": a, "B": b}, {"A", "B"}
    if of.keys() != wanted:
        found = ", ".join(sorted(of))
        raise ValueError(f"{folder}: the adapter has {found} of {module}; {MERGE}")
    alphas = settings.get("alpha_pattern") or {}
    fits = (alphas[key] for key in alphas if re.fullmatch(rf"(.*\.)?({key})", f"model.{module}"))
    rank, alpha = of["A"].shape[0], next(fits, settings["lora_alpha"])
    return _added(base, of, alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank))


def _transposed(tensor: Tensor) -> np.ndarray:
    return tensor.read().T


def _replaced(base: Tensor, rows: Any, by: Tensor) -> Tensor:
    """The rows of single tokens, which peft calls a delta, in place of the base's."""
    known = isinstance(rows, list) and {*rows} <= {*range(base.shape[0])}
    if not known or by.shape != (len(rows), *base.shape[1:]):
        what = f"trainable_token_indices {rows!r} are not those of the {by.shape[0]} rows"
        raise ValueError(f"{by.where}: {what} that the adapter has")

    def read() -> np.ndarray:
        found = np.array(base.read(), np.float32)
        found[rows] = by.read()
        return found

    return base._replace(read=read)


def _added(base: Tensor, of: Mapping[str, Tensor], scale: float) -> Tensor:
    def read() -> np.ndarray:
        a, b, whole = (np.asarray(x.read(), np.float32) for x in (of["A"], of["B"], base))
        whole = whole + np.float32(scale) * (b @ a)
        if "magnitude_vector" in of:  # DoRA: of each row its length.
            length = np.asarray(of["magnitude_vector"].read(), np.float32).reshape(-1, 1)
            whole *= length / np.linalg.norm(whole, axis=1, keepdims=True)
        return whole

    shapes = (of["B"].shape[0], of["A"].shape[1]), (of["A"].shape[0], of["B"].shape[1])
    if shapes[0] != base.shape or len(set(shapes[1])) > 1:
        raise ValueError(f"{of['A'].where}: the adapter of {base.name} is not of {base.shape}")
    return base._replace(read=read)
