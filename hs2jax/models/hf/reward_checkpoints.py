"""Reward checkpoints: how those of others are used, and what an export of ours needs.

For each kind: which chat template makes the text, at which token the score is read, and which
tensor holds the head. What is recorded in config.json by our own exports goes before the table.

`transformers`' SequenceClassification reads at the last token that is not the pad token. A score
that we read at "end_of_turn" is the same when a conversation's text ends with the end of its last
turn, and when the pad token is never the token that ends a turn; an export's tokenizer is made so.
A score that we read at "last" is read as `transformers` does: text and pad token stay as they are.
"""

import copy
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from hs2jax.models.config import Config
from hs2jax.models.hf import checkpoint_files
from hs2jax.models.hf.families import FAMILIES
from hs2jax.models.hf.weights import EMBED, UNEMBED

LM_HEAD = "#lm_head[0]"  # Behind a model's name: its reward is in that row.
READS = ("end_of_turn", "last")
PAD = "<|hs2jax_pad|>"


class ScoringConvention(NamedTuple):
    """The template, place of reading and head with which a checkpoint is used.

    template: "own" (the tokenizer's) or the name of one that was put in its place. read:
    "end_of_turn", or "last" for the last token of all of the text. head: "score", a head of its
    own, or "lm_head", where row 0 of the vocabulary's output weights gives the reward.
    skips_pads: whether pad tokens that end a text are passed over in reading, as `transformers`'
    SequenceClassification does, which goes by config.json's pad_token_id.
    """

    template: str = "own"
    read: str = "end_of_turn"
    head: str | None = None
    skips_pads: bool = False


# SequenceClassification (Skywork-Reward, Skywork-Reward-V2, RM-Mistral and others like them) and a
# reward in row 0 of lm_head are both used with the tokenizer's own chat template and exactly one
# BOS, and read at the last token of the text, also where that is a line break behind the end of the
# turn (ChatML, Gemma).
CLASSIFIER = ScoringConvention(read="last", head="score", skips_pads=True)
LANGUAGE_MODEL = ScoringConvention()
LM_HEAD_ROW = ScoringConvention(read="last", head="lm_head")
# Checkpoints that only their name tells from a language model. HelpSteer2-Preference's released
# model: its card reads the first logit of one generated step for a conversation without generation
# prompt, which is row 0 of lm_head times the last token's state.
NAMED = {"llama-3.1-nemotron-70b-reward-hf": LM_HEAD_ROW}


def is_classifier(hf_config: Mapping[str, Any]) -> bool:
    """Say whether the class is one of the families' SequenceClassification."""
    classifiers = {family.classifier for family in FAMILIES.values()}
    return not classifiers.isdisjoint(hf_config.get("architectures") or ())


def _short_name(name: str) -> str:
    """The last part of a name on the hub, of a folder, or of one in the hub's cache
    (models--OWNER--NAME/snapshots/REVISION)."""
    parts = Path(name).absolute().parts
    if parts[-2:-1] == ("snapshots",):
        parts = parts[:-2]
    return parts[-1].split("--")[-1].lower()


def split_name(name: str) -> tuple[str, bool]:
    """A model's name without LM_HEAD, and whether that stood behind it."""
    return name.removesuffix(LM_HEAD), name.endswith(LM_HEAD)


def find(name: str, hf_config: Mapping[str, Any], *, lm_head: bool = False) -> ScoringConvention:
    """Find how the checkpoint of this name is used; `head` is None for a language model.

    lm_head: it was said that its reward is in row 0 of lm_head.
    Raises ValueError where what is recorded is not known here, or it has a head of its own.
    """
    recorded = hf_config.get("hs2jax")
    if lm_head:
        if is_classifier(hf_config):
            raise ValueError(f"{name} has a reward head of its own: leave out {LM_HEAD!r}")
        return LM_HEAD_ROW
    if recorded is not None:
        convention = ScoringConvention(
            recorded.get("template_name", "own"), recorded.get("read", "end_of_turn")
        )
        if convention.read not in READS:
            raise ValueError(
                f"{name}: config.json's block hs2jax has read {convention.read!r}; supported are "
                f"{', '.join(READS)}"
            )
        return convention._replace(head="score", skips_pads=convention.read == "last")
    return CLASSIFIER if is_classifier(hf_config) else NAMED.get(_short_name(name), LANGUAGE_MODEL)


def lm_head_row(folder: Path, config: Config):
    """The head {"kernel": float32 [D, 1]} that row 0 of the vocabulary's output weights is.

    Raises ValueError where there are none, or the logits are more than a product with them.
    """
    if config.final_logit_softcap is not None:
        raise ValueError(
            f"{folder}: a reward in lm_head is not supported with final_logit_softcapping"
        )
    name = EMBED if config.tied else UNEMBED
    table = checkpoint_files.open_folder(folder).get(name)
    if table is None or table.shape != (config.vocab_size, config.hidden_size):
        raise ValueError(
            f"{folder}: no tensor {name} of shape {[config.vocab_size, config.hidden_size]}, whose "
            "row 0 would be the reward's"
        )
    return {"kernel": jnp.asarray(np.array(table.read()[:1].T, np.float32, order="C"))}


def match_pad(tokenizer: Any, convention: ScoringConvention, pad_id: int | None) -> None:
    """Give the tokenizer the pad token that reading passes over, or none.

    `pad_id` is config.json's, which `transformers`' classes go by whatever the tokenizer says.
    """
    known = convention.skips_pads and pad_id is not None and 0 <= pad_id < len(tokenizer)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_id) if known else None


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
    """Say whether the chat template leaves out the BOS that the tokenizer adds to plain text, and
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
