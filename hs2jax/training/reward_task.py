"""What of a training run is a reward model's own. See `training.tasks.Task`."""

import functools

from hs2jax import choices, prediction
from hs2jax.data import corpora, loader
from hs2jax.data.record import Record
from hs2jax.evaluation import items as scored
from hs2jax.evaluation import statistics
from hs2jax.reward_model import RewardModel, parse_weights
from hs2jax.training import checks, objectives


class RewardTask:
    """A reward model that learns from ratings, preferences or both."""

    forward = staticmethod(prediction.forward)

    def __init__(self, config, mesh):
        self.config, self.mesh = config, mesh
        self.model = model = RewardModel.load(
            config.model.name,
            outputs=config.model.outputs,
            bias=config.model.bias,
            weights=parse_weights(config.model.weights),
            template=config.model.get("template", ""),  # Which runs of old did not say.
            seed=config.seed,
            mesh=mesh,
            dtype=choices.dtype(config.model.dtype),
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
            max_tokens=self.model.config.max_positions,
            too_long=data.too_long,
            derive=data.derive or None,
            record=record,
        )
        checks.check_rewarded(self.config, spec, self.model.outputs, prepared, record)
        return prepared, record

    def learn_from(self, prepared: loader.Prepared) -> loader.Prepared:
        self.means = scored.rating_means(prepared, self.model.outputs)
        if self.config.objective.kind == "bradley_terry":
            return loader.with_pairs(prepared)  # Ties would take up places in batches.
        return prepared

    @property
    def params(self):
        return self.model.params

    @params.setter
    def params(self, params):
        self.model.params = params

    def evaluate(self, params, held_out: loader.Prepared, batches) -> tuple[list[dict], dict]:
        model = self.model
        run = functools.partial(
            prediction.predict,
            params,
            config=model.config,
            layout=batches.layout,
            dtype=model.dtype,
        )
        outputs = prediction.run_batches(run, batches, len(model.outputs), self.mesh)
        found = scored.make(held_out, outputs, self.scalar)
        summary = statistics.summarize(found, model.outputs, self.means)
        loss = objectives.loss_of_examples(self.objective, held_out.examples, outputs)
        return found, {**summary, "loss": loss}

    def one_line(self, summary: dict) -> str:
        return statistics.one_line(summary)

    def notes(self) -> dict:
        return {"weights": self.model.weights}

    def results(self) -> dict:
        return {"outputs": list(self.model.outputs)}
