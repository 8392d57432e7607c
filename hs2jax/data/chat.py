"""From messages to token ids, once, through the chat template that the tokenizer holds."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from hs2jax.data.groups import Group
from hs2jax.data.record import Record

READS = ("end_of_turn", "last")


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A group as token ids, int32. Prompt + response is one conversation, up to the token that its
    score is read at.

    `prompt` is what the conversations have in common at their start, never more than the prompt
    with the assistant's header. Where a tokenizer merges characters across the border between
    prompt and response, it is a token or two shorter, so that prompt + response is always to the
    id what the tokenizer gives for the whole text.
    """

    prompt: np.ndarray
    responses: tuple[np.ndarray, ...]


def encode(
    tokenizer, groups: Sequence[Group], read: str = "end_of_turn", skipped: Record | None = None
) -> list[Encoded | None]:
    """Renders and tokenises every conversation of the groups.

    Each starts with exactly one BOS, where the tokenizer adds one by itself. `read` says where it
    ends, which is where its score is read:
    "end_of_turn": at the token that ends the assistant's turn. What the template puts behind it is
        left out, and where a template puts none, the tokenizer's EOS is added.
    "last": at the last token of the text that is not the tokenizer's pad, as `transformers` reads.

    skipped: where a group that the template refuses is counted, whose place is then None.

    Raises ValueError where the tokenizer has no chat template, or lacks an EOS that has to be
    added, and, without `skipped`, where the template refuses a group.
    """
    if read not in READS:
        raise ValueError(f"read is {read!r}; it must be one of {', '.join(READS)}")
    if not groups:
        return []
    if not tokenizer.chat_template:
        raise ValueError(
            "this tokenizer has no chat template, so messages cannot become tokens; use an "
            'instruction-tuned model, or the template "extra_id" (config.model.template)'
        )
    rendered = []
    for group in groups:
        try:
            rendered.append(_texts(tokenizer, group))
        except ValueError as error:
            if skipped is None:
                raise
            skipped.refuse(str(error))
            rendered.append([])
    rows = iter(tokenize(tokenizer, [text for of_group in rendered for text in of_group]))

    special = set(tokenizer.all_special_ids)
    special |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    encoded = []
    for group, of_group in zip(groups, rendered, strict=True):
        if not of_group:
            encoded.append(None)
            continue
        prompt = next(rows)
        whole = [next(rows) for _ in group.responses]
        if read == "last":
            whole = [_without_end(ids, tokenizer.pad_token_id) for ids in whole]
        else:
            whole = [_to_end_of_turn(ids, tokenizer, special) for ids in whole]
        # The token that is read is the response's, even where all that follows the header is pads.
        shared = min(common_prefix([prompt, *whole]), *(len(ids) - 1 for ids in whole))
        encoded.append(
            Encoded(
                np.asarray(prompt[:shared], np.int32),
                tuple(np.asarray(ids[shared:], np.int32) for ids in whole),
            )
        )
    return encoded


def tokenize(tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Ids of texts that a chat template has rendered: each starts with exactly one BOS where the
    tokenizer adds one by itself, and has no special token that is not in its text."""
    if not texts:
        return []
    bos = _added_bos(tokenizer)
    return [_one_bos(ids, bos) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def cut_prompt(encoded: Encoded, excess: int, bos: int | None) -> Encoded | None:
    """Takes `excess` tokens off the prompt's left, behind its BOS; None if it has not so many."""
    keep = 1 if len(encoded.prompt) and encoded.prompt[0] == bos else 0
    if excess > len(encoded.prompt) - keep:
        return None
    prompt = np.concatenate([encoded.prompt[:keep], encoded.prompt[keep + excess :]])
    return dataclasses.replace(encoded, prompt=prompt)


def _texts(tokenizer, group: Group) -> list[str]:
    """The prompt with the assistant's header, and the whole conversation of each response."""
    prompt = list(group.prompt)
    texts = [render(tokenizer, prompt, group.source, add_generation_prompt=True)]
    for response in group.responses:
        turns = [*prompt, {"role": "assistant", "content": response}]
        texts.append(render(tokenizer, turns, group.source, add_generation_prompt=False))
    return texts


def render(tokenizer, turns: Sequence[dict], source: str, *, add_generation_prompt: bool) -> str:
    """The turns as the chat template writes them. Raises ValueError where it refuses them."""
    try:
        return tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except Exception as error:  # Templates raise what they like, jinja2's errors among it.
        raise ValueError(f"{source}: the chat template refuses this: {error}") from error


def _added_bos(tokenizer) -> int | None:
    """The BOS that the tokenizer puts before a plain text, if it does."""
    ids = tokenizer("a")["input_ids"]
    return ids[0] if ids and ids[0] == tokenizer.bos_token_id else None


def _one_bos(ids: list[int], bos: int | None) -> list[int]:
    if bos is None:
        return ids
    start = 0
    while start < len(ids) and ids[start] == bos:
        start += 1
    return [bos, *ids[start:]]


def _to_end_of_turn(ids: list[int], tokenizer, special: set[int]) -> list[int]:
    """Up to the last special token, if only white space follows it; else with EOS added."""
    end = len(ids)
    while end and ids[end - 1] not in special and not tokenizer.decode(ids[end - 1]).strip():
        end -= 1
    if end and ids[end - 1] in special:
        return ids[:end]
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path or type(tokenizer).__name__!r} has no EOS "
            "token, and its chat template ends a turn without a special token, so there is no "
            "token to read the score at: set eos_token in tokenizer_config.json, or use the "
            'template "extra_id" (config.model.template)'
        )
    return [*ids, tokenizer.eos_token_id]


def _without_end(ids: list[int], pad: int | None) -> list[int]:
    """Without the pad tokens at the end, unless there is nothing else."""
    end = len(ids)
    while end > 1 and ids[end - 1] == pad:
        end -= 1
    return ids[:end]


def common_prefix(sequences: Sequence[Sequence[int]]) -> int:
    """How many ids the sequences have in common at their start."""
    length = 0
    for ids in zip(*sequences, strict=False):
        if len(set(ids)) > 1:
            break
        length += 1
    return length
