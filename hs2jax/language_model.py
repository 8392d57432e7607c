"""A language model as one holds it in a notebook: load, ask how likely a response is, and sample.

    model = LanguageModel.load("smollm2-135m-instruct")
    talk = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    model.log_probability([talk])
    model.sample([talk[:1]], n=4, temperature=0.7, top_p=0.9)

How samples are drawn is in `models.sampler`.
"""

import dataclasses
import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hs2jax import configs
from hs2jax.data import chat
from hs2jax.data.chat import Encoded
from hs2jax.data.conversations import encode, group_conversations
from hs2jax.data.groups import Group
from hs2jax.data.record import Record
from hs2jax.inference import response_log_probabilities
from hs2jax.model import Model, check_names, load
from hs2jax.models import sampler

log = logging.getLogger(__name__)


class LogProbability(NamedTuple):
    """log P(response | prompt) in nats: of the whole, and of each of its tokens, f32 [tokens], the
    last of which ends the turn."""

    total: float
    tokens: np.ndarray


@dataclasses.dataclass(repr=False)
class LanguageModel(Model):
    """A decoder with its vocabulary's output weights; see `Model`.

    params: the decoder's, with "lm_head" [V, D], or without where "embed" serves as that.
    """

    @classmethod
    def load(
        cls, name, *, template: str = "", mesh=None, dtype=None, masters: bool = False
    ) -> "LanguageModel":
        """Load a folder, a GGUF file, a hub id or a short name; keywords: see
        `RewardModel.load`. Of a reward model that still has its output weights, the language model
        is loaded and the head left. Raises ValueError where the checkpoint has no output weights or
        no tokenizer."""
        loaded, common = load(name, template=template, mesh=mesh, dtype=dtype, masters=masters)
        if not loaded.config.language_head:
            raise ValueError(
                f"{name} is a reward model without a language model's output weights; name the "
                "language model that it was made from"
            )
        if loaded.head is not None and not template:
            # How a reward model reads its scores says nothing of its language model's turns.
            common["read"] = "end_of_turn"
        return cls(loaded.config, dict(loaded.params), loaded.tokenizer, **common)

    def sample(
        self,
        prompts: Sequence[Sequence[Mapping[str, str]]],
        n: int = 1,
        *,
        condition: Mapping[str, int] | None = None,
        skip: bool = False,
        record: Record | None = None,
        **settings,
    ) -> list[list[sampler.Completion] | None]:
        """n responses to each prompt, a list of messages that ends with the user's.

        condition: attribute values that the responses are asked to have (SteerLM). settings, skip
        and record, also of malformed prompts: see `sample_groups`, as are errors.
        """
        check_names(settings, "LanguageModel.sample", self.sample_groups)
        groups = group_conversations(prompts, prompts=True, skip=skip, record=record)
        asked = {"condition": dict(condition or {})}
        groups = [group and dataclasses.replace(group, **asked) for group in groups]
        return self.sample_groups(groups, n, skip=skip, record=record, **settings)

    def sample_groups(
        self,
        groups: Sequence[Group | None],
        n: int = 1,
        *,
        skip: bool = False,
        record: Record | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        max_new_tokens: int = 256,
        seed: int = 0,
        first: int = 0,
        rows: int | None = None,
        tempered: bool = False,
    ) -> list[list[sampler.Completion] | None]:
        """n responses to the prompt of each group, under its condition; its own are not looked at.

        temperature: 0 for the likeliest token always. top_k: of so many likeliest tokens, 0 for
        all; then top_p: of the likeliest that have this probability together, as `transformers`
        has them. first: the number of the first group, for a list that is sampled in parts: random
        numbers depend on seed, a group's number and a response's, and on nothing else. rows:
        responses computed at a time, None for 32 on each device that rows are divided among; what
        is drawn does not depend on it but for rounding. tempered: log-probabilities are those at
        the temperature, of all tokens, and not the model's own.

        Raises ValueError where a setting is out of range, and for a prompt that leaves no room for
        a response or that the chat template refuses; with `skip`, such a group's samples are None
        and it is counted in `record`. A group that is None is left out.
        """
        record = Record() if record is None else record
        settings = {"n": n, "temperature": temperature, "top_p": top_p, "top_k": top_k}
        settings |= {"max_new_tokens": max_new_tokens, "seed": seed}
        for key, value in settings.items():
            if expected := configs.SETTINGS["sample"][key][1](value):
                raise ValueError(f"{key} is {value}; expected {expected}")
        given, positions = [i for i, group in enumerate(groups) if group], self.config.max_seq_len
        every = chat.prompt_ids(
            self.tokenizer,
            [groups[i] for i in given],
            record if skip else None,
            vocab_size=self.config.vocab_size,
        )
        prompts: dict[int, np.ndarray] = {}
        for i, ids in zip(given, every, strict=True):
            if ids is None:
                continue
            if len(ids) < positions:
                prompts[i] = ids
            elif skip:
                record.too_long += 1
            else:
                raise ValueError(
                    f"{groups[i].source}: the prompt has {len(ids)} tokens and the model "
                    f"{positions} positions, so there is no room for a response; leave the prompt "
                    "out or shorten it"
                )
        wanted = [(place, i, j) for place, i in enumerate(prompts) for j in range(n)]
        keys = sampler.keys(seed, [first + i for _, i, _ in wanted], [j for *_, j in wanted])
        room = {i: min(max_new_tokens, positions - len(ids)) for i, ids in prompts.items()}
        requests = [
            sampler.SampleRequest(place, key, room[i])
            for (place, i, _), key in zip(wanted, keys, strict=True)
        ]
        taken = sampler.sample(
            self.params,
            self.config,
            list(prompts.values()),
            requests,
            sampler.Drawing(self._ends(), temperature, top_p, top_k, tempered),
            rows=rows,
            mesh=self.mesh,
            dtype=self.dtype,
        )
        bad = {
            groups[i].source: Encoded(prompts[i], (one.tokens,))
            for (_, i, _), one in zip(wanted, taken, strict=True)
            if not np.isfinite(one.log_probabilities).all()
        }
        if bad:
            log.warning("%s", self.not_finite("log-probabilities", [*bad.items()]))
        samples = iter([one._replace(text=self._text(one)) for one in taken])
        found = {i: list(itertools.islice(samples, n)) for i in prompts}
        return [found.get(i) for i in range(len(groups))]

    def _ends(self) -> tuple[tuple[int, ...], ...]:
        """The ends of a response: the end of turn, and the model's EOS."""
        own = chat.end_of_turn(self.tokenizer, self.read)
        return (own, *((id,) for id in self.config.eos_ids if (id,) != own))

    def _text(self, taken: sampler.Completion) -> str:
        """Write a sample without what ended it."""
        ids = taken.tokens.tolist()
        if taken.finished:
            end = next(end for end in self._ends() if tuple(ids[-len(end) :]) == end)
            ids = ids[: -len(end)]
        text = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return chat.without_line_end(text, self.read) if taken.finished else text

    def log_probability(
        self,
        conversations: Sequence[Sequence[Mapping[str, str]]],
        *,
        skip: bool = False,
        record: Record | None = None,
        **options,
    ) -> list[LogProbability | None]:
        """Score how likely the response of each conversation is, after all that comes before it.

        conversations: each a list of messages that ends with the assistant's, the response.
        skip, record: see `RewardModel.score`. options: see `log_probability_groups`.
        """
        takes = self.log_probability_groups, encode
        check_names(options, "LanguageModel.log_probability", *takes)
        own = {"skip": skip, "record": record}
        groups = group_conversations(conversations, **own)
        given = [group for group in groups if group]
        tables = iter(self.log_probability_groups(given, **own, **options))
        every = [group and next(tables) for group in groups]
        return [of and LogProbability(float(of[0].sum(dtype=np.float64)), of[0]) for of in every]

    def log_probability_groups(
        self,
        groups: Sequence[Group],
        *,
        layout: str = "shared",
        rows: int | None = None,
        **options,
    ) -> list[list[np.ndarray] | None]:
        """The log-probability in nats of each token of each response of each group, f32 [tokens],
        after the group's prompt and condition; None for a group that is left out. Tokens that a
        group gives are taken as they are, and else come from its texts, with the end of turn.

        What is not finite stays so, and is named in the log. Neighbours share what their prompts
        begin with, where that is less work. rows: how many rows of tokens are computed at a time,
        None for what fits; results do not depend on it. options
        (truncate, skip, record): of each conversation, see `data.conversations.encode`.
        """
        check_names(options, "LanguageModel.log_probability_groups", encode)
        # Texts each by itself, so that what is the prompt's of its tokens depends on no other.
        parts = [[group] if group.tokens else _alone(group) for group in groups]
        flat = list(itertools.chain(*parts))
        policy = any(one.condition or one.tokens for one in flat)
        options |= {"longest": self.config.max_seq_len, "vocab_size": self.config.vocab_size}
        options |= {"read": self.read, "policy": policy}
        encoded = iter(encode(self.tokenizer, flat, **options))
        every = [[next(encoded) for _ in some] for some in parts]
        singles = {
            i: [
                _single(e.encoded.prompt, ids)
                for e in itertools.chain(*some)
                for ids in e.encoded.responses
            ]
            for i, some in enumerate(every)
            if all(some)
        }
        whole, where = list(itertools.chain(*singles.values())), {"mesh": self.mesh}
        where |= {"layout": layout, "rows": rows, "dtype": self.dtype}
        tables = iter(response_log_probabilities(self.params, whole, self.config, **where))
        found = {i: [next(tables) for _ in some] for i, some in singles.items()}
        computed = (
            (groups[i].source, one, x)
            for i, some in found.items()
            for one, x in zip(singles[i], some, strict=True)
        )
        self.warn_of("log-probabilities", computed)
        return [found.get(i) for i in range(len(groups))]

    def save(self, folder) -> None:
        """Export a folder that `transformers` loads, and `load`; see `RewardModel.save`."""
        self._export(folder, self.params)


def _alone(group: Group) -> list[Group]:
    """A group for each response, with nothing else known of it."""
    known = {"ratings": (), "strength": None}
    return [
        dataclasses.replace(group, responses=(response,), **known) for response in group.responses
    ]


def _single(prompt: np.ndarray, response: np.ndarray) -> Encoded:
    """A response of which all is asked for, and nothing of the prompt. Without a prompt, its first
    token follows nothing and so has no probability."""
    whole, start = np.concatenate([prompt, response]), max(len(prompt), 1)
    return Encoded(whole[:start], (whole[start:],), np.zeros(start, bool))
