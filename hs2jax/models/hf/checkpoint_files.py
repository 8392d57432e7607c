"""Tensors in and out of folders in the safetensors format.

The format: eight bytes with the length of a JSON header, the header with each tensor's type,
shape and place, then the tensors' bytes. Only the wanted parts are read, and writing holds one
tensor at a time. (The `safetensors` package reads whole tensors and writes from whole files.)
"""

import functools
import json
import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from huggingface_hub import split_state_dict_into_shards_factory

from hs2jax.models.hf.weights import EMBED, UNEMBED, Tensor

log = logging.getLogger(__name__)

# What wrappers put before the names of tensors: compilation, data parallelism, a model that sees
# pictures too, the decoder's own class.
WRAPPED = re.compile(r"^(?:_orig_mod\.|module\.|pretrained_model\.|language_model\.|model\.)+")
# The other parts of a model that sees pictures or hears, which no text passes.
OTHER_PARTS = re.compile(
    r"^(?:model\.)?(?:vision_tower|vision_model|visual|multi_modal_projector|audio_tower)\."
)
SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
READ = DTYPES | {"F64": np.dtype(np.float64)}  # Which nothing is written in.


def open_folder(folder: Path) -> dict[str, Tensor]:
    """Open a folder of safetensors: its tensors, unread, by name without "model." and what wrappers
    put before it. Other parts than the language model's are left out, and said.

    Raises ValueError for a file that is not as it should be, and for two tensors of one name.
    """
    tensors: dict[str, Tensor] = {}
    others = 0
    for path in weight_files(folder):
        for name, tensor in open_file(path).items():
            if OTHER_PARTS.match(name):
                others += 1
                continue
            short = WRAPPED.sub("", name)
            # Buffers that old versions of transformers saved; they follow from the config.
            if short.endswith("rotary_emb.inv_freq"):
                continue
            if short in tensors:
                raise ValueError(f"{path}: tensor {name} is also in {tensors[short].where}")
            tensors[short] = tensor
    if others:
        log.warning("%s: only the text part is read, %d tensors of others are not", folder, others)
    return tensors


def drop_copy(tensors: dict[str, Tensor]) -> None:
    """Take away the output weights that some tools write of a tied model. Raises ValueError where
    they differ from its embeddings, so that it is a model of another kind."""
    copy, embed = tensors.pop(UNEMBED, None), tensors.get(EMBED)
    if copy and embed and not np.array_equal(copy.read(), embed.read()):
        raise ValueError(
            f"{copy.where}: {UNEMBED} differs from {EMBED}, but config.json has "
            "tie_word_embeddings true; correct whichever is wrong"
        )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up a checkpoint; raises ValueError where any is missing."""
    index = folder / INDEX
    shards = sorted(path.name for path in folder.glob("model-*.safetensors"))
    if (folder / WEIGHTS).exists() and shards:
        raise ValueError(
            f"{folder}: there is {WEIGHTS} and there are {len(shards)} shards ({shards[0]}, ...): "
            "one of them is older; delete it"
        )
    if index.exists():
        try:
            files = json.loads(index.read_text("utf-8"))["weight_map"].values()
            files = sorted(set(map(str, files)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{index}: not an index of safetensors files ({error!r})") from error
        for name in files:
            if not (folder / name).exists():
                raise ValueError(f"{folder}: {INDEX} names {name}, which is not there")
        return [folder / name for name in files]
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if matches := [match for name in shards if (match := SHARD.fullmatch(name))]:
        there, count = {int(match[1]) for match in matches}, int(matches[0][2])
        if missing := sorted(set(range(1, count + 1)) - there):
            raise ValueError(f"{folder}: of {count} shards number {missing[0]} is not there")
        return [folder / name for name in shards]
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    convert = pickled and (
        f"; there is {pickled[0]}, but .bin files are not supported. Convert the folder once, with "
        "transformers' AutoModelForCausalLM (of a reward model, AutoModelForSequenceClassification)"
        f".from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
    )
    raise ValueError(f"{folder}: neither {WEIGHTS} nor {INDEX} is there{convert or ''}")


def open_file(path: Path) -> dict[str, Tensor]:
    try:
        # Looks at the header, and that the file holds all that it names.
        safetensors.safe_open(path, "numpy")
    except safetensors.SafetensorError as error:
        what = f"not a safetensors file, or cut short ({error})"
        with path.open("rb") as file:
            if file.read(24) == b"version https://git-lfs.":
                what = "a pointer of Git LFS instead of the file: fetch it with git lfs pull"
        raise ValueError(f"{path}: {what}") from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    data = np.memmap(path, np.uint8, mode="r")[8 + length :]
    tensors = {}
    for name, entry in header.items():
        code, shape = entry["dtype"], tuple(entry["shape"])
        if code not in READ:
            known = ", ".join(READ)
            raise ValueError(f"{path}: tensor {name} has type {code}; supported are {known}")
        part = data[slice(*entry["data_offsets"])].view(READ[code])
        tensors[name] = Tensor(str(path), name, shape, functools.partial(part.reshape, shape))
    return tensors


def write(folder: Path, tensors: Mapping[str, tuple[Tensor, np.dtype]], max_bytes: float) -> None:
    """Write tensors by name, each in its type: into several files once they are more than
    `max_bytes`."""
    shards = split_state_dict_into_shards_factory(
        tensors,
        get_storage_size=lambda each: math.prod(each[0].shape) * each[1].itemsize,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_bytes,
    )
    for file, names in shards.filename_to_tensors.items():
        _write_file(folder / file, {name: tensors[name] for name in names})
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        write_json(folder / INDEX, index)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ValueError, and FileNotFoundError, that name the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is not there, so this is no model's folder") from error
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a JSON object is needed, this is a {type(content).__name__}")
    return content


def write_json(path: Path, value: Any) -> None:
    """Write JSON as people read it."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_file(path: Path, tensors: Mapping[str, tuple[Tensor, np.dtype]]) -> None:
    codes = {dtype: code for code, dtype in DTYPES.items()}
    # transformers refuses a file that does not say which framework's layout it has.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (tensor, dtype) in tensors.items():
        shape = list(tensor.shape)
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": codes[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers start on a multiple of eight bytes
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor, dtype in tensors.values():
            numbers = np.ascontiguousarray(tensor.read(), dtype)
            file.write(numbers.reshape(-1).view(np.uint8).data)
