"""Declare what the loop trains: a reward model or a policy, each with all that is its own.

The loop knows only what is declared here.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from hs2jax.data import loader
from hs2jax.data.record import Record
from hs2jax.training.policy_task import PolicyTask
from hs2jax.training.reward_task import RewardTask


class Task(Protocol):
    """A model that is trained, with its data and its objective. Made from (config, mesh), where a
    config that does not suit the model raises ValueError naming the key.

    Attributes:
        model: with `config`, `dtype` and `save(folder)`.
        params: of the model, as {"decoder", ...}; None takes them from it while they are trained.
        objective: with `counts` and `loss`, as `training.step` asks.
        forward: `(params, batch, config, *, layout, dtype, remat)` to what `objective.loss` takes.
        shown: the metrics of a step that are shown beside its loss.
    """

    model: Any
    params: Any
    objective: Any
    forward: Any
    shown: tuple[str, ...]

    def read(self, spec: str) -> tuple[loader.Prepared, Record]:
        """Read and prepare the data of a specification. Raises ValueError where there is nothing
        in it that the objective could learn from."""

    def prepare_training(self, data: loader.Prepared) -> tuple[loader.Prepared, dict]:
        """Choose what of the training data goes into batches. Returns it, and notes on the data
        for result.json, among them "warnings", a list of texts."""

    def evaluate(self, params, held_out: loader.Prepared, batches) -> tuple[list[dict], dict]:
        """Evaluate held-out groups. Returns an item for each, and numbers by name, of which "loss"
        is what is minimised."""

    def rows(self, start: Sequence[dict], best: Sequence[dict], notes: dict) -> list[dict]:
        """Make rows of results.jsonl from the items of the first evaluation and of the best one,
        and the notes of `prepare_training`."""

    def results(self) -> dict:
        """Say what result.json holds of this kind of run beside what it holds of all."""


def make(config, mesh) -> Task:
    """Make the task of a config, its model loaded onto the mesh."""
    kinds = {"train_reward_model": RewardTask, "train_policy": PolicyTask}
    return kinds[config.kind](config, mesh)
