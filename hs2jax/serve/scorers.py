"""From conversations to ids and from numbers to scores: a reward model's way, and a judge's."""

import dataclasses
import functools

import numpy as np

from hs2jax import inference
from hs2jax.data import chat
from hs2jax.data.chat import Encoded
from hs2jax.data.conversations import group_of
from hs2jax.data.groups import check_text, mistyped
from hs2jax.judging import judge, lager, score_tokens
from hs2jax.judging.criteria import Criterion
from hs2jax.judging.judge import Judge
from hs2jax.reward_model import RewardModel


@dataclasses.dataclass
class Rewards:
    """Scores by a reward model: what becomes of an item before and after the forward pass."""

    model: RewardModel

    def __post_init__(self):
        model = self.model
        self.weights, self.outputs = model.scalar_weights(), model.outputs
        self.rewarded, self.cuts = self.weights is not None, True
        options = {"config": model.config, "layout": "shared", "dtype": model.dtype}
        self.forward, self.params = functools.partial(inference.forward, **options), model.params

    def encode(self, item, name: str) -> Encoded:
        """Make one conversation's ids. Raises ValueError with its name."""
        model = self.model
        if isinstance(item, list) and (not item or not isinstance(item[0], int | float)):
            group, size = group_of(item, name), model.config.vocab_size
            return chat.encode(model.tokenizer, [group], model.read, vocab_size=size)[0]
        if isinstance(item, str):
            check_text(item, name)
        elif not isinstance(item, list):
            raise mistyped(name, "a list of messages, a text, or a list of token ids", item)
        elif not all(type(i) is int and 0 <= i < model.config.vocab_size for i in item):
            raise ValueError(f"{name}: expected ids from 0 to {model.config.vocab_size - 1}")
        ids = chat.whole(model.tokenizer, item, model.read)
        chat.embedded(ids, model.tokenizer, model.config.vocab_size, name)
        return Encoded(ids[:-1], (ids[-1:],))

    def score(self, numbers: np.ndarray) -> dict:
        """Name the numbers [N] of a response."""
        outputs = dict(zip(self.outputs, map(float, numbers), strict=True))
        reward = None if self.weights is None else float(numbers @ self.weights)
        return {"reward": reward, "outputs": outputs}


@dataclasses.dataclass
class Judgements:
    """Scores by a judge, by one criterion; as `Rewards`."""

    judge: Judge
    criterion: Criterion
    preset: lager.Preset
    weights: np.ndarray | None = None

    def __post_init__(self):
        self.model, self.rewarded, self.cuts = self.judge.model, True, False
        probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        self.tokens = self._asked(probe, "a probe").tokens
        columns, dtype = self.judge.columns(self.tokens), self.model.dtype
        options = {"config": self.model.config, "dtype": dtype, "states": False}
        self.forward = functools.partial(judge.forward, columns=columns, **options)
        self.params, self.outputs = self.model.params, (self.criterion.name,)
        self.score(np.zeros(2 * (self.model.config.num_layers + 1) * len(self.tokens), np.float32))

    def _asked(self, item, name: str) -> score_tokens.Asked:
        requests = judge.requests_of(group_of(item, name), [self.criterion])
        size = self.model.config.vocab_size
        return score_tokens.encode(self.model.tokenizer, requests, size)[0]

    def encode(self, item, name: str) -> Encoded:
        """Make the ids of the question about one conversation. Raises ValueError with its name."""
        return self._asked(item, name).encoded

    def score(self, numbers: np.ndarray) -> dict:
        """Judge by the numbers [N] of a response."""
        logits = self.judge.reading(np.array(numbers[None]), self.tokens).logits
        (found,) = self.judge.judgements(logits, self.criterion, self.preset, self.weights)
        distribution = {str(value): chance for value, chance in found.distribution.items()}
        outputs = {self.criterion.name: found.score}
        return {"reward": found.score, "outputs": outputs, "distribution": distribution}
