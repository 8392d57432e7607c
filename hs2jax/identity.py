"""What a run is: the settings that change its results, and the contents of what it reads.

The identity of a run is {name: text}. A setting that changes results is there by its value. Data
are there by a hash of their groups in their order, so that a path spelled otherwise, a file moved,
a copy or a compressed one is the same; a model by hashes of its weights by tensor (however they are
sharded), of its config, and of its tokenizer with its template; other files by a hash of their
bytes. `configs.SETTINGS` says which of these a key is.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hs2jax import config_rules, configs, survey, unchanged
from hs2jax.data import files
from hs2jax.models.hf import hub
from hs2jax.models.hf.fingerprint import fingerprint

Identity = dict[str, str]


def of(config) -> Identity:
    """Find the identity of a run: of a checked config, and of what it reads as it is now.

    Raises what reading raises: DataError for a malformed row, FileNotFoundError.
    """
    flat, found = config_rules.flat(config), {"kind": config.kind}
    for key, setting in configs.SETTINGS[config.kind].items():
        sets = survey.of_key(config, key) if setting.identity == "data" else ()
        for number, (_, of_set) in enumerate(sets, 1):
            found[f"{key} (set {number})"] = of_set.digest
        for part, text in () if sets else _parts(setting.identity, flat[key]):
            found[f"{key}{part}"] = text
    return found | (_planned(config.base) if config.kind == "plan" else {})


def _planned(base) -> Identity:
    """Find what a plan follows from: settings that change a run's programs or the order of their
    sums, and the shapes of its models. Data and weights are not read."""
    flat, found = config_rules.flat(base), {}
    for key, setting in configs.SETTINGS[base.kind].items():
        if setting.identity in ("value", "sums"):
            found[f"base.{key}"] = json.dumps(flat[key], default=str)
    models = {"model.name": base.model.name}
    if base.kind == "reinforce":
        raters = config_rules.parse_policies(base.reward_models)
        models |= {f"reward_models {name}": model for name, model in raters.items()}
    for key, model in models.items():
        found[f"base.{key} (config)"] = content_key(dataclasses.asdict(hub.config_of(model)))
    return found | {"base.kind": base.kind}


def free(config, kind: str = "free") -> Identity:
    """Find the settings that change no result, or of the kind "sums" only the order of sums."""
    flat = config_rules.flat(config)
    settings = configs.SETTINGS[config.kind].items()
    return {key: str(flat[key]) for key, setting in settings if setting.identity == kind}


def differences(old: Identity, new: Identity) -> list[str]:
    """Say what differs, "KEY: OLD -> NEW"."""
    keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    return [f"{key}: {old.get(key, 'nothing')} -> {new.get(key, 'nothing')}" for key in keys]


def _parts(kind: str, value) -> Iterator[tuple[str, str]]:
    if kind == "model" and value:
        yield from ((f" ({part})", text) for part, text in fingerprint(value).items())
    elif kind == "models":
        for name, model in config_rules.parse_policies(value).items():
            yield from ((f" {name}{part}", text) for part, text in _parts("model", model))
    elif kind == "data" and value:  # A file of one object, such as EQ-Bench's.
        yield " (content)", _hash(files.locate(value))
    elif kind == "file" and (path := _file_of(value)):
        yield " (content)", f"{_hash(path)} {value.partition('.json/')[2]}".strip()
    elif kind not in ("free", "sums"):
        yield "", json.dumps(value, default=str)


def _file_of(value: str) -> Path | None:
    """Find the file that a setting names, with what is chosen of it behind a "/"."""
    name, chosen, _ = value.partition(".json/")
    path = files.locate(f"{name}.json" if chosen else name)
    return path if path.is_file() else None


def content_key(*parts) -> str:
    """Hash what something follows from, to 32 hexadecimal digits: JSON values and arrays."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:32]


def _hash(path: Path) -> str:
    unchanged.note(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
