"""Implement `training.tasks.Task` for reward models."""

import functools
from collections.abc import Sequence

import numpy as np

from hs2jax import configs, inference
from hs2jax.config_rules import parse_weights
from hs2jax.data import corpora, loader
from hs2jax.data.record import Record
from hs2jax.evaluation import items as scored
from hs2jax.evaluation import measures
from hs2jax.reward_model import RewardModel
from hs2jax.training import objectives


class RewardTask:
    """A reward model that learns from ratings, preferences or both."""

    forward = staticmethod(inference.forward)

    def __init__(self, config, mesh):
        self.config, self.mesh = config, mesh
        self.model = model = RewardModel.load(
            config.model.name,
            outputs=config.model.outputs,
            bias=config.model.bias,
            weights=parse_weights(config.model.weights),
            template=config.model.template,
            seed=config.seed,
            mesh=mesh,
            dtype=configs.dtype(config.model.dtype),
        )
        self.objective = objectives.make(config.objective, model.outputs)
        self.shown = objectives.metrics_of(self.objective)
        if model.scalar_weights() is None:
            model.weights = {model.outputs[self.objective.output]: 1.0}
        self.scalar = model.scalar_weights()
        if config.objective.kind != "regression" and not self.scalar[self.objective.output] > 0:
            raise ValueError(
                f"config.model.weights: {model.weights} leave out "
                f"{model.outputs[self.objective.output]}, which config.objective.output trains"
            )

    @property
    def params(self):
        return self.model.params

    @params.setter
    def params(self, params):
        self.model.params = params

    def read(self, spec: str) -> tuple[loader.Prepared, Record]:
        data, record = self.config.data, Record()
        prepared = loader.prepare(
            list(corpora.read(spec, on_error=data.on_error, record=record)),
            self.model.tokenizer,
            read=self.model.read,
            on_error=data.on_error,
            attributes=self.model.outputs,
            row_length=data.row_length,
            layout=data.layout,
            max_tokens=self.model.config.max_seq_len,
            too_long=data.too_long,
            derive=data.derive or None,
            record=record,
        )
        self._check(spec, prepared, record)
        return prepared, record

    def _check(self, spec: str, prepared: loader.Prepared, record: Record) -> None:
        """See that a data set has what the objective needs, so that no run learns from nothing."""
        kind, outputs = self.config.objective.kind, self.model.outputs
        needs_pairs = {
            "config.objective.kind": kind != "regression",
            "config.data.derive": bool(self.config.data.derive),
            "config.select": self.config.select == "accuracy",
        }
        said = scored.describe(record)
        for key, needs in needs_pairs.items():
            if needs and not record.pairs:
                raise ValueError(f"{spec}: no preference pairs, for {key}: {said}")
        rated = scored.rating_means(prepared, outputs)
        unrated = [name for name in outputs if name not in rated]
        if (kind == "regression" and unrated) or (kind == "joint" and not rated):
            raise ValueError(
                f"{spec}: no row that fits rates {', '.join(unrated)}, named in "
                f"config.model.outputs: {said}"
            )

    def prepare_training(self, data: loader.Prepared) -> tuple[loader.Prepared, dict]:
        notes = {"warnings": [], "rating_means": scored.rating_means(data, self.model.outputs)}
        if self.config.objective.kind == "bradley_terry":
            data = loader.with_pairs(data)  # Ties would take up places in batches.
        return data, notes

    def evaluate(self, params, held_out: loader.Prepared, batches) -> tuple[list[dict], dict]:
        model = self.model
        run = functools.partial(
            inference.predict,
            params,
            config=model.config,
            layout=batches.layout,
            dtype=model.dtype,
        )
        outputs = inference.run_batches(run, batches, len(model.outputs), self.mesh)
        found = scored.make(held_out, outputs, self.scalar)
        loss = objectives.loss_of_examples(self.objective, held_out.examples, outputs)
        return found, {"loss": loss, **_values(found, model.outputs)}

    def rows(self, start: Sequence[dict], best: Sequence[dict], notes: dict) -> list[dict]:
        found = measures.rows("validation", best, self.model.outputs, notes["rating_means"])
        regresses = self.config.objective.kind == "regression"
        chief = ("mse_below_mean",) if regresses else ("accuracy", "lead_over_length")
        for each in found:
            if each["metric"] in chief and not each["part"].startswith(("strength", "band")):
                each["headline"] = True
        return found

    def results(self) -> dict:
        return {"outputs": list(self.model.outputs), "weights": self.model.weights}


def _values(items: Sequence[dict], names: Sequence[str]) -> dict[str, float]:
    """Measure accuracy and margin of the pairs there are, and each rated output's squared error."""
    found = {}
    margins = [x["rewards"][c] - x["rewards"][r] for x in items for c, r, _ in x["pairs"]]
    if margins:
        found |= {"accuracy": np.mean(np.greater(margins, 0)), "margin": np.mean(margins)}
    for k, name in enumerate(names):
        errors = [
            outputs[k] - ratings[name]
            for item in items
            for outputs, ratings in zip(item["outputs"], item["ratings"], strict=True)
            if name in ratings
        ]
        if errors:
            found[f"{name} mse"] = np.mean(np.square(errors))
    return {name: float(value) for name, value in found.items()}
