"""Reward checkpoints: how those of others are used, and the tensors of their heads.

What is recorded in config.json by our own exports goes before what is said here.
"""

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from hs2jax.models.config import Config
from hs2jax.models.hf.families import FAMILIES
from hs2jax.models.hf.weights import EMBED, UNEMBED, Tensor, finite

log = logging.getLogger(__name__)

LM_HEAD = "#lm_head[0]"  # Behind a model's name: its reward is in that row.
HEAD, HEAD_BIAS = "score.weight", "score.bias"
# The names of heads: transformers', OpenRLHF's, TRL's, and those of single checkpoints.
HEADS = ("score", "value_head", "v_head.summary", "v_head", "regression_layer", "reward_head")
READS = ("end_of_turn", "last")


class ScoringConvention(NamedTuple):
    """The template, place of reading and head with which a checkpoint is used."""

    template: str = "own"  # The tokenizer's own, or the name of one that was put in its place.
    read: str = "end_of_turn"  # Or "last", for the last token of all of the text.
    head: str | None = None  # "score", or "lm_head", where row 0 of lm_head gives the reward.


# SequenceClassification (Skywork-Reward, RM-Mistral and others like them) and a reward in row 0 of
# lm_head are read at the last token of the text, also where that is a line break behind the end of
# the turn (ChatML, Gemma).
CLASSIFIER = ScoringConvention(read="last", head="score")
# OpenRLHF's own writer names its head in config.json. Its training cuts line breaks off a text and
# ends it with the tokenizer's EOS, which is the end of a turn in ChatML and in Llama 3's chats.
OPENRLHF, HEAD_NAME = ScoringConvention(head="score"), "value_head_prefix"
LANGUAGE_MODEL = ScoringConvention()
LM_HEAD_ROW = ScoringConvention(read="last", head="lm_head")
# Checkpoints that only their name tells from a language model: HelpSteer2-Preference's released
# one, whose card reads the first logit behind a conversation without generation prompt.
NAMED = {"llama-3.1-nemotron-70b-reward-hf": LM_HEAD_ROW}


def find(name: str, hf_config: Mapping[str, Any], *, lm_head: bool = False) -> ScoringConvention:
    """Find how the checkpoint of this name is used. lm_head: the name ends with LM_HEAD. Raises
    ValueError where it has a head of its own too, or what is recorded is not known here."""
    classifiers = {family.classifier for family in FAMILIES.values()}
    has_head = not classifiers.isdisjoint(hf_config.get("architectures") or ())
    if lm_head and has_head:
        raise ValueError(f"{name} has a reward head of its own: leave out {LM_HEAD!r}")
    if lm_head:
        return LM_HEAD_ROW
    recorded = hf_config.get("hs2jax")
    if recorded is None and has_head:
        return OPENRLHF if HEAD_NAME in hf_config else CLASSIFIER
    if recorded is None:
        return NAMED.get(_short_name(name), LANGUAGE_MODEL)
    read = recorded.get("read", "end_of_turn")
    if read not in READS:
        supported = ", ".join(READS)
        raise ValueError(f"{name}: config.json: hs2jax.read is {read!r}; supported are {supported}")
    return ScoringConvention(recorded.get("template_name", "own"), read, "score")


def _short_name(name: str) -> str:
    """The last part of a name on the hub, of a folder, or of models--OWNER--NAME/snapshots/REVISION
    in the hub's cache."""
    parts = Path(name).absolute().parts
    if parts[-2:-1] == ("snapshots",):
        parts = parts[:-2]
    return parts[-1].split("--")[-1].lower()


def match_pad(tokenizer: Any, convention: ScoringConvention, pad_id: int | None) -> None:
    """Give the tokenizer the pad token that reading passes over: config.json's `pad_id`, whatever
    the tokenizer says, as in `transformers`' SequenceClassification; none for a reward in lm_head.
    """
    known = convention.head == "score" and pad_id is not None and 0 <= pad_id < len(tokenizer)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_id) if known else None


# Heads --------------------------------------------------------------------------------------------


def take_head(
    tensors: dict[str, Tensor], config: Config, hf_config: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Take a classifier's head out of a checkpoint's tensors: {"kernel": [D, outputs], "bias":
    [outputs] if there is one} in float32, or None. Raises ValueError for a wrong shape, and for
    numbers that are not finite."""
    names = dict.fromkeys((*HEADS, hf_config.get(HEAD_NAME) or HEADS[0]))
    found = [name for name in names if {f"{name}.weight", f"{name}.bias"} & tensors.keys()]
    if not found:
        return None
    if len(found) > 1:
        where = tensors[f"{found[0]}.weight"].where
        raise ValueError(f"{where}: there are several heads: {', '.join(found)}; keep one")
    (name,) = found
    weight, bias = tensors.pop(f"{name}.weight", None), tensors.pop(f"{name}.bias", None)
    if name != "score" or bias is not None:
        log.info(
            "%s: the reward head is %s%s",
            (weight or bias).where,
            name,
            "" if bias is None else " with its bias, which transformers leaves out",
        )
    shape = None if weight is None else weight.shape
    if not shape or len(shape) != 2 or not shape[0] or shape[1] != config.hidden_size:
        fault = "is missing" if weight is None else f"has shape {list(shape)}"
        wanted = f"tensor {name}.weight {fault}; it should be [outputs, {config.hidden_size}]"
        raise ValueError(f"{(weight or bias).where}: {wanted}")
    if bias is not None and bias.shape != shape[:1]:
        raise ValueError(
            f"{bias.where}: tensor {name}.bias has shape {list(bias.shape)}; it should be "
            f"[{shape[0]}], one number per row of {name}.weight"
        )
    head = {"kernel": _float32(weight, weight.read().T)}
    return head if bias is None else head | {"bias": _float32(bias, bias.read())}


def lm_head_row(name: str, tensors: Mapping[str, Tensor], config: Config) -> dict[str, Any]:
    """The head {"kernel": float32 [D, 1]} that row 0 of the vocabulary's output weights is.

    Raises ValueError where there are none, or the logits are more than a product with them.
    """
    if config.final_logit_softcap is not None:
        raise ValueError(f"{name}: final_logit_softcapping: no reward in lm_head is supported")
    wanted, shape = EMBED if config.tied else UNEMBED, (config.vocab_size, config.hidden_size)
    if wanted not in tensors or tensors[wanted].shape != shape:
        raise ValueError(
            f"{name}: no tensor {wanted} of shape {list(shape)}, whose row 0 would be the reward's"
        )
    return {"kernel": _float32(tensors[wanted], tensors[wanted].read()[:1].T)}


def _float32(tensor: Tensor, array: np.ndarray):
    return jnp.asarray(finite(np.array(array, np.float32, order="C"), tensor))


def head_tensors(head: Mapping[str, Any], outputs: Sequence[str], config: Config) -> list[Tensor]:
    """The tensors of a reward head. Raises ValueError where it has not just these outputs."""
    kernel = np.asarray(head["kernel"])
    if kernel.shape != (config.hidden_size, len(outputs)):
        raise ValueError(
            f"the reward head's kernel has shape {list(kernel.shape)}; it should be "
            f"[{config.hidden_size}, number of outputs], and the outputs are {outputs}"
        )
    if len(set(outputs)) != len(outputs):
        raise ValueError(f"two outputs of the reward head have one name: {list(outputs)}")
    named = {HEAD: kernel.T} | ({HEAD_BIAS: np.asarray(head["bias"])} if "bias" in head else {})
    return [
        Tensor("the reward head", name, array.shape, functools.partial(np.asarray, array))
        for name, array in named.items()
    ]
