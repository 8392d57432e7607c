"""Who answers prompts: a language model of ours, or a file of what somebody else sampled.

A source has two methods: `fitting` leaves out the prompts that it cannot answer, and `answer` gives
the responses of each of some groups. `alignment.server` has another source.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import ml_collections

from hs2jax.data import chat, corpora
from hs2jax.data.groups import Group
from hs2jax.data.record import Record
from hs2jax.language_model import LanguageModel


class Answer(NamedTuple):
    """A response: whether it came to its end, the model's own tokens of it with the end of turn,
    and log Q'(y|a,x) in nats. None is unknown."""

    text: str
    finished: bool | None = None
    tokens: list[int] | None = None
    log_probability: float | None = None


@dataclasses.dataclass
class ModelSource:
    """A language model of ours answers."""

    model: LanguageModel
    config: ml_collections.ConfigDict

    def fitting(self, groups: Sequence[Group], record: Record) -> list[Group]:
        """Without the prompts that leave no room to answer, which are counted, or raised."""
        return fitting(
            self.model.tokenizer,
            self.model.read,
            groups,
            self.model.config.max_positions - self.config.max_new_tokens,
            record if self.config.on_error == "skip" else None,
        )

    def answer(self, groups: Sequence[Group], start: int) -> list[list[Answer]]:
        """The responses of each; `start`: how many groups came before them."""
        found = self.model.sample_groups(
            groups,
            self.config.n,
            temperature=self.config.temperature,
            top_p=self.config.top_p,
            top_k=self.config.top_k,
            max_new_tokens=self.config.max_new_tokens,
            seed=self.config.seed,
            first=start,
        )
        return [
            [
                Answer(s.text, s.finished, s.tokens.tolist(), float(s.log_probabilities.sum()))
                for s in some
            ]
            for some in found
        ]


def fitting(
    tokenizer, read: str, groups: Sequence[Group], room: int, record: Record | None
) -> list[Group]:
    """The groups with prompts of at most `room` tokens; what is not is counted in the record.
    Without one, raises ValueError."""
    found = []
    for group, ids in zip(groups, chat.prompt_ids(tokenizer, groups, read, record), strict=True):
        if ids is None:
            continue
        if len(ids) <= room:
            found.append(group)
        elif record is not None:
            record.too_long += 1
        else:
            raise ValueError(
                f"{group.source}: the prompt has {len(ids)} tokens, and only {max(room, 0)} leave "
                "room for config.max_new_tokens: lower that, or leave such prompts out "
                "(config.on_error=skip)"
            )
    return found


@dataclasses.dataclass
class FileSource:
    """Responses that were sampled before. Rows are found by their prompts, and rows with the same
    prompt are taken together; all of their responses are taken, however many."""

    responses: dict[tuple, list[str]]
    config: ml_collections.ConfigDict

    @classmethod
    def read(cls, config, record: Record) -> "FileSource":
        """Those of `config.responses`; what is skipped is counted. Raises ValueError or
        DataError."""
        found: dict[tuple, list[str]] = {}
        own = Record()
        for group in corpora.read(config.responses, on_error=config.on_error, record=own):
            found.setdefault(_key(group), []).extend(group.responses)
        record.skip_as(own)
        return cls(found, config)

    def fitting(self, groups: Sequence[Group], record: Record) -> list[Group]:
        """Those that there are responses to; the others are counted, or raised."""
        found = []
        for group in groups:
            if _key(group) in self.responses:
                found.append(group)
            elif self.config.on_error == "skip":
                record.skip("no responses to the prompt")
            else:
                raise ValueError(
                    f"{group.source}: {self.config.responses} has no responses to this prompt; "
                    "leave such prompts out with config.on_error=skip"
                )
        return found

    def answer(self, groups: Sequence[Group], start: int) -> list[list[Answer]]:
        return [[Answer(text) for text in self.responses[_key(group)]] for group in groups]


def _key(group: Group) -> tuple:
    return tuple((turn["role"], turn["content"]) for turn in group.prompt)
