"""A language model as one holds it in a notebook: load, ask how likely a response is, and sample.

    model = LanguageModel.load("smollm2-135m-instruct")
    talk = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    model.log_probability([talk])
    model.sample([talk[:1]], n=4, temperature=0.7, top_p=0.9)

How samples are drawn is in `models.sampler`.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hs2jax import config_rules
from hs2jax.data import chat
from hs2jax.data.chat import Encoded
from hs2jax.data.conversations import encode, group_conversations
from hs2jax.data.groups import Group
from hs2jax.inference import response_log_probabilities
from hs2jax.model import Model, load
from hs2jax.models import sampler

RULES = {
    "n": config_rules.at_least(1),
    "temperature": config_rules.at_least(0),
    "top_p": config_rules.share,
    "top_k": config_rules.at_least(0),
    "max_new_tokens": config_rules.at_least(1),
    "seed": config_rules.seed,
}


class LogProbability(NamedTuple):
    """log P(response | prompt) in nats: of the whole, and of each of its tokens, f32 [tokens], the
    last of which ends the turn."""

    total: float
    tokens: np.ndarray


class Sample(NamedTuple):
    """A response that was sampled.

    text: without what ended it. tokens int32 [tokens]: up to and with the end of turn, or the token
    that completes a text of `stop`, where it finished; else as many as it might have.
    log_probabilities f32 [tokens], in nats: of these tokens under the model itself, temperature 1
    and nothing cut off. finished: whether it ended by itself.
    """

    text: str
    tokens: np.ndarray
    log_probabilities: np.ndarray
    finished: bool


@dataclasses.dataclass
class LanguageModel(Model):
    """A decoder with its vocabulary's output weights; see `Model`.

    params: the decoder's, with "lm_head" [V, D], or without where "embed" serves as that. name: as
    it was loaded.
    """

    name: str = ""

    @classmethod
    def load(cls, name, *, template: str = "", mesh=None, dtype=None) -> "LanguageModel":
        """Load a folder, a GGUF file, a hub id or a short name.

        template: one of `data.templates`; "" is what belongs to the checkpoint. dtype: of the
        computation; None is float32 on CPU and bfloat16 elsewhere. Of a reward model that still has
        its output weights, the language model is loaded and the head left.
        Raises ValueError where the checkpoint has no output weights or no tokenizer.
        """
        loaded, common = load(name, template=template, mesh=mesh, dtype=dtype)
        if not loaded.config.language_head:
            raise ValueError(
                f"{name} is a reward model without a language model's output weights; name the "
                "language model that it was made from"
            )
        if loaded.head is not None and not template:
            # How a reward model reads its scores says nothing of its language model's turns.
            common["read"] = "end_of_turn"
        return cls(loaded.config, dict(loaded.params), loaded.tokenizer, str(name), **common)

    def sample(
        self,
        prompts: Sequence[Sequence[Mapping[str, str]]],
        n: int = 1,
        *,
        condition: Mapping[str, int] | Sequence[Mapping[str, int]] | None = None,
        **settings,
    ) -> list[list[Sample]]:
        """n responses to each prompt, a list of messages that ends with the user's.

        condition: attribute values that the responses are asked to have (SteerLM), for all prompts
        or one mapping for each. settings: see `sample_groups`, as are errors.
        """
        if condition is None or isinstance(condition, Mapping):
            condition = [condition or {}] * len(prompts)
        if len(condition) != len(prompts):
            raise ValueError(f"{len(condition)} conditions, but {len(prompts)} prompts")
        # A group has responses; this one stands for those to come.
        answer, groups = {"role": "assistant", "content": "-"}, []
        for i, (prompt, asked) in enumerate(zip(prompts, condition, strict=True)):
            try:
                (group,) = group_conversations([[*prompt, answer]])
                groups.append(
                    dataclasses.replace(group, source=f"prompt {i}", condition=dict(asked))
                )
            except ValueError as error:
                raise ValueError(f"prompt {i}: {error}") from None
        return self.sample_groups(groups, n, **settings)

    def sample_groups(
        self,
        groups: Sequence[Group],
        n: int = 1,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        max_new_tokens: int = 256,
        stop: Sequence[str] = (),
        seed: int = 0,
        first: int = 0,
        rows: int | None = None,
    ) -> list[list[Sample]]:
        """n responses to the prompt of each group, under its condition; its own are not looked at.

        temperature: 0 for the likeliest token always. top_k: of so many likeliest tokens, 0 for
        all; then top_p: of the likeliest that have this probability together, as `transformers`
        has them. stop: texts that end a response, besides the end of turn and the model's EOS.
        first: the number of the first group, for a list that is sampled in parts: random numbers
        depend on seed, a group's number and a response's, and on nothing else. rows: responses
        computed at a time, None for 32 on each device that rows are divided among; what is drawn
        does not depend on it but for rounding.

        Raises ValueError where a setting is out of range or a prompt leaves no room for a response.
        """
        settings = {"n": n, "temperature": temperature, "top_p": top_p, "top_k": top_k}
        settings |= {"max_new_tokens": max_new_tokens, "seed": seed}
        for key, value in settings.items():
            if expected := RULES[key](value):
                raise ValueError(f"{key} is {value}; expected {expected}")
        if isinstance(stop, str) or not all(stop):
            raise ValueError(f"stop is {stop!r}; it must be a list of texts, none of them empty")
        prompts = chat.prompt_ids(self.tokenizer, groups)
        positions = self.config.max_seq_len
        for group, ids in zip(groups, prompts, strict=True):
            if len(ids) >= positions:
                raise ValueError(
                    f"{group.source}: the prompt has {len(ids)} tokens and the model {positions} "
                    "positions, so there is no room for a response; leave the prompt out or "
                    "shorten it"
                )
        wanted = [(i, j) for i in range(len(prompts)) for j in range(n)]
        keys = sampler.keys(seed, [first + i for i, _ in wanted], [j for _, j in wanted])
        requests = [
            sampler.SampleRequest(i, key, min(max_new_tokens, positions - len(prompts[i])))
            for (i, _), key in zip(wanted, keys, strict=True)
        ]
        taken = sampler.sample(
            self.params,
            self.config,
            prompts,
            requests,
            sampler.Drawing(self._ends(), temperature, top_p, top_k),
            rows=rows,
            mesh=self.mesh,
            dtype=self.dtype,
            stopped=functools.partial(self._stopped, tuple(stop)),
        )
        samples = iter([Sample(self._text(one, stop), *one) for one in taken])
        return [list(itertools.islice(samples, n)) for _ in groups]

    def _ends(self) -> tuple[tuple[int, ...], ...]:
        """The ends of a response: the end of turn, and the model's EOS."""
        own = chat.end_of_turn(self.tokenizer, self.read)
        return (own, *((id,) for id in self.config.eos_ids if (id,) != own))

    def _text(self, taken: sampler.Completion, stop: Sequence[str]) -> str:
        """Write a sample without what ended it."""
        ids = taken.tokens.tolist()
        end = next((end for end in self._ends() if tuple(ids[-len(end) :]) == end), ())
        ended = taken.finished and end
        text = self._decode(ids[: -len(end)] if ended else ids)
        if ended:
            text = chat.without_line_end(text, self.read)
        return text[: min((at for at in map(text.find, stop) if at >= 0), default=None)]

    def _decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    def _stopped(self, stop: Sequence[str], ids: np.ndarray) -> int | None:
        """Count the tokens it takes to write one of the texts `stop`; None if they do not."""

        def written(count: int) -> bool:
            text = self._decode(ids[:count].tolist())
            return any(one in text for one in stop)

        if not stop or not written(len(ids)):
            return None
        return next(count for count in range(1, len(ids) + 1) if written(count))

    def log_probability(
        self, conversations: Sequence[Sequence[Mapping[str, str]]], **options
    ) -> list[LogProbability | None]:
        """Score how likely the response of each conversation is, after all that comes before it.

        conversations: each a list of messages that ends with the assistant's, the response.
        options: see `log_probability_groups`.
        """
        every = itertools.chain(*map(_alone, group_conversations(conversations)))
        groups = [
            dataclasses.replace(one, source=f"conversation {i}") for i, one in enumerate(every)
        ]
        found = self.log_probability_groups(groups, **options)
        return [of and LogProbability(float(of[0].sum(dtype=np.float64)), of[0]) for of in found]

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

        Neighbours share what their prompts begin with, where that is less work. rows: how many rows
        of tokens are computed at a time, None for what fits; results do not depend on it. options
        (truncate, skip, record): of each conversation, see `data.conversations.encode`.
        """
        # Texts each by itself, so that what is the prompt's of its tokens depends on no other.
        parts = [[group] if group.tokens else _alone(group) for group in groups]
        flat = list(itertools.chain(*parts))
        policy = any(one.condition or one.tokens for one in flat)
        options |= {"longest": self.config.max_seq_len, "read": self.read, "policy": policy}
        encoded = iter(encode(self.tokenizer, flat, **options))
        every = [[next(encoded) for _ in some] for some in parts]
        singles = [
            [
                _single(example.encoded.prompt, ids)
                for example in itertools.chain(*some)
                for ids in example.encoded.responses
            ]
            for some in every
            if all(some)
        ]
        tables = iter(
            response_log_probabilities(
                self.params,
                list(itertools.chain(*singles)),
                self.config,
                layout=layout,
                rows=rows,
                mesh=self.mesh,
                dtype=self.dtype,
            )
        )
        found = iter([[next(tables) for _ in some] for some in singles])
        return [next(found) if all(some) else None for some in every]

    def save(self, folder) -> None:
        """Export weights, config and tokenizer as a folder that `transformers` loads, and `load`.

        Where the parameters are spread over several processes, see `RewardModel.save`.
        """
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
