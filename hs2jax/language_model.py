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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hs2jax.data import chat, packing, templates
from hs2jax.data.chat import Encoded
from hs2jax.data.conversations import encode, group_conversations
from hs2jax.data.groups import Group
from hs2jax.data.record import Record
from hs2jax.inference import response_log_probabilities
from hs2jax.models import sampler
from hs2jax.models.config import Config
from hs2jax.models.hf import hub
from hs2jax.models.hf.weights import gathered
from hs2jax.models.next_token import Choice


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
class LanguageModel:
    """A decoder with its vocabulary's output weights.

    params: the decoder's, with "lm_head" [V, D], or without where "embed" serves as that. mesh:
    where the parameters live, None for the default device. dtype: of the computation; softmax is
    always float32. name: as it was loaded. template: name of the chat template that the tokenizer
    holds, "own" for its own. read: how the end of a turn is found, see `data.chat.encode`.
    """

    config: Config
    params: dict[str, Any]
    tokenizer: Any
    name: str = ""
    mesh: jax.sharding.Mesh | None = None
    dtype: Any = jnp.float32
    template: str = "own"
    read: str = "end_of_turn"

    @classmethod
    def load(cls, name, *, template: str = "", mesh=None, dtype=None) -> "LanguageModel":
        """Load a folder, a GGUF file, a hub id or a short name.

        template: one of `data.templates`; "" is what belongs to the checkpoint. dtype: of the
        computation; None is float32 on CPU and bfloat16 elsewhere. Of a reward model that still has
        its output weights, the language model is loaded and the head left.
        Raises ValueError where the checkpoint has no output weights or no tokenizer.
        """
        loaded = hub.load(name, mesh)
        if not loaded.config.language_head:
            raise ValueError(
                f"{name} is a reward model without a language model's output weights; name the "
                "language model that it was made from"
            )
        if loaded.tokenizer is None:
            raise ValueError(f"{name}: there is no tokenizer beside the model")
        if dtype is None:
            dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
        # How a reward model reads its scores says nothing of its language model's turns.
        read = loaded.read if loaded.head is None else "end_of_turn"
        if template:
            loaded.tokenizer.chat_template, read = templates.choose(template)
        return cls(
            loaded.config,
            dict(loaded.params),
            loaded.tokenizer,
            str(name),
            mesh,
            dtype,
            template or loaded.template,
            read,
        )

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
        groups = []
        for i, (prompt, asked) in enumerate(zip(prompts, condition, strict=True)):
            try:
                turns = tuple({"role": m["role"], "content": m["content"]} for m in prompt)
                # A group has responses; this one stands for those to come.
                groups.append(Group(turns, ("-",), source=f"prompt {i}", condition=dict(asked)))
            except (KeyError, TypeError):
                raise ValueError(
                    f"prompt {i} must be a list of messages with 'role' and 'content', not text"
                ) from None
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
        _check_settings(n, temperature, top_p, top_k, max_new_tokens, stop, rows, seed)
        prompts = chat.prompt_ids(self.tokenizer, groups)
        room = [self.config.max_seq_len - len(ids) for ids in prompts]
        for group, left in zip(groups, room, strict=True):
            if left < 1:
                raise ValueError(
                    f"{group.source}: the prompt has {self.config.max_seq_len - left} tokens and "
                    f"the model {self.config.max_seq_len} positions, so there is no room for a "
                    "response; leave the prompt out or shorten it"
                )
        wanted = [(i, j) for i in range(len(prompts)) for j in range(n)]
        keys = sampler.keys(seed, [first + i for i, _ in wanted], [j for _, j in wanted])
        taken = sampler.sample(
            self.params,
            self.config,
            prompts,
            [
                sampler.SampleRequest(i, key, min(max_new_tokens, room[i]))
                for (i, _), key in zip(wanted, keys, strict=True)
            ],
            sampler.Drawing(
                Choice(temperature == 0, top_k, top_p < 1), self._ends(), temperature, top_p
            ),
            rows=rows,
            mesh=self.mesh,
            dtype=self.dtype,
            stopped=functools.partial(_stopped, self.tokenizer, tuple(stop)),
        )
        samples = iter([Sample(self._text(one, stop), *one) for one in taken])
        return [list(itertools.islice(samples, n)) for _ in groups]

    def _ends(self) -> tuple[tuple[int, ...], ...]:
        """The ends of a response: the end of turn, and the model's EOS."""
        own = chat.end_of_turn(self.tokenizer, self.read)
        return (own, *((id,) for id in self.config.eos_ids if (id,) != own))

    def _text(self, taken: sampler.Completion, stop: Sequence[str]) -> str:
        ids, ended = taken.tokens.tolist(), False
        if taken.finished:
            for end in self._ends():
                if tuple(ids[-len(end) :]) == end:
                    ids, ended = ids[: -len(end)], True
                    break
        text = _decode(self.tokenizer, ids)
        if ended:
            text = chat.without_line_end(text, self.read)
        return text[: min((at for at in map(text.find, stop) if at >= 0), default=None)]

    def log_probability_groups(
        self,
        groups: Sequence[Group],
        *,
        skip: bool = False,
        record: Record | None = None,
        rows: int | None = None,
    ) -> list[list[np.ndarray] | None]:
        """The log-probability in nats of each token of each response of each group, f32 [tokens],
        after the group's prompt and condition. Tokens that a group gives are taken as they are,
        and else come from its texts, with the end of turn. See `log_probability` for the rest.
        """
        record = Record() if record is None else record
        # Texts each by itself, so that what is the prompt's of its tokens depends on no other.
        parts = [
            (i, one)
            for i, group in enumerate(groups)
            for one in ([group] if group.tokens else _alone(group))
        ]
        every = chat.encode(
            self.tokenizer,
            [one for _, one in parts],
            self.read,
            record if skip else None,
            policy=True,
            record=record,
        )
        left_out = {i for (i, _), encoded in zip(parts, every, strict=True) if encoded is None}
        singles = []
        for (i, group), encoded in zip(parts, every, strict=True):
            if i in left_out:
                continue
            excess = packing.cost(encoded, "padded") - self.config.max_seq_len
            if excess <= 0:
                singles += [(i, Encoded(encoded.prompt, (ids,))) for ids in encoded.responses]
            elif skip:
                record.too_long += 1
                left_out.add(i)
            else:
                raise ValueError(
                    f"{group.source}: a conversation is {excess} tokens longer than the "
                    f"{self.config.max_seq_len} that fit; leave it out"
                )
        singles = [(i, one) for i, one in singles if i not in left_out]
        found: list[list[np.ndarray] | None] = [
            None if i in left_out else [] for i in range(len(groups))
        ]
        tables = self._score([one for _, one in singles], "shared", rows)
        for (i, _), tokens in zip(singles, tables, strict=True):
            found[i].append(tokens)
        return found

    def save(self, folder) -> None:
        """Export weights, config and tokenizer as a folder that `transformers` loads, and `load`.

        Where the parameters are spread over several processes, see `RewardModel.save`.
        """
        params = gathered(self.params, self.config)
        if params is not None:
            hub.save(
                folder,
                config=self.config,
                params=params,
                tokenizer=self.tokenizer,
                template=self.template,
                read=self.read,
            )

    def log_probability(
        self,
        conversations: Sequence[Sequence[Mapping[str, str]]],
        *,
        layout: str = "shared",
        rows: int | None = None,
        truncate: bool = False,
        skip: bool = False,
        record: Record | None = None,
    ) -> list[LogProbability | None]:
        """Score how likely the response of each conversation is, after all that comes before it.

        conversations: each a list of messages that ends with the assistant's, the response.
        Neighbours share what their prompts begin with, where that is less work. rows: how many
        rows of tokens are computed at a time, None for what fits; results do not depend on it.
        truncate, skip: as for `RewardModel.score_groups`, but for each conversation by itself:
        one that is skipped is None.
        """
        # Each by itself: what of its tokens is the prompt's must not depend on its neighbours.
        alone = []
        for group in group_conversations(conversations):
            for one in _alone(group):
                alone.append(dataclasses.replace(one, source=f"conversation {len(alone)}"))
        parts = encode(
            self.tokenizer,
            alone,
            longest=self.config.max_seq_len,
            read=self.read,
            truncate=truncate,
            skip=skip,
            record=record,
        )
        kept = [i for i, some in enumerate(parts) if some]
        found: list[LogProbability | None] = [None] * len(parts)
        encoded = [_preceded(parts[i][0].encoded) for i in kept]
        tables = self._score(encoded, layout, rows)
        for i, tokens in zip(kept, tables, strict=True):
            found[i] = LogProbability(float(tokens.sum(dtype=np.float64)), tokens)
        return found

    def _score(self, encoded: Sequence[Encoded], layout: str, rows: int | None):
        """The log-probability of each token of the one response of each."""
        return response_log_probabilities(
            self.params,
            encoded,
            self.config,
            layout=layout,
            rows=rows,
            mesh=self.mesh,
            dtype=self.dtype,
        )


def _check_settings(n, temperature, top_p, top_k, max_new_tokens, stop, rows, seed) -> None:
    for name, value, fits, wanted in (
        ("n", n, n >= 1, "at least 1"),
        ("temperature", temperature, temperature >= 0, "0 (the likeliest token) or above"),
        ("top_p", top_p, 0 < top_p <= 1, "above 0 and at most 1 (all tokens)"),
        ("top_k", top_k, top_k >= 0, "0 (all tokens) or above"),
        ("max_new_tokens", max_new_tokens, max_new_tokens >= 1, "at least 1"),
        ("rows", rows, rows is None or rows >= 1, "at least 1, or None"),
        ("seed", seed, 0 <= seed < 2**31, "from 0 to 2,147,483,647"),
    ):
        if not fits:
            raise ValueError(f"{name} is {value}; it must be {wanted}")
    if isinstance(stop, str) or not all(stop):
        raise ValueError(f"stop is {stop!r}; it must be a list of texts, none of them empty")


def _stopped(tokenizer, stop: Sequence[str], ids: np.ndarray) -> int | None:
    """Count the tokens it takes to write one of the texts `stop`; None if they do not."""

    def written(count: int) -> bool:
        text = _decode(tokenizer, ids[:count].tolist())
        return any(one in text for one in stop)

    if not stop or not written(len(ids)):
        return None
    return next(count for count in range(1, len(ids) + 1) if written(count))


def _decode(tokenizer, ids: Sequence[int]) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def _alone(group: Group) -> list[Group]:
    """A group for each response, with nothing else known of it."""
    known = {"ratings": (), "strength": None}
    return [
        dataclasses.replace(group, responses=(response,), **known) for response in group.responses
    ]


def _preceded(encoded: Encoded) -> Encoded:
    """With a token in the prompt: where all of it was cut, the response's first, which follows
    nothing and so has no probability."""
    if len(encoded.prompt):
        return encoded
    (response,) = encoded.responses
    return Encoded(response[:1], (response[1:],))
