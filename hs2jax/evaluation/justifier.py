"""A language model as a rater: it says which of two responses is better (the Pairwise Justifier of
HelpSteer2-Preference, arXiv 2410.01257; `data.justifications` has its words and its training).

A pair is shown in both orders, and what is said is averaged, so that a liking for a place cancels.
Two ways: "statements", the log-probability of "@Response 1 is better ..." less that of "@Response 2
is better ...", in nats, without a word being written; and "written", the statement that ends what
the model writes, greedily, 1 for the first response, -1 for the second, 0 where there is none.

The preference of i over j becomes a reward of each: the mean over all n responses of a group (0
against itself), which for two gives their difference back, and for more fits all differences in
the least squares. That makes the model a rater like any reward model; the published evaluation has
pairs alone.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from hs2jax.data import rows as row_fields
from hs2jax.data.conversations import in_parts
from hs2jax.data.groups import Group
from hs2jax.data.justifications import STATEMENTS, question, verdict
from hs2jax.data.record import Record
from hs2jax.evaluation import statistics
from hs2jax.evaluation.measures import rows_of
from hs2jax.evaluation.scores import Scored
from hs2jax.identity import content_key
from hs2jax.language_model import LanguageModel
from hs2jax.store import Store
from hs2jax.workdir import row

VERSION = 1  # To be raised when the way of asking changes.
LONGEST = 512  # Tokens that are written.
ASKED = 32  # Questions that are answered before their answers are kept.
NO_ROOM = "two responses that do not fit, or that the chat template refuses"


@dataclasses.dataclass(repr=False)
class Justifier(LanguageModel):
    """A language model that compares two responses in one of `data.justifications.WAYS`.

    Its outputs are the rewards that a response gets where it is shown first, and second.
    """

    way: str = "statements"
    outputs = ("shown_first", "shown_second")
    weights = None

    def scalar_weights(self) -> np.ndarray:
        """Both orders count alike."""
        return np.full(2, 0.5, np.float32)

    def stream(
        self,
        groups: Sequence[Group],
        store: Store,
        *,
        leave_out: bool,
        record: Record,
        progress=lambda groups: None,
    ) -> Iterator[Scored]:
        """Score groups as `scores.stream` does, computing what is not kept.

        A comparison without a verdict is 0, and is counted in the record by its reason. leave_out:
        leave a group out of which log-probabilities are not finite, instead of raising ValueError.
        What is written about the two responses of a pair stands in `about`.
        """
        for some in in_parts(groups, ASKED):
            every = [_orders(group) for group in some]
            self._answer(itertools.chain(*(x.values() for x in every)), store)
            for group, orders in zip(some, every, strict=True):
                progress(1)
                found = {pair: store.get(self._key(asked)) for pair, asked in orders.items()}
                ids = self.tokenizer(list(group.responses), add_special_tokens=False)["input_ids"]
                n, lengths = len(group.responses), list(map(len, ids))
                if None in found.values():
                    what = f"{group.source}: log-probabilities are not finite"
                    if not leave_out:
                        raise ValueError(what)
                    record.skip("not finite", example=what)
                    yield Scored(group, None, [], 0, [])
                    continue
                table, texts = np.zeros((n, 2), np.float32), {}
                for (first, second), said in found.items():
                    if why := said.get("why"):
                        record.without_verdict[why] = record.without_verdict.get(why, 0) + 1
                    table[first, 0] += said["margin"] / n
                    table[second, 1] -= said["margin"] / n
                    if n == 2 and said.get("text", "").strip():
                        texts[f"{first + 1} before {second + 1}"] = said["text"]
                told = dataclasses.replace(group, about=group.about | texts)
                yield Scored(told, table, lengths, 0, list(group.responses))

    def _key(self, asked: str) -> str:
        return content_key(VERSION, self.way, LONGEST, STATEMENTS, asked)

    def _answer(self, asked: Iterable[str], store: Store) -> None:
        """Keep what is said to each question that is not answered yet."""
        asked = list(dict.fromkeys(asked))
        store.share([self._key(each) for each in asked])
        for some in in_parts([each for each in asked if self._key(each) not in store], ASKED):
            turns = [row_fields.user_turn(each) for each in some]
            posed = [Group(x, STATEMENTS, source=f"question {i}") for i, x in enumerate(turns)]
            read = self._read if self.way == "statements" else self._write
            found = [said or {"margin": 0.0, "why": NO_ROOM} for said in read(posed)]
            store.add({self._key(x): said for x, said in zip(some, found, strict=True)})

    def _read(self, posed: Sequence[Group]) -> Iterator[dict | None]:
        for logs in self.log_probability_groups(posed, skip=True):
            first, second = (x.sum(dtype=np.float64) for x in logs) if logs else (0, 0)
            yield logs and {"margin": float(first - second)}

    def _write(self, posed: Sequence[Group]) -> Iterator[dict | None]:
        greedy = {"temperature": 0.0, "max_new_tokens": LONGEST}
        for samples in self.sample_groups(posed, 1, skip=True, **greedy):
            if not samples:
                yield None
                continue
            (one,) = samples
            found = verdict(one.text, one.finished)
            said = {"why": found} if isinstance(found, str) else {}
            margin = {1: 1.0, 2: -1.0}.get(found, 0.0)
            margin = margin if np.isfinite(one.log_probabilities).all() else np.nan
            yield {"margin": margin, "text": one.text} | said


def _orders(group: Group) -> dict[tuple[int, int], str]:
    """The question about each two responses that differ, in both orders, by (first, second)."""
    texts = group.responses
    return {
        (i, j): question(group.prompt, texts[i], texts[j])
        for i, j in itertools.permutations(range(len(texts)), 2)
        if texts[i] != texts[j]
    }


def rows(set: str, items: Sequence[dict], record: Record) -> list[dict]:
    """Measure, over pairs of two responses: consistency, how often both orders name the same one;
    says_first, how often the one that is shown first is named; no_verdict, how often none is; and
    count, over all questions, why there is none."""
    found = [
        row(set, "", "without_verdict", n, note=why) for why, n in record.without_verdict.items()
    ]
    two = [item for item in items if len(item["outputs"]) == 2 and item["pairs"]]
    if not two:
        return found
    # What is said of the two orders, above 0 for the response that is shown first.
    said = np.sign([[outputs[0] for outputs in item["outputs"]] for item in two])
    prompt = [item["prompt"] for item in two]
    twice = np.repeat(prompt, 2)
    values = {
        "consistency": statistics.share(said.prod(axis=1) < 0, prompt),
        "says_first": statistics.share(said.ravel() > 0, twice),
        "no_verdict": statistics.share(said.ravel() == 0, twice),
    }
    return found + rows_of(set, "", len(two), values)
