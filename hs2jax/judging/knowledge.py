"""Whether a judge knows what cannot be known: LAGER's use for the boundary of knowledge.

LAGER (arXiv 2508.03550), downstream applications, on SelfAware (arXiv 2305.18153): questions that
can be answered and questions that nobody can answer. The judge rates from 1 to 5 how well a
question can be answered; "unanswerable" is the class to be found.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hs2jax.data import files, rows
from hs2jax.data.groups import DataError, FieldError, show
from hs2jax.evaluation import statistics
from hs2jax.judging import lager, layer_weights, tasks
from hs2jax.judging.prompts import Request

SCALE = (1, 2, 3, 4, 5)
SHARE = 0.75  # Of the way from the least observed score to the greatest: the published threshold.
TOGETHER = 16  # Questions that share the computation of one explanation of the task.
FOLDS = 5
RESAMPLES = 1000
TESTS = (("lager_w", "e_score"), ("lager_w", "direct"), ("lager_wo", "e_score"))
# F1 in LAGER's table, where SimCSE, similarity of texts, is another baseline.
PUBLISHED = {
    "Mistral-7B-v0.3": {
        "SimCSE": 0.427,
        "direct": 0.605,
        "e_score": 0.620,
        "lager_wo": 0.620,
        "lager_w": 0.624,
    },
    "Llama-3.1-8B": {
        "SimCSE": 0.490,
        "direct": 0.553,
        "e_score": 0.574,
        "lager_wo": 0.590,
        "lager_w": 0.570,
    },
}

ITEM = """\
Some questions have an answer that people know. Others cannot be answered by anybody: they are \
about the future, about what science has not settled, about matters of taste, or make no sense. \
Judge how well a question can be answered, and do not answer it.

1: nobody can answer it
2: hardly, there are only guesses
3: in part, or answers are disputed
4: largely, with some doubt left
5: there is a known answer

Give one integer from 1 to 5, and nothing else.

[Question]
"""
PREFIX = "Level: "


class Question(NamedTuple):
    """A question, and whether there is an answer to it."""

    text: str
    answerable: bool
    source: str = ""


def read(path: str) -> list[Question]:
    """The questions of SelfAware's file: a .json object whose `example` is a list of objects with
    `question` and `answerable`. Raises FileNotFoundError, and DataError for a malformed row."""
    content = files.read_object(path)
    try:
        examples = rows.list_of(content, "example")
    except FieldError as error:
        raise DataError(path, 1, error.field, error.what, error.reason) from None
    return files.parse_rows(path, examples, _question)


def requests(questions: Sequence[Question]) -> list[Request]:
    """A few questions behind each explanation of the task, in order, so that a request's item is
    the explanation."""
    return [
        Request(
            ITEM,
            tuple(question.text for question in questions[i : i + TOGETHER]),
            PREFIX,
            tuple(map(str, SCALE)),
            questions[i].source,
        )
        for i in range(0, len(questions), TOGETHER)
    ]


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
    """How well all ten aggregations tell unanswerable questions from others.

    Args:
        judge: a `Judge`; its readings are kept in workdir/readings.
        data: the path of SelfAware's file, as `read` takes it.
        preset: one of `lager.PRESETS`.
        weights: [L'] for the weighted aggregations. Where none are given they are cross-validated:
            fitted to 5 for answerable and 1 for unanswerable questions. Scores by the weights of
            several folds are then compared with each other, which makes them look a little worse.
        recipe: of that fit, see `layer_weights.fit`.

    Returns a dict that JSON can hold: data, preset, weights_from, weights, questions, unanswerable
    and n (of those that were read), left_out, always (F1 of calling every question unanswerable),
    published (other models), and for each aggregation in `scores`:

    * auc: how often an answerable question scores higher than an unanswerable one; a tie is half.
    * published: threshold (the least score and three quarters of the way to the greatest) and what
      calling everything at or below it unanswerable gives: f1, precision, recall. The paper's text
      has it below, which matters for "direct" only; its code has it so.
    * fitted: the same with the thresholds that are best on the other four of five folds.

    `tests` are differences of auc and of both f1. Intervals are 95%, percentiles of 1,000
    resamples of the questions, the same for all; thresholds stay as they are.
    Raises ValueError as `layer_weights` does and where questions of one kind only were read, and
    DataError as `read` does.
    """
    questions = read(data)
    asked = requests(questions)
    answers = tasks.ask(judge, asked, workdir / "readings", "knowledge")
    index = answers.place[:, 0] * TOGETHER + answers.place[:, 1]
    unanswerable = np.array([not questions[i].answerable for i in index])
    if unanswerable.all() or not unanswerable.any():
        raise ValueError(
            f"{data}: all {len(unanswerable)} questions that were read are of one kind; both "
            "answerable and unanswerable ones are needed"
        )
    scores, used = tasks.all_scores(
        answers.logits,
        np.where(unanswerable, SCALE[0], SCALE[-1]),
        np.arange(len(index)),
        SCALE,
        lager.PRESETS[preset],
        weights=weights,
        recipe=recipe,
        seed=seed,
    )
    N = len(index)
    fold = layer_weights.draw_folds(np.arange(N), FOLDS, seed)
    # How often each question is in each resample; row 0 is the data as they are.
    counts = np.random.default_rng(seed).multinomial(N, np.full(N, 1 / N), size=RESAMPLES)
    counts = np.concatenate([np.ones((1, N), int), counts])
    measured, found = {}, {}
    for name, score in scores.items():
        threshold = published_threshold(score)
        fitted = [best_threshold(score[fold != f], unanswerable[fold != f]) for f in range(FOLDS)]
        at = {"published": np.full(N, threshold), "fitted": np.array(fitted)[fold]}
        called = {rule: score <= each for rule, each in at.items()}
        measured[name] = {"auc": auc(score, unanswerable, counts)}
        measured[name] |= {rule: f1(each, unanswerable, counts) for rule, each in called.items()}
        found[name] = {
            "auc": _estimate(measured[name]["auc"]),
            "published": {
                "threshold": threshold,
                **_report(called["published"], unanswerable, measured[name]["published"]),
            },
            "fitted": {
                "thresholds": fitted,
                **_report(called["fitted"], unanswerable, measured[name]["fitted"]),
            },
            "mean": float(score.mean()),
            "sd": float(score.std()),
        }
    return {
        "data": data,
        "preset": preset,
        "weights_from": tasks.weights_from(weights),
        "weights": used,
        "questions": len(questions),
        "n": N,
        "unanswerable": int(unanswerable.sum()),
        "left_out": answers.left_out,
        "always": float(f1(np.ones(N, bool), unanswerable, counts[:1])[0]),
        "scores": found,
        "tests": [
            {
                "a": a,
                "b": b,
                **{rule: _difference(measured[a][rule], measured[b][rule]) for rule in measured[a]},
            }
            for a, b in TESTS
        ],
        "published": PUBLISHED,
    }


def describe(result: dict) -> str:
    """A result in a few lines."""
    lines = [
        f"knowledge: {result['n']} questions, {result['unanswerable']} of them unanswerable"
        f"{tasks.describe_left_out(result['left_out'])}; preset {result['preset']}, weights by "
        f"{result['weights_from']}; calling all unanswerable has an F1 of {result['always']:.3f}",
        f"  {'':24}{'AUC [95%]':24}{'F1, published rule':24}F1, fitted threshold",
    ]
    for name, row in result["scores"].items():
        cells = (row["auc"], row["published"]["f1"], row["fitted"]["f1"])
        texts = (f"{c['value']:.3f}{tasks.describe_interval(c['interval'])}" for c in cells)
        lines.append(f"  {name:24}" + "".join(f"{text:24}" for text in texts).rstrip())
    for test in result["tests"]:
        lines.append(f"  AUC, {tasks.describe_test(test, 'auc')}")
    return "\n".join(lines)


def published_threshold(scores: np.ndarray) -> float:
    """The repository's: three quarters of the way from the least score [N] to the greatest."""
    low, high = float(scores.min()), float(scores.max())
    return low + SHARE * (high - low)


def best_threshold(scores: np.ndarray, unanswerable: np.ndarray) -> float:
    """The score [N] at or below which "unanswerable" has the greatest F1; of equals the least."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    hits = np.cumsum(unanswerable[order])
    f1 = 2 * hits / (np.arange(1, len(scores) + 1) + unanswerable.sum())
    ends = np.append(ordered[1:] != ordered[:-1], True)  # Equal scores are called alike.
    return float(ordered[ends][f1[ends].argmax()])


def f1(called: np.ndarray, unanswerable: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """F1 of what was called unanswerable [N] in each resample, counts [R, N] -> [R]."""
    hits, calls, there = (
        counts @ side.astype(float) for side in (called & unanswerable, called, unanswerable)
    )
    return 2 * hits / np.maximum(calls + there, 1)


def auc(scores: np.ndarray, unanswerable: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The area under the curve in each resample, counts [R, N] -> [R]; a tie is half; NaN where a
    resample has questions of one kind only."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    low = unanswerable[order]
    below, above = (
        np.add.reduceat(counts[:, order] * side, starts, axis=1).astype(float)
        for side in (low, ~low)
    )
    won = (above * (below.cumsum(axis=1) - below / 2)).sum(axis=1)
    pairs = below.sum(axis=1) * above.sum(axis=1)
    return np.where(pairs > 0, won / np.maximum(pairs, 1), np.nan)


def _question(row: dict, source: str) -> Question:
    """A question from a row of the file. Raises FieldError."""
    answerable = rows.present(row, "answerable")
    if not isinstance(answerable, bool):
        what = f"expected true or false, found {show(answerable)}"
        raise FieldError("answerable", what, "wrong type")
    return Question(rows.text(row, "question").strip(), answerable, source)


def _report(called: np.ndarray, unanswerable: np.ndarray, resampled: np.ndarray) -> dict:
    hits = int((called & unanswerable).sum())
    return {
        "f1": _estimate(resampled),
        "precision": hits / max(int(called.sum()), 1),
        "recall": hits / int(unanswerable.sum()),
    }


def _estimate(resampled: np.ndarray) -> dict:
    """[1 + R], the first the data's own, as a value with its interval."""
    return {"value": float(resampled[0]), "interval": _interval(resampled[1:])}


def _difference(a: np.ndarray, b: np.ndarray) -> dict:
    difference = a - b
    return {"difference": float(difference[0]), "interval": _interval(difference[1:])}


def _interval(resampled: np.ndarray) -> list[float]:
    tail = (1 - statistics.LEVEL) / 2
    return [float(x) for x in np.nanquantile(resampled, [tail, 1 - tail])]
