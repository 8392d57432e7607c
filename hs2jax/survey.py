"""What data hold, read once before any model is loaded: malformed rows, and data that cannot give
what a config asks of them, are refused then.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import re
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from hs2jax import atomic, config_rules, configs, session, unchanged
from hs2jax.data import corpora
from hs2jax.data.groups import DataError, pairs
from hs2jax.data.record import Record
from hs2jax.models.hf import fingerprint, hub, reward_checkpoints

# Kinds that read sampled responses in a way of their own (`alignment.sampled_rows`).
OF_SAMPLES = ("annotate", "rescale", "weigh")

SLOW = 1.0  # Seconds of a survey that is kept for other processes.


class Survey(NamedTuple):
    """The groups of a specification: their hash in their order, and what there is of them, pairs
    included; None where the rows are only hashed, as they are read in another way. sources: a hash
    of where each was read."""

    digest: str
    record: Record | None
    sources: str = ""


def survey(spec: str, *, skip: bool = False, derive: str = "", own_way: bool = False) -> Survey:
    """Read a specification. skip: leave out malformed rows, which else raise DataError. derive: see
    `data.groups.pairs`. own_way: rows that are malformed here may not be so to who reads them.
    Until the run that asks for it ends, the files must stay as they are (see `unchanged`)."""
    paths = corpora.local_files(spec)
    if paths is None:  # What is in a bucket, or a data set, is read anew.
        return _read(spec, skip, derive, own_way)
    for path in paths:
        unchanged.note(path)
    return _survey(
        spec, skip, derive, own_way, tuple(paths), tuple(map(fingerprint.changed, paths))
    )


@functools.cache
def _survey(
    spec: str, skip: bool, derive: str, own_way: bool, paths: tuple[Path, ...], changed: tuple
) -> Survey:
    """Survey files, or find what another process has kept of the same."""
    started, kept = time.monotonic(), None
    with contextlib.suppress(OSError, ValueError, TypeError):  # It may be damaged, too.
        contents = [fingerprint.of_file(*each) for each in zip(paths, changed, strict=True)]
        key = [spec, skip, derive, own_way, contents, fingerprint.code_hash()]
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
        kept = session.cache_folder() / "surveys" / f"{name}.json"
        if kept.exists():
            digest, record, sources = json.loads(kept.read_text())
            return Survey(digest, record and Record(**record), sources)
    found = _read(spec, skip, derive, own_way)
    if kept and time.monotonic() - started > SLOW:
        record = found.record and dataclasses.asdict(found.record)
        with contextlib.suppress(OSError), atomic.writing(kept) as file:
            json.dump(found._replace(record=record), file)
    return found


def _read(spec: str, skip: bool, derive: str, own_way: bool) -> Survey:
    digest, sources, record = hashlib.sha256(), hashlib.sha256(), Record()
    try:
        on_error = "skip" if skip else "raise"
        for group in corpora.read(spec, on_error=on_error, record=record, prompts=True):
            correct = group.ratings and all(each.keys() == {"correct"} for each in group.ratings)
            found, ties = pairs(group, "correct" if correct else derive or None)
            record.pairs += len(found)
            record.ties += ties
            fields = vars(group) | {"source": ""}
            digest.update(json.dumps(fields, sort_keys=True).encode() + b"\0")
            sources.update(group.source.encode() + b"\0")
    except DataError:
        if not own_way:
            raise
        rows = b"".join(row for _, row in corpora.raw(spec))
        return Survey(f"rows {hashlib.sha256(rows).hexdigest()[:16]}", None)
    digest = f"{record.groups:,} groups {digest.hexdigest()[:16]}"
    return Survey(digest, record, sources.hexdigest()[:16])


def of_key(config, key: str) -> list[tuple[str, Survey]]:
    """Survey each specification that a data key of a config joins with "+"; those of files that
    are still to be made ("{NAME}", in a recipe's stage) are left out."""
    flat = config_rules.flat(config)
    options = {"skip": "skip" in (flat.get("on_error"), flat.get("data.on_error"))}
    options["derive"] = flat.get("derive") or flat.get("data.derive") or ""
    found = []
    for spec in corpora.split(flat[key]) if corpora.BEGINS.match(flat[key]) else ():
        if not re.search(r"\{\w+\}", spec):
            own_way = config.kind in OF_SAMPLES and corpora.parse(spec)[0].format == "sampled"
            found.append((spec, survey(spec, own_way=own_way, **options)))
    return found


def check(config, where: str = "config") -> None:
    """See that the data of a checked config can give what it asks of them, and that its models are
    there, which are fetched for it; what a recipe's other stages make is not looked at.

    Raises DataError for a malformed row, FileNotFoundError for a model, and ValueError that names
    the key and counts what there is.
    """
    flat, found, whole = config_rules.flat(config), {}, True
    for key, setting in configs.SETTINGS[config.kind].items():
        if setting.identity == "data" and flat[key]:
            records = [each.record for _, each in of_key(config, key)]
            if len(records) < len(corpora.split(flat[key])) or None in records or not records:
                whole = False
            elif not any(record.groups for record in records):
                raise ValueError(f"{where}.{key}: nothing is left of {flat[key]}: {_all(records)}")
            else:
                found[key] = records
        elif setting.identity == "model" and flat[key] and "{" not in flat[key]:
            hub.resolve(flat[key].removesuffix(reward_checkpoints.LM_HEAD))
    rated = {key: {name for record in of for name in record.ratings} for key, of in found.items()}
    for key in ("derive", "data.derive"):
        if whole and flat.get(key) and not any(flat[key] in names for names in rated.values()):
            every = ", ".join(sorted(set().union(*rated.values()))) or "nothing"
            raise ValueError(
                f"{where}.{key} is {flat[key]!r}, but nothing in {where}.data rates it; rated: "
                f"{every}"
            )
    for key, records in found.items():
        pairs = sum(record.pairs for record in records)
        if what := _missing(config, key, pairs, rated[key]):
            raise ValueError(f"{where}.{key}: {flat[key]}: {what}: {_all(records)}")


def _all(records: Sequence[Record]) -> str:
    return "; ".join(map(str, records))


def _missing(config, key: str, pairs: int, rated: Collection[str]) -> str:
    """Say what the data of a key lack, or ""."""
    match config.kind, key:
        case "train_reward_model", _:
            return missing(config, config.model.outputs, pairs, rated)
        case "train_policy", _ if config.data.condition == "ratings" and not rated:
            return "no ratings, which config.data.condition asks for"
        case "train_policy", _ if config.objective.kind in config_rules.OF_PAIRS and not pairs:
            return "no preference pairs, for config.objective.kind"
        case ("expo", _) | ("evaluate", "validation") if not pairs:
            return "no preference pairs"
        case "judge", "data" if config.task == "pairs" and not pairs:
            return "no preference pairs"
        case "rescale", "ratings" if absent := set(config.attributes) - set(rated):
            return f"no ratings of {', '.join(sorted(absent))}"
    return ""


def missing(config, outputs: Sequence[str], pairs: int, rated: Collection[str]) -> str:
    """Say what the objective of a reward model's training needs and data do not have, or "".

    outputs: of the model; () where they are not known. pairs, rated: how many pairs the data have,
    and which attributes they rate.
    """
    kind = config.objective.kind
    needs_pairs = {
        "config.objective.kind": kind != "regression",
        "config.data.derive": bool(config.data.derive),
        "config.select": config.select == "accuracy",
    }
    for key, needs in needs_pairs.items():
        if needs and not pairs:
            return f"no preference pairs, for {key}"
    unrated = [name for name in outputs if name not in rated]
    if unrated and (kind == "regression" or (kind == "joint" and len(unrated) == len(outputs))):
        return f"no row that fits rates {', '.join(unrated)}, named in config.model.outputs"
    return ""
