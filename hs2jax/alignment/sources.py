"""Sources of answers to prompts: a language model of ours, or a file of what somebody else sampled.
`alignment.server` has another one.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from hs2jax.alignment import stage
from hs2jax.data import chat, corpora
from hs2jax.data.groups import Group
from hs2jax.data.record import Record
from hs2jax.identity import content_key
from hs2jax.language_model import LanguageModel
from hs2jax.models.config import Config

SETTINGS = ("temperature", "top_p", "top_k", "max_new_tokens", "seed")


class Source(NamedTuple):
    """Who answers.

    identity: what the answers follow from, beside prompts and the config.
    fitting(groups, record): leaves out the groups that it cannot answer, and counts them.
    alone: an answer does not depend on others: see `stage.Run.each`.
    answer(groups, their numbers): the responses of each group, a dict:

        "responses": texts; and where they are known, a list with one for each of them, "tokens":
        the model's own token ids, with the end of turn; "finished": whether it came to its end;
        "log_proposal": log Q'(y|a,x) in nats. Or {"refused": why}, of a group without an answer.
    """

    identity: str
    fitting: Callable[[Sequence[Group], Record], list[Group]]
    answer: Callable[[Sequence[Group], Sequence[int]], Iterable]
    alone: bool = False


def of_model(model: LanguageModel, config) -> Source:
    """A language model of ours answers."""

    def answer(groups: Sequence[Group], numbers: Sequence[int]) -> list[dict]:
        settings = {name: config[name] for name in SETTINGS}
        return [
            {
                "responses": [each.text for each in some],
                "tokens": [each.tokens.tolist() for each in some],
                "finished": [each.finished for each in some],
                "log_proposal": [float(each.log_probabilities.sum()) for each in some],
            }
            for some in model.sample_groups(groups, config.n, first=numbers[0], **settings)
        ]

    room = functools.partial(fitting, model.tokenizer, model.config, config)
    return Source(stage.identity(model), room, answer)


def fitting(
    tokenizer,
    model: Config,
    config,
    groups: Sequence[Group],
    record: Record,
    positions: int | None = None,
) -> list[Group]:
    """Leave out groups with prompts that leave no room for `config.max_new_tokens` in so many
    positions, None for the model's, and count them in the record.

    Raises ValueError for such a group unless config.on_error is "skip".
    """
    skip, found = config.on_error == "skip", []
    room = (positions or model.max_seq_len) - config.max_new_tokens
    skipped = record if skip else None
    every = chat.prompt_ids(tokenizer, groups, skipped, vocab_size=model.vocab_size)
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


def of_file(config, record: Record) -> Source:
    """Responses of `config.responses`, which were sampled before. Rows are found by their prompts,
    and rows with the same prompt are taken together; all of their responses are taken, however
    many. What is skipped is counted. Raises ValueError or DataError."""
    responses: dict[str, list[str]] = {}
    own = Record()
    for group in corpora.read(config.responses, on_error=config.on_error, record=own):
        responses.setdefault(content_key(group.prompt), []).extend(group.responses)
    record.skip_as(own)

    def answered(groups: Sequence[Group], record: Record) -> list[Group]:
        found = [group for group in groups if content_key(group.prompt) in responses]
        if len(found) < len(groups) and config.on_error == "skip":
            record.skip("no responses to the prompt", len(groups) - len(found))
        elif len(found) < len(groups):
            other = next(group for group in groups if group not in found)
            raise ValueError(
                f"{other.source}: {config.responses} has no responses to this prompt; leave such "
                "prompts out with config.on_error=skip"
            )
        return found

    def answer(groups: Sequence[Group], numbers: Sequence[int]) -> list[dict]:
        return [{"responses": responses[content_key(group.prompt)]} for group in groups]

    return Source(content_key(responses), answered, answer)
