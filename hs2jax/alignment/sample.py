"""Sampling, from a config to a folder: samples.jsonl, a row for each prompt and attribute setting.

    {"source", "prompt", "condition": {"helpfulness": 4, ...}, "responses": [texts],
     "tokens": [[ids], ...], "finished": [bool, ...], "log_proposal": [nats, ...]}

log_proposal is log Q'(y|a,x), the sum over a response's tokens as the model itself has it, whatever
temperature and truncation it was sampled with. Responses from elsewhere have neither it nor tokens;
`hs2jax weigh` finds both. Those to an instruction, which is not in the prompt that is kept, have
"instruction" instead of it. Read the file as "sampled:FILE"; the stages of alignment leave out, and
count, responses that say nothing, which elsewhere are malformed (config.data.on_error).
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import ml_collections

from hs2jax import choices, folder
from hs2jax.alignment import conditions
from hs2jax.alignment.row_file import RowFile
from hs2jax.alignment.server import ServerSource
from hs2jax.alignment.sources import Answer, FileSource, ModelSource
from hs2jax.data import corpora, loader, templates
from hs2jax.data.groups import Group
from hs2jax.data.record import Record
from hs2jax.evaluation import items
from hs2jax.language_model import LanguageModel
from hs2jax.models import sampler, sharding

log = logging.getLogger(__name__)


def sample(config: ml_collections.ConfigDict, workdir: Path | str) -> dict:
    """Samples, or goes on where a killed run of this folder was. Returns result.json's content.

    Raises ValueError or FileNotFoundError for a config that cannot be, naming the key.
    """
    workdir = Path(workdir)
    check(config)
    if finished := folder.resume(workdir, config):
        return finished
    record = Record()
    groups = requests(config, record)
    file = RowFile(workdir / "samples.jsonl")
    counts = file.counts or {"done": 0, "responses": 0, "unfinished": 0, "tokens": 0, "seconds": 0}
    if not file.path.exists():
        source = _source(config, record)
        groups = source.fitting(groups, record)
        log.info("samples: %s", items.describe(record))
        if not groups:
            raise ValueError(f"config.data: nothing of {config.data} can be answered")
        size = chunk(config)
        for start in range(counts["done"], len(groups), size):
            began, some = time.time(), groups[start : start + size]
            answers = source.answer(some, start)
            rows = [_row(*pair, config.instruction) for pair in zip(some, answers, strict=True)]
            counts = _counted(counts, rows, time.time() - began)
            file.add(rows, {**counts, "record": record.to_dict()})
            rate = counts["tokens"] / counts["seconds"]
            log.info("samples: %d of %d, %.0f tokens/s", counts["done"], len(groups), rate)
        file.finish()
    counts = dict(file.counts)
    result = {
        "rows": counts.pop("done"),
        **counts,
        "tokens_per_second": counts["tokens"] / counts["seconds"],
        "environment": folder.environment(),
        "config": config.to_dict(),
    }
    folder.finish(workdir, result)
    file.forget_progress()
    return result


def chunk(config) -> int:
    """How many groups are sampled, and kept, at a time. That is many times as many responses as are
    in a batch, since no others take the places of a chunk's last ones."""
    responses = 16 * sampler.ROWS * sharding.row_devices(sharding.mesh_of(config.mesh))
    return max(responses // config.n, 1)


def describe(result: dict) -> str:
    """A result in a line."""
    text = f"{result['rows']} rows, {result['responses']} responses"
    if result["unfinished"]:
        text += f", {result['unfinished']} of them cut at the most tokens"
    return text


def check(config) -> None:
    """Raises ValueError or FileNotFoundError for settings that cannot be, naming the key."""
    if not config.data:
        raise ValueError("config.data is not set")
    if config.responses and config.server:
        raise ValueError("config.responses and config.server both say who answers: set one of them")
    if not config.model.name and not config.responses:
        raise ValueError("config.model.name is not set")
    choices.check(
        config,
        {
            "model.dtype": choices.DTYPES,
            "model.template": ("", *templates.TEMPLATES),
            "on_error": loader.ON_ERROR,
        },
    )
    for name, least in (("n", 1), ("temperature", 0), ("top_k", 0), ("max_new_tokens", 1)):
        if config[name] < least:
            raise ValueError(f"config.{name} is {config[name]}; expected {least} or more")
    if not 0 <= config.seed < 2**31:
        raise ValueError(f"config.seed is {config.seed}; expected 0 to 2,147,483,647")
    if not 0 < config.top_p <= 1:
        raise ValueError(f"config.top_p is {config.top_p}; expected more than 0 and at most 1")
    asked = parse_conditions(config)
    if config.responses and config.instruction:
        raise ValueError(
            "config.instruction: the responses of a file are written already; leave it empty"
        )
    if config.responses and len(asked) > 1:
        raise ValueError(
            "config.conditions: the responses of a file were written for one attribute setting, "
            f"not for {len(asked)}"
        )
    for spec in filter(None, (config.data, config.responses)):
        corpora.read(spec)  # Raises where there is no such format or file.


def parse_conditions(config) -> list[dict[str, int]]:
    """`config.conditions` as attribute values. Raises ValueError."""
    try:
        found = [conditions.parse(text) for text in config.conditions]
    except ValueError as error:
        raise ValueError(f"config.conditions: {error}") from None
    if not found:
        raise ValueError('config.conditions is empty; ("",) asks for no attributes')
    return found


def requests(config, record: Record) -> list[Group]:
    """A group for each prompt and attribute setting; what they have as responses means nothing."""
    asked = parse_conditions(config)
    return [
        Group(
            _instructed(group.prompt, config.instruction),
            group.responses[:1],
            source=group.source,
            condition=condition,
        )
        for group in corpora.read(config.data, on_error=config.on_error, record=record)
        for condition in asked
    ]


def _source(config, record: Record):
    """Who answers."""
    if config.responses:
        return FileSource.read(config, record)
    if config.server:
        return ServerSource.connect(config)
    mesh = sharding.mesh_of(config.mesh)
    model = LanguageModel.load(
        config.model.name,
        template=config.model.template,
        mesh=mesh,
        dtype=choices.dtype(config.model.dtype),
    )
    return ModelSource(model, config)


def _instructed(prompt: Sequence[dict], instruction: str) -> tuple[dict, ...]:
    """The prompt with an instruction below its last turn."""
    *earlier, last = prompt
    return (*earlier, {**last, "content": last["content"] + _below(instruction)})


def _below(instruction: str) -> str:
    return f"\n\n{instruction}" if instruction else ""


def _row(group: Group, answers: Sequence[Answer], instruction: str) -> dict:
    *earlier, last = group.prompt
    row = {
        "source": group.source,
        "prompt": [
            *earlier,
            {**last, "content": last["content"].removesuffix(_below(instruction))},
        ],
        "condition": dict(group.condition),
        "responses": [answer.text for answer in answers],
    }
    for name, field in (
        ("tokens", "tokens"),
        ("finished", "finished"),
        ("log_proposal", "log_probability"),
    ):
        values = [getattr(answer, field) for answer in answers]
        if None not in values:
            row[name] = values
    if instruction:
        row.pop("log_proposal", None)  # It is of another prompt.
        row["instruction"] = instruction
    return row


def _counted(counts: dict, rows: Sequence[dict], seconds: float) -> dict:
    """The counts with what the rows add to them."""
    return {
        "done": counts["done"] + len(rows),
        "responses": counts["responses"] + sum(len(row["responses"]) for row in rows),
        "unfinished": counts["unfinished"]
        + sum(not each for row in rows for each in row.get("finished", ())),
        "tokens": counts["tokens"] + sum(len(ids) for row in rows for ids in row.get("tokens", ())),
        "seconds": counts["seconds"] + seconds,
    }
