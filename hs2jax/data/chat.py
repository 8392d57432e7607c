"""From messages to token ids, once, through the chat template that the tokenizer holds."""

import dataclasses
import functools
import itertools
import logging
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from hs2jax.data import control_tokens
from hs2jax.data.control_tokens import RefusedError
from hs2jax.data.groups import Group, show
from hs2jax.data.record import REFUSED, Record
from hs2jax.data.templates import condition_text

log = logging.getLogger(__name__)

READS = ("end_of_turn", "last")
TOLD: set[tuple[str, str]] = set()  # Templates, and roles whose texts they leave out.


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A group as token ids, int32. Prompt + response is one conversation, up to the token that its
    score is read at, to the id what the tokenizer gives for the whole text: where it merges
    characters across the border, `prompt` is a token or two shorter than the text before it.

    `loss_mask`, of a policy only, bool [prompt]: the prompt's tokens whose likelihood is learned
    along with the responses': those of the assistant's earlier turns, each with its end.
    `given`, where it is not empty: how many tokens of each response are not learned, since they
    belong to what was asked (`conversations.join`).
    """

    prompt: np.ndarray
    responses: tuple[np.ndarray, ...]
    loss_mask: np.ndarray | None = None
    given: tuple[int, ...] = ()


def encode(
    tokenizer,
    groups: Sequence[Group],
    read: str = "end_of_turn",
    skipped: Record | None = None,
    *,
    policy: bool = False,
    vocab_size: int | None = None,
    record: Record | None = None,
) -> list[Encoded | None]:
    """Render and tokenise every conversation of the groups.

    Each starts with exactly one BOS, where the tokenizer adds one by itself. `read` says where it
    ends, which is where its score is read:
    "end_of_turn": at the token that ends the assistant's turn. What the template puts behind it is
        left out, and where a template puts none, the tokenizer's EOS is added.
    "last": at the last token of the text that is not the tokenizer's pad, as `transformers` reads.

    policy: the group's condition stands behind the assistant's header, and its tokens, where there
    are any, are the responses as they are; reward models and judges see neither. Unless there is a
    condition, which holds for the responses alone, `loss_mask` is the assistant's earlier turns;
    one that the template writes otherwise than where it is the last is counted in `record` instead.
    vocab_size: the rows of the model's embedding, where a token that has none is to be found.
    skipped: where a group that the template refuses is counted, whose place is then None.

    Raises ValueError where the tokenizer has no chat template, or lacks an EOS that has to be
    added, where a group's tokens are not of this tokenizer or not in the embedding, and, without
    `skipped`, where the template refuses a group.
    """
    if read not in READS:
        raise ValueError(f"read is {read!r}; it must be one of {', '.join(READS)}")
    record = Record() if record is None else record
    write = functools.partial(_render, tokenizer, policy=policy, record=record)
    rendered = _render_all(write, tokenizer, groups, skipped)
    flat = [[one[0], *one[1], *itertools.chain(*one[2])] for one in rendered if one]
    rows = iter(tokenize(tokenizer, list(itertools.chain(*flat))))

    special = special_ids(tokenizer)
    encoded = []
    for group, texts in zip(groups, rendered, strict=True):
        if texts is None:
            encoded.append(None)
            continue
        prompt = next(rows)
        wholes = [_ended(next(rows), tokenizer, special, read) for _ in texts[1]]
        shared, responses = len(prompt), group.tokens
        if wholes:
            # The token that is read is the response's, even where all behind the header is pads.
            shared = min(common_prefix([prompt, *wholes]), *(len(ids) - 1 for ids in wholes))
            responses = [ids[shared:] for ids in wholes]
        embedded(itertools.chain(prompt, *responses), tokenizer, vocab_size, group.source)
        mask = np.zeros(len(prompt), bool)
        for _ in texts[2]:
            before, through = next(rows), _cut_end(next(rows), tokenizer, special, read)
            mask[common_prefix([before, prompt]) : common_prefix([through, prompt])] = True
        encoded.append(
            Encoded(
                np.asarray(prompt[:shared], np.int32),
                tuple(np.asarray(ids, np.int32) for ids in responses),
                mask[:shared] if policy else None,
            )
        )
    return encoded


def prompt_ids(
    tokenizer,
    groups: Sequence[Group],
    skipped: Record | None = None,
    *,
    vocab_size: int | None = None,
) -> list[np.ndarray | None]:
    """Tokenise what a policy's response to each group follows, int32, as `encode` does."""

    def write(group: Group) -> str:
        header = render(tokenizer, list(group.prompt), group.source, add_generation_prompt=True)
        _is_written(tokenizer, group, header)
        return header + condition_text(tokenizer, group.condition)

    texts = _render_all(write, tokenizer, groups, skipped)
    rows = iter(tokenize(tokenizer, [text for text in texts if text is not None]))
    found = [None if text is None else np.asarray(next(rows), np.int32) for text in texts]
    for group, ids in zip(groups, found, strict=True):
        embedded(() if ids is None else ids, tokenizer, vocab_size, group.source)
    return found


def embedded(ids: Iterable[int], tokenizer, vocab_size: int | None, source: str) -> None:
    """See that the embedding has a row for each token: JAX would take another one in silence.

    Raises ValueError with the source, the token and both sizes.
    """
    if vocab_size is not None and (highest := max(ids, default=0)) >= vocab_size:
        raise ValueError(
            f"{source}: token {highest}, {tokenizer.decode([highest])!r}, is outside the model's "
            f"embedding, which has {vocab_size} rows, while the tokenizer has {len(tokenizer)} "
            "tokens: use the tokenizer that belongs to the model, or leave the row out"
        )


def check_tokenizer(tokenizer, read: str) -> None:
    """Raise ValueError where conversations cannot become tokens: without a chat template, with one
    that leaves texts out or refuses any, or without an EOS that has to be added."""
    require_template(tokenizer)
    control_tokens.check_template(tokenizer)
    end_of_turn(tokenizer, read)


def require_template(tokenizer) -> None:
    """Raise ValueError where the tokenizer has no chat template."""
    if not tokenizer.chat_template:
        raise ValueError(
            "this tokenizer has no chat template (chat_template.jinja, tokenizer_config.json, "
            "chat_template.json), so messages cannot become tokens; use an instruction-tuned "
            'model, or the template "extra_id" (config.model.template)'
        )


def end_of_turn(tokenizer, read: str = "end_of_turn") -> tuple[int, ...]:
    """The ids that end an assistant's turn: one special token, or, where the tokenizer cuts the
    template's marker into several, all of these, without white space before them."""
    user = {"role": "user", "content": "a"}
    # With different ends, since these may merge with white space that the template puts there.
    probe = Group((user,), ("a", "1.", "b\n"))
    (encoded,) = encode(tokenizer, [probe], read)
    backwards = [ids[::-1].tolist() for ids in encoded.responses]
    if backwards[0][0] in special_ids(tokenizer):
        return (backwards[0][0],)
    ids = backwards[0][: common_prefix(backwards)][::-1]
    while len(ids) > 1 and not tokenizer.decode(ids[:1]).strip():
        ids = ids[1:]
    return tuple(ids)


def without_line_end(text: str, read: str) -> str:
    """Take off the line end that NeMo's templates put before their marker, which is no part of the
    text of a response that ended."""
    return text.removesuffix("\n") if read == "last" else text


def special_ids(tokenizer) -> set[int]:
    """Ids of the tokens that the tokenizer marks as special."""
    added = tokenizer.added_tokens_decoder.items()
    return {*tokenizer.all_special_ids, *(i for i, token in added if token.special)}


def tokenize(tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Tokenise texts that `render` has made: each starts with exactly one BOS where the tokenizer
    adds one by itself, and has no other control token than the template's."""
    if not texts:
        return []
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    for i, text in enumerate(texts):
        if control_tokens.BREAK in text:
            rows[i] = control_tokens.tokenize(tokenizer, text)
    return _with_one_bos(tokenizer, rows)


def whole(tokenizer, conversation: str | Sequence[int], read: str = "end_of_turn") -> np.ndarray:
    """Make the ids, int32, that `encode` gives of a conversation's messages from what they have
    become already: the text by the chat template, or its ids. Its control tokens are such."""
    if isinstance(conversation, str):
        conversation = tokenizer(conversation, add_special_tokens=False)["input_ids"]
    (ids,) = _with_one_bos(tokenizer, [list(conversation)])
    return np.asarray(_ended(ids, tokenizer, special_ids(tokenizer), read), np.int32)


def _with_one_bos(tokenizer, rows: list[list[int]]) -> list[list[int]]:
    bos = tokenizer.bos_token_id
    if bos is None or tokenizer("a")["input_ids"][:1] != [bos]:
        return rows
    return [[bos, *itertools.dropwhile(lambda i: i == bos, ids)] for ids in rows]


def cut_prompt(encoded: Encoded, excess: int, bos: int | None) -> Encoded | None:
    """Take `excess` tokens off the prompt's left, behind its BOS; None if it has not so many."""
    keep = 1 if len(encoded.prompt) and encoded.prompt[0] == bos else 0
    if excess > len(encoded.prompt) - keep:
        return None
    cut = slice(keep, keep + excess)
    mask = None if encoded.loss_mask is None else np.delete(encoded.loss_mask, cut)
    return dataclasses.replace(encoded, prompt=np.delete(encoded.prompt, cut), loss_mask=mask)


def _render_all(write: Callable, tokenizer, groups: Sequence[Group], skipped: Record | None):
    """Apply `write` to each group; None for one that the template refuses, if `skipped`."""
    if groups:
        require_template(tokenizer)
    found = []
    for group in groups:
        try:
            found.append(write(group))
        except ValueError as error:
            reason = getattr(error, "reason", REFUSED)
            if skipped is None:
                hint = "; on_error=skip leaves it out" * bool(group.source)
                raise RefusedError(f"{error}{hint}", reason) from error
            skipped.leave_out(reason)
            skipped.keep(str(error))
            found.append(None)
    return found


def _render(
    tokenizer, group: Group, *, policy: bool, record: Record
) -> tuple[str, list[str], list[tuple[str, str]]]:
    """Render a group: the prompt with the assistant's header, and of a policy the condition; each
    whole conversation, unless a policy has its tokens; what `_earlier_turns` gives of a policy.

    Raises ValueError where there is no place for the condition.
    """
    header = render(tokenizer, list(group.prompt), group.source, add_generation_prompt=True)
    wholes, size = [], len(tokenizer)
    for response in () if policy and group.tokens else group.responses:
        turns = [*group.prompt, {"role": "assistant", "content": response}]
        wholes.append(render(tokenizer, turns, group.source, add_generation_prompt=False))
    written = all(map(functools.partial(_is_written, tokenizer, group), wholes, group.responses))
    record.unwritten += not (_is_written(tokenizer, group, header) and written)
    if not policy:
        return header, wholes, []
    if any(max(ids) >= size for ids in group.tokens):
        raise ValueError(
            f"{group.source}: its tokens are not of this tokenizer, which has {size} of them; use "
            "the model that sampled them, or leave the field 'tokens' out"
        )
    if not group.condition:
        return header, wholes, _earlier_turns(tokenizer, group, header, record)
    # Put behind the header, so that all else is as the template has it, trimmed texts included.
    if not all(whole.startswith(header) for whole in wholes):
        raise ValueError(
            f"{group.source}: the chat template writes an assistant's turn otherwise than it "
            "starts one (add_generation_prompt), so there is no place for the condition; use "
            'the template "steerlm" (config.model.template)'
        )
    asked = header + condition_text(tokenizer, group.condition)
    return asked, [asked + whole[len(header) :] for whole in wholes], []


def _is_written(tokenizer, group: Group, rendered: str, response: str | None = None) -> bool:
    """Tell whether all texts of the prompt, or the response, are in what the template made,
    but for white space; the first one of a template and role that is not is logged."""
    rendered, bare = rendered.replace(control_tokens.BREAK, ""), ""
    last = ({"role": "assistant", "content": response},)
    for turn in group.prompt if response is None else last:
        text = turn["content"].strip()
        if text in rendered:
            continue
        bare = bare or "".join(rendered.split())
        if "".join(text.split()) not in bare:
            if (key := (tokenizer.get_chat_template(), turn["role"])) not in TOLD:
                TOLD.add(key)
                what = "the chat template leaves out a text of the %s, or a part, or changes it"
                log.warning(f"%s: {what}: %s", group.source, turn["role"], show(text))
            return False
    return True


def _earlier_turns(tokenizer, group: Group, whole: str, record: Record) -> list[tuple[str, str]]:
    """Render, of each assistant's turn in the prompt, all before its content and all up to its end,
    as the template writes them where the conversation ends there."""
    prompt, found = list(group.prompt), []
    for i, turn in enumerate(prompt):
        if turn["role"] != "assistant":
            continue
        before = render(tokenizer, prompt[:i], group.source, add_generation_prompt=True)
        through = render(tokenizer, prompt[: i + 1], group.source, add_generation_prompt=False)
        if through.startswith(before) and whole.startswith(through):
            found.append((before, through))
        else:
            record.unlearned_turns += 1
    return found


def render(tokenizer, turns: Sequence[dict], source: str, *, add_generation_prompt: bool) -> str:
    """Write turns by the chat template, their texts shielded: for `tokenize` alone. Raises
    RefusedError where it refuses them, or where a text cannot be shielded."""
    try:
        shield = functools.partial(control_tokens.shield, tokenizer)
        turns = [turn | {"content": shield(turn["content"])} for turn in turns]
    except RefusedError as error:
        raise RefusedError(f"{source}: {error}", error.reason) from None
    try:
        return tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except Exception as error:  # Templates raise what they like, jinja2's errors among it.
        what = str(error).replace(control_tokens.BREAK, "")
        raise RefusedError(f"{source}: the chat template refuses this: {what}", REFUSED) from error


def _ended(ids: list[int], tokenizer, special: set[int], read: str) -> list[int]:
    """Cut a conversation at the token that it is read at, which is added where there is none."""
    ids = _cut_end(ids, tokenizer, special, read)
    if read == "last" or ids[-1] in special:
        return ids
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path or type(tokenizer).__name__!r} has no EOS "
            "token, and its chat template ends a turn without a special token, so there is no "
            "token to read the score at: set eos_token in tokenizer_config.json, or use the "
            'template "extra_id" (config.model.template)'
        )
    return [*ids, tokenizer.eos_token_id]


def _cut_end(ids: list[int], tokenizer, special: set[int], read: str) -> list[int]:
    """Cut at the last special token, if only white space follows it; for "last", cut off pads,
    unless there is nothing else."""
    end = len(ids)
    if read == "last":
        while end > 1 and ids[end - 1] == tokenizer.pad_token_id:
            end -= 1
        return ids[:end]
    while end and ids[end - 1] not in special and not tokenizer.decode(ids[end - 1]).strip():
        end -= 1
    return ids[:end] if end and ids[end - 1] in special else ids


def common_prefix(sequences: Sequence[Sequence[int]]) -> int:
    """Count the ids that sequences have in common at their start."""
    length = 0
    for ids in zip(*sequences, strict=False):
        if len(set(ids)) > 1:
            break
        length += 1
    return length
