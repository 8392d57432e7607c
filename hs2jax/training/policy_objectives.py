"""Losses of policies: the likelihood of given responses, and SteerLM 2.0.

The interface is that of `training.objectives`, with the log-probabilities of tokens as outputs.

Axis letters: M micro-batches, B rows, T tokens of a row, R response slots.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hs2jax import losses

# Columns of a batch's ratings for SteerLM 2.0: log P(a|x,y), log P(y|x) and log Q'(y|a,x), in nats.
COLUMNS = ("log_attribute", "log_prior", "log_proposal")
METRICS = (
    "distance",
    "effective_sample_size",
    "effective_fraction",
    "weight_max",
    "log_likelihood",
)


class Likelihood:
    """-log p of a token, in nats, averaged over the learned tokens of the whole batch: supervised
    fine-tuning, and with conditions in the prompts SteerLM (arXiv 2310.05344).

    Not here: NeMo's mean of micro-batches' means, which weighs tokens by their neighbours.
    """

    def counts(self, batch):
        """Count the learned tokens of a batch with any leading axes."""
        return jnp.sum(batch["loss_mask"])

    def needs_full_batch(self, batch) -> bool:
        return False

    def loss(self, outputs, batch, counts):
        """Compute this part's share of the whole batch's loss. outputs: [B, T], as of
        `inference.token_log_probabilities`. Returns (scalar, dict of metrics)."""
        return -jnp.sum(jnp.where(batch["loss_mask"], outputs, 0.0)) / jnp.maximum(counts, 1), {}


class SteerLM2(NamedTuple):
    """The distance KL(w'||b') of the policy Q to its target P(y|a,x), estimated from n sampled
    responses of each group (HelpSteer2, section 4.5; `losses.steerlm` has the weights).

    The loss is the mean distance of the batch's groups, and its gradient is that of

        -1 / groups * sum_i (w'_i - b'_i) log Q(y_i|a,x),   weights without gradient,

    which is the distance's own. Not here: sampling while training; a round's samples come from the
    policy that it begins with, and w' and b' are recomputed at every step with the current one.
    normalize_tokens: divides each group's distance by the group's mean number of response tokens,
    as NeMo-Aligner does and the paper does not.
    """

    normalize_tokens: bool = False

    def counts(self, batch):
        """Count the groups of a batch with any leading axes, numbered from 0."""
        return jnp.max(batch["group_ids"]) + 1

    def needs_full_batch(self, batch) -> bool:
        """Tell whether groups lie in several rows, so that their weights must be known before the
        first gradient is taken. Known without the batch's values."""
        return "parts" in batch

    def response_sums(self, outputs, batch):
        """Sum up each response as its group's weights need it: arrays [B, R]. outputs: [B, T]."""
        mine = _of_slots(batch)
        return {
            # Not a product: on accelerators that would be in lower precision.
            "log_policy": jnp.sum(jnp.where(mine, outputs[:, :, None], 0.0), axis=1),
            "response_tokens": jnp.sum(mine, axis=1),
        }

    def response_weights(self, seen, batch):
        """Weigh each response for the loss and the metrics: arrays of batch["group_ids"]'s shape,
        which holds all slots of each of its groups. seen: of `response_sums`, the same shape."""
        shape = batch["group_ids"].shape
        group = batch["group_ids"].reshape(-1)
        columns = [batch["ratings"][..., i].reshape(-1) for i in range(len(COLUMNS))]
        policy = jax.lax.stop_gradient(seen["log_policy"]).reshape(-1)
        target, baseline = losses.steerlm2_weights(*columns, policy, group)
        size = jnp.maximum(losses.sum_of_group(jnp.ones(group.shape), group), 1.0)
        scale = jnp.ones(group.shape)
        tokens = losses.sum_of_group(seen["response_tokens"].reshape(-1), group)
        if self.normalize_tokens:
            scale = size / jnp.maximum(tokens, 1)
        effective = losses.effective_sample_size(target, group) / size
        weights = {
            "weight": target - baseline,
            "scale": scale,
            "distance": losses.steerlm2_distance(target, baseline, group),
            "effective_sample_size": effective,
            "effective_fraction": effective / size,
            "weight_max": losses.max_of_group(target, group) / size,
            "log_likelihood": policy / jnp.maximum(tokens, 1),
        }
        return {name: x.reshape(shape) for name, x in weights.items()}

    def loss(self, outputs, batch, counts):
        """Compute this part's share of the whole batch's loss and metrics. outputs: [B, T], as of
        `inference.token_log_probabilities`. batch: with "response_weights", which the method of
        that name gives, where `needs_full_batch`. Returns (scalar, dict).

        Metrics, means over groups: distance, in nats and not divided by tokens; the effective
        sample size of w', as a number and as a fraction of n; the largest w'; log_likelihood, the
        policy's log-probability per response token.
        """
        seen = self.response_sums(outputs, batch)
        weights = batch.get("response_weights") or self.response_weights(seen, batch)
        filled = batch["group_ids"] >= 0
        groups = jnp.maximum(counts, 1)

        def mean(values):
            return jnp.sum(jnp.where(filled, values, 0.0)) / groups

        # The gradient of the one with the value of the other.
        surrogate = mean(-weights["scale"] * weights["weight"] * seen["log_policy"])
        distance = mean(weights["scale"] * weights["distance"])
        loss = distance + surrogate - jax.lax.stop_gradient(surrogate)
        return loss, {name: mean(weights[name]) for name in METRICS}


def _of_slots(batch):
    """bool [B, T, R]: the tokens of each response slot."""
    last = batch["end_positions"]
    same = batch["group_ids"][:, None, :] >= 0
    for name in ("segment_ids", "branch_ids"):
        own = jnp.take_along_axis(batch[name], last, axis=1)
        same &= batch[name][:, :, None] == own[:, None, :]
    return same & (batch["branch_ids"][:, :, None] > 0)


def make_policy(settings: Mapping) -> Likelihood | SteerLM2:
    """Make the objective of `config.objective`."""
    kinds = {"likelihood": Likelihood, "steerlm2": lambda: SteerLM2(settings["normalize_tokens"])}
    return kinds[settings["kind"]]()
