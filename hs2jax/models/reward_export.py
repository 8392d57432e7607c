"""What a tokenizer needs so that `transformers` alone gives the scores that we give.

`transformers`' SequenceClassification reads at the last token that is not the pad token. A score
that we read at "end_of_turn" is the same when a conversation's text ends with the end of its last
turn, and when the pad token is never the token that ends a turn. A score that we read at "last"
is read as `transformers` does: then text and pad token must stay as they are.
"""

import copy
from collections.abc import Collection
from typing import Any

PAD = "<|hs2jax_pad|>"


def end_with_turn(template: str, *, bos: bool = False, eos: bool = False) -> str:
    """The chat template, changed so that its text ends with the last turn's end.

    ChatML, for one, writes a line break after the token that ends a turn, and the line break
    would be scored instead. With `add_generation_prompt` the end is as it was. `bos` and `eos` add
    the tokenizer's tokens, where it is our own encoding that adds them.
    """
    start = "bos_token + " if bos else ""
    end = "hs2jax_text + eos_token" if eos else "hs2jax_text.rstrip()"
    # Jinja drops the line break behind a block, so the template begins on a line of its own. One at
    # a template's end it drops too, but inside of a block that would stay. `+` keeps the rest.
    return (
        "{% set hs2jax_text %}\n"
        + template.removesuffix("\n")
        + "{%+ endset %}"
        + f"{{{{ {start}(hs2jax_text if add_generation_prompt else {end}) }}}}"
    )


def start_with_bos(template: str) -> str:
    """The chat template with the tokenizer's BOS before its text."""
    # Jinja drops the line break behind a block, so the template begins on a line of its own.
    return "{{ bos_token }}{% if true %}{% endif %}\n" + template


def template_of(tokenizer: Any) -> str | None:
    """The chat template in use: the one, or of several the default; None where there is none."""
    return tokenizer.get_chat_template() if tokenizer.chat_template is not None else None


def lacks(tokenizer: Any) -> tuple[bool, bool]:
    """Whether the chat template leaves out the BOS that the tokenizer adds to plain text, and
    whether it ends an assistant's turn without a special token. Our encoding puts them there."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False).rstrip()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    plain = tokenizer("a")["input_ids"]
    adds_bos = bool(plain) and plain[0] == tokenizer.bos_token_id
    special = set(tokenizer.all_special_ids)
    special |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return adds_bos and ids[0] != tokenizer.bos_token_id, ids[-1] not in special


def scored_token(tokenizer: Any) -> int:
    """The id that ends a conversation under the exported template, where its score is read."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    return tokenizer(text, add_special_tokens=False)["input_ids"][-1]


def choose_pad(tokenizer: Any, ends: Collection[int], vocab_size: int) -> str | None:
    """A token of the vocabulary that can be the pad token, or None if there is none.

    `ends`: ids that may end a conversation. Many tokenizers pad with one of them (SmolLM2 pads
    with its end of turn); `transformers` would then look for the score one token too early.
    The tokenizer's own choice stays where it can. Else it is a special token without a part to
    play: neither one of the tokenizer's named tokens nor a piece of the chat template.
    """
    own = tokenizer.pad_token_id
    if own is not None and own not in ends and own < vocab_size:
        return tokenizer.pad_token
    named = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}
    template = template_of(tokenizer) or ""
    idle = [
        token.content
        for i, token in sorted(tokenizer.added_tokens_decoder.items())
        if token.special and i not in {*ends, *named} and i < vocab_size
        if token.content not in template
    ]
    # A token that is there for padding or for nothing first, then the last in the vocabulary.
    for word in ("pad", "reserved", "unused"):
        for token in idle:
            if word in token.lower():
                return token
    return idle[-1] if idle else None


def prepare(
    tokenizer: Any, ends: Collection[int], vocab_size: int, read: str = "end_of_turn"
) -> Any:
    """A copy of the tokenizer, to be exported with a reward model whose scores are read at `read`
    ("end_of_turn" or "last").

    Its pad token may be new, with an id of `vocab_size` or above: then the embeddings need rows
    up to it. The row's numbers do not matter, since padding is never attended to.
    """
    tokenizer = copy.deepcopy(tokenizer)
    template = template_of(tokenizer)
    if template is not None:
        bos, eos = lacks(tokenizer)
        if read == "end_of_turn":
            tokenizer.chat_template = end_with_turn(template, bos=bos, eos=eos)
        else:
            tokenizer.chat_template = start_with_bos(template) if bos else template
        ends = {*ends, scored_token(tokenizer)}
    pad_id = tokenizer.pad_token_id
    if read == "last" and pad_id is not None and pad_id < vocab_size:
        return tokenizer  # Also where texts end with it, since our reading skips it too.
    if tokenizer.eos_token_id is not None:
        ends = {*ends, tokenizer.eos_token_id}
    pad = choose_pad(tokenizer, ends, vocab_size)
    tokenizer.add_special_tokens({"pad_token": pad or PAD})
    return tokenizer
