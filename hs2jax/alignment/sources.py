"""Sources of answers to prompts: a language model of ours, or a file of what somebody else sampled.

A source has an `identity`, which its answers follow from, and two methods: `fitting` leaves out the
prompts that it cannot answer, and `answer` gives the responses of each of some groups, a dict:

    "responses": texts; and where they are known, a list with one for each of them, "tokens": the
    model's own token ids, with the end of turn; "finished": whether it came to its end;
    "log_proposal": log Q'(y|a,x) in nats

`alignment.server` has another source.
"""

import dataclasses
from collections.abc import Sequence

import ml_collections

from hs2jax.data import chat, corpora
from hs2jax.data.groups import Group
from hs2jax.data.record import Record
from hs2jax.language_model import LanguageModel
from hs2jax.workdir import content_key


@dataclasses.dataclass
class ModelSource:
    """A language model of ours answers."""

    model: LanguageModel
    config: ml_collections.ConfigDict
    identity: str

    def fitting(self, groups: Sequence[Group], record: Record) -> list[Group]:
        room = self.model.config.max_seq_len - self.config.max_new_tokens
        return fitting(self.model, groups, room, record, self.config.on_error)

    def answer(self, groups: Sequence[Group], first: int) -> list[dict]:
        """first: how many groups came before them."""
        settings = ("temperature", "top_p", "top_k", "max_new_tokens", "seed")
        found = self.model.sample_groups(
            groups, self.config.n, first=first, **{name: self.config[name] for name in settings}
        )
        return [
            {
                "responses": [each.text for each in some],
                "tokens": [each.tokens.tolist() for each in some],
                "finished": [each.finished for each in some],
                "log_proposal": [float(each.log_probabilities.sum()) for each in some],
            }
            for some in found
        ]


def fitting(reader, groups: Sequence[Group], room: int, record: Record, on_error: str):
    """Leave out groups with prompts of more than `room` tokens, and count them in the record.

    reader: has the tokenizer, and as `read` how the end of a turn is found. Raises ValueError for
    such a group unless on_error is "skip".
    """
    skip, found = on_error == "skip", []
    every = chat.prompt_ids(reader.tokenizer, groups, reader.read, record if skip else None)
    for group, ids in zip(groups, every, strict=True):
        if ids is None:
            continue
        if len(ids) <= room:
            found.append(group)
        elif skip:
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

    responses: dict[str, list[str]]
    config: ml_collections.ConfigDict

    @classmethod
    def read(cls, config, record: Record) -> "FileSource":
        """Those of `config.responses`; what is skipped is counted. Raises ValueError or
        DataError."""
        found: dict[str, list[str]] = {}
        own = Record()
        for group in corpora.read(config.responses, on_error=config.on_error, record=own):
            found.setdefault(content_key(group.prompt), []).extend(group.responses)
        record.skip_as(own)
        return cls(found, config)

    @property
    def identity(self) -> str:
        return content_key(self.responses)

    def fitting(self, groups: Sequence[Group], record: Record) -> list[Group]:
        """Those that there are responses to; the others are counted, or raised."""
        found = []
        for group in groups:
            if content_key(group.prompt) in self.responses:
                found.append(group)
            elif self.config.on_error == "skip":
                record.skip("no responses to the prompt")
            else:
                raise ValueError(
                    f"{group.source}: {self.config.responses} has no responses to this prompt; "
                    "leave such prompts out with config.on_error=skip"
                )
        return found

    def answer(self, groups: Sequence[Group], first: int) -> list[dict]:
        return [{"responses": self.responses[content_key(group.prompt)]} for group in groups]
