"""Choosing training data: LAGER's use of a judge for the best tenth of a file of instructions.

LAGER (arXiv 2508.03550), downstream applications: each row is judged by seven criteria on 1 to 9,
and the rows with the highest mean are chosen. Beside it, what simpler ways would have chosen.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from hs2jax.data import chat, corpora
from hs2jax.data.conversations import in_parts
from hs2jax.data.groups import DataError, Group, prompt_text
from hs2jax.data.record import Record
from hs2jax.evaluation import statistics
from hs2jax.judging import agreement, criteria, lager
from hs2jax.judging.judge import requests_of
from hs2jax.judging.lager import Preset
from hs2jax.judging.prompts import Request
from hs2jax.judging.readings import Readings, is_whole, nothing_read
from hs2jax.workdir import is_first, row, write_rows, write_text

CRITERIA = criteria.load("data_selection")
NAMES = [criterion.name for criterion in CRITERIA]
BLOCK = 256  # Rows that are scored at a time.


def select(
    readings: Readings,
    data: str,
    folder: Path,
    record: Record,
    *,
    fraction: float = 0.1,
    preset: Preset = lager.PRESETS["recommended"],
    weights: Sequence[float] | None = None,
    max_tokens: int = 0,
    on_error: str = "raise",
    seed: int = 0,
) -> list[dict]:
    """Choose the rows of data whose mean score over the seven criteria is highest.

    Writes into the folder selected.jsonl, the chosen rows as they are in the source and in its
    order; and scores.jsonl, a line for each row that was judged: source, characters (of the
    response), scores (by criterion) and means (over criteria, by aggregation).

    fraction: of the rows that were judged; one is always chosen. weights: [L']; with them rows are
    chosen by "lager_w", else by "lager_wo". max_tokens: of a row with the task's explanation, 0: no
    limit. seed: of the choice between equally good rows, and of chance.

    Rows are also of what other ways would have chosen: response, prompt: mean characters of it;
    overlap: share of it that was selected; spearman: with the way that was used, over all rows;
    tied: rows as good as the last one it chooses (0 where it chooses all of those). Raises
    ValueError where no row could be judged or, unless on_error is "skip", one's readings are not
    finite, and DataError for a row with several responses.
    """
    methods = ["lager_w"] * (weights is not None) + ["lager_wo", "e_score", "direct"]
    # Rows are read a chunk ahead of their readings.
    asked, again = itertools.tee(_selectable(readings, data, on_error, max_tokens, record))
    found = zip(asked, readings.stream((each for _, each in again), "selection"), strict=True)
    skip = on_error == "skip"
    read = (
        (group, reading)
        for (group, _), reading in found
        if is_whole([reading], record, group.source, skip=skip)
    )
    lines, prompts = [], []
    for part in in_parts(read, BLOCK):
        logits = np.stack([reading.logits for _, reading in part])
        table = lager.scores(logits, CRITERIA[0].scale, preset, weights)
        for i, (group, _) in enumerate(part):
            scores = dict(zip(NAMES, map(float, table[methods[0]][i]), strict=True))
            means = {name: float(table[name][i].mean()) for name in methods}
            head = {"source": group.source, "characters": len(group.responses[0])}
            lines.append(head | {"scores": scores, "means": means})
            prompts.append(len(prompt_text(group)))
    if not lines:
        raise nothing_read(f"no row of {data}", record)
    n, prompts = len(lines), np.array(prompts, float)
    responses = np.array([line["characters"] for line in lines], float)
    keys = {name: np.array([line["means"][name] for line in lines]) for name in methods}
    keys |= {"longest response": responses, "longest prompt": prompts}
    keys["chance"] = np.random.default_rng(seed).random(n)
    size = max(1, round(fraction * n))
    chosen = {name: _top(key, size, seed) for name, key in keys.items()}
    used = chosen[methods[0]]
    if is_first():
        write_rows(folder / "scores.jsonl", lines)
        wanted = {lines[i]["source"] for i in used}
        # By source, since a file that the spec names twice is read twice.
        whole = {source: line for source, line in corpora.raw(data) if source in wanted}
        texts = (json.dumps(json.loads(line)) + "\n" for line in whole.values())
        write_text(folder / "selected.jsonl", "".join(texts))
    found = [row("selection", "", "rows", n), row("selection", "", "selected", size)]
    for each in NAMES:
        column = {methods[0]: np.array([line["scores"][each] for line in lines])}
        found += agreement.spread_rows("selection", f"criterion/{each}", column)
    for name, key in keys.items():
        of = chosen[name]
        equal = key == key[of].min()
        values = {
            "response": responses[of].mean(),
            "prompt": prompts[of].mean(),
            "overlap": len(np.intersect1d(of, used)) / size,
            "spearman": statistics.spearman(keys[methods[0]], key),
            "tied": equal.sum() if equal.sum() > equal[of].sum() else 0,
        }
        found += [
            row("selection", "", metric, value, method=name, headline=metric == "overlap")
            for metric, value in values.items()
        ]
    return found


def candidates(data: str, on_error: str, record: Record) -> Iterator[Group]:
    """Read rows to choose from. Raises DataError for one that has not just one response."""
    for group in corpora.read(data, on_error=on_error, record=record):
        if len(group.responses) != 1:
            file, _, number = group.source.rpartition(":")
            what = f"expected one response in a row to choose, found {len(group.responses)}"
            raise DataError(file, int(number), "responses", what, "wrong number of responses")
        yield group


def _selectable(
    readings: Readings, data: str, on_error: str, max_tokens: int, record: Record
) -> Iterator[tuple[Group, Request]]:
    """The rows that may be judged, and what is asked of them."""
    for group in candidates(data, on_error, record):
        (request,) = requests_of(group, CRITERIA)
        tokenizer = readings.judge.model.tokenizer
        if max_tokens and len(chat.tokenize(tokenizer, [request.item])[0]) > max_tokens:
            record.too_long += 1
            continue
        yield group, request


def _top(key: np.ndarray, size: int, seed: int) -> np.ndarray:
    """The places of the greatest; of equal ones chance decides, so that a file's order does not."""
    rng = np.random.default_rng([seed, 1])
    return np.lexsort((rng.random(len(key)), -key))[:size]
