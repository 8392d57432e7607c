"""Score groups into a file, and pick the best of their responses where asked."""

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from hs2jax import atomic, workdir
from hs2jax.data import corpora
from hs2jax.data.record import Record
from hs2jax.evaluation import best_of_n, scores
from hs2jax.evaluation import items as scored_items
from hs2jax.evaluation.scores import Scored
from hs2jax.inference import progress_of
from hs2jax.reward_model import RewardModel
from hs2jax.workdir import row

log = logging.getLogger(__name__)


def score(
    model: RewardModel,
    data: str,
    output: Path,
    *,
    truncate: bool = False,
    skip: bool = False,
    best: Path | None = None,
    reference: str = "",
) -> Record:
    """Write a line for each group of `data`: the fields of its row that hold no text of it, such as
    ids, then source, prompt, responses, outputs (a dict for each response) and rewards (null
    without weights); of several processes the first one writes. Returns what became of the rows.

    output: a file, or "-" for the standard output.

    best: the folder of a run of kind "best_of_n", with best.jsonl, the response with the highest
    reward for each prompt (all rows with one prompt are its candidates; `index` counts through
    them), and as rows what picking is worth over the number of candidates. reference: data with a
    response for each of the prompts, which the picked ones are compared with.

    Raises ValueError where there is something to pick and no one reward, where nothing is left to
    score, and where the reference has none of the prompts.
    """
    started, scalar, record = time.monotonic(), model.scalar_weights(), Record()
    if best is not None and scalar is None:
        raise ValueError(
            f"the model has the outputs {', '.join(model.outputs)}, and the best needs one reward: "
            "give weights, as in helpfulness=0.65,verbosity=-0.4"
        )
    store = scores.store_of(model)

    def scored(spec: str, name: str, record: Record, others=None) -> Iterator[Scored]:
        how = {"on_error": "skip" if skip else "raise", "record": record, "others": others}
        groups = corpora.read(spec, **how)
        with progress_of(name) as show:
            options = {"truncate": truncate, "skip": skip, "leave_out": skip}
            options |= {"record": record, "progress": show}
            for each in scores.stream(model, groups, store, **options):
                if each.outputs is not None:
                    yield each

    kept: list[Scored] = []
    lines, others = 0, {}
    place = output if workdir.is_first() else Path(os.devnull)
    terminal = str(place) == "-"
    with contextlib.nullcontext(sys.stdout) if terminal else atomic.writing(place) as file:
        for each in scored(data, "score", record, others):
            lines += 1
            own = {name: getattr(each.group, name) for name in ("source", "prompt", "responses")}
            line = others.get(each.group.source, {}) | own
            table = each.outputs
            line["outputs"] = [dict(zip(model.outputs, row.tolist(), strict=True)) for row in table]
            line["rewards"] = None if scalar is None else [float(row @ scalar) for row in table]
            text = workdir.to_json(line, ensure_ascii=False)
            file.write(text.encode(errors="replace").decode() + "\n")
            if best is not None:
                kept.append(each)
        if not lines:
            raise ValueError(f"nothing is left of {data} to score: {record}")
    if best is None:
        return record
    items, rows, records = _candidates(kept, scalar), [], {"data": record.to_dict()}
    if reference:
        found = Record()
        against = _candidates(scored(reference, "reference", found), scalar)
        log.info("reference: %s", found)
        records["reference"] = found.to_dict()
        try:
            rows.append(best_of_n.win_rate(items, against))
        except ValueError as error:
            raise ValueError(f"{data} against {reference}: {error}") from error
    picked, ties = best_of_n.pick(items)
    rows += [row("", "", "prompts", len(items)), row("", "", "ties_at_top", ties)]
    rows += best_of_n.curve(items)
    lines = [
        {
            "source": item["source"],
            "prompt": json.loads(item["prompt"]),
            "response": item["responses"][index],
            "reward": item["rewards"][index],
            "index": index,
            "candidates": len(item["responses"]),
        }
        for item, index in zip(items, picked, strict=True)
    ]
    config = ConfigDict({"kind": "best_of_n", "data": data, "reference": reference})
    workdir.take(best, config)
    if workdir.is_first():
        workdir.write_rows(best / "best.jsonl", lines)
    workdir.finish(best, config, {"records": records, "seconds": time.monotonic() - started}, rows)
    return record


def _candidates(found: Iterable[Scored], scalar: np.ndarray) -> list[dict]:
    """Make an item for each prompt, the whole conversation as JSON, with the responses of all its
    rows; source is the first one's."""
    together: dict[str, dict] = {}
    for each in found:
        prompt, item = json.dumps(each.group.prompt), scored_items.of(each, scalar)
        first = together.setdefault(prompt, item | {"prompt": prompt})
        if first["responses"] is not item["responses"]:
            for name in ("responses", "rewards", "ratings"):
                first[name] += item[name]
    return list(together.values())
