"""A set of data as a judge reads it, beside what people said of it."""

import dataclasses
import itertools
import re
from collections.abc import Sequence

import numpy as np

from hs2jax.data import corpora
from hs2jax.data.groups import Group, prompt_text
from hs2jax.data.record import Record
from hs2jax.judging import prompts
from hs2jax.judging.criteria import Criterion
from hs2jax.judging.judge import requests_of
from hs2jax.judging.readings import Readings, is_whole, nothing_read

# Formats whose published ratings are 0 to 4; they are judged from 1 to 5, as in the paper.
FROM_ZERO = ("helpsteer", "helpsteer2", "helpsteer2_disagreements")


@dataclasses.dataclass(frozen=True)
class JudgedSet:
    """Responses by criteria, those that could be read: N samples, a response's together.

    logits: f32 [N, 2, L + 1, S]. states: f32 [N, L + 1, D] or None. human: f64 [N], people's
    ratings on the criterion's scale, NaN where there is none. clusters: [N] texts, the prompt of
    each. criterion: int [N], its number. response: int [N, 2], of (group, response) in `groups`.
    """

    groups: list[Group]
    logits: np.ndarray
    states: np.ndarray | None
    human: np.ndarray
    clusters: np.ndarray
    criterion: np.ndarray
    response: np.ndarray
    record: Record

    def rated(self) -> "JudgedSet":
        """Return the samples with a human rating."""
        return self.take(np.flatnonzero(np.isfinite(self.human)))

    def take(self, places: np.ndarray) -> "JudgedSet":
        """Return some samples, by their numbers."""
        names = ("logits", "human", "clusters", "criterion", "response")
        some = {name: getattr(self, name)[places] for name in names}
        states = None if self.states is None else self.states[places]
        return dataclasses.replace(self, states=states, **some)


def judge_set(
    readings: Readings,
    name: str,
    spec: str,
    criteria: Sequence[Criterion],
    *,
    states: bool = False,
    condition: str = "forced",
    place: str = "statement",
    on_error: str = "raise",
) -> JudgedSet:
    """Read all responses of a data specification. name: for progress. condition, place: see
    `Judge.ask`.

    What has no reading is counted in the record by its reason: a response that is longer than the
    model's positions, or, where the judge writes, each criterion by which it gave no score; and
    with on_error "skip" what is not finite. Raises ValueError for that else, where nothing could be
    read and for a rating outside the criteria's scale, and what `corpora.read` raises.
    """
    record = Record()
    groups = list(corpora.read(spec, on_error=on_error, record=record))
    rated = ratings_of(spec, groups, criteria)
    requests = [request for group in groups for request in requests_of(group, criteria, condition)]
    places = iter([(g, *place) for g, each in enumerate(rated) for place in np.ndindex(each.shape)])
    options = {"total": len(requests), "states": states, "condition": condition, "place": place}
    logits, seen, sample = [], [], []
    found = readings.stream(requests, name, **options)
    skip = on_error == "skip"
    for reading, request in zip(found, requests, strict=True):
        asked = list(itertools.islice(places, len(request.questions)))
        if is_whole([reading], record, request.source, skip=skip):
            logits.append(reading.logits)
            seen.append(reading.states)
            sample += asked
    if not logits:
        raise nothing_read(f"no response of {spec}", record)
    return JudgedSet(
        groups=groups,
        logits=np.concatenate(logits),
        states=np.concatenate(seen) if states else None,
        human=np.array([rated[g][r, c] for g, r, c in sample]),
        clusters=np.array([prompt_text(groups[g]) for g, *_ in sample], object),
        criterion=np.array(sample)[:, 2],
        response=np.array(sample)[:, :2],
        record=record,
    )


def ratings_of(
    spec: str, groups: Sequence[Group], criteria: Sequence[Criterion]
) -> list[np.ndarray]:
    """Collect people's ratings on the criteria's scale, f64 [responses, criteria] of each group of
    a specification, NaN where there is none. Raises ValueError for one outside the scale."""
    low, *_, high = prompts.scale_of(criteria)
    formats = {
        re.split(r"[/\[]", path[5:])[0] if (path := each.path).startswith("tfds:") else each.format
        for each in corpora.parse(spec)
    }
    if len({name in FROM_ZERO for name in formats}) > 1:
        raise ValueError(f"{spec}: ratings from 0 and others are one set; judge them apart")
    from_zero, found = formats <= set(FROM_ZERO), []
    for group in groups:
        rated = group.ratings or [{}] * len(group.responses)
        table = np.array([[each.get(c.name) for c in criteria] for each in rated], float)
        found.append(table + low * from_zero)
        for r, c in np.argwhere((found[-1] < low) | (found[-1] > high))[:1]:
            raise ValueError(
                f"{group.source}: {criteria[c].name} is rated {table[r, c]:g}, and the criterion's "
                f"scale is {low} to {high}: give criteria of that scale (config.criteria)"
            )
    if from_zero and high - low != 4 and any(np.isfinite(x).any() for x in found):
        raise ValueError(
            f"{spec}: people rated from 0 to 4, and the criteria's scale is {low} to {high}: give "
            "criteria of five values (config.criteria)"
        )
    return found
