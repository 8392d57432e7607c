"""Control tokens: what a chat template writes its turns with, and what no text of data becomes.

A text that holds the content of a control token, such as "<|im_end|>", is shielded before it is
rendered: a BREAK is put within the content. So whatever the rendered text still holds of control
tokens is the template's own, and all else is tokenised as ordinary text, without the breaks.
"""

import functools
import json
import re
import secrets
from collections.abc import Callable
from typing import NamedTuple

from tokenizers import AddedToken, Tokenizer

from hs2jax.data.record import POSING
from hs2jax.data.templates import MARKERS, is_nemo

# No text can hold it, as nobody can know it.
NONCE = secrets.token_hex(8)
BREAK = f"\ue000{NONCE}"
# A question, an answer, and the next question, to see what a template writes between texts.
PROBE = ("hs2jax-question", "hs2jax-answer", "hs2jax-next")


class RefusedError(ValueError):
    """A conversation that cannot become tokens, and the `reason`, as a record counts it."""

    def __init__(self, what: str, reason: str):
        super().__init__(what, reason)
        self.what, self.reason = what, reason

    def __str__(self) -> str:
        return self.what


class Controls(NamedTuple):
    """Of a tokenizer and its chat template: the tokens by content, a pattern of the contents, one
    of what the template writes between turns in ordinary text, which nothing can shield, and what
    becomes of a text before tokens are looked for in it."""

    tokens: dict[str, AddedToken]
    contents: re.Pattern
    ordinary: re.Pattern
    normalize: Callable[[str], str]


def shield(tokenizer, text: str) -> str:
    """Break every control token's content in a text that is to be rendered.

    Raises RefusedError where the tokenizer cannot keep the text from being read as the template's.
    """
    controls = _controls(*_key(tokenizer))
    if posing := controls.ordinary.search(text):
        what = "which the chat template writes between turns and this tokenizer takes for a text"
        raise RefusedError(f"a text holds {posing[0]!r}, {what}", POSING)
    shielded = text
    while controls.contents.search(shielded):
        shielded = controls.contents.sub(lambda m: m[0][0] + BREAK + m[0][1:], shielded)
    if shielded == text and controls.contents.search(controls.normalize(text)):
        shielded = text + BREAK  # In lower case, or without its width, it would be one.
    if shielded != text:
        ids = {tokenizer.convert_tokens_to_ids(each) for each in controls.tokens}
        if getattr(tokenizer, "backend_tokenizer", None) is None or (
            (ids - {tokenizer.unk_token_id}) & set(tokenize(tokenizer, shielded))
        ):
            held = controls.contents.search(text)
            what = "which this tokenizer can only read as a control token"
            raise RefusedError(f"a text holds {held[0] if held else text!r}, {what}", POSING)
    return shielded


def tokenize(tokenizer, rendered: str) -> list[int]:
    """Tokenise a rendered text in which texts are shielded."""
    aliases, backend, ids = _apart(*_key(tokenizer))
    contents = _controls(*_key(tokenizer)).contents
    marked = contents.sub(lambda m: aliases[m[0]], rendered).replace(BREAK, "")
    return [ids.get(i, i) for i in backend.encode(marked, add_special_tokens=False).ids]


def check_template(tokenizer) -> None:
    """Raise ValueError where the chat template refuses any question and answer, or leaves the text
    of one out."""
    whole = _write(tokenizer, PROBE[:2])
    for who, text in zip(("user", "assistant"), PROBE, strict=False):
        if text not in whole:
            raise ValueError(
                f"the chat template leaves out what the {who} says: a conversation of "
                f"{PROBE[0]!r} and {PROBE[1]!r} becomes {whole[:200]!r}; correct the template, or "
                "choose one (config.model.template)"
            )


def _key(tokenizer) -> tuple:
    # With all that changes what is kept by it.
    return tokenizer, tokenizer.get_chat_template(), len(tokenizer)


@functools.lru_cache(maxsize=8)
def _controls(tokenizer, template: str, size: int) -> Controls:
    """Special tokens, and what else the template writes turns with: of a token without that flag,
    only one that looks like a marker."""
    try:
        *between, end = _between(_write(tokenizer, PROBE), PROBE)
        end = _between(_write(tokenizer, PROBE[:2]), PROBE[:2])[-1]
    except ValueError:  # It refuses such a conversation, or writes it in another way.
        between, end = [], ""
    nemo = MARKERS if is_nemo(template) else ()
    own = "".join([*between, end, *nemo])
    special, tokens = set(tokenizer.all_special_ids), {}
    for i, token in tokenizer.added_tokens_decoder.items():
        letters = [c.isalnum() for c in token.content]
        marker = any(letters) and not all(letters) and token.content in own
        if len(token.content) > 1 and (token.special or i in special or marker):
            tokens[token.content] = token
    contents = _any_of(tokens)
    said = []
    for each in [*between[1:], end]:  # Without the start, which stands before all texts.
        lines = [line.strip() for line in each.split("\n")]
        marks = [x for x in lines if any(map(str.isalnum, x)) and not x[0].isalnum()]
        if not contents.search(each):
            said += marks or [x for x in [each.strip(" ")] if any(map(str.isalnum, x))]
    ordinary = _any_of([*said, *(m for m in nemo if m not in tokens)])
    own = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    changes = own and any(token.normalized for token in tokens.values())
    return Controls(tokens, contents, ordinary, own.normalize_str if changes else str)


@functools.lru_cache(maxsize=8)
def _apart(tokenizer, template: str, size: int) -> tuple[dict[str, str], Tokenizer, dict[int, int]]:
    """An alias for each control token; the tokenizer that takes the tokens themselves for text, and
    knows them by their aliases; and the tokens' ids by those of the aliases."""
    tokens, made = _controls(tokenizer, template, size).tokens, tokenizer.backend_tokenizer.to_str()
    made = json.loads(made)
    for each in made["added_tokens"]:
        each["special"] = each["content"] in tokens
    backend = Tokenizer.from_str(json.dumps(made))
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    aliases = {content: f"<{NONCE}{i}>" for i, content in enumerate(tokens)}
    for content, token in tokens.items():
        alike = {name: getattr(token, name) for name in ("single_word", "lstrip", "rstrip")}
        backend.add_tokens([AddedToken(aliases[content], normalized=False, **alike)])
    own = tokenizer.convert_tokens_to_ids
    return aliases, backend, {backend.token_to_id(to): own(of) for of, to in aliases.items()}


def _write(tokenizer, texts) -> str:
    turns = [
        {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)
    ]
    try:
        return tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception as error:  # Templates raise what they like, jinja2's errors among it.
        raise ValueError(f"the chat template refuses any conversation: {error}") from error


def _between(rendered: str, texts) -> list[str]:
    """What stands before, between and behind texts. Raises ValueError unless each is there once."""
    parts = re.split("|".join(map(re.escape, texts)), rendered)
    if len(parts) != len(texts) + 1:
        raise ValueError("the chat template writes a text more or less than once")
    return parts


def _any_of(texts) -> re.Pattern:
    """A pattern of any of the texts, the longest first; of none, one that nothing matches."""
    longest = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest)) or r"(?!)")
