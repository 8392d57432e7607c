"""PPO's half beside the policy: a value model, which starts as the reward model, and advantages of
each token from it (HelpSteer2, section 4.4; HelpSteer2-Preference, section 5; arXiv 1707.06347).

Of NeMo-Aligner's recipe all is here but its entropy bonus, which is 0 there.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hs2jax import losses
from hs2jax.alignment import rollouts
from hs2jax.alignment.rollouts import Scale, Worth
from hs2jax.inference import run_decoder
from hs2jax.language_model import LanguageModel
from hs2jax.models import heads, sharding
from hs2jax.models.decoder import hold
from hs2jax.reward_model import RewardModel
from hs2jax.training import optimizer, step


def token_values(params, batch, config, *, layout, dtype, remat=False):
    """What is expected before each token, f32 [B, T]: the head at the token that predicts it."""
    hidden, _ = run_decoder(params, batch, config, layout=layout, dtype=dtype, remat=remat)
    return heads.reward(params["head"], hidden, jnp.maximum(batch["predictor_index"], 0))[..., 0]


_values = jax.jit(token_values, static_argnames=("config", "layout", "dtype"))


def value_head(rater: RewardModel, scale: Scale):
    """The head whose output at a response's last token is its reward as it is maximised: weighed,
    and standardised with the bias."""
    weights = jnp.asarray(rater.scalar_weights())[:, None]
    head = {"kernel": rater.params["head"]["kernel"] @ weights}
    head["bias"] = rater.params["head"].get("bias", jnp.zeros(len(weights))) @ weights
    by = scale.weight / scale.spread
    return heads.rescale(head, jnp.full(1, by), jnp.full(1, -scale.mean * by))


class ValueLoss(NamedTuple):
    """Half the squared error of values against returns, clipped, as a mean over tokens."""

    clip: float | None

    def counts(self, batch):
        return None

    def loss(self, outputs, batch, counts):
        """outputs: [B, T], as of `token_values`. batch: with "share", "value" and "returns"."""
        each = losses.clipped_value(outputs, batch["value"], batch["returns"], clip=self.clip)
        return jnp.sum(jnp.where(batch["share"] > 0, batch["share"] * each, 0.0)), {}


class Critic:
    """The value model at work. state: as `training.step` has it; all of it is trained."""

    def __init__(self, config, policy: LanguageModel, rater: RewardModel, scale: Scale):
        """Raises ValueError where the reward model reads other tokens than the policy."""
        # A reward model's export may have a token more, for padding.
        if not policy.tokenizer.get_vocab().items() <= rater.tokenizer.get_vocab().items():
            raise ValueError(
                "config.reward_models: the first one, from which PPO's value model starts, has "
                "another tokenizer than the policy; take one that was trained from the policy's "
                'family, or config.algorithm "reinforce"'
            )
        self.config, self.policy, self.model = config, policy, rater.config
        tx, _ = optimizer.make(
            {**config.optimizer.to_dict(), "learning_rate": config.ppo.learning_rate},
            config.steps * config.updates,
        )
        decoder = hold(rater.params["decoder"], jnp.float32)
        params = {"decoder": decoder, "head": value_head(rater, scale)}
        begin = step.beginning(tx)
        places = sharding.shardings(jax.eval_shape(begin, params), policy.mesh)
        self.state = jax.jit(begin, out_shardings=places)(params)
        self._update = step.make(
            self.model,
            ValueLoss(config.ppo.value_clip or None),
            tx,
            forward=token_values,
            layout="shared",
            dtype=policy.dtype,
            remat=step.remat_of(config),
            shardings=places,
        )

    def advantages(self, every, rows: Sequence[dict], worth: Worth, laid) -> dict[str, list]:
        """Of each token: "advantage", with mean 0 and spread 1 over all that count, "returns" and
        "value", each [G][k][tokens]. The reward stands on a response's last token, and from each
        token the KL comes off. laid: lays numbers of tokens into a batch."""
        config, k = self.config, worth.kept.shape[1]
        lengths = np.array([len(ids) for row in rows for ids in row["tokens"]])
        stops = np.cumsum(lengths)
        mask = np.arange(config.max_new_tokens) < lengths[:, None]

        def table(flat):
            found = np.zeros(mask.shape, np.float32)
            found[mask] = flat
            return found

        def listed(found):
            some = np.split(np.asarray(found)[mask], stops[:-1])
            return [some[i : i + k] for i in range(0, len(some), k)]

        batch = laid(every, {"number": listed(table(np.arange(stops[-1]) + 1))})
        number, values = batch.pop("number").astype(int), np.zeros(stops[-1] + 1, np.float32)
        how = {"config": self.model, "layout": "shared", "dtype": self.policy.dtype}
        for m in np.flatnonzero(number.any(axis=(1, 2))):
            micro = sharding.place_rows({name: x[m] for name, x in batch.items()}, self.policy.mesh)
            found = sharding.to_host(_values(self.state["params"], micro, **how))
            values[number[m]] = found
        values = table(values[1:])
        logs = (rollouts.padded(rows, f"log_{name}", config) for name in ("policy", "reference"))
        kl = np.asarray(losses.kl(*logs, kind=config.kl.form)).reshape(mask.shape)
        rewards = -config.kl.coefficient * kl
        kept = worth.kept.reshape(-1)
        rewards[np.arange(len(lengths)), lengths - 1] += np.where(kept, worth.reward.ravel(), 0)
        rewards[~kept] = 0
        settings = {"discount": config.ppo.discount, "decay": config.ppo.decay}
        advantages, returns = losses.generalized_advantage(rewards, values, mask, **settings)
        advantages = losses.whiten(advantages, mask & kept[:, None])
        found = {"advantage": advantages, "returns": returns, "value": values}
        return {name: listed(x) for name, x in found.items()}

    def learn(self, batch) -> dict[str, float]:
        """Update the value model by a placed batch; its numbers."""
        self.state, values = self._update(self.state, {}, batch)
        return {f"value_{name}": values[name] for name in ("loss", "gradient_norm", "not_finite")}
