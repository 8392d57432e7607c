"""What the loop trains: a reward model or a policy, each with all that is its own.

The loop knows only what is declared here.
"""

from typing import Any, Protocol

from hs2jax.data import loader
from hs2jax.data.record import Record
from hs2jax.training import policy_objectives
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
        """The data of a specification, prepared. Raises ValueError where there is nothing in it
        that the objective could learn from."""

    def learn_from(self, prepared: loader.Prepared) -> loader.Prepared:
        """What of the training data goes into batches. Called once, before any evaluation."""

    def evaluate(self, params, held_out: loader.Prepared, batches) -> tuple[list[dict], dict]:
        """Held-out groups as items, and their summary, of which "loss" is one number."""

    def one_line(self, summary: dict) -> str:
        """A summary for the terminal."""

    def notes(self) -> dict:
        """What the checkpoint of the best step says of the model, ready for JSON."""

    def results(self) -> dict:
        """What evaluation.json says of this kind of run beside what it says of all."""


def make(config, mesh) -> Task:
    """The task that `config.objective.kind` asks for, its model loaded onto the mesh."""
    kind = PolicyTask if config.objective.kind in policy_objectives.KINDS else RewardTask
    return kind(config, mesh)
