"""Parameters and config in and out of the folders that `transformers` reads and writes.

The safetensors format: eight bytes with the length of a JSON header, the header with each
tensor's type, shape and place, then the tensors' bytes. Files are mapped into memory and only
the wanted parts are read; writing holds one tensor at a time. Numbers are moved as they are: a
float32 checkpoint read here and written again has the same bits.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from hs2jax.models.config import Config
from hs2jax.models.hf.config import write_config
from hs2jax.models.hf.weights import EMBED, UNEMBED, Tensor, unstack

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
HEAD = "score.weight"
HEAD_BIAS = "score.bias"

DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


def open_params(folder: Path | str, config: Config) -> tuple[dict[str, Tensor], Any]:
    """Open a folder of safetensors: (tensors, head).

    `weights.assemble` makes the parameters from the tensors, which are not read yet. head:
    {"kernel": [D, outputs], "bias": [outputs] if there is one} in float32, or None.
    Raises ValueError for a file, tensor or shape that is not as it should be.
    """
    tensors = open_folder(Path(folder))
    head = _take_head(tensors, config)
    if config.tied and UNEMBED in tensors:
        # Some tools write tied weights twice. Two that differ are a model of another kind.
        copy, embed = tensors.pop(UNEMBED), tensors.get(EMBED)
        if embed is not None and not np.array_equal(copy.read(), embed.read()):
            raise ValueError(
                f"{copy.where}: {UNEMBED} differs from {EMBED}, but config.json has "
                "tie_word_embeddings true; correct whichever is wrong"
            )
    return tensors, head


def save_params(
    folder: Path | str,
    params: Mapping[str, Any],
    config: Config,
    *,
    head: Mapping[str, Any] | None = None,
    outputs: Sequence[str] | None = None,
    extra: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    max_shard_bytes: float = 5e9,
) -> dict[str, Any]:
    """Write weights and config.json, which it returns. The reverse of `open_params`.

    With `head` the folder is the family's SequenceClassification and `outputs` names the head's
    outputs; the vocabulary's output weights are left out, since that class has none. `extra` is
    added to config.json. `dtype` is "float32", "bfloat16" or "float16"; the head is always
    float32. Weights go into several files once they are more than `max_shard_bytes`.
    """
    codes = {str(numpy): code for code, numpy in DTYPES.items()}
    if dtype not in codes:
        raise ValueError(f"dtype is {dtype!r}; it must be one of {', '.join(codes)}")
    if head is not None:
        config = dataclasses.replace(config, language_head=False)
        params = {path: value for path, value in params.items() if path != "lm_head"}
    tensors = [
        (t._replace(name=t.name if t.name == UNEMBED else f"model.{t.name}"), codes[dtype])
        for t in unstack(params, config)
    ]
    tensors += [(tensor, "F32") for tensor in _head_tensors(head, outputs, config)]
    hf = write_config(config, outputs=outputs, dtype=dtype) | dict(extra or {})

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_weights(folder, tensors, max_shard_bytes)
    text = json.dumps(hf, indent=2, ensure_ascii=False) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    return hf


def open_folder(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the folder's safetensors files, unread, by name without "model."."""
    tensors: dict[str, Tensor] = {}
    for path in weight_files(folder):
        for name, tensor in _open_file(path).items():
            short = name.removeprefix("model.")
            # Buffers that old versions of transformers saved; they follow from the config.
            if short.endswith("rotary_emb.inv_freq"):
                continue
            if short in tensors:
                raise ValueError(f"{path}: tensor {name} is also in {tensors[short].where}")
            tensors[short] = tensor
    return tensors


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up a checkpoint; raises ValueError where any is missing."""
    index = folder / INDEX
    if not index.exists():
        if not (folder / WEIGHTS).exists():
            raise ValueError(f"{folder}: neither {WEIGHTS} nor {INDEX} is there{_pickled(folder)}")
        return [folder / WEIGHTS]
    try:
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index}: not an index of safetensors files ({error!r})") from error
    for name in files:
        if not (folder / name).exists():
            raise ValueError(f"{folder}: {INDEX} names {name}, which is not there")
    return [folder / name for name in files]


def _pickled(folder: Path) -> str:
    """Say what to do with weights in PyTorch's older files; "" where there are none."""
    found = sorted(path.name for path in folder.glob("*.bin"))
    if not found:
        return ""
    return (
        f"; there is {found[0]}, but .bin files are not supported. Convert the folder once, "
        "with transformers 4.35 or later:\n"
        "  from transformers import AutoModelForCausalLM  # of a reward model, "
        "AutoModelForSequenceClassification\n"
        f"  AutoModelForCausalLM.from_pretrained({str(folder)!r})"
        f".save_pretrained({str(folder)!r})"
    )


def _open_file(path: Path) -> dict[str, Tensor]:
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= size - 8 else None
        entries = {k: v for k, v in header.items() if k != "__metadata__"}
        parsed = {
            name: (entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
            for name, entry in entries.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a safetensors file, or cut short ({error!r})") from error

    data = np.memmap(path, np.uint8, mode="r", offset=8 + length) if size > 8 + length else b""
    tensors = {}
    for name, (code, shape, start, end) in parsed.items():
        if code not in DTYPES:
            raise ValueError(
                f"{path}: tensor {name} has type {code}; supported are {', '.join(DTYPES)}"
            )
        if end > len(data) or end - start != math.prod(shape) * DTYPES[code].itemsize:
            raise ValueError(f"{path}: tensor {name} is cut short; was the copy interrupted?")
        read = functools.partial(_view, data, start, end, DTYPES[code], shape)
        tensors[name] = Tensor(str(path), name, shape, read)
    return tensors


def _view(data: np.ndarray, start: int, end: int, dtype: np.dtype, shape) -> np.ndarray:
    return data[start:end].view(dtype).reshape(shape)


def _write_weights(folder: Path, tensors: list[tuple[Tensor, str]], max_bytes: float) -> None:
    shards: list[list[tuple[Tensor, str]]] = [[]]
    sizes = [0]
    for tensor, code in tensors:
        nbytes = math.prod(tensor.shape) * DTYPES[code].itemsize
        if shards[-1] and sizes[-1] + nbytes > max_bytes:
            shards.append([])
            sizes.append(0)
        shards[-1].append((tensor, code))
        sizes[-1] += nbytes
    if len(shards) == 1:
        _write_file(folder / WEIGHTS, shards[0])
        return
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / name, shard)
        weight_map |= {tensor.name: name for tensor, _ in shard}
    index = {"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_file(path: Path, tensors: list[tuple[Tensor, str]]) -> None:
    # transformers refuses a file that does not say which framework's layout it has.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor, code in tensors:
        start, end = end, end + math.prod(tensor.shape) * DTYPES[code].itemsize
        header[tensor.name] = {
            "dtype": code,
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers start on a multiple of eight bytes
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor, code in tensors:
            numbers = np.ascontiguousarray(tensor.read(), DTYPES[code])
            file.write(numbers.reshape(-1).view(np.uint8).data)


def _take_head(tensors: dict[str, Tensor], config: Config):
    weight, bias = tensors.pop(HEAD, None), tensors.pop(HEAD_BIAS, None)
    if weight is None and bias is None:
        return None
    if weight is None or len(weight.shape) != 2 or weight.shape[1] != config.hidden_size:
        found = "is missing" if weight is None else f"has shape {list(weight.shape)}"
        where = (weight or bias).where
        raise ValueError(
            f"{where}: tensor {HEAD} {found}; it should be [outputs, {config.hidden_size}]"
        )
    head = {"kernel": jnp.asarray(np.array(weight.read().T, np.float32, order="C"))}
    if bias is not None:
        if bias.shape != weight.shape[:1]:
            raise ValueError(
                f"{bias.where}: tensor {HEAD_BIAS} has shape {list(bias.shape)}; it should be "
                f"[{weight.shape[0]}], one number per row of {HEAD}"
            )
        head["bias"] = jnp.asarray(np.array(bias.read(), np.float32))
    return head


def _head_tensors(head, outputs: Sequence[str] | None, config: Config) -> list[Tensor]:
    if head is None:
        return []
    kernel = np.asarray(head["kernel"])
    if outputs is None or kernel.shape != (config.hidden_size, len(outputs)):
        raise ValueError(
            f"the reward head's kernel has shape {list(kernel.shape)}; it should be "
            f"[{config.hidden_size}, number of outputs], and the outputs are {outputs}"
        )
    if len(set(outputs)) != len(outputs):
        raise ValueError(f"two outputs of the reward head have one name: {list(outputs)}")
    named = {HEAD: kernel.T}
    if "bias" in head:
        named[HEAD_BIAS] = np.asarray(head["bias"])
    return [
        Tensor("the reward head", name, array.shape, functools.partial(np.asarray, array))
        for name, array in named.items()
    ]
