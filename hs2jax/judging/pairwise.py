"""The better of two responses by a judge, asked in two ways.

"pointwise": each response is scored by itself, and the higher score wins. "question": the judge is
shown both and says which is better, A or B, in both orders, so that what it likes about a place or
a letter cancels. Both are this project's, with LAGER's aggregations (arXiv 2508.03550).
Axis letters: P pairs, 2 requests of a pair, 2 norms, L layers, S answers.
"""

from collections.abc import Sequence

import numpy as np

from hs2jax.data.conversations import in_parts
from hs2jax.data.groups import Group, distinct, pairs, prompt_text
from hs2jax.data.record import Record
from hs2jax.evaluation import statistics
from hs2jax.evaluation.measures import OVER_HALF, OVER_ZERO, rows_of
from hs2jax.judging import lager, prompts
from hs2jax.judging.criteria import Criterion
from hs2jax.judging.lager import Preset
from hs2jax.judging.prompts import Request
from hs2jax.judging.readings import Readings, is_whole, nothing_read
from hs2jax.workdir import row

WAYS = ("pointwise", "question")


def asked(
    prompt: str, first: str, second: str, source: str, criterion: Criterion, way: str
) -> list[Request]:
    """Make the two requests of one pair."""
    orders = ((first, second), (second, first))
    if way == "pointwise":
        return [prompts.pointwise(prompt, a, [criterion], source) for a, _ in orders]
    return [prompts.pair(prompt, a, b, criterion, source) for a, b in orders]


def margins(
    logits, criterion: Criterion, way: str, aggregation: str, preset: Preset, weights=None
) -> np.ndarray:
    """Measure by how much the first response of each pair is judged better; f32 [P], 0 is a tie.

    logits: [P, 2, 2, L + 1, S], of the pair's two requests. For "pointwise" the margin is the
    difference of the scores, on the criterion's scale; for "question" it is the probability of the
    first response (A in its order, B in the other), averaged over both orders, less one half.
    Swapping the two responses negates it. Raises ValueError as `lager.aggregate` does.
    """
    if way == "pointwise":
        scores = lager.aggregate(logits, criterion.scale, aggregation, preset, weights)
        return scores[:, 0] - scores[:, 1]
    a, b = letters(logits, aggregation, preset, weights)
    # By the rarer letter, as the other's probability may be 1 to float32 in both orders.
    rarer_a = a.sum(axis=1) < b.sum(axis=1)
    return np.where(rarer_a, a[:, 0] - a[:, 1], b[:, 1] - b[:, 0]) / 2


def letters(logits, aggregation: str, preset: Preset, weights=None) -> tuple[np.ndarray, ...]:
    """Return the aggregated probabilities of A and of B, f32 [P, 2] each, of logits
    [P, 2, 2, L + 1, 2]; where the aggregation takes the likeliest answer, 1 and 0."""
    return tuple(
        lager.aggregate(logits, values, aggregation, preset, weights) for values in ((1, 0), (0, 1))
    )


def pair_rows(
    readings: Readings,
    groups: Sequence[Group],
    criterion: Criterion,
    record: Record,
    *,
    preset: Preset = lager.PRESETS["recommended"],
    weights: Sequence[float] | None = None,
    skip: bool = False,
) -> list[dict]:
    """Make rows of how often a judge prefers what people prefer, asked in both ways.

    record: counts pairs, ties (of people), pairs of equal texts, and pairs that could not be read
    in both ways.
    weights: [L'], fitted for scores; weighted aggregations are left out without. skip: leave out
    and count a pair whose readings are not finite, instead of raising ValueError.

    part "way/NAME", for each aggregation: accuracy, the share of pairs whose chosen response has
    the strictly higher score; `accuracy_half_credit` gives equal ones half. accuracy `against`
    "longer" or "shorter": the lead over the better of these two rules, whose own accuracy has the
    part "". Of the question, consistency: how often both orders name the same response; says_a:
    how often a request is answered with A. Raises ValueError where no pair could be read.
    """
    compared = []
    for group in groups:
        found, ties = pairs(group)
        found, alike = distinct(found, group.responses)
        record.ties += ties
        record.indistinct += alike
        prompt, responses = prompt_text(group), group.responses
        compared += [(prompt, responses[a], responses[b], group.source) for a, b, _ in found]
    if not compared:
        raise ValueError("none of the groups has a preference: give data with pairs")
    read = []
    for way in WAYS:
        requests = [request for pair in compared for request in asked(*pair, criterion, way)]
        read.append(list(in_parts(readings.stream(requests, f"pairs, {way}"), 2)))
    whole = [
        i
        for i, each in enumerate(zip(*read, strict=True))
        if is_whole(sum(each, ()), record, compared[i][3], skip=skip)
    ]
    if not whole:
        raise nothing_read("none of the pairs", record)
    logits = {
        way: np.array([[reading.logits[0] for reading in of_way[i]] for i in whole])
        for way, of_way in zip(WAYS, read, strict=True)
    }
    compared = [compared[i] for i in whole]
    record.pairs = len(compared)
    prompt = statistics.numbered([prompt for prompt, *_ in compared])
    longer = np.array([len(chosen) - len(rejected) for _, chosen, rejected, _ in compared])
    rules = {"longer": longer, "shorter": -longer}
    best = max(rules, key=lambda rule: (rules[rule] > 0).sum())
    rows = [row("pairs", "", "prompts", len(set(prompt.tolist())))]
    for rule, margin in rules.items():
        rows += _accuracy_rows("", rule, margin, prompt)
    for way in WAYS:
        for name in lager.AGGREGATIONS:
            if weights is None and name in lager.WEIGHTED:
                continue
            part = f"way/{way}"
            margin = margins(logits[way], criterion, way, name, preset, weights)
            rows += _accuracy_rows(part, name, margin, prompt, best, rules[best])
            if way == "question":
                said = np.sign(np.subtract(*letters(logits[way], name, preset, weights)))
                habits = {
                    "consistency": (said.prod(axis=1) < 0).mean(),
                    "says_a": (said > 0).mean(),
                }
                rows += rows_of("pairs", part, len(said), habits, method=name)
    return rows


def _accuracy_rows(part: str, method: str, margin, prompt, against=None, other=None) -> list[dict]:
    """Of margins [P], and of their lead over a rule's."""
    right, equal, place = margin > 0, margin == 0, ("pairs", part, len(margin))
    accuracy = {"accuracy": statistics.share(right, prompt)}
    counts = {"accuracy_half_credit": (right + 0.5 * equal).mean(), "equal": equal.sum()}
    rows = rows_of(*place, accuracy, method=method, **OVER_HALF, headline=True)
    rows += rows_of(*place, counts, method=method)
    if against:
        lead = [right.astype(float) - (other > 0)]
        lead = statistics.interval(np.mean, lead, prompt, statistics.OF_SHARES)._replace(p=None)
        rows += rows_of(*place, {"accuracy": lead}, method=method, against=against, **OVER_ZERO)
    return rows
