"""Losses of reward models and policies: from a batch and the model's outputs to a loss and metrics.

An objective has two methods. `counts(batch)` counts, with any leading axes, what a whole batch's
loss is divided by; `loss(outputs, batch, counts)` gives a micro-batch's share of the whole batch's
loss and metrics. One whose shares need whole groups has `response_sums` and `response_weights` too.
Sums are divided once, by the whole batch's counts: NeMo's mean of micro-batches' means, which
weighs entries by their neighbours, is not here.

Axis letters: M micro-batches, B rows, T tokens of a row, R response slots, K outputs (and as many
columns of ratings), P pair slots.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hs2jax import losses
from hs2jax.data.packing import Example

# Reward models ------------------------------------------------------------------------------------

# The metrics that mean something for an objective.
METRICS_OF = {
    "regression": ("mse",),
    "bradley_terry": ("accuracy", "margin"),
    "joint": ("mse", "accuracy", "margin"),
}


class Counts(NamedTuple):
    """The rated entries and the pairs of the whole batch."""

    rated: jnp.ndarray
    paired: jnp.ndarray


class Objective(NamedTuple):
    """The loss of a reward model: `losses.combined`, of which each kind has what it needs.

    Of the published recipes (HelpSteer2, HelpSteer2-Preference, NeMo-Aligner) these are not here:
    the four attributes that NeMo's heads have and never train; comparisons of strength 0, which
    NeMo counts for the second response. (The Pairwise Justifier, a generative model, is trained by
    `Likelihood`.)

    kind: "regression" on ratings, "bradley_terry" on pairs, or "joint" for both on one batch.
    output: index of the output that Bradley-Terry compares.
    """

    kind: str
    output: int
    preference: str
    label_smoothing: float
    centering: float
    preference_weight: float

    def counts(self, batch) -> Counts:
        return Counts(jnp.sum(batch["rating_mask"]), jnp.sum(batch["strength"] > 0))

    def loss(self, outputs, batch, counts: Counts):
        """outputs: [B, R, K]; batch: as `data.packing.lay` makes it. Returns (scalar, dict)."""
        squared = losses.regression(outputs, batch["ratings"], batch["rating_mask"])
        reward, strength = outputs[..., self.output], batch["strength"].reshape(-1)
        chosen, rejected = (
            jnp.take_along_axis(reward, batch[side], axis=1).reshape(-1)
            for side in ("chosen", "rejected")
        )
        preference = losses.bradley_terry(
            chosen,
            rejected,
            strength,
            kind=self.preference,
            label_smoothing=self.label_smoothing,
        )
        if self.centering:
            preference += self.centering * losses.centering(chosen, rejected)

        rated, paired, nothing = batch["rating_mask"], strength > 0, jnp.zeros_like
        loss = losses.combined(
            squared,
            nothing(rated) if self.kind == "bradley_terry" else rated,
            preference,
            nothing(paired) if self.kind == "regression" else paired,
            preference_weight=self.preference_weight if self.kind == "joint" else 1.0,
            rated_count=counts.rated,
            paired_count=counts.paired,
        )

        def mean(values, where, count):
            return jnp.sum(jnp.where(where, values, 0.0)) / jnp.maximum(count, 1)

        return loss, {
            "accuracy": mean(chosen > rejected, paired, counts.paired),
            "margin": mean(chosen - rejected, paired, counts.paired),
            "mse": mean(squared, rated, counts.rated),
        }


def make(settings: Mapping, outputs: Sequence[str]) -> Objective:
    """Make the objective of `config.objective` for a model with these outputs. Raises ValueError
    where there is no output of the name that it compares."""
    name = settings["output"] or outputs[0]
    if name not in outputs:
        raise ValueError(
            f"config.objective.output is {name!r}; the model's outputs are {', '.join(outputs)}"
        )
    own = {key: settings[key] for key in Objective._fields}
    return Objective(**own | {"output": list(outputs).index(name)})


def loss_of_examples(
    objective: Objective, examples: Sequence[Example], outputs: Sequence[np.ndarray]
) -> float:
    """Compute the objective over a whole set, from outputs [responses, K] of each example."""
    batch = in_one_row(examples)
    loss, _ = objective.loss(np.concatenate(outputs)[None], batch, objective.counts(batch))
    return float(loss)


def in_one_row(examples: Sequence[Example]) -> dict[str, np.ndarray]:
    """Make the arrays of a batch that say what is known of responses, in one row of all."""
    firsts = np.cumsum([0, *(len(example.ratings) for example in examples)])
    pairs = [
        (first + pair.chosen, first + pair.rejected, pair.strength)
        for first, example in zip(firsts, examples, strict=False)
        for pair in example.pairs
    ] or [(0, 0, 0.0)]
    chosen, rejected, strength = (np.asarray(column)[None] for column in zip(*pairs, strict=True))
    return {
        "ratings": np.concatenate([example.ratings for example in examples])[None],
        "rating_mask": np.concatenate([example.rating_mask for example in examples])[None],
        "chosen": chosen,
        "rejected": rejected,
        "strength": strength.astype(np.float32),
    }


# Policies -----------------------------------------------------------------------------------------

# Columns of a batch's ratings for SteerLM 2.0: log P(a|x,y), log P(y|x) and log Q'(y|a,x), in nats.
COLUMNS = ("log_attribute", "log_prior", "log_proposal")


class Likelihood:
    """-log p of a token, in nats, averaged over the learned tokens of the whole batch: supervised
    fine-tuning, and with conditions in the prompts SteerLM (arXiv 2310.05344)."""

    def counts(self, batch):
        """Count the learned tokens."""
        return jnp.sum(batch["loss_mask"])

    def loss(self, outputs, batch, counts):
        """outputs: [B, T], as of `inference.token_log_probabilities`. Returns (scalar, {})."""
        return -jnp.sum(jnp.where(batch["loss_mask"], outputs, 0.0)) / jnp.maximum(counts, 1), {}


class SteerLM2(NamedTuple):
    """The distance KL(w'||b') of the policy Q to its target P(y|a,x), estimated from n sampled
    responses of each group (HelpSteer2, section 4.5; `losses.steerlm` has the weights).

    The loss is the mean distance of the batch's groups, and its gradient is that of

        -1 / groups * sum_i (w'_i - b'_i) log Q(y_i|a,x),   weights without gradient,

    which is the distance's own. Not here: sampling while training; w' and b' are recomputed at
    every step with the current policy. normalize_tokens: divides each group's distance by its mean
    number of response tokens, as NeMo-Aligner does and the paper does not.
    """

    normalize_tokens: bool = False

    def counts(self, batch):
        """Count the groups, numbered from 0."""
        return jnp.max(batch["group_ids"]) + 1

    def response_sums(self, outputs, batch):
        """Sum up each response as its group's weights need it: arrays [B, R]. outputs: [B, T]."""
        return dict(zip(("log_policy", "response_tokens"), sums(outputs, batch), strict=True))

    def response_weights(self, seen, batch):
        """Weigh each response for the loss and the metrics: arrays of batch["group_ids"]'s shape,
        which holds all slots of each of its groups. seen: of `response_sums`, the same shape."""
        shape = batch["group_ids"].shape
        group = batch["group_ids"].reshape(-1)
        columns = [batch["ratings"][..., i].reshape(-1) for i in range(len(COLUMNS))]
        policy = jax.lax.stop_gradient(seen["log_policy"]).reshape(-1)
        target, baseline = losses.steerlm2_weights(*columns, policy, group)
        size = jnp.maximum(losses.sum_of_group(jnp.ones(group.shape), group), 1.0)
        tokens = losses.sum_of_group(seen["response_tokens"].reshape(-1), group)
        tokens = jnp.maximum(tokens, 1)
        effective = losses.effective_sample_size(target, group) / size
        weights = {
            "weight": target - baseline,
            "scale": size / tokens if self.normalize_tokens else jnp.ones(group.shape),
            "distance": losses.steerlm2_distance(target, baseline, group),
            "effective_sample_size": effective,
            "effective_fraction": effective / size,
            "weight_max": losses.max_of_group(target, group) / size,
            "log_likelihood": policy / tokens,
        }
        return {name: x.reshape(shape) for name, x in weights.items()}

    def loss(self, outputs, batch, counts):
        """outputs: [B, T], as of `inference.token_log_probabilities`. batch: where groups lie in
        several rows with "response_weights" of the method of that name. Returns (scalar, dict).

        Metrics, means over groups: distance, in nats and not divided by tokens; the effective
        sample size of w', as a number and as a fraction of n; the largest w'; log_likelihood, the
        policy's log-probability per response token.
        """
        seen = self.response_sums(outputs, batch)
        weights = dict(batch.get("response_weights") or self.response_weights(seen, batch))
        filled, groups = batch["group_ids"] >= 0, jnp.maximum(counts, 1)

        def mean(values):
            return jnp.sum(jnp.where(filled, values, 0.0)) / groups

        # The gradient of the one with the value of the other.
        weight, scale = weights.pop("weight"), weights.pop("scale")
        surrogate = mean(-scale * weight * seen["log_policy"])
        loss = mean(scale * weights["distance"]) + surrogate - jax.lax.stop_gradient(surrogate)
        return loss, {name: mean(x) for name, x in weights.items()}


class Preference(NamedTuple):
    """DPO and IPO: the mean over the whole batch's pairs of `losses.dpo` or `losses.ipo`, which say
    what of the papers is not here. The batch's one rating of a response is the log-probability that
    its reference, the policy as it was at the start, gives it.
    """

    kind: str
    beta: float
    preference: str
    label_smoothing: float
    smoothing: str
    reduction: str

    def counts(self, batch):
        """Count the pairs."""
        return jnp.sum(batch["strength"] > 0)

    def loss(self, outputs, batch, counts):
        """outputs: [B, T], as of `inference.token_log_probabilities`. Returns (scalar, dict)."""
        return self.of_responses(*sums(outputs, batch), batch, counts)

    def of_responses(self, log_policy, tokens, batch, counts):
        """log_policy, tokens: of each response [B, R]. Returns (scalar, dict).

        Metrics, means over pairs: accuracy and margin of the implicit rewards beta (log policy -
        log reference); log-probabilities of the chosen and of the rejected response; drift,
        |log policy - log reference| per token of either; and what the loss would be of a policy
        that is its reference.
        """
        strength, reference = batch["strength"].reshape(-1), batch["ratings"][..., 0]

        def of_pairs(values):
            sides = (jnp.take_along_axis(values, batch[s], axis=1) for s in ("chosen", "rejected"))
            return [side.reshape(-1) for side in sides]

        def mean(values):
            return jnp.sum(jnp.where(strength > 0, values, 0.0)) / jnp.maximum(counts, 1)

        def losses_of(policy):
            logs = *of_pairs(policy), *of_pairs(reference)
            if self.kind == "ipo":
                lengths = of_pairs(jnp.maximum(tokens, 1)) if self.reduction == "mean" else ()
                return losses.ipo(*logs, *lengths, beta=self.beta, reduction=self.reduction)
            options = {"label_smoothing": self.label_smoothing, "smoothing": self.smoothing}
            return losses.dpo(*logs, strength, beta=self.beta, kind=self.preference, **options)

        chosen, rejected = of_pairs(self.beta * (log_policy - reference))
        first, second = of_pairs(log_policy)
        drift = of_pairs(jnp.abs(log_policy - reference) / jnp.maximum(tokens, 1))
        metrics = {
            "accuracy": chosen > rejected,
            "margin": chosen - rejected,
            "log_chosen": first,
            "log_rejected": second,
            "drift": sum(drift) / 2,
            "loss_at_reference": losses_of(reference),
        }
        return mean(losses_of(log_policy)), {name: mean(x) for name, x in metrics.items()}


def sums(outputs, batch):
    """The sum of each response's numbers, of all tokens [B, T], and its number of tokens: [B, R]
    each."""
    mine, _ = tokens_of_slots(batch)
    # Not a product: on accelerators that would be in lower precision.
    return jnp.sum(jnp.where(mine, outputs[:, None, :], 0.0), axis=-1), jnp.sum(mine, axis=-1)


def tokens_of_slots(batch):
    """Find the tokens of each response slot, and those of its prompt: bool [B, R, T] each."""

    def of(name):
        return jnp.take_along_axis(batch[name], batch["end_positions"], axis=1)[:, :, None]

    branch = batch["branch_ids"][:, None, :]
    here = batch["segment_ids"][:, None, :] == of("segment_ids")
    here &= batch["group_ids"][:, :, None] >= 0
    return here & (branch == of("branch_ids")), here & (branch == 0)
