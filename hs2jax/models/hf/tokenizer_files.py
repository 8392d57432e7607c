"""Tokenizers: read from a checkpoint's folder, made ready for an export, and written.

`transformers`' SequenceClassification reads at the last token that is not the pad token. A score
that we read at "end_of_turn" is the same when a conversation's text ends with the end of its last
turn, and when the pad token never ends a turn; an export's tokenizer is made so.
"""

import copy
import datetime
import json
import logging
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from hs2jax.models.hf.checkpoint_files import read_json, write_json

log = logging.getLogger(__name__)

SETTINGS = "tokenizer_config.json"
# A folder with any of these has a tokenizer; an export replaces all of them.
SOURCES = ("tokenizer.json", SETTINGS, "tokenizer.model", "vocab.json")
# Of a chat template, by the name of a setting or as it is; the first that is there is taken.
TEMPLATES = ("chat_template.jinja", SETTINGS, "chat_template.json")
FILES = (*SOURCES, "merges.txt", "chat_template.jinja", "chat_template.json")
PAD = "<|hs2jax_pad|>"

# What Llama 3.1's and 3.2's own templates write where they are given no date. With today's, which
# 3.2's and Mistral's ask for, a resumed run would train on other tokens.
DATE = datetime.datetime(2024, 7, 26)
CALL = re.compile(r"""strftime_now\(\s*(?P<quote>["'])(?P<form>[^"'\\]*)(?P=quote)\s*\)""")
# Models of Mistral's, of which some tokenizers were converted with another's splitting of numbers.
MISTRAL = ("mistral", "mistral3", "ministral", "pixtral", "voxtral")
# Where a template may name the function without calling it: in a comment, or to see if it is there.
HARMLESS = re.compile(r"{#.*?#}|strftime_now\s+is\s+(?:not\s+)?defined", re.DOTALL)


def load(path: Path) -> Any:
    """The tokenizer of a folder, None where there is none.

    Raises ValueError where `transformers` cannot make it without more.
    """
    if not any((path / name).exists() for name in SOURCES):
        return None
    settings = path / SETTINGS
    if settings.exists() and read_json(settings).get("split_special_tokens"):
        key = "split_special_tokens is true, so that control tokens would be read as text"
        raise ValueError(f"{settings}: {key}: set it to false")
    # Version 5's AutoTokenizer may go by the class named beside it and make the parts anew:
    # SmolLM2's, named GPT2Tokenizer, then loses its splitting of digits.
    if (path / "tokenizer.json").exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(path, **_splitting(path))
        model = tokenizer.backend_tokenizer.model
        if getattr(model, "dropout", None):  # BPE-dropout, of its training.
            log.warning(
                "%s: the tokenizer's dropout %s is left out: scores would vary", path, model.dropout
            )
            model.dropout = None
        return _with_template(path, tokenizer)
    try:
        if settings.exists() and "auto_map" in json.loads(settings.read_text("utf-8")):
            raise ValueError("the tokenizer is made by code of the checkpoint, which is not run")
        from transformers import AutoTokenizer  # Which imports all of torch, where it is.

        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # Of many kinds: a missing package, a broken file.
        raise ValueError(
            f"{path}: there is no tokenizer.json, and none could be made from the other tokenizer "
            f"files: {' '.join(str(error).split()) or repr(error)}. Of a tokenizer of Llama's kind "
            "(tokenizer.model), write one where sentencepiece is installed, with transformers' "
            f"LlamaTokenizerFast.from_pretrained({str(path)!r}, from_slow=True)"
            f".save_pretrained({str(path)!r}), and compare the ids of a few texts with its own"
        ) from error
    return _with_template(path, tokenizer)


def _splitting(path: Path) -> dict[str, bool]:
    """Choose how a Mistral tokenizer splits text: as its settings say, else as its own file does.

    Warns of numbers in threes, which no model of Mistral's was trained with: whoever trained one
    further may have done so with the file as it is, so that nobody but them can tell.
    """
    config, key = path / "config.json", "fix_mistral_regex"
    kind = read_json(config).get("model_type") if config.exists() else None
    if kind not in MISTRAL:
        return {}
    settings = read_json(path / SETTINGS) if (path / SETTINGS).exists() else {}
    parts = json.dumps(read_json(path / "tokenizer.json").get("pre_tokenizer"))
    if settings.get(key) is None and json.dumps(r"\p{N}{1,3}")[1:-1] in parts:
        log.warning(
            "%s: the tokenizer splits 12345 into 123 and 45, which Mistral's own does not; with "
            '"%s": true in %s it is read as theirs, and with false as it is, without this line',
            *(path, key, SETTINGS),
        )
    return {key: bool(settings.get(key))}


def _with_template(path: Path, tokenizer: Any) -> Any:
    """The tokenizer, with the template of chat_template.json, which `transformers` leaves to
    processors, where it has none. Warns of files that disagree."""
    found = {}
    for name in TEMPLATES:
        if (path / name).exists():
            text = (path / name).read_text("utf-8")
            try:
                content = text if name.endswith(".jinja") else json.loads(text)["chat_template"]
            except KeyError:
                continue
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path / name}: not an object in JSON ({error})") from error
            if isinstance(content, list):  # Several, by name.
                content = {each["name"]: each["template"] for each in content}
            if content:
                found[name] = content
    for name in list(found)[1:]:
        if found[name] != next(iter(found.values())):
            taken = next(iter(found))
            log.warning("%s: the chat template of %s is taken, not %s's", path, taken, name)
    if not tokenizer.chat_template and found:
        tokenizer.chat_template = next(iter(found.values()))
        log.info("%s: the chat template is that of %s", path, next(iter(found)))
    return tokenizer


def save(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer that all versions of `transformers` read."""
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    if settings.get("tokenizer_class") == "TokenizersBackend":
        # Version 5's name for what version 4 knows as this; both read it.
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if tokenizer.chat_template is not None:
        # Version 5 writes the template into a file of its own, which older versions overlook.
        settings["chat_template"] = tokenizer.chat_template
    write_json(folder / SETTINGS, settings)


# Dates --------------------------------------------------------------------------------------------


def fix_dates(path: Path, tokenizer: Any) -> None:
    """Make the tokenizer's chat templates write DATE for today, and log it. Raises ValueError as
    `with_fixed_dates` does."""
    before = tokenizer.chat_template
    if isinstance(before, dict):
        tokenizer.chat_template = {name: with_fixed_dates(text) for name, text in before.items()}
    elif before is not None:
        tokenizer.chat_template = with_fixed_dates(before)
    if tokenizer.chat_template != before:
        log.info("%s: the chat template writes today's date; here always %s's", path, DATE.date())


def with_fixed_dates(template: str) -> str:
    """The template with each `strftime_now("FORMAT")` replaced by the text of DATE in that format.
    Raises ValueError where `strftime_now` is used in any other way."""
    fixed = CALL.sub(lambda call: f'"{DATE.strftime(call["form"])}"', template)
    left = HARMLESS.sub("", fixed)
    if "strftime_now" in left:
        start = left.index("strftime_now")
        raise ValueError(
            f"the chat template uses {left[start : start + 60]!r}, which depends on the day and is "
            'not supported: only strftime_now("FORMAT") is, with the format as a plain text. Write '
            "a fixed date in its place, in chat_template.jinja or tokenizer_config.json"
        )
    return fixed


# Exports of reward models -------------------------------------------------------------------------


def prepare(
    tokenizer: Any, ends: Collection[int], vocab_size: int, read: str = "end_of_turn"
) -> Any:
    """A copy of the tokenizer, to be exported with a reward model whose scores are read at `read`.
    Its pad token may be new, with an id of `vocab_size` or above, which needs an embedding."""
    tokenizer = copy.deepcopy(tokenizer)
    template = template_of(tokenizer)
    if template is not None:
        # Our encoding puts the BOS that the tokenizer adds to plain text, and a special token at
        # the end of a turn, where the template leaves them out.
        ids, plain = _example_ids(tokenizer, strip=True), tokenizer("a")["input_ids"]
        bos = plain[:1] == [tokenizer.bos_token_id] != ids[:1]
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        eos = ids[-1] not in special | set(tokenizer.all_special_ids)
        if read == "end_of_turn":
            tokenizer.chat_template = end_with_turn(template, bos=bos, eos=eos)
        else:
            tokenizer.chat_template = start_with_bos(template) if bos else template
        ends = {*ends, _example_ids(tokenizer, strip=False)[-1]}  # Where its score is read.
    pad_id = tokenizer.pad_token_id
    if read == "last" and pad_id is not None and pad_id < vocab_size:
        return tokenizer  # Also where texts end with it, since our reading skips it too.
    if tokenizer.eos_token_id is not None:
        ends = {*ends, tokenizer.eos_token_id}
    pad = choose_pad(tokenizer, ends, vocab_size)
    tokenizer.add_special_tokens({"pad_token": pad or PAD})
    return tokenizer


def template_of(tokenizer: Any) -> str | None:
    """The chat template in use: the one, or of several the default; None where there is none."""
    return tokenizer.get_chat_template() if tokenizer.chat_template is not None else None


def _example_ids(tokenizer: Any, *, strip: bool) -> list[int]:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    return tokenizer(text.rstrip() if strip else text, add_special_tokens=False)["input_ids"]


def end_with_turn(template: str, *, bos: bool = False, eos: bool = False) -> str:
    """The chat template, changed so that its text ends with the last turn's end, and not with the
    line break that ChatML, for one, writes after it; as it was with `add_generation_prompt`. `bos`
    and `eos` add the tokenizer's tokens, where it is our own encoding that adds them.
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


def choose_pad(tokenizer: Any, ends: Collection[int], vocab_size: int) -> str | None:
    """A token of the vocabulary that can be the pad token, or None if there is none.

    `ends`: ids that may end a conversation. Many tokenizers pad with one of them (SmolLM2 pads
    with its end of turn); `transformers` would then look for the score one token too early.
    The tokenizer's own choice stays where it can. Else it is a special token without a part.
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
    made = [x for word in ("pad", "reserved", "unused") for x in idle if word in x.lower()]
    return next(iter(made + idle[-1:]), None)
