"""Losses of reward models: from a batch and the model's outputs to a loss and metrics.

Of the published recipes (HelpSteer2, HelpSteer2-Preference, NeMo-Aligner) these are not here: the
four attributes that NeMo's heads have and never train; the mean of micro-batches' means, which
weighs entries by how many are missing beside them (here sums are divided once, by the whole batch's
counts); comparisons of strength 0, which NeMo's regular and margin losses count for the second
response and which are no pairs here; and the Pairwise Justifier, a generative model.

Axis letters: B rows, R response slots, K outputs (and as many columns of ratings), P pair slots.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from hs2jax import losses
from hs2jax.data.packing import Example


class Counts(NamedTuple):
    """The rated entries and the pairs of the whole batch, which its losses are divided by."""

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
        """Count for a batch with any leading axes what `loss` needs for each of its parts."""
        return Counts(jnp.sum(batch["rating_mask"]), jnp.sum(batch["strength"] > 0))

    def needs_full_batch(self, batch) -> bool:
        """Tell whether a part's loss depends on the other parts. Pairs lie in one row."""
        return False

    def loss(self, outputs, batch, counts: Counts):
        """Compute this part's share of the whole batch's loss and metrics, which are the sums of
        their shares over its micro-batches.

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
    """Make the objective of `config.objective` for a model with these outputs. Raises ValueError
    where there is no output of the name that it compares."""
    name = settings["output"] or outputs[0]
    if name not in outputs:
        raise ValueError(
            f"config.objective.output is {name!r}; the model's outputs are {', '.join(outputs)}"
        )
    own = {key: settings[key] for key in Objective._fields}
    return Objective(**own | {"output": list(outputs).index(name)})


def metrics_of(objective: Objective) -> tuple[str, ...]:
    """Name the metrics that mean something for this objective."""
    return {
        "regression": ("mse",),
        "bradley_terry": ("accuracy", "margin"),
        "joint": ("mse", "accuracy", "margin"),
    }[objective.kind]


def loss_of_examples(
    objective: Objective, examples: Sequence[Example], outputs: Sequence[np.ndarray]
) -> float:
    """Compute the objective over a whole set, from outputs [responses, K] of each example."""
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
