"""How strongly a person in a dialogue feels an emotion: LAGER's use for emotional understanding.

LAGER (arXiv 2508.03550), downstream applications. The dialogues and people's intensities, 0 to 10,
are EQ-Bench's (arXiv 2312.06281, version 2: 171 questions of four emotions each). The judge answers
on 1 to 9, as in the paper; only correlations are compared, so the scales may differ.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hs2jax.data import files, rows
from hs2jax.data.groups import FieldError, check_number, show
from hs2jax.evaluation import correlation
from hs2jax.judging import lager, tasks
from hs2jax.judging.prompts import Request

SCALE = tuple(range(1, 10))
STRONGEST = 10  # Of people's intensities, from 0.
EMOTIONS = 4  # Of a question.
END = "[End dialogue]"
# "..., Robert would feel...", also "..., At this point, Robert would feel..."
PERSON = re.compile(
    r"At the end of this dialogue, (?:[^\n]*, )?([^\n,]+?)"
    r"(?: would feel|['\u2019]s emotional state)"
)
TESTS = (("lager_w", "e_score"), ("lager_w", "direct"), ("lager_wo", "e_score"))
# Pearson and Spearman in LAGER's table, on 430 intensities that its authors chose.
PUBLISHED = {
    "Mistral-7B-v0.3": {
        "direct": [0.560, 0.596],
        "e_score": [0.574, 0.618],
        "lager_wo": [0.593, 0.632],
        "lager_w": [0.598, 0.635],
    },
    "Llama-3.1-8B": {
        "direct": [0.456, 0.478],
        "e_score": [0.608, 0.652],
        "lager_wo": [0.627, 0.653],
        "lager_w": [0.634, 0.657],
    },
    "Qwen2.5-14B": {
        "direct": [0.706, 0.707],
        "e_score": [0.739, 0.759],
        "lager_wo": [0.745, 0.758],
        "lager_w": [0.756, 0.763],
    },
}

ITEM = """\
Read how this dialogue goes and judge what one of its speakers feels at its end.

[Dialogue]
{dialogue}

"""
QUESTION = """\
[Question]
At the end of the dialogue, how strongly does {person} feel this emotion: {emotion}?

Rate it with one integer from 1 (not at all) to 9 (as strongly as can be), and nothing else."""
PREFIX = "Score: "


class Item(NamedTuple):
    """A dialogue, one of its people, and how strongly each emotion is felt, 0 to 10."""

    dialogue: str
    person: str
    emotions: tuple[str, ...]
    intensities: tuple[float, ...]
    source: str = ""


def read(path: str) -> list[Item]:
    """The questions of an EQ-Bench file: one .json object from a question's number to its `prompt`
    and `reference_answer_fullscale`. Raises FileNotFoundError, and DataError for a malformed row.
    """
    return files.parse_rows(path, files.read_object(path).values(), _item)


def request(item: Item) -> Request:
    """The dialogue once, and a question for each emotion."""
    return Request(
        ITEM.format(dialogue=item.dialogue),
        tuple(QUESTION.format(person=item.person, emotion=emotion) for emotion in item.emotions),
        PREFIX,
        tuple(map(str, SCALE)),
        item.source,
    )


def evaluate(
    judge,
    data: str,
    workdir: Path,
    *,
    preset: str = "recommended",
    weights: Sequence[float] | None = None,
    recipe: str = "converged",
    seed: int = 0,
) -> dict:
    """Correlations of all ten aggregations with people's intensities.

    Args:
        judge: a `Judge`; its readings are kept in workdir/readings.
        data: the path of EQ-Bench's file, as `read` takes it.
        preset: one of `lager.PRESETS`.
        weights: [L'] for the weighted aggregations. Where none are given they are cross-validated
            against the intensities (moved to 1..9), all questions about a dialogue in one fold.
        recipe: of that fit, see `layer_weights.fit`.

    Returns a dict that JSON can hold: data, preset, weights_from, weights, questions, dialogues, n
    (intensities read), left_out, human, scores {aggregation: correlations with 95% intervals over
    dialogues, mean, sd}, tests (paired differences), published (others' models on other items).
    Raises ValueError as `layer_weights` does, and DataError as `read` does.
    """
    items = read(data)
    answers = tasks.ask(judge, [request(item) for item in items], workdir / "readings", "emotions")
    human = np.array([items[i].intensities[q] for i, q in answers.place])
    dialogues = sorted({item.dialogue for item in items})
    cluster = np.array([dialogues.index(items[i].dialogue) for i, _ in answers.place])
    low, high = SCALE[0], SCALE[-1]
    scores, used = tasks.all_scores(
        answers.logits,
        low + (high - low) * human / STRONGEST,
        cluster,
        SCALE,
        lager.PRESETS[preset],
        weights=weights,
        recipe=recipe,
        seed=seed,
    )
    return {
        "data": data,
        "preset": preset,
        "weights_from": tasks.weights_from(weights),
        "weights": used,
        "questions": len(items),
        "dialogues": len(dialogues),
        "n": len(human),
        "left_out": answers.left_out,
        "human": {"mean": float(human.mean()), "sd": float(human.std())},
        "scores": {
            name: {
                **correlation.correlations(human, found, cluster),
                "mean": float(found.mean()),
                "sd": float(found.std()),
            }
            for name, found in scores.items()
        },
        "tests": [
            {"a": a, "b": b, **correlation.paired(human, scores[a], scores[b], cluster)}
            for a, b in TESTS
        ],
        "published": PUBLISHED,
    }


def describe(result: dict) -> str:
    """A result in a few lines."""
    lines = [
        f"emotions: {result['n']} intensities of {result['questions']} questions on "
        f"{result['dialogues']} dialogues{tasks.describe_left_out(result['left_out'])}; preset "
        f"{result['preset']}, weights by {result['weights_from']}; Spearman [95%], Pearson"
    ]
    for name, row in result["scores"].items():
        lines.append(f"  {name:24}{_show(row['spearman'])}  {_show(row['pearson'])}")
    for test in result["tests"]:
        lines.append(f"  Spearman, {tasks.describe_test(test, 'spearman')}")
    return "\n".join(lines)


def _show(found: dict) -> str:
    if found["value"] is None:
        return "none (constant)".ljust(23)
    return f"{found['value']:6.3f}{tasks.describe_interval(found['interval']):17}"


def _item(row: dict, source: str) -> Item:
    """An item from a row of the file. Raises FieldError."""
    prompt = rows.text(row, "prompt").strip()
    before, end, _ = prompt.partition(END)
    dialogue = before.partition("\n\n")[2]
    if not end or not dialogue.strip():
        what = f"expected a task, an empty line, the dialogue, and {END}"
        raise FieldError("prompt", what, "no dialogue")
    person = PERSON.search(prompt)
    if not person:
        what = "expected 'At the end of this dialogue, NAME would feel', and found no such name"
        raise FieldError("prompt", what, "no person")
    if person[1] not in dialogue:
        what = f"asks about {show(person[1])}, who is not in the dialogue"
        raise FieldError("prompt", what, "no person")
    answer = rows.present(row, "reference_answer_fullscale")
    if not isinstance(answer, dict):
        what = f"expected an object, found {show(answer)}"
        raise FieldError("reference_answer_fullscale", what, "wrong type")
    try:
        names = [rows.text(answer, f"emotion{i}") for i in range(1, EMOTIONS + 1)]
        values = [_intensity(answer, f"emotion{i}_score") for i in range(1, EMOTIONS + 1)]
    except FieldError as error:
        field = f"reference_answer_fullscale.{error.field}"
        raise FieldError(field, error.what, error.reason) from None
    return Item(dialogue.strip(), person[1], tuple(names), tuple(values), source)


def _intensity(answer: dict, field: str) -> float:
    """A number, which the published file writes now as a number and now as a text."""
    value = rows.present(answer, field)
    if isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?", value.strip()):
        value = float(value)
    return check_number(value, field, 0, STRONGEST)
