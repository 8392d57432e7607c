"""What is minimised: from a batch and the model's outputs to a loss.

Axis letters: B rows, R response slots, K outputs (and as many columns of ratings), P pair slots.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from hs2jax import losses
from hs2jax.data.packing import Example

KINDS = ("regression", "bradley_terry", "joint")


class Counts(NamedTuple):
    """What the parts of the loss are divided by: rated entries and pairs of the whole batch."""

    rated: jnp.ndarray
    paired: jnp.ndarray


class Objective(NamedTuple):
    """Settings of the loss. See `losses` for the formulas.

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
        """Counts of a batch with any leading axes, to be passed to `loss` for each of its parts."""
        return Counts(jnp.sum(batch["rating_mask"]), jnp.sum(batch["strength"] > 0))

    def needs_full_batch(self, batch) -> bool:
        """Whether a part's loss needs to know the other parts. Pairs lie in one row."""
        return False

    def loss(self, outputs, batch, counts: Counts):
        """This part's share of the whole batch's loss, and of its metrics: the sum of the shares
        over the micro-batches of a batch is its loss and are its metrics.

        outputs: [B, R, K]; batch: as `data.packing.lay` makes it. Returns (scalar, dict).
        """
        squared = losses.regression(outputs, batch["ratings"], batch["rating_mask"])
        paired = batch["strength"] > 0
        reward = outputs[..., self.output]
        chosen, rejected, strength = (
            x.reshape(-1)
            for x in (
                jnp.take_along_axis(reward, batch["chosen"], axis=1),
                jnp.take_along_axis(reward, batch["rejected"], axis=1),
                batch["strength"],
            )
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

        nothing = jnp.zeros_like
        loss = losses.combined(
            squared,
            nothing(batch["rating_mask"]) if self.kind == "bradley_terry" else batch["rating_mask"],
            preference,
            nothing(paired).reshape(-1) if self.kind == "regression" else paired.reshape(-1),
            preference_weight=self.preference_weight if self.kind == "joint" else 1.0,
            rated_count=counts.rated,
            paired_count=counts.paired,
        )
        right = (chosen > rejected) & paired.reshape(-1)
        margin = jnp.where(paired.reshape(-1), chosen - rejected, 0.0)
        rated = jnp.where(batch["rating_mask"], squared, 0.0)
        return loss, {
            "accuracy": jnp.sum(right) / jnp.maximum(counts.paired, 1),
            "margin": jnp.sum(margin) / jnp.maximum(counts.paired, 1),
            "mse": jnp.sum(rated) / jnp.maximum(counts.rated, 1),
        }


def make(settings: Mapping, outputs: Sequence[str]) -> Objective:
    """An Objective from `config.objective`. Raises ValueError naming the config key."""
    if settings["kind"] not in KINDS:
        raise ValueError(
            f"config.objective.kind is {settings['kind']!r}; it must be one of {', '.join(KINDS)}"
        )
    if settings["preference"] not in losses.reward.KINDS:
        raise ValueError(
            f"config.objective.preference is {settings['preference']!r}; it must be one of "
            f"{', '.join(losses.reward.KINDS)}"
        )
    name = settings["output"] or outputs[0]
    if name not in outputs:
        raise ValueError(
            f"config.objective.output is {name!r}; the model's outputs are {', '.join(outputs)}"
        )
    return Objective(
        kind=settings["kind"],
        output=list(outputs).index(name),
        preference=settings["preference"],
        label_smoothing=settings["label_smoothing"],
        centering=settings["centering"],
        preference_weight=settings["preference_weight"],
    )


def metrics_of(objective: Objective) -> tuple[str, ...]:
    """The metrics that mean something for this objective."""
    return {
        "regression": ("mse",),
        "bradley_terry": ("accuracy", "margin"),
        "joint": ("mse", "accuracy", "margin"),
    }[objective.kind]


def loss_of_examples(
    objective: Objective, examples: Sequence[Example], outputs: Sequence[np.ndarray]
) -> float:
    """The objective over a whole set, from outputs [responses, K] of each example."""
    firsts = np.cumsum([0, *(len(table) for table in outputs)])
    pairs = [
        (first + pair.chosen, first + pair.rejected, pair.strength)
        for first, example in zip(firsts, examples, strict=False)
        for pair in example.pairs
    ] or [(0, 0, 0.0)]
    chosen, rejected, strength = (np.asarray(column)[None] for column in zip(*pairs, strict=True))
    batch = {
        "ratings": np.concatenate([example.ratings for example in examples])[None],
        "rating_mask": np.concatenate([example.rating_mask for example in examples])[None],
        "chosen": chosen,
        "rejected": rejected,
        "strength": strength.astype(np.float32),
    }
    loss, _ = objective.loss(np.concatenate(outputs)[None], batch, objective.counts(batch))
    return float(loss)
