"""The judge, as one holds it in a notebook: a frozen language model that gives scores.

    judge = Judge.load("smollm2-135m-instruct")
    judge.score([[{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]])

Method: LAGER (arXiv 2508.03550): one forward pass, the logits of the score tokens in every layer at
the position before the answer.
Axis letters: B rows, R branches of a row, Q questions of an item, L layers, S answers, D width.
"""

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hs2jax.data import packing
from hs2jax.data.conversations import group_conversations, unrated
from hs2jax.data.groups import Group, prompt_text
from hs2jax.data.record import TOO_LONG, Record
from hs2jax.data.templates import without_thought
from hs2jax.inference import plan_evaluation, run_batches, run_decoder
from hs2jax.judging import criteria as criteria_files
from hs2jax.judging import lager, prompts, score_tokens, weights_file, written
from hs2jax.judging.criteria import Criterion
from hs2jax.judging.prompts import Request
from hs2jax.language_model import LanguageModel
from hs2jax.models.config import Config
from hs2jax.models.decoder import Probe, lens

log = logging.getLogger(__name__)

TOKENS = 2048  # That are computed at a time, unless a row is longer.
PACKED = 512  # Items up to so many tokens share rows of twice the length.


class Reading(NamedTuple):
    """The layers' answers to the questions about one item.

    logits: f32 [Q, 2, L + 1, S] of the answers: by the states as they are and by the states after
    the final norm (`lager.NORMS`), from the embedding's output to the last layer; the last entry
    is after the final norm in both, as `transformers` hands it out. states: f32 [Q, L + 1, D], the
    residual stream itself, before the final norm, or None where it was not asked for.
    """

    logits: np.ndarray
    states: np.ndarray | None = None


class Judgement(NamedTuple):
    """A score on the criterion's scale, and the probability of each value of the scale."""

    score: float
    distribution: dict[int, float]


def forward(params, batch, columns, config: Config, *, dtype, states: bool):
    """Logits [B, R, 2 (L + 1) S] of the answers at each branch's end, or with `states` what the
    layers hold there, [B, R, (L + 1) D]; of a batch as `data.packing.lay` makes it.

    columns: [S, D], the unembedding of the answers' tokens. No layer's states are kept, and no
    logits of other tokens are computed.
    """
    B, R = batch["end_positions"].shape
    probe = (
        Probe(batch["end_positions"])
        if states
        else Probe(batch["end_positions"], columns, final_norm(params))
    )
    _, out = run_decoder({"decoder": params}, batch, config, dtype=dtype, probe=probe)
    # [L + 1, B, R, D] or [L + 1, 2, B, R, S], with the rows and branches to the front.
    seen = jnp.transpose(out["probe"], (1, 2, 0, 3) if states else (2, 3, 1, 0, 4))
    return seen.astype(jnp.float32).reshape(B, R, -1)


run = jax.jit(forward, static_argnames=("config", "dtype", "states"))


def final_norm(params: Mapping) -> dict:
    """The final norm's parameters, by the names that `decoder.Probe` has for them."""
    return {name: params[name] for name in ("norm", "norm_bias") if name in params}


def not_finite(logits: np.ndarray) -> str:
    """Say in which layer logits [Q, 2, L + 1, S] are first not finite, which they are somewhere."""
    layer = int(np.isfinite(logits).all(axis=(0, 1, 3)).argmin()) - 1
    where = "the embedding" if layer < 0 else f"layer {layer}"
    return (
        f"the judge's logits are not finite numbers, first in {where}. Are its parameters whole, "
        "and does its dtype suffice?"
    )


@dataclasses.dataclass
class Judge:
    """A frozen language model that judges."""

    model: LanguageModel

    def __post_init__(self):
        tokenizer = without_thought(self.model.tokenizer)
        if tokenizer is not self.model.tokenizer:
            self.model = dataclasses.replace(self.model, tokenizer=tokenizer)

    @classmethod
    def load(cls, name, *, mesh=None, dtype=None) -> "Judge":
        """A judge of a language model: a folder, a GGUF file, a hub id or a short name. dtype: of
        the computation; None is float32 on CPU and bfloat16 elsewhere."""
        return cls(LanguageModel.load(name, mesh=mesh, dtype=dtype))

    def score(
        self,
        conversations: Sequence[Sequence[Mapping[str, str]]],
        *,
        criterion: str | Criterion = "helpfulness",
        weights=None,
        preset: lager.Preset = lager.PRESETS["recommended"],
        skip: bool = False,
        record: Record | None = None,
    ) -> list[Judgement | None]:
        """Score conversations, each a list of messages that ends with the assistant's.

        criterion: a Criterion, or "SET/NAME" of the bundled sets, "NAME" for HelpSteer's.
        weights: of the layers the preset uses, [L'], or a file of them that a run has left; None
        weighs them equally. What is not finite stays so, and is named in the log. skip: None for a
        conversation that is malformed, longer than the model's positions, or refused by the chat
        template, counted in `record`, instead of raising ValueError with its number. Raises
        ValueError for a file of weights of another model or preset.
        """
        if isinstance(weights, str | Path):
            weights = weights_file.load(weights, self, preset)
        if isinstance(criterion, str):
            criterion = criteria_files.find(criterion)
        logits = self._logits(conversations, criterion, skip, record)
        found: list[Judgement | None] = [None] * len(conversations)
        if not logits:
            return found
        judged = self.judgements(np.stack([*logits.values()]), criterion, preset, weights)
        for i, judgement in zip(logits, judged, strict=True):
            found[i] = judgement
        return found

    def layers(
        self,
        conversations: Sequence[Sequence[Mapping[str, str]]],
        *,
        criterion: str | Criterion = "helpfulness",
        preset: lager.Preset = lager.PRESETS["recommended"],
        skip: bool = False,
        record: Record | None = None,
    ) -> list[np.ndarray | None]:
        """Score conversations by each layer alone: the expected score f32 [L'], of the layers that
        the preset uses, from the embedding's output up. Arguments and errors: see `score`."""
        if isinstance(criterion, str):
            criterion = criteria_files.find(criterion)
        logits = self._logits(conversations, criterion, skip, record)
        chances = {i: jax.nn.softmax(lager.used_layers(x, preset)) for i, x in logits.items()}
        by_layer = {i: np.asarray(x) @ np.float32(criterion.scale) for i, x in chances.items()}
        return [by_layer.get(i) for i in range(len(conversations))]

    def _logits(
        self, conversations, criterion: Criterion, skip: bool, record: Record | None
    ) -> dict[int, np.ndarray]:
        """Read logits [2, L + 1, S] of each conversation that is not left out, by its number."""
        record = Record() if record is None else record
        groups = group_conversations(conversations, skip=skip, record=record)
        given = [i for i, group in enumerate(groups) if group]
        requests = [request for i in given for request in requests_of(groups[i], [criterion])]
        logits = {}
        for i, reading in zip(given, self.ask(requests, skip=skip), strict=True):
            if isinstance(reading, str):
                record.leave_out(reading)
                continue
            logits[i] = reading.logits[0]
            if not np.isfinite(reading.logits).all():
                log.warning("%s: %s", groups[i].source, not_finite(reading.logits))
        return logits

    @staticmethod
    def judgements(logits, criterion: Criterion, preset: lager.Preset, weights) -> list[Judgement]:
        """Judge by logits [N, 2, L + 1, S] of N readings of one question, as `score` does."""
        name = "lager_wo" if weights is None else "lager_w"
        scores = lager.aggregate(logits, criterion.scale, name, preset, weights)
        chances = lager.distribution(logits, preset, weights)
        return [
            Judgement(float(score), dict(zip(criterion.scale, map(float, row), strict=True)))
            for score, row in zip(scores, chances, strict=True)
        ]

    def ask(
        self,
        requests: Sequence[Request],
        *,
        states: bool = False,
        skip: bool = False,
        condition: str = "forced",
        place: str = "statement",
    ) -> list[Reading | str]:
        """Read what the layers say to each request, in one forward pass.

        states: the states too, from which the logits are then made. skip: for a request that is
        longer than the model's positions or that the chat template refuses, the reason
        (`record.REASONS`) instead of raising ValueError. condition:
        "forced", right behind the request's prefix; "direct" and "reasoning": before the score in
        what the judge writes first, of requests of one question each, or the reason why there is
        none (`judging.written`, where `place` is explained too).
        """
        if condition != "forced":
            found = written.answered(self.model, requests, condition, place)
            there = [i for i, each in enumerate(found) if isinstance(each, Request)]
            read = self.ask([found[i] for i in there], states=states, skip=True)
            for i, reading in zip(there, read, strict=True):
                found[i] = reading
            return found
        model, found = self.model, [TOO_LONG] * len(requests)
        alike: dict[tuple, list[int]] = {}  # By the answers' tokens and the length of rows.
        every = score_tokens.encode(model.tokenizer, requests, model.config.vocab_size, skip=skip)
        for i, (request, asked) in enumerate(zip(requests, every, strict=True)):
            if isinstance(asked, str):
                found[i] = asked
                continue
            longest = packing.cost(asked.encoded, "padded")
            if longest <= model.config.max_seq_len:
                length = row_length(packing.cost(asked.encoded, "shared"))
                alike.setdefault((tuple(asked.tokens.tolist()), length), []).append(i)
            elif not skip:
                raise ValueError(
                    f"{request.source or f'request {i}'}: it has {longest} tokens, and the model "
                    f"has {model.config.max_seq_len} positions"
                )
        across = model.config.num_layers + 1
        for (tokens, length), places in alike.items():
            how = {"config": model.config, "dtype": model.dtype, "states": states}
            ask = functools.partial(run, model.params, columns=self.columns(tokens), **how)
            batches = plan_evaluation(
                [unrated(every[i].encoded.prompt, every[i].encoded.responses) for i in places],
                row_length=length,
                layout="shared",
                rows=max(1, TOKENS // length),
                mesh=model.mesh,
            )
            numbers = across * (model.config.hidden_size if states else 2 * len(tokens))
            tables = run_batches(ask, batches, numbers, model.mesh)
            for i, table in zip(places, tables, strict=True):
                found[i] = self.reading(table, tokens, states)
        return found

    def columns(self, tokens: Sequence[int]):
        """The unembedding of tokens, [S, D]."""
        params = self.model.params
        return params.get("lm_head", params["embed"])[np.asarray(tokens)]

    def reading(self, table, tokens, states=False) -> Reading:
        """The numbers of `forward` for one request, [Q, ...] flat, as a reading."""
        config, seen = self.model.config, None
        if states:
            seen = table.reshape(len(table), config.num_layers + 1, config.hidden_size)
            # In the dtype of the pass, so that the norm is rounded alike.
            exact, norm = jnp.asarray(seen, self.model.dtype), final_norm(self.model.params)
            logits = np.moveaxis(np.array(lens(config, exact, self.columns(tokens), norm)), 0, 1)
        else:
            logits = table.reshape(len(table), 2, config.num_layers + 1, len(tokens))
        logits[:, 0, -1] = logits[:, 1, -1]
        return Reading(logits, seen)


def row_length(cost: int) -> int:
    """Attention costs the square of a row, and an item with its rubrics fills one: so each has a
    row of about its own length, of the four to an octave that are compiled, and short ones are
    packed."""
    step = 1 << max(cost.bit_length() - 3, 0)
    return 2 * PACKED if cost <= PACKED else -(-cost // step) * step


def requests_of(
    group: Group, criteria: Sequence[Criterion], condition: str = "forced"
) -> list[Request]:
    """Make the request of each response of a group, by criteria or by `criteria.ROWS_OWN` alone;
    where the judge writes, one for each criterion of each."""
    prompt = prompt_text(group)
    if tuple(criteria) == (criteria_files.ROWS_OWN,):
        criteria = (criteria_files.of_group(group),)
    parts = [criteria] if condition == "forced" else [[each] for each in criteria]
    return [
        prompts.pointwise(prompt, response, some, group.source, condition)
        for response in group.responses
        for some in parts
    ]
