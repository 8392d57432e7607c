"""Choosing training data: LAGER's use of a judge for the best tenth of a file of instructions.

LAGER (arXiv 2508.03550), downstream applications: each row is judged by seven criteria on 1 to 9,
and the rows with the highest mean are chosen. Beside it, what simpler ways would have chosen.
"""

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from hs2jax.data import chat, corpora
from hs2jax.data.conversations import in_parts
from hs2jax.data.groups import DataError, Group, prompt_text
from hs2jax.data.record import Record
from hs2jax.evaluation import items, statistics
from hs2jax.judging import criteria, lager, readings, tasks
from hs2jax.judging.judge import requests_of
from hs2jax.judging.lager import Preset
from hs2jax.judging.prompts import Request

CRITERIA = criteria.load("data_selection")
VALUES = CRITERIA[0].scale
COLUMNS = ("response", "prompt", "overlap", "spearman", "tied")
BLOCK = 256  # Rows that are scored at a time.


class Row(NamedTuple):
    """What is kept in memory of a row: its source, the characters of its prompt and response, and
    its mean score by each aggregation."""

    source: str
    prompt: int
    response: int
    means: dict[str, float]


def select(
    judge,
    data: str,
    workdir: Path,
    *,
    fraction: float = 0.1,
    preset: str = "recommended",
    weights: Sequence[float] | None = None,
    max_tokens: int | None = None,
    on_error: str = "raise",
    seed: int = 0,
) -> dict:
    """Chooses the rows whose mean score over the seven criteria is highest.

    Writes into workdir, each file whole or not at all: selected.jsonl, the chosen rows with the
    fields they have in the source, in its order; scores.jsonl, a line for each row that was
    judged: source, characters (of the response), scores (by criterion) and means (over criteria,
    by aggregation). readings/ keeps the passes that are done, so a killed run goes on where it was.

    Args:
        judge: a `Judge`.
        data: a data spec of rows with one response, such as "instructions:alpaca.json".
        fraction: of the rows that were judged, above 0 and at most 1; one row is always chosen.
        preset: one of `lager.PRESETS`.
        weights: [L']; with them rows are chosen by "lager_w", else by "lager_wo".
        max_tokens: rows whose prompt and response, with the task's explanation, have more tokens
            are left out, as those that do not fit the model's positions.
        on_error: "raise" or "skip", for malformed rows.
        seed: which of equally good rows are chosen, and the random choice to compare with.

    Returns a dict that JSON can hold: data, preset, fraction, chosen_by, rows (judged), selected,
    left_out, criteria {name: mean, sd}, and choices: for the way that was used, the other ways to
    read the judge, the longest responses, the longest prompts, and chance: response and prompt
    (mean characters of what it chooses), overlap (share of it that was selected), spearman (with
    the way that was used, over all rows; None where a side is constant), tied (rows that are as
    good as the last one it chooses, between which chance decides; 0 where it chooses all of those).
    Raises ValueError for settings that make no sense and where no row could be judged, and
    DataError for a malformed row or one with several responses.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction}; it must be a share of the rows, such as 0.1")
    workdir.mkdir(parents=True, exist_ok=True)
    first = jax.process_index() == 0  # Who writes, of several processes.
    record, found, by_criterion = Record(), [], []
    ways = ["lager_w"] * (weights is not None) + ["lager_wo", "e_score", "direct"]
    asked = _requests(judge, data, on_error, max_tokens, record)
    judged = _judged(judge, asked, workdir / "readings", record)
    scratch = workdir / "scores.tmp" if first else Path(os.devnull)
    with scratch.open("w", encoding="utf-8") as file:
        for group, scores in _scored(judged, ways, lager.PRESETS[preset], weights):
            row = _row(group, scores)
            found.append(row)
            by_criterion.append(scores[ways[0]])
            file.write(json.dumps(_line(row, scores[ways[0]]), ensure_ascii=False) + "\n")
    left_out = items.left_out(record.to_dict())
    if not found:
        raise ValueError(f"{data}: no row could be judged{tasks.describe_left_out(left_out)}")
    if first:
        scratch.replace(workdir / "scores.jsonl")
    keys = _keys(found, ways, seed)
    size = max(1, round(fraction * len(found)))
    chosen = {name: _top(key, size, seed) for name, key in keys.items()}
    used = chosen[ways[0]]
    if first:
        _write_rows(workdir / "selected.jsonl", data, {found[i].source for i in used})
    return {
        "data": data,
        "preset": preset,
        "fraction": fraction,
        "chosen_by": ways[0],
        "rows": len(found),
        "selected": size,
        "left_out": left_out,
        "criteria": {
            each.name: {"mean": float(column.mean()), "sd": float(column.std())}
            for each, column in zip(CRITERIA, np.array(by_criterion).T, strict=True)
        },
        "choices": {
            name: _choice(found, keys[name], chosen[name], keys[ways[0]], used) for name in keys
        },
    }


def describe(result: dict) -> str:
    """A result in a few lines."""
    lines = [
        f"selection: {result['selected']} of {result['rows']} rows by {result['chosen_by']}"
        f"{tasks.describe_left_out(result['left_out'])}; preset {result['preset']}",
        f"  {'chosen by':20}" + "".join(f"{title:>10}" for title in COLUMNS),
    ]
    for name, row in result["choices"].items():
        spearman = "none" if row["spearman"] is None else f"{row['spearman']:.3f}"
        lines.append(
            f"  {name:20}{row['response']:10.0f}{row['prompt']:10.0f}{row['overlap']:10.1%}"
            f"{spearman:>10}{row['tied']:10}"
        )
    return "\n".join(lines)


def _requests(judge, data, on_error, max_tokens, record) -> Iterator[tuple[Group, Request]]:
    """The rows that may be judged, and what is asked of them."""
    for group in corpora.read(data, on_error=on_error, record=record):
        if len(group.responses) != 1:
            file, _, number = group.source.rpartition(":")
            what = f"expected one response in a row to choose, found {len(group.responses)}"
            raise DataError(file, int(number), "responses", what, "wrong number of responses")
        (request,) = requests_of(group, CRITERIA)
        if max_tokens and _tokens(judge, request) > max_tokens:
            record.too_long += 1
            continue
        yield group, request


def _tokens(judge, request: Request) -> int:
    return len(chat.tokenize(judge.model.tokenizer, [request.item])[0])


def _judged(judge, asked, folder: Path, record: Record) -> Iterator[tuple[Group, np.ndarray]]:
    """The rows that fit, as they come, with their logits [7, 2, L + 1, 9]."""
    asked, again = itertools.tee(asked)  # Rows are read a chunk ahead of their readings.
    requests = (request for _, request in again)
    with tasks.progress_of("selection") as show:
        kept = readings.kept(judge, requests, folder, record=record, progress=show)
        for (group, _), reading in zip(asked, kept, strict=True):
            if reading is None:
                continue
            if np.isfinite(reading.logits).all():
                yield group, reading.logits
            else:
                record.skip("not finite", example=f"{group.source}: logits that are not finite")


def _scored(judged, ways: Sequence[str], preset: Preset, weights):
    """Each row with its scores {way: [7]}."""
    for part in in_parts(judged, BLOCK):
        groups, logits = zip(*part, strict=True)
        table = lager.scores(np.stack(logits), VALUES, preset, weights)
        for i, group in enumerate(groups):
            yield group, {way: table[way][i] for way in ways}


def _row(group: Group, scores: dict[str, np.ndarray]) -> Row:
    return Row(
        group.source,
        len(prompt_text(group)),
        len(group.responses[0]),
        {way: float(each.mean()) for way, each in scores.items()},
    )


def _line(row: Row, scores: np.ndarray) -> dict:
    """What scores.jsonl says of a row."""
    by_criterion = {c.name: float(x) for c, x in zip(CRITERIA, scores, strict=True)}
    return {
        "source": row.source,
        "characters": row.response,
        "scores": by_criterion,
        "means": row.means,
    }


def _keys(found: Sequence[Row], ways: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """What each way to choose wants the most of, [rows]."""
    return {
        **{way: np.array([row.means[way] for row in found]) for way in ways},
        "longest response": np.array([row.response for row in found], float),
        "longest prompt": np.array([row.prompt for row in found], float),
        "chance": np.random.default_rng(seed).random(len(found)),
    }


def _top(key: np.ndarray, size: int, seed: int) -> np.ndarray:
    """The places of the greatest; of equal ones chance decides, so that a file's order does not."""
    rng = np.random.default_rng([seed, 1])
    return np.lexsort((rng.random(len(key)), -key))[:size]


def _choice(found, key, chosen, used_key, used) -> dict:
    equal = key == key[chosen].min()
    return {
        "response": float(np.mean([found[i].response for i in chosen])),
        "prompt": float(np.mean([found[i].prompt for i in chosen])),
        "overlap": len(np.intersect1d(chosen, used)) / len(chosen),
        "spearman": None if np.isnan(rho := statistics.spearman(key, used_key)) else rho,
        "tied": int(equal.sum()) if equal.sum() > equal[chosen].sum() else 0,
    }


def _write_rows(path: Path, data: str, wanted: set[str]) -> None:
    scratch = path.with_suffix(".tmp")
    with scratch.open("w", encoding="utf-8") as file:
        for source, row in corpora.raw(data):
            if source in wanted:
                wanted.discard(source)  # A file that the spec names twice is read twice.
                file.write(json.dumps(json.loads(row)) + "\n")
    scratch.replace(path)
