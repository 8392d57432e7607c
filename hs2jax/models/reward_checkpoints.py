"""How reward checkpoints are used, ours and those of others: a small table.

For each: which chat template makes the text, at which token the score is read, and which tensor
holds the head. What is recorded in config.json by our own exports goes before the table.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from hs2jax.models import checkpoint_files
from hs2jax.models.config import FAMILIES, Config
from hs2jax.models.leaves import EMBED, UNEMBED

LM_HEAD = "#lm_head[0]"  # Behind a model's name: its reward is in that row.
READS = ("end_of_turn", "last")


class ScoringConvention(NamedTuple):
    """How a checkpoint is used.

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


class Row(NamedTuple):
    """A kind of checkpoint: `fits(name, config.json's content)` says whether one is of it."""

    what: str
    fits: Callable[[str, Mapping[str, Any]], bool]
    way: ScoringConvention


def is_classifier(name: str, hf_config: Mapping[str, Any]) -> bool:
    """Whether the class is one of the families' SequenceClassification."""
    classifiers = {family.classifier for family in FAMILIES.values()}
    return not classifiers.isdisjoint(hf_config.get("architectures") or ())


def is_called(wanted: str) -> Callable[[str, Mapping[str, Any]], bool]:
    """For checkpoints that only their name tells from a language model: on the hub, of a folder, or
    in the hub's cache (models--OWNER--NAME/snapshots/REVISION)."""

    def fits(name: str, hf_config: Mapping[str, Any]) -> bool:
        parts = Path(name).absolute().parts
        if parts[-2:-1] == ("snapshots",):
            parts = parts[:-2]
        return parts[-1].split("--")[-1].lower() == wanted.lower()

    return fits


# The first row that fits. Both kinds are used with the tokenizer's own chat template and exactly
# one BOS, and read at the last token of the text, also where that is a line break behind the end of
# the turn (ChatML, Gemma).
TABLE = (
    # Skywork-Reward, Skywork-Reward-V2, RM-Mistral and others like them.
    Row(
        "SequenceClassification",
        is_classifier,
        ScoringConvention(read="last", head="score", skips_pads=True),
    ),
    # HelpSteer2-Preference's released model. Its card reads the first logit of one generated step
    # for a conversation without generation prompt, which is this row times the last token's state.
    Row(
        "a reward in row 0 of lm_head",
        is_called("Llama-3.1-Nemotron-70B-Reward-HF"),
        ScoringConvention(read="last", head="lm_head"),
    ),
)


def split_name(name: str) -> tuple[str, bool]:
    """A model's name without LM_HEAD, and whether that stood behind it."""
    return name.removesuffix(LM_HEAD), name.endswith(LM_HEAD)


def find(name: str, hf_config: Mapping[str, Any], *, lm_head: bool = False) -> ScoringConvention:
    """How the checkpoint of this name is used; `head` is None for a language model.

    lm_head: it was said that its reward is in row 0 of lm_head.
    Raises ValueError where what is recorded is not known here, or it has a head of its own.
    """
    recorded = hf_config.get("hs2jax")
    if lm_head:
        if is_classifier(name, hf_config):
            raise ValueError(f"{name} has a reward head of its own: leave out {LM_HEAD!r}")
        return ScoringConvention(read="last", head="lm_head")
    if recorded is not None:
        way = ScoringConvention(
            recorded.get("template_name", "own"), recorded.get("read", "end_of_turn")
        )
        if way.read not in READS:
            raise ValueError(
                f"{name}: config.json's block hs2jax has read {way.read!r}; supported are "
                f"{', '.join(READS)}"
            )
        return way._replace(head="score", skips_pads=way.read == "last")
    return next((row.way for row in TABLE if row.fits(name, hf_config)), ScoringConvention())


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


def match_pad(tokenizer: Any, way: ScoringConvention, pad_id: int | None) -> None:
    """Gives the tokenizer the pad token that reading passes over, or none.

    `pad_id` is config.json's, which `transformers`' classes go by whatever the tokenizer says.
    """
    known = way.skips_pads and pad_id is not None and 0 <= pad_id < len(tokenizer)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_id) if known else None
