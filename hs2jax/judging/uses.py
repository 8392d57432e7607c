"""Downstream uses of a judge (LAGER, arXiv 2508.03550): understanding emotions (EQ-Bench), and
knowing what cannot be known (SelfAware). Each makes rows of results.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hs2jax.data import files, rows
from hs2jax.data.conversations import in_parts
from hs2jax.data.groups import FieldError, check_number, mistyped
from hs2jax.data.record import Record
from hs2jax.evaluation import statistics
from hs2jax.evaluation.measures import rows_of
from hs2jax.judging import agreement, lager, layer_weights
from hs2jax.judging.lager import Preset
from hs2jax.judging.prompts import Request
from hs2jax.judging.readings import Readings, is_whole, nothing_read

COMPARED = (("lager_w", "e_score"), ("lager_w", "direct"), ("lager_wo", "e_score"))

# Emotions ---------------------------------------------------------------------------------------
# Dialogues and people's intensities, 0 to 10, of EQ-Bench (arXiv 2312.06281, version 2: 171
# questions of four emotions each). The judge answers on 1 to 9, as in the paper; only correlations
# are compared, so the scales may differ.

INTENSITIES = tuple(range(1, 10))
STRONGEST = 10  # Of people's intensities, from 0.
EMOTIONS = 4  # Of a question.
ANSWERS = "reference_answer_fullscale"
# A task, an empty line, the dialogue, its end; then "..., Robert would feel...", also "..., At this
# point, Robert would feel...".
ASKED = re.compile(
    r"(?s:.*?\n\n\s*(\S.*?)\s*\[End dialogue\].*?)"
    r"At the end of this dialogue, (?:[^\n]*, )?([^\n,]+?)"
    r"(?: would feel|['\u2019]s emotional state)"
)
DIALOGUE = """\
Read how this dialogue goes and judge what one of its speakers feels at its end.

[Dialogue]
{dialogue}

"""
FEELING = """\
[Question]
At the end of the dialogue, how strongly does {person} feel this emotion: {emotion}?

Rate it with one integer from 1 (not at all) to 9 (as strongly as can be), and nothing else."""


class Dialogue(NamedTuple):
    """A dialogue, one of its people, and how strongly each emotion is felt, 0 to 10."""

    text: str
    person: str
    emotions: tuple[str, ...]
    intensities: tuple[float, ...]
    source: str = ""

    def request(self) -> Request:
        """Ask the dialogue once, and a question for each emotion."""
        asked = (FEELING.format(person=self.person, emotion=emotion) for emotion in self.emotions)
        item, answers = DIALOGUE.format(dialogue=self.text), tuple(map(str, INTENSITIES))
        return Request(item, tuple(asked), "Score: ", answers, self.source)


def read_dialogues(path: str) -> list[Dialogue]:
    """Read an EQ-Bench file: one .json object from a question's number to its `prompt` and
    `reference_answer_fullscale`. Raises FileNotFoundError, and DataError for a malformed row."""
    return files.parse_rows(path, files.read_object(path).values(), _dialogue)


def emotions(readings: Readings, data: str, record: Record, **options) -> list[dict]:
    """Correlate all ten aggregations with people's intensities.

    data: the path of EQ-Bench's file. options: of `_scores`. Where no weights are given they are
    cross-validated against the intensities (moved to 1..9), a dialogue's questions in one fold.
    Raises ValueError as `layer_weights` does, and DataError as `read_dialogues` does.
    """
    items = read_dialogues(data)
    logits, place = _answers(readings, [item.request() for item in items], "emotions", record)
    human = np.array([items[i].intensities[q] for i, q in place])
    clusters = np.unique([items[i].text for i, _ in place], return_inverse=True)[1]
    low, high = INTENSITIES[0], INTENSITIES[-1]
    targets = low + (high - low) * human / STRONGEST
    scores, used = _scores(logits, targets, clusters, INTENSITIES, **options)
    counts = {"questions": len(items), "dialogues": len({item.text for item in items})}
    return [
        *agreement.correlation_rows("emotions", "", human, scores, clusters, compared=COMPARED),
        *agreement.spread_rows("emotions", "", scores, human),
        *agreement.weight_rows("emotions", used),
        *rows_of("emotions", "", None, counts),
    ]


def _dialogue(line: dict, source: str) -> Dialogue:
    """Raises FieldError."""
    asked = ASKED.match(rows.text(line, "prompt").strip())
    if not asked or asked[2] not in asked[1]:
        what = (
            "expected a task, an empty line, the dialogue, [End dialogue], and 'At the end of this "
            "dialogue, NAME would feel' with a name from the dialogue"
        )
        raise FieldError("prompt", what, "no dialogue")
    answer = rows.present(line, ANSWERS)
    if not isinstance(answer, dict):
        raise mistyped(ANSWERS, "an object", answer)
    answer = {f"{ANSWERS}.{name}": value for name, value in answer.items()}
    fields = [f"{ANSWERS}.emotion{i}" for i in range(1, EMOTIONS + 1)]
    names = tuple(rows.text(answer, field) for field in fields)
    intensities = tuple(_intensity(answer, f"{field}_score") for field in fields)
    return Dialogue(*asked.groups(), names, intensities, source)


def _intensity(answer: dict, field: str) -> float:
    """A number, which the published file writes now as a number and now as a text."""
    value = rows.present(answer, field)
    if isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?", value.strip()):
        value = float(value)
    return check_number(value, field, 0, STRONGEST)


# Knowledge --------------------------------------------------------------------------------------
# SelfAware (arXiv 2305.18153): questions that can be answered and questions that nobody can answer.
# The judge rates how well a question can be answered; "unanswerable" is the class to be found.

LEVELS = (1, 2, 3, 4, 5)
SHARE = 0.75  # Of the way from the least observed score to the greatest: the published threshold.
TOGETHER = 16  # Questions that share the computation of one explanation of the task.
FOLDS = 5
ANSWERABLE = """\
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


class Question(NamedTuple):
    """A question, and whether there is an answer to it."""

    text: str
    answerable: bool
    source: str = ""


def read_questions(path: str) -> list[Question]:
    """Read SelfAware's file: a .json object whose `example` is a list of objects with `question`
    and `answerable`. Raises FileNotFoundError, and DataError for a malformed row."""
    content = files.read_object(path)
    try:
        examples = rows.list_of(content, "example")
    except FieldError as error:
        raise error.at(path, 1) from None
    return files.parse_rows(path, examples, _question)


def question_requests(questions: Sequence[Question]) -> list[Request]:
    """Ask a few questions behind each explanation of the task, in order, so that a request's item
    is the explanation."""
    answers, found = tuple(map(str, LEVELS)), []
    for some in in_parts(questions, TOGETHER):
        texts = tuple(question.text for question in some)
        found.append(Request(ANSWERABLE, texts, "Level: ", answers, some[0].source))
    return found


def knowledge(
    readings: Readings, data: str, record: Record, *, seed: int = 0, **options
) -> list[dict]:
    """Measure how well all ten aggregations tell unanswerable questions from others.

    Arguments and errors as for `emotions`, data: the path of SelfAware's file. Weights are
    cross-validated against 5 for answerable and 1 for unanswerable questions.

    auc: how often an answerable question scores higher than an unanswerable one; a tie is half.
    f1, precision, recall: of calling everything at or below a threshold unanswerable:
    "threshold/published" is three quarters of the way from the least score to the greatest, as in
    the paper's code (its text has "below"), "threshold/fitted" the best on the other four of five
    folds. Raises ValueError where questions of one kind only were read.
    """
    questions = read_questions(data)
    logits, place = _answers(readings, question_requests(questions), "knowledge", record)
    unanswerable = np.array([not questions[i * TOGETHER + q].answerable for i, q in place])
    N = len(unanswerable)
    if unanswerable.all() or not unanswerable.any():
        raise ValueError(
            f"{data}: all {N} questions that were read are of one kind; both answerable and "
            "unanswerable ones are needed"
        )
    targets, each = np.where(unanswerable, LEVELS[0], LEVELS[-1]), np.arange(N)
    scores, used = _scores(logits, targets, each, LEVELS, seed=seed, **options)
    fold = layer_weights.draw_folds(each, FOLDS, seed)
    always = f1(unanswerable, np.ones(N, bool))
    counts = {"questions": len(questions), "read": N, "unanswerable": unanswerable.sum()}
    found = rows_of("knowledge", "", None, counts)
    found += rows_of("knowledge", "", N, {"f1": always}, method="all called unanswerable")
    measured = {"": ("auc", auc, scores, 0.5)}
    for name, score in scores.items():
        fitted = [best_threshold(score[fold != f], unanswerable[fold != f]) for f in range(FOLDS)]
        low, high = float(score.min()), float(score.max())
        published = np.full(N, low + SHARE * (high - low))
        for way, at in (("published", published), ("fitted", np.array(fitted)[fold])):
            called, part = score <= at, f"threshold/{way}"
            hits = (called & unanswerable).sum()
            values = {
                "threshold": at.mean(),  # Of fitted ones, over the questions.
                "precision": hits / max(called.sum(), 1),
                "recall": hits / unanswerable.sum(),
            }
            found += rows_of("knowledge", part, N, values, method=name)
            measured.setdefault(part, ("f1", f1, {}, always))[2][name] = called
    for part, (metric, measure, every, least) in measured.items():
        for pair in (*((name,) for name in every), *COMPARED):
            columns = [unanswerable, *(every[name] for name in pair)]
            about = ("knowledge", part, metric, measure, columns, each, pair)
            scale = statistics.LOGIT
            found.append(agreement.measure_row(*about, reference=least, scale=scale))
    found += agreement.spread_rows("knowledge", "", scores)
    return found + agreement.weight_rows("knowledge", used)


def best_threshold(scores: np.ndarray, unanswerable: np.ndarray) -> float:
    """Find the score [N] at or below which "unanswerable" has the greatest F1; of equals the
    least."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    hits = np.cumsum(unanswerable[order])
    f1 = 2 * hits / (np.arange(1, len(scores) + 1) + unanswerable.sum())
    ends = np.append(ordered[1:] != ordered[:-1], True)  # Equal scores are called alike.
    return float(ordered[ends][f1[ends].argmax()])


def f1(unanswerable: np.ndarray, called: np.ndarray) -> float:
    """Return the F1 of what was called unanswerable, bool [N]."""
    hits = (called & unanswerable).sum()
    return float(2 * hits / max(called.sum() + unanswerable.sum(), 1))


def auc(unanswerable: np.ndarray, scores: np.ndarray) -> float:
    """Return the area under the curve; a tie is half. NaN where questions are of one kind only."""
    n = (~unanswerable).sum()
    pairs, above = unanswerable.sum() * n, statistics.ranks(scores)[~unanswerable].sum()
    return float((above - n * (n + 1) / 2) / pairs) if pairs else np.nan


def _question(line: dict, source: str) -> Question:
    """Raises FieldError."""
    answerable = rows.present(line, "answerable")
    if not isinstance(answerable, bool):
        raise mistyped("answerable", "true or false", answerable)
    return Question(rows.text(line, "question").strip(), answerable, source)


# Both -------------------------------------------------------------------------------------------


def _answers(
    readings: Readings, requests: Sequence[Request], name: str, record: Record
) -> tuple[np.ndarray, np.ndarray]:
    """Logits f32 [N, 2, L + 1, S] of the questions of every request that could be read, the others
    are counted; and their places, int [N, 2], the request and the question in it."""
    logits, place = [], []
    found = readings.stream(requests, name, total=len(requests))
    for i, (request, reading) in enumerate(zip(requests, found, strict=True)):
        if is_whole([reading], record, request.source, n=len(request.questions)):
            logits.append(reading.logits)
            place += [(i, q) for q in range(len(request.questions))]
    if not place:
        raise nothing_read(f"none of the questions of {name}", record)
    return np.concatenate(logits), np.array(place)


def _scores(
    logits,
    targets,
    clusters,
    values,
    *,
    preset: Preset = lager.PRESETS["recommended"],
    weights: Sequence[float] | None = None,
    recipe: str = "converged",
    seed: int = 0,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """All ten aggregations of logits [N, 2, L + 1, S], and the weights [L'] behind the weighted: as
    given, or cross-validated against the targets [N] on the scale of `values`, their mean."""
    if weights is not None:
        return lager.scores(logits, values, preset, weights), np.asarray(weights)
    options = {"recipe": recipe, "seed": seed}
    fitted = layer_weights.cross_validate(logits, targets, clusters, values, preset, **options)
    every = {**lager.scores(logits, values, preset), **fitted.scores}
    return {name: every[name] for name in lager.AGGREGATIONS}, fitted.weights.mean(axis=0)
