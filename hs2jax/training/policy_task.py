"""Implement `training.tasks.Task` for policies.

Axis letters: B rows, T tokens of a row, R response slots.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from hs2jax import configs, inference
from hs2jax.data import conversations, corpora, loader
from hs2jax.data.groups import Group, prompt_text
from hs2jax.data.record import Record
from hs2jax.evaluation import items as scored
from hs2jax.evaluation import statistics
from hs2jax.language_model import LanguageModel
from hs2jax.losses import steerlm
from hs2jax.training import policy_objectives
from hs2jax.workdir import row


class PolicyTask:
    """A language model that learns to answer: as responses do, also where these are asked to have
    attribute values (SteerLM), or as a reward model's Beta distribution weighs samples
    (SteerLM 2.0)."""

    forward = staticmethod(inference.token_log_probabilities)

    def __init__(self, config, mesh):
        self.config, self.mesh = config, mesh
        self.model = LanguageModel.load(
            config.model.name,
            template=config.model.template,
            mesh=mesh,
            dtype=configs.dtype(config.model.dtype),
        )
        self.objective = policy_objectives.make_policy(config.objective)
        self.weighs = config.objective.kind == "steerlm2"
        self.shown = ("distance", "effective_sample_size") if self.weighs else ()

    @property
    def params(self):
        return {"decoder": self.model.params}

    @params.setter
    def params(self, params):
        self.model.params = params and params["decoder"]

    def read(self, spec: str) -> tuple[loader.Prepared, Record]:
        data, record = self.config.data, Record()
        groups = list(corpora.read(spec, on_error=data.on_error, record=record))
        if data.condition == "ratings":
            groups = conditioned(groups, record)
            if not groups:
                raise ValueError(
                    f"{spec}: no response has ratings, which config.data.condition asks for: "
                    f"{scored.describe(record)}"
                )
        prepared = loader.prepare(
            groups,
            self.model.tokenizer,
            read=self.model.read,
            on_error=data.on_error,
            attributes=policy_objectives.COLUMNS if self.weighs else (),
            row_length=data.row_length,
            layout=data.layout,
            max_tokens=self.model.config.max_seq_len,
            too_long=data.too_long,
            policy=True,
            record=record,
        )
        if not prepared.examples:
            raise ValueError(f"{spec}: no conversation that fits: {scored.describe(record)}")
        if self.weighs:
            _check_sampled(spec, prepared, record)
        return prepared, record

    def prepare_training(self, data: loader.Prepared) -> tuple[loader.Prepared, dict]:
        warnings = steerlm.collapse(_columns(data)) if self.weighs else []
        # The slots of "padded" are made for one answer each.
        if self.config.data.condition == "ratings" and self.config.data.layout != "padded":
            data = together(data)
        return data, {"warnings": warnings}

    def evaluate(self, params, held_out: loader.Prepared, batches) -> tuple[list[dict], dict]:
        run = functools.partial(
            _of_responses,
            params,
            config=self.model.config,
            layout=batches.layout,
            dtype=self.model.dtype,
        )
        tables = inference.run_batches(run, batches, 3, self.mesh)
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
        if self.weighs:
            return found, self._weigh(found, held_out)
        _, learned, count = np.concatenate(tables).sum(axis=0, dtype=np.float64)
        loss = float(-learned / count)
        return found, {
            "loss": loss,
            "perplexity": float(np.exp(loss)),
            "learned_tokens": int(count),
        }

    def _weigh(self, found: list[dict], held_out: loader.Prepared) -> dict:
        """Measure SteerLM 2.0's distance; the items get their weights, and it as their loss."""
        log_policy = [each["log_probability"] for each in found]
        groups = steerlm.weigh_groups(_columns(held_out), log_policy)
        for each, of in zip(found, groups, strict=True):
            each |= {name: x.tolist() for name, x in of.items()}
            each["loss"] = float(of["distance"].sum(dtype=np.float64))
        return {
            "loss": float(np.mean([each["loss"] for each in found])),
            **steerlm.mean_effective(groups),
            "log_likelihood": sum(map(sum, log_policy)) / sum(sum(x["tokens"]) for x in found),
        }

    def rows(self, start: Sequence[dict], best: Sequence[dict], notes: dict) -> list[dict]:
        count = np.array([1 if self.weighs else each["learned_tokens"] for each in best], float)
        before, after = (np.array([each["loss"] for each in x], float) for x in (start, best))
        prompt = [each["prompt"] for each in best]

        def mean(values, count):
            return values.sum() / count.sum()

        def measured(metric: str, values: np.ndarray, **more) -> dict:
            found = statistics.interval(mean, (values, count), prompt)
            size = len(best)
            return row("validation", "", metric, found.value, found.interval, size, **more)

        change = {"reference": 0.0, "better": "lower", "against": "start", "headline": True}
        rows = [
            measured("loss", after, headline=True),
            measured("change of loss", after - before, **change),
        ]
        if self.weighs:
            found = steerlm.mean_effective([{"effective": x["effective"]} for x in best])
        else:
            loss = mean(after, count)
            found = {"perplexity": np.exp(loss), "learned_tokens": count.sum()}
        return rows + [row("validation", "", name, x, n=len(best)) for name, x in found.items()]

    def results(self) -> dict:
        return {}


def _columns(prepared: loader.Prepared) -> list[np.ndarray]:
    """[responses, 3] of each group: `policy_objectives.COLUMNS`."""
    return [example.ratings for example in prepared.examples]


def _check_sampled(spec: str, prepared: loader.Prepared, record: Record) -> None:
    """See that every response of sampled groups has what it is weighed by, and that there are
    responses to weigh against each other."""
    for group, example in zip(prepared.groups, prepared.examples, strict=True):
        if not example.rating_mask.all():
            raise ValueError(
                f'{group.source}: config.objective.kind "steerlm2" needs '
                f"{', '.join(policy_objectives.COLUMNS)} of every response, which `hs2jax weigh` "
                "writes into its groups.jsonl"
            )
    if not any(len(example.rating_mask) > 1 for example in prepared.examples):
        raise ValueError(
            f"{spec}: no group that fits has two responses or more to weigh against each other: "
            f"{scored.describe(record)}"
        )


def conditioned(groups: Sequence[Group], record: Record) -> list[Group]:
    """Make each rated response a group of its own that is asked for the response's ratings, put
    between 0 and 4 and rounded, halves to even as NeMo-Aligner does. Others are counted as left
    out. Raises ValueError for a group that has a condition already."""
    found = []
    for group in groups:
        if group.condition:
            raise ValueError(
                f"{group.source}: has a condition of its own, so its ratings cannot be one; leave "
                "config.data.condition empty"
            )
        for response, ratings in zip(
            group.responses, group.ratings or [{}] * len(group.responses), strict=True
        ):
            if not ratings:
                record.skip("response without ratings")
                continue
            condition = {name: int(steerlm.rounded(x)) for name, x in ratings.items()}
            found.append(Group(group.prompt, (response,), source=group.source, condition=condition))
    return found


def together(prepared: loader.Prepared) -> loader.Prepared:
    """Join neighbours that answer the same prompt, each behind its own condition, to one group, so
    that the prompt is computed once. Their conditions are in the responses, and are not learned."""
    found = loader.Prepared([], [])
    pairs = zip(prepared.groups, prepared.examples, strict=True)
    for _, neighbours in itertools.groupby(pairs, key=lambda pair: pair[0].prompt):
        for part in conversations.in_parts(neighbours, conversations.SHARED):
            groups, examples = zip(*part, strict=True)
            responses = tuple(group.responses[0] for group in groups)
            found.groups.append(dataclasses.replace(groups[0], responses=responses, condition={}))
            found.examples.append(conversations.join([each.encoded for each in examples]))
    return found


@functools.partial(jax.jit, static_argnames=("config", "layout", "dtype"))
def _of_responses(params, batch, config, layout: str, dtype):
    """[B, R, 3]: a response's log-probability; that of the tokens that are learned with it, which
    for a group's first response are also the prompt's; and how many these are."""
    tokens = inference.token_log_probabilities(params, batch, config, layout=layout, dtype=dtype)

    def of(name):
        return jnp.take_along_axis(batch[name], batch["end_positions"], axis=1)[:, :, None]

    segment, branch = batch["segment_ids"][:, None, :], batch["branch_ids"][:, None, :]
    own = (segment == of("segment_ids")) & (branch == of("branch_ids"))
    first = (segment == of("segment_ids")) & (branch == 0) & (of("branch_ids") == 1)
    learned = (own | first) & batch["loss_mask"][:, None, :]
    probabilities = tokens[:, None, :]
    return jnp.stack(
        [
            jnp.sum(jnp.where(own, probabilities, 0.0), axis=-1),
            jnp.sum(jnp.where(learned, probabilities, 0.0), axis=-1),
            jnp.sum(learned, axis=-1, dtype=jnp.float32),
        ],
        axis=-1,
    )
