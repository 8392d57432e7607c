"""Which of two responses a judge finds better, asked in two ways.

"pointwise": each response is scored by itself, and the higher score wins. "question": the judge is
shown both and says which is better, A or B, in both orders, so that what it likes about a place or
a letter cancels. LAGER (arXiv 2508.03550) scores single responses; both ways are this project's,
with the paper's aggregations over layers.

Each pair has two requests: of its first response and of its second, or in its order and swapped.
Axis letters: P pairs, 2 requests of a pair, 2 norms, L layers, S answers.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hs2jax.data.groups import Group, pairs, prompt_text
from hs2jax.evaluation.statistics import difference_interval, share_interval
from hs2jax.judging import criteria as criteria_files
from hs2jax.judging import lager, prompts, readings, tasks
from hs2jax.judging.criteria import Criterion
from hs2jax.judging.judge import Judge, Reading
from hs2jax.judging.lager import Preset
from hs2jax.judging.prompts import Request

WAYS = ("pointwise", "question")


class Pair(NamedTuple):
    """The texts of a pair: the prompt, the better response, the worse one; and where it is from."""

    prompt: str
    chosen: str
    rejected: str
    source: str


def pairs_of(groups: Sequence[Group]) -> list[Pair]:
    """All pairs of all groups that have a preference."""
    return [
        Pair(prompt_text(group), group.responses[better], group.responses[worse], group.source)
        for group in groups
        for better, worse, _ in pairs(group)[0]
    ]


def requests(groups: Sequence[Group], criterion: Criterion, way: str) -> list[Request]:
    """The two requests of each pair, [2 P], of all groups with a preference; the chosen response is
    the first. Raises ValueError for an unknown way."""
    return [
        request
        for pair in pairs_of(groups)
        for request in asked(*pair[:3], criterion, way, pair.source)
    ]


def asked(
    prompt: str, first: str, second: str, criterion: Criterion, way: str, source: str = ""
) -> list[Request]:
    """The two requests of one pair."""
    _check(way)
    orders = ((first, second), (second, first))
    if way == "pointwise":
        return [prompts.pointwise(prompt, a, [criterion], source) for a, _ in orders]
    return [prompts.pair(prompt, a, b, [criterion], source) for a, b in orders]


def margins(
    logits, criterion: Criterion, way: str, aggregation: str, preset: Preset, weights=None
) -> np.ndarray:
    """By how much the first response of each pair is judged better; f32 [P], 0 is a tie.

    logits: [P, 2, 2, L + 1, S], of the pair's two requests. For "pointwise" the margin is the
    difference of the scores, on the criterion's scale; for "question" it is the probability of the
    first response (A in its order, B in the other), averaged over both orders, less one half. A
    probability and not log-odds, as all ten aggregations have one; the sign is the same.
    Swapping the two responses negates it. Raises ValueError as `lager.aggregate` does, and for an
    unknown way.
    """
    _check(way)
    if way == "pointwise":
        values = np.asarray(criterion.scale, np.float32)
        scores = np.asarray(lager.aggregate(logits, values, aggregation, preset, weights))
        return scores[:, 0] - scores[:, 1]
    a, b = letters(logits, aggregation, preset, weights)
    # By the rarer letter, as the other's probability may be 1 to float32 in both orders.
    rarer_a = a.sum(axis=1) < b.sum(axis=1)
    return np.where(rarer_a, a[:, 0] - a[:, 1], b[:, 1] - b[:, 0]) / 2


def letters(logits, aggregation: str, preset: Preset, weights=None) -> tuple[np.ndarray, ...]:
    """The aggregated probabilities of A and of B, f32 [P, 2] each, of logits [P, 2, 2, L + 1, 2];
    where the aggregation takes the likeliest answer, 1 and 0."""
    return tuple(
        np.asarray(lager.aggregate(logits, np.float32(values), aggregation, preset, weights))
        for values in ((1, 0), (0, 1))
    )


def compare(
    judge: Judge,
    prompt: str,
    first: str,
    second: str,
    criterion: str | Criterion = "helpfulness",
    *,
    way: str = "question",
    preset: Preset = lager.PRESETS["recommended"],
    weights=None,
) -> float:
    """The probability that the first response is better; 1 less that of the swapped pair.

    For "question" it is the judge's, averaged over both orders. For "pointwise" it is that of a
    higher score, where each response's is drawn from its own distribution and equal ones count
    half. criterion, weights: as for `Judge.score`.
    Raises ValueError where a request is longer than the model's positions.
    """
    if isinstance(criterion, str):
        criterion = criteria_files.find(criterion)
    found = judge.read(asked(prompt, first, second, criterion, way))
    logits = np.stack([reading.logits[0] for reading in found])
    if way == "question":
        name = "lager_wo" if weights is None else "lager_w"
        return 0.5 + float(margins(logits[None], criterion, way, name, preset, weights)[0])
    one, other = np.asarray(lager.distribution(logits, preset, weights), np.float64)
    wins = np.tril(np.outer(one, other), -1).sum()
    losses = np.tril(np.outer(other, one), -1).sum()
    return 0.5 + float(wins - losses) / 2


def evaluate(
    judge: Judge,
    groups: Sequence[Group],
    criterion: Criterion,
    folder: Path | None,
    *,
    preset: str = "recommended",
    weights: Sequence[float] | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> dict:
    """How often a judge prefers what people prefer, asked in both ways.

    Args:
        judge: its readings are kept in `folder`, if there is one.
        groups: those without a preference are left alone.
        preset: one of `lager.PRESETS`.
        weights: [L'] for the weighted aggregations, which are left out without. They are those of
            scores; the question is weighed by them too.
        progress: as for `readings.kept`, in requests.

    Returns a dict that JSON can hold: criterion, preset, weights_from, prompts, pairs (read in both
    ways: only these count), ties (of people), left_out, baselines ("longer" and "shorter" wins),
    best_baseline (which of them is right more often) and ways {way: {aggregation: ...}}, where each
    has

    * accuracy: the share of pairs whose chosen response has the strictly higher score, with its
      95% interval, by prompts; equal scores (`equal`) are wrong, and `accuracy_half_credit` gives
      them one half.
    * lead: how far accuracy is above that of the best baseline, with its 95% interval
      (`lead_interval`) on the same pairs.
    * of the question, consistency: how often both orders name the same response; says_a: how often
      a request is answered with A.

    Raises ValueError where there is no pair, or none that could be read.
    """
    compared = pairs_of(groups)
    if not compared:
        raise ValueError("none of the groups has a preference: give data with pairs")
    found = {
        way: list(
            readings.kept(
                judge,
                requests(groups, criterion, way),
                folder,
                progress=progress,
            )
        )
        for way in WAYS
    }
    logits, places, left_out = _gather(found)
    compared = [compared[i] for i in places]
    numbers = {prompt: i for i, prompt in enumerate({pair.prompt: None for pair in compared})}
    cluster = np.array([numbers[pair.prompt] for pair in compared])
    longer = np.array([len(pair.chosen) - len(pair.rejected) for pair in compared])
    rules = {"longer": longer, "shorter": -longer}
    best = max(rules, key=lambda rule: (rules[rule] > 0).sum())
    names = [n for n in lager.AGGREGATIONS if weights is not None or n not in lager.WEIGHTED]
    by = (lager.PRESETS[preset], weights)
    return {
        "criterion": criterion.name,
        "preset": preset,
        "weights_from": None if weights is None else "given",
        "prompts": len(numbers),
        "pairs": len(compared),
        "ties": sum(pairs(group)[1] for group in groups),
        "left_out": left_out,
        "baselines": {rule: _accuracy(margin, cluster) for rule, margin in rules.items()},
        "best_baseline": best,
        "ways": {
            way: {
                name: {
                    **_against(
                        margins(logits[way], criterion, way, name, *by), rules[best], cluster
                    ),
                    **(_habits(*letters(logits[way], name, *by)) if way == "question" else {}),
                }
                for name in names
            }
            for way in WAYS
        },
    }


def describe(result: dict) -> str:
    """A result in a few lines."""
    longer = result["baselines"]["longer"]["accuracy"]
    weights = "given weights" if result["weights_from"] else "no weights"
    lines = [
        f"pairs by {result['criterion']}: {result['pairs']} pairs of {result['prompts']} prompts"
        f"{tasks.describe_left_out(result['left_out'])}, {result['ties']} ties; preset "
        f"{result['preset']}, {weights}; the longer one wins {longer:.1%}"
    ]
    for way, rows in result["ways"].items():
        orders = f"{'same in both orders':21}says A" if way == "question" else ""
        heading = f"  {way:24}{'accuracy [95%]':24}{'ties as half':14}{orders}"
        lines.append(heading.rstrip())
        for name, row in rows.items():
            accuracy = f"{row['accuracy']:.3f}{tasks.describe_interval(row['interval'])}"
            line = f"  {name:24}{accuracy:24}{row['accuracy_half_credit']:<14.3f}"
            if way == "question":
                line += f"{row['consistency']:<21.1%}{row['says_a']:.1%}"
            lines.append(line.rstrip())
    return "\n".join(lines)


def _gather(found: dict[str, list[Reading | None]]) -> tuple[dict, list[int], dict]:
    """Of the pairs that were read in every way: logits {way: [P, 2, 2, L + 1, S]}, their numbers,
    and how many of the others there are, by reason. Raises ValueError where no pair is left."""
    logits, places, left_out = {way: [] for way in found}, [], {}
    for i in range(len(found["question"]) // 2):
        both = {way: read[2 * i : 2 * i + 2] for way, read in found.items()}
        every = [reading for two in both.values() for reading in two]
        if any(reading is None for reading in every):
            tasks.count(left_out, "too long", 1)
        elif not all(np.isfinite(reading.logits).all() for reading in every):
            tasks.count(left_out, "not finite", 1)
        else:
            places.append(i)
            for way, two in both.items():
                logits[way].append([reading.logits[0] for reading in two])
    if not places:
        raise ValueError(
            f"the judge read none of the pairs{tasks.describe_left_out(left_out)}: use shorter "
            "texts, a model with more positions, or another dtype"
        )
    return {way: np.array(rows) for way, rows in logits.items()}, places, left_out


def _habits(a: np.ndarray, b: np.ndarray) -> dict:
    """What probabilities of A and B [P, 2] say of the judge."""
    said = np.sign(a - b)
    return {
        "consistency": float((said[:, 0] * said[:, 1] < 0).mean()),
        "says_a": float((said > 0).mean()),
    }


def _accuracy(margin: np.ndarray, prompt: np.ndarray) -> dict:
    right, equal = margin > 0, margin == 0
    return {
        "accuracy": float(right.mean()),
        "interval": share_interval(right, prompt)[0],
        "accuracy_half_credit": float((right + 0.5 * equal).mean()),
        "equal": int(equal.sum()),
    }


def _against(margin: np.ndarray, rule: np.ndarray, prompt: np.ndarray) -> dict:
    """The accuracy of margins, and its lead over that of a rule's margins."""
    lead = (margin > 0).astype(float) - (rule > 0)
    return {
        **_accuracy(margin, prompt),
        "lead": float(lead.mean()),
        "lead_interval": difference_interval(lead, prompt),
    }


def _check(way: str) -> None:
    if way not in WAYS:
        raise ValueError(f"way is {way!r}; it must be one of {', '.join(WAYS)}")
