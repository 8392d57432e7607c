"""Tokens of training data: where they are kept, and what is made of groups before and after."""

import dataclasses
import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import tokenizers
import transformers

from hs2jax import session, survey
from hs2jax.data import conversations, corpora, loader, records
from hs2jax.data.groups import Group
from hs2jax.data.packing import Example
from hs2jax.data.record import Record
from hs2jax.identity import content_key
from hs2jax.losses import steerlm
from hs2jax.models.hf.fingerprint import code_hash

log = logging.getLogger(__name__)


def folder(data, spec: str, tokenizer, settings: Mapping) -> Path | None:
    """Find the folder of a specification's tokens, which is named by all that they follow from.

    data: `config.data`; settings: how groups are tokenised. None, and a warning, where there can
    be no folder; None for a tokenizer whose content cannot be told.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    how = {"skip": data.on_error == "skip", "derive": data.get("derive", "")}
    found = [survey.survey(part, **how) for part in corpora.split(spec)]
    counted = [each.record and dataclasses.asdict(each.record) for each in found]
    key = content_key(
        [counted, [(each.digest, each.sources) for each in found]],
        [backend.to_str(), tokenizer.get_chat_template(), tokenizer.special_tokens_map],
        [settings, data.get("condition"), data.get("pairs"), code_hash()],
        [transformers.__version__, tokenizers.__version__],
    )
    try:
        place = session.cache_folder() / "tokens" / key
        if why := session.refusal(str(place)):
            raise OSError(f"{place} {why}")
    except OSError as error:
        log.warning("%s: tokens are kept in memory, and made again by the next run", error)
        return None
    return place


def conditioned(groups: Iterable[Group], record: Record) -> Iterator[Group]:
    """Make each rated response a group of its own that is asked for the response's ratings, put
    between 0 and 4 and rounded, halves to even as NeMo-Aligner does. Others are counted as left
    out. Raises ValueError for a group that has a condition already."""
    for group in groups:
        if group.condition:
            raise ValueError(
                f"{group.source}: has a condition of its own, so its ratings cannot be one; leave "
                "config.data.condition empty"
            )
        known = group.ratings or [{}] * len(group.responses)
        for response, ratings in zip(group.responses, known, strict=True):
            if not ratings:
                record.skip("response without ratings")
                continue
            condition = {name: int(steerlm.rounded(x)) for name, x in ratings.items()}
            yield Group(group.prompt, (response,), source=group.source, condition=condition)


def together(prepared: loader.Prepared) -> loader.Prepared:
    """Join neighbours that answer the same prompt, each behind its own condition, to one group, so
    that the prompt is computed once. Their conditions are in the responses, and are not learned."""
    groups, examples = prepared
    parts = [
        part
        for _, run in itertools.groupby(range(len(groups)), key=lambda i: groups[i].prompt)
        for part in conversations.in_parts(run, conversations.SHARED)
    ]

    def group(i: int) -> Group:
        responses = tuple(groups[each].responses[0] for each in parts[i])
        return dataclasses.replace(groups[parts[i][0]], responses=responses, condition={})

    def example(i: int) -> Example:
        return conversations.join([examples[each].encoded for each in parts[i]])

    table = records.table(map(example, range(len(parts))))
    return loader.Prepared(records.Rows(table, group), records.Rows(table, example))
