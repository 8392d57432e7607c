"""Train a policy on preference pairs, by DPO or IPO.

What the policy gave its pairs at the start is computed once and kept, so that no second model is in
memory while it trains. The reference is the model that the run starts from, an adapter that it
begins with merged into it: with LoRA it is the new adapter switched off, and whatever else is
trained has its first values.
"""

import dataclasses
import logging
from collections.abc import Iterable, Sequence

import numpy as np

from hs2jax import inference, session
from hs2jax.data import loader, records
from hs2jax.data.groups import Group
from hs2jax.data.packing import Example
from hs2jax.data.record import Record
from hs2jax.evaluation import items as scored
from hs2jax.evaluation import measures, statistics
from hs2jax.identity import content_key
from hs2jax.models.checksum import checksum
from hs2jax.store import Store
from hs2jax.training import objectives, tasks

log = logging.getLogger(__name__)

VERSION = 1  # Goes up when log-probabilities are computed in another way.
OF_TOKENS = ("tokens", "predictor_index", "branch_ids", "segment_ids", "group_ids", "learned")


class PreferenceTask(tasks.PolicyTask):
    """A policy that learns by DPO or IPO which of two responses to give, held against what it was
    at the start."""

    def __init__(self, config, mesh, model=None):
        super().__init__(config, mesh, model)
        own = {key: config.objective[key] for key in objectives.Preference._fields}
        self.objective = objectives.Preference(**own)
        self.shown, self.columns = ("accuracy", "margin", "drift"), ("log_reference",)
        self.preparing |= {"whole": True, "derive": config.data.derive or None}

    def choose(self, groups: Iterable[Group], record: Record) -> Iterable[Group]:
        if self.config.data.pairs == "all":
            return groups
        return (_extremes(group, self.config.data.derive) for group in groups)

    def missing(self, data: loader.Prepared, record: Record) -> str:
        return "" if record.pairs else "no preference pairs, for config.objective.kind"

    def read(self, spec: str) -> tuple[loader.Prepared, Record]:
        data, record = super().read(spec)
        return attach(self, loader.with_pairs(data)), record

    def prepare_training(self, data: loader.Prepared) -> tuple[loader.Prepared, dict]:
        return data, {"warnings": tasks.without_strengths(self.config, data)}

    def evaluate(self, params, held_out: loader.Prepared, batches, step: int):
        tables = inference.run_batches(self.sums(params, batches), batches, 3, self.mesh)
        self.check_finite(params, held_out, tables, step)
        row = objectives.in_one_row(held_out.examples)
        of_all, counts = np.concatenate(tables).T[:, None], self.objective.counts(row)
        loss, values = self.objective.of_responses(of_all[0], of_all[2], row, counts)
        each = zip(tables, held_out.examples, strict=True)
        rewards = [self.objective.beta * (table[:, :1] - e.ratings) for table, e in each]
        found = scored.make(held_out, rewards, np.ones(1))
        for item, table in zip(found, tables, strict=True):
            item["log_probability"] = table[:, 0].tolist()
        return found, {"loss": float(loss), **{name: float(x) for name, x in values.items()}}

    def rows(self, start: Sequence[dict], best: Sequence[dict], notes: dict) -> list[dict]:
        found, changes = measures.rows("validation", best, (), chief="pairs"), {}
        prompt = [item["prompt"] for item in best for _ in item["pairs"]]
        for i, side in enumerate(("chosen", "rejected")):
            log = [
                np.array([x["log_probability"][p[i]] for x in of for p in x["pairs"]])
                for of in (start, best)
            ]
            changes[f"change of log {side}"] = statistics.interval(
                np.mean, [log[1] - log[0]], prompt
            )
        return found + measures.rows_of("validation", "", len(prompt), changes)

    def results(self) -> dict:
        return {"outputs": ["implicit_reward"]}

    def diverged(self, values: dict[str, float]) -> str:
        drift, most = values.get("drift", 0.0), self.config.objective.max_drift
        if drift <= most:
            return ""
        return (
            f"the policy has left its reference: log-probabilities differ by {drift:.1f} "
            f"nats per token, and config.objective.max_drift is {most:g}: try a lower "
            "config.optimizer.learning_rate, or a higher config.objective.beta"
        )


def _extremes(group: Group, name: str) -> Group:
    """Keep the responses with the highest and the lowest rating of a name, of equal ones the first
    and the last; the group as it is where fewer than two have one."""
    rated = [i for i, rating in enumerate(group.ratings) if name in rating]
    if len(rated) < 2:
        return group
    order = sorted(rated, key=lambda i: -group.ratings[i][name])
    kept = order[0], order[-1]
    parts = {x: getattr(group, x) for x in ("responses", "ratings", "tokens")}
    chosen = {x: tuple(of[i] for i in kept) for x, of in parts.items() if of}
    return dataclasses.replace(group, **chosen, strength=None)


def attach(task, data: loader.Prepared) -> loader.Prepared:
    """Give each response its log-probability under the task's model, in nats, the sum over its
    tokens, as its one rating; and learn nothing of prompts.

    Kept in a file for the model, to the last bit of its parameters, by the batches' arrays: so a
    run that was killed goes on with the same numbers. Raises ValueError where one is not finite.
    """
    table = records.table(data.examples)
    table.examples["learned"], starts = 0, table.starts("responses")

    def unlearned(i: int) -> Example:
        example = data.examples[i]
        mask = np.zeros_like(example.encoded.loss_mask)
        return example._replace(encoded=dataclasses.replace(example.encoded, loss_mask=mask))

    examples, model, settings = records.Rows(table, unlearned), task.model, task.config
    batches = inference.plan_evaluation(
        examples,
        row_length=settings.data.row_length,
        layout=settings.data.layout,
        rows=settings.micro_batch_size,
        mesh=task.mesh,
    )
    of_model = dataclasses.asdict(model.config), checksum(model.params), str(np.dtype(model.dtype))
    name = content_key(VERSION, *of_model)
    store = Store(lambda: session.cache_folder() / "references" / f"{name}.sqlite", cache=True)
    run = task.sums(task.params, batches)
    found = np.zeros((starts[-1], 3), np.float32)
    for i in range(len(batches)):
        part = dataclasses.replace(batches, plan=batches.plan[i : i + 1])
        key = content_key(batches.layout, *(part[0][name] for name in OF_TOKENS))
        store.share([key])
        of_part = store.get(key)
        if of_part is None:
            log.info("log-probabilities of the reference, part %d of %d", i + 1, len(batches))
            (of_part,) = inference.run_rows(run, part, task.mesh)
            store.add({key: of_part})
        for row, slot, example, response in part.slots(0):
            found[starts[example] + response] = of_part[row, slot]
    task.check_finite(task.params, data, np.split(found, starts[1:-1]), 0)
    table.responses["ratings"], table.responses["rated"] = found[:, :1], True

    def known(i: int) -> Example:
        mine = table.responses[starts[i] : starts[i + 1]]
        return unlearned(i)._replace(ratings=mine["ratings"], rating_mask=mine["rated"])

    return loader.Prepared(data.groups, records.Rows(table, known))
