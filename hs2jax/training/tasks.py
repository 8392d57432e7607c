"""Declare what the loop trains: a reward model or a policy, each with its data and its objective.

The loop knows only what `Task` declares. Axis letters: B rows, T tokens of a row, R response slots.
"""

import functools
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from hs2jax import config_rules, configs, inference, survey
from hs2jax.config_rules import parse_weights
from hs2jax.data import corpora, loader, records
from hs2jax.data.groups import Group, prompt_text
from hs2jax.data.record import Record
from hs2jax.evaluation import items as scored
from hs2jax.evaluation import measures, statistics
from hs2jax.language_model import LanguageModel
from hs2jax.losses import steerlm
from hs2jax.reward_model import RewardModel
from hs2jax.training import objectives, tokenised, trainable
from hs2jax.workdir import row


class Task:
    """A model that is trained. Made from (config, mesh), where a config that does not suit the
    model raises ValueError naming the key.

    Attributes:
        model: with `config`, `dtype` and `save(folder)`.
        params: of the model, as {"decoder", ...}; None takes them from it while they are trained.
        objective: with `counts` and `loss`, as `training.step` asks.
        forward: `(params, batch, config, *, layout, dtype, remat)` to what `objective.loss` takes.
        shown: the metrics of a step that are shown beside its loss.
        columns: the ratings that the objective takes. preparing: options of `loader.prepare`.

    Beside what is here, each has
        missing(data, record): says what the objective needs and the data do not have, or "".
        prepare_training(data): chooses what goes into batches; returns it, and notes for
            result.json, among them "warnings", a list of texts.
        evaluate(params, held_out, batches, step): returns an item for each held-out group, and
            numbers by name, of which "loss" is what is minimised. Raises ValueError with the step
            and the rows for what is not finite.
        rows(start, best, notes): makes rows of results.jsonl from the items of the first
            evaluation and of the best one, and the notes.
    """

    def read(self, spec: str) -> tuple[loader.Prepared, Record]:
        """Read and prepare the data of a specification, or find what another run has made of them.
        Raises ValueError where there is nothing in it that the objective could learn from."""
        data, record = self.config.data, Record()
        settings = {
            "read": self.model.read,
            "on_error": data.on_error,
            "attributes": tuple(self.columns),
            "vocab_size": self.model.config.vocab_size,
            **self.preparing,
        }
        prepared = loader.prepare(
            self.choose(corpora.read(spec, on_error=data.on_error, record=record), record),
            self.model.tokenizer,
            row_length=data.row_length,
            layout=data.layout,
            max_tokens=self.model.config.max_seq_len,
            too_long=data.too_long,
            record=record,
            folder=tokenised.folder(self.config.data, spec, self.model.tokenizer, settings),
            **settings,
        )
        if missing := self.missing(prepared, record):
            raise ValueError(f"{spec}: {missing}: {record}")
        return prepared, record

    def check_finite(self, params, held_out: loader.Prepared, tables, step: int) -> None:
        """See that what was computed of held-out groups, a table of each, is finite."""
        numbers = [i for i, table in enumerate(tables) if not np.isfinite(table).all()]
        bad = [(held_out.groups[i].source, held_out.examples[i].encoded) for i in numbers]
        if bad:
            said = self.model.not_finite("outputs", bad, params)
            raise ValueError(f"config.data.validation, at step {step}: {said}")

    def choose(self, groups: Iterable[Group], record: Record) -> Iterable[Group]:
        """Choose what is prepared of the groups, as they are read."""
        return groups

    def results(self) -> dict:
        """Say what result.json holds of this kind of run beside what it holds of all."""
        return {}

    def diverged(self, values: dict[str, float]) -> str:
        """Say why a step's metrics, all of them or none, end the run; "" where they do not."""
        return ""


def make(config, mesh, model=None) -> Task:
    """Make the task of a config; its model is loaded onto the mesh where none is given. Of one that
    has no objective, `reinforce`'s, it holds the policy."""
    if config.kind == "train_reward_model":
        return RewardTask(config, mesh, model)
    if config.get("objective", {}).get("kind") in config_rules.OF_PAIRS:
        from hs2jax.training.preference import PreferenceTask  # Which is made from these.

        return PreferenceTask(config, mesh, model)
    return PolicyTask(config, mesh, model)


# Reward models ------------------------------------------------------------------------------------


class RewardTask(Task):
    """A reward model that learns from ratings, preferences or both."""

    forward = staticmethod(inference.forward)

    def __init__(self, config, mesh, model=None):
        self.config, self.mesh = config, mesh
        self.model = model = model or RewardModel.load(
            config.model.name,
            outputs=config.model.outputs,
            bias=config.model.bias,
            weights=parse_weights(config.model.weights),
            template=config.model.template,
            seed=config.seed,
            mesh=mesh,
            dtype=configs.dtype(config.model.dtype),
            masters=trainable.masters(config),
            untrained=False,
        )
        self.objective = objectives.make(config.objective, model.outputs)
        self.shown = objectives.METRICS_OF[config.objective.kind]
        self.columns, self.preparing = model.outputs, {"derive": config.data.derive or None}
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

    def missing(self, data: loader.Prepared, record: Record) -> str:
        rated = scored.rating_means(data, self.model.outputs)
        return survey.missing(self.config, self.model.outputs, record.pairs, rated)

    def prepare_training(self, data: loader.Prepared) -> tuple[loader.Prepared, dict]:
        notes = {"warnings": [], "rating_means": scored.rating_means(data, self.model.outputs)}
        kind = self.config.objective.kind
        if kind != "regression":
            notes["warnings"] += without_strengths(self.config, data)
        if kind == "bradley_terry":
            data = loader.with_pairs(data)  # Ties would take up places in batches.
        return data, notes

    def evaluate(self, params, held_out: loader.Prepared, batches, step: int):
        model, values = self.model, {}
        settings = {"config": model.config, "layout": batches.layout, "dtype": model.dtype}
        run = functools.partial(inference.predict, params, **settings)
        outputs = inference.run_batches(run, batches, len(model.outputs), self.mesh)
        self.check_finite(params, held_out, outputs, step)
        found = scored.make(held_out, outputs, self.scalar)
        loss = objectives.loss_of_examples(self.objective, held_out.examples, outputs)
        pairs = measures.pairs_of(found)
        if len(pairs.margin):
            values = {"accuracy": np.mean(pairs.right), "margin": np.mean(pairs.margin)}
        for name in model.outputs:
            _, predicted, people = measures.rated(found, model.outputs, name)
            if len(people):
                values[f"{name} mse"] = np.mean(np.square(predicted - people))
        return found, {"loss": loss, **{name: float(x) for name, x in values.items()}}

    def rows(self, start: Sequence[dict], best: Sequence[dict], notes: dict) -> list[dict]:
        chief = "ratings" if self.config.objective.kind == "regression" else "pairs"
        return measures.rows(
            "validation", best, self.model.outputs, notes["rating_means"], chief=chief
        )

    def results(self) -> dict:
        return {"outputs": list(self.model.outputs), "weights": self.model.weights}


# Policies -----------------------------------------------------------------------------------------


class PolicyTask(Task):
    """A language model that learns to answer: as responses do, also where these are asked to have
    attribute values (SteerLM), or as a reward model's Beta distribution weighs samples
    (SteerLM 2.0)."""

    forward = staticmethod(inference.token_log_probabilities)

    def __init__(self, config, mesh, model=None):
        self.config, self.mesh = config, mesh
        self.model = model or LanguageModel.load(
            config.model.name,
            template=config.model.template,
            mesh=mesh,
            dtype=configs.dtype(config.model.dtype),
            masters=trainable.masters(config),
        )
        self.weighs = config.get("objective", {}).get("kind") == "steerlm2"
        self.objective = objectives.Likelihood()
        if self.weighs:
            self.objective = objectives.SteerLM2(config.objective.normalize_tokens)
        self.shown = ("distance", "effective_sample_size") if self.weighs else ()
        self.columns = objectives.COLUMNS if self.weighs else ()
        self.preparing = {"policy": True}

    @property
    def params(self):
        return {"decoder": self.model.params}

    @params.setter
    def params(self, params):
        self.model.params = params and params["decoder"]

    def choose(self, groups: Iterable[Group], record: Record) -> Iterable[Group]:
        asked = self.config.data.condition == "ratings"
        return tokenised.conditioned(groups, record) if asked else groups

    def missing(self, data: loader.Prepared, record: Record) -> str:
        if not data.examples:
            rated = " and has ratings, which config.data.condition asks for"
            return "no conversation that fits" + rated * bool(self.config.data.condition)
        if not self.weighs:
            return ""
        table = records.table(data.examples)
        unrated = ~table.responses["rated"].all(axis=1)
        if unrated.any():
            first = np.searchsorted(table.starts("responses"), unrated.argmax(), side="right") - 1
            source, names = data.groups[int(first)].source, ", ".join(objectives.COLUMNS)
            return (
                f"{source} has not {names} of every response, which "
                'config.objective.kind "steerlm2" needs and `hs2jax weigh` writes'
            )
        if (table.examples["responses"] == 1).all():
            return "no group that fits has two responses or more to weigh against each other"
        return ""

    def prepare_training(self, data: loader.Prepared) -> tuple[loader.Prepared, dict]:
        warnings = []
        if self.weighs:
            table = records.table(data.examples)
            of_each = np.split(table.responses["ratings"], table.starts("responses")[1:-1])
            warnings = steerlm.collapse(of_each)
        # The slots of "padded" are made for one answer each.
        if self.config.data.condition == "ratings" and self.config.data.layout != "padded":
            data = tokenised.together(data)
        return data, {"warnings": warnings}

    def sums(self, params, batches: loader.Batches):
        """Make what `inference.run_rows` runs: `_of_responses` of a micro-batch."""
        settings = {"config": self.model.config, "layout": batches.layout}
        return functools.partial(_of_responses, params, dtype=self.model.dtype, **settings)

    def evaluate(self, params, held_out: loader.Prepared, batches, step: int):
        tables = inference.run_batches(self.sums(params, batches), batches, 3, self.mesh)
        self.check_finite(params, held_out, tables, step)
        found = [
            {
                "source": group.source,
                "prompt": prompt_text(group),
                "condition": dict(group.condition),
                "responses": list(group.responses),
                "tokens": [len(ids) for ids in example.encoded.responses],
                "log_probability": table[:, 0].tolist(),
                "loss": -float(table[:, 1].sum(dtype=np.float64)),
                "learned_tokens": int(table[:, 2].sum()),
            }
            for group, example, table in zip(
                held_out.groups, held_out.examples, tables, strict=True
            )
        ]
        if not self.weighs:
            _, learned, count = np.concatenate(tables).sum(axis=0, dtype=np.float64)
            loss = float(-learned / count)
            perplexity = float(np.exp(loss))
            return found, {"loss": loss, "perplexity": perplexity, "learned_tokens": int(count)}
        log_policy = [each["log_probability"] for each in found]
        columns = [example.ratings for example in held_out.examples]
        groups = steerlm.weigh_groups(columns, log_policy)
        for each, of in zip(found, groups, strict=True):
            each |= {name: x.tolist() for name, x in of.items()}
            each["loss"] = float(of["distance"].sum(dtype=np.float64))
        return found, {
            "loss": float(np.mean([each["loss"] for each in found])),
            **steerlm.mean_effective(groups),
            "log_likelihood": sum(map(sum, log_policy)) / sum(sum(x["tokens"]) for x in found),
        }

    def rows(self, start: Sequence[dict], best: Sequence[dict], notes: dict) -> list[dict]:
        count = np.array([1 if self.weighs else each["learned_tokens"] for each in best], float)
        before, after = (np.array([each["loss"] for each in x], float) for x in (start, best))
        prompt, n = [each["prompt"] for each in best], len(best)

        def mean(values, count):
            return values.sum() / count.sum()

        loss, change = (
            statistics.interval(mean, (values, count), prompt) for values in (after, after - before)
        )
        verdict = {"reference": 0.0, "better": "lower", "against": "start", "headline": True}
        found = {"perplexity": np.exp(mean(after, count)), "learned_tokens": count.sum()}
        if self.weighs:
            found = steerlm.mean_effective(best)
        return [
            row("validation", "", "loss", loss.value, loss.interval, n, headline=True),
            row("validation", "", "change of loss", change.value, change.interval, n, **verdict),
            *(row("validation", "", name, x, n=n) for name, x in found.items()),
        ]


def without_strengths(config, data: loader.Prepared) -> list[str]:
    """Warn, in a list of one text or none, of an objective that asks for strengths of preferences
    where the pairs have none."""
    preference = config.objective.preference
    strengths = np.unique(records.table(data.examples).pairs["strength"])
    if preference == "regular" or strengths.tolist() != [1.0]:
        return []
    return [
        f"config.objective.preference is '{preference}', and all strengths of config.data.train "
        "are 1: no pair counts more than another"
    ]


@functools.partial(jax.jit, static_argnames=("config", "layout", "dtype"))
def _of_responses(params, batch, config, layout: str, dtype):
    """[B, R, 3]: a response's log-probability; that of the tokens that are learned with it, which
    for a group's first response are also the prompt's; and how many these are."""
    tokens = inference.token_log_probabilities(params, batch, config, layout=layout, dtype=dtype)
    own, prompt = objectives.tokens_of_slots(batch)
    first = jnp.take_along_axis(batch["branch_ids"], batch["end_positions"], axis=1) == 1
    learned = (own | prompt & first[:, :, None]) & batch["loss_mask"][:, None, :]
    sums = [jnp.sum(jnp.where(of, tokens[:, None, :], 0.0), axis=-1) for of in (own, learned)]
    return jnp.stack([*sums, jnp.sum(learned, axis=-1, dtype=jnp.float32)], axis=-1)
