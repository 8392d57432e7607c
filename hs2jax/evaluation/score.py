"""What `hs2jax score` does: a line for each group, and the best of its responses where asked."""

import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hs2jax import folder
from hs2jax.data import corpora
from hs2jax.data.record import Record
from hs2jax.evaluation import best_of_n, best_report, scores
from hs2jax.evaluation import items as scored_items
from hs2jax.evaluation.scores import Cache, Scored
from hs2jax.reward_model import RewardModel

log = logging.getLogger(__name__)


@contextlib.contextmanager
def progress_of(name: str, groups: int | None = None):
    """A bar, or lines of the log where there is no terminal, to be given to `scores.stream`."""
    bar = tqdm(total=groups, desc=name, unit="group", disable=not sys.stderr.isatty())
    begun, done = time.time(), 0

    def show(tokens: int, groups: int) -> None:
        nonlocal done
        done += tokens
        rate = done / (time.time() - begun)
        bar.set_postfix_str(f"{rate:.0f} tokens/s")
        bar.update(groups)
        if tokens and bar.disable:
            log.info("%s: %d tokens scored, %.0f tokens/s", name, done, rate)

    with bar:
        yield show


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
    """Writes a line for each group of `data`: source, prompt, responses, outputs (a dict for each
    response) and rewards (null without weights). Returns what became of the rows.

    best: a folder for best.jsonl, the response with the highest reward for each prompt (all rows
    with one prompt are its candidates; `index` counts through them), and for best_of_n.json and
    report.html, what picking is worth over the number of candidates. reference: data with a
    response for each of the prompts, which the picked ones are compared with.

    Raises ValueError where there is something to pick and no one reward, and where the reference
    has none of the prompts.
    """
    scalar, record, cache = model.scalar_weights(), Record(), Cache(scores.model_key(model))
    if best is not None and scalar is None:
        raise ValueError(
            f"the model has the outputs {', '.join(model.outputs)}, and the best needs one reward: "
            "give weights, as in helpfulness=0.65,verbosity=-0.4"
        )
    on_error = "skip" if skip else "raise"

    def scored(spec: str, record: Record, show) -> Iterator[Scored]:
        groups = corpora.read(spec, on_error=on_error, record=record)
        return scores.stream(
            model, groups, cache, truncate=truncate, skip=skip, record=record, progress=show
        )

    kept: list[Scored] = []
    output.parent.mkdir(parents=True, exist_ok=True)
    # Another name until it is whole, so that a half file is never taken for the result.
    scratch = output.with_name(output.name + ".unfinished")
    with scratch.open("w", encoding="utf-8") as file, progress_of("score") as show:
        for each in scored(data, record, show):
            if each.outputs is None:
                continue
            file.write(json.dumps(_row(each, model.outputs, scalar), ensure_ascii=False) + "\n")
            if best is not None:
                kept.append(each)
    scratch.replace(output)
    if best is not None:
        items, won = _candidates(kept, scalar), None
        if reference:
            found = Record()
            with progress_of("reference") as show:
                against = [x for x in scored(reference, found, show) if x.outputs is not None]
            log.info("reference: %s", scored_items.describe(found))
            try:
                won = best_of_n.win_rate(items, _candidates(against, scalar))
            except ValueError as error:
                raise ValueError(f"{data} against {reference}: {error}") from error
        _write_best(best, items, won)
    return record


def _row(each: Scored, names, scalar: np.ndarray | None) -> dict:
    return {
        "source": each.group.source,
        "prompt": list(each.group.prompt),
        "responses": list(each.group.responses),
        "outputs": [dict(zip(names, map(float, row), strict=True)) for row in each.outputs],
        "rewards": None if scalar is None else [float(row @ scalar) for row in each.outputs],
    }


def _candidates(found: Sequence[Scored], scalar: np.ndarray) -> list[dict]:
    """An item for each prompt, the whole conversation as JSON, with the responses of all its rows;
    source is the first one's."""
    together: dict[str, list[dict]] = {}
    for each in found:
        prompt = json.dumps(each.group.prompt)
        together.setdefault(prompt, []).append(scored_items.of(each, scalar))
    return [
        {
            "source": some[0]["source"],
            "prompt": prompt,
            **{
                name: [x for item in some for x in item[name]]
                for name in ("responses", "rewards", "ratings")
            },
        }
        for prompt, some in together.items()
    ]


def _write_best(place: Path, items: list[dict], won: dict | None) -> None:
    picked = best_of_n.pick(items)
    rows = [
        {
            "source": item["source"],
            "prompt": json.loads(item["prompt"]),
            "response": item["responses"][index],
            "reward": item["rewards"][index],
            "index": index,
            "candidates": len(item["responses"]),
        }
        for item, index in zip(items, picked["best"], strict=True)
    ]
    result = {
        "prompts": len(items),
        "ties": picked["ties"],
        "curve": best_of_n.curve(items),
        "win_rate": won,
    }
    scored_items.write(place / "best.jsonl", rows)
    folder.write_json(place / "best_of_n.json", result)
    best_report.write(place, result)
