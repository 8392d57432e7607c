"""Training, from a config to a run's folder, read top to bottom: reward models and policies.

The folder holds config.json, record.json (what happened to the data), metrics.jsonl and
TensorBoard files, checkpoints/ (the latest, to go on from), best/ (parameters of the best step),
items.jsonl (validation groups as it sees them), and at the end model/ (an export) and
evaluation.json. What differs between a reward model and a policy is in `training.tasks`.
"""

import functools
import logging
import time
from pathlib import Path

import jax
import ml_collections
from jax.experimental import multihost_utils

from hs2jax import folder
from hs2jax.data import loader
from hs2jax.evaluation import items
from hs2jax.models import sharding
from hs2jax.models.checksum import checksum
from hs2jax.prediction import plan_evaluation
from hs2jax.training import checks, frozen_states, metrics, optimizer, step, tasks, trainable
from hs2jax.training.checkpoint import Checkpoints

log = logging.getLogger(__name__)


def train(config: ml_collections.ConfigDict, workdir: Path | str) -> dict:
    """Trains, or goes on where a killed run of this folder was. Returns evaluation.json's content.

    Raises ValueError or FileNotFoundError for a config that cannot be, naming the key, and
    NotFiniteError after `config.not_finite_limit` steps in a row that are not finite.
    """
    workdir, started = Path(workdir), time.time()
    first = jax.process_index() == 0
    checks.check_config(config)
    if first:
        folder.claim(workdir, config)
    if (workdir / "evaluation.json").exists():
        log.info("%s is finished", workdir)
        return folder.read_json(workdir / "evaluation.json")

    # Mesh, model and data -----------------------------------------------------------------------
    mesh = sharding.make_mesh(**config.mesh)
    task = tasks.make(config, mesh)
    model, layout, dtype = task.model, config.data.layout, task.model.dtype
    shape = {"row_length": config.data.row_length, "layout": layout}
    trained_on, record = task.read(config.data.train)
    held_out, held_out_record = task.read(config.data.validation)
    trained_on = task.learn_from(trained_on)
    batches = loader.plan(
        trained_on.examples,
        batch_size=config.batch_size,
        micro_rows=sharding.fit_rows(config.micro_rows, mesh),
        epochs=config.epochs,
        seed=config.seed,
        record=record,
        **shape,
    )
    held_out_batches = plan_evaluation(
        held_out.examples, rows=config.micro_rows, mesh=mesh, **shape
    )
    steps = len(batches)
    log.info("train: %s", items.describe(record))
    log.info("validation: %s", items.describe(held_out_record))
    records = {"train": record.to_dict(), "validation": held_out_record.to_dict()}
    if first:
        folder.write_json(workdir / "record.json", records)

    # What is trained, optimizer and step --------------------------------------------------------
    params, kept = trainable.split(trainable.begin(task.params, config, mesh), config)
    task.params = None
    kept_checksum, trained_parameters = checksum(kept), trainable.count(params)
    if config.trainable.cache:
        decoder = trainable.join(params, kept)["decoder"]
        batches, held_out_batches = (
            frozen_states.attach(each, decoder, model.config, dtype=dtype, mesh=mesh)
            for each in (batches, held_out_batches)
        )
        del decoder
    tx, rate = optimizer.make(config.optimizer, steps)
    init = functools.partial(step.init_state, optimizer=tx)
    shapes = jax.eval_shape(init, params)
    places = sharding.shardings(shapes, mesh)
    shapes = sharding.placed_shapes(shapes, places)
    update = step.make(
        model.config,
        task.objective,
        tx,
        forward=task.forward,
        layout=layout,
        dtype=dtype,
        remat=config.model.remat,
        shardings=places,
    )

    # Begin, or restore --------------------------------------------------------------------------
    checkpoints = Checkpoints(workdir / "checkpoints")
    # Two: the one that the latest checkpoint names, and one newer than that checkpoint.
    best_checkpoints = Checkpoints(workdir / "best", keep=2)
    batch_iterator = loader.iterate(batches)
    at = restored = checkpoints.latest or 0
    best_checkpoints.forget_after(at)
    if restored:
        del params
        state, meta = checkpoints.restore(at, shapes)
        trainable.check_kept(kept, meta["kept"], config.model.name, workdir)
        batch_iterator.set_state(meta["loader"])
        best, seconds = meta["best"], meta["seconds"]
        log.info("going on from step %d", at)
    else:
        state = jax.jit(init, out_shardings=places, donate_argnums=0)(params)
        best, seconds = None, 0.0
    out = metrics.Metrics(workdir if first else None, start=at, total=steps, name=workdir.name)

    def report(now, values):
        values = {name: float(x) for name, x in values.items()}
        took, clock["step"] = time.time() - clock["step"], time.time()
        values |= {
            "learning_rate": float(rate(now - 1)),
            "seconds": took,
            "tokens_per_second": values.pop("tokens") / took,
        }
        not_finite = int(values.pop("not_finite"))
        out.write("train", now, values)
        shown = ("loss", *task.shown, "tokens_per_second")
        out.show(now, {name: values[name] for name in shown})
        if not_finite and first:
            numbers = sorted({example for _, _, example, _ in batches.slots(now - 1)})
            rows = [trained_on.groups[number].source for number in numbers]
            folder.note_not_finite(workdir, now, rows, values)
        if not_finite >= config.not_finite_limit:
            raise folder.NotFiniteError(
                f"{not_finite} steps in a row, up to step {now}, gave a loss or gradient that is "
                f"not finite and were left out; see {workdir / 'not_finite.jsonl'} for their rows"
            )

    # Steps --------------------------------------------------------------------------------------
    clock = {"step": time.time()}
    began = started - seconds
    pending = None
    with jax.set_mesh(mesh):
        while True:
            # What was done at the checkpoint's step is in the checkpoint.
            new = at == 0 or at != restored
            evaluates = new and (at in (0, steps) or at % config.evaluate_every == 0)
            saves = new and at > 0 and (at == steps or at % config.checkpoint_every == 0)
            if pending and (evaluates or saves):
                report(*pending)
                pending = None
            if evaluates:
                params = trainable.join(state["params"], kept)
                found, summary = task.evaluate(params, held_out, held_out_batches)
                del params  # Or it would be held beside the state after the next step.
                out.write("validation", at, summary)
                out.say(f"step {at}: objective {summary['loss']:.4f}; {task.one_line(summary)}")
                if at and (best is None or better(summary, best["summary"], config.select)):
                    best = {"step": at, "summary": summary, "kept": kept_checksum, **task.notes()}
                    # One saving at a time: on several hosts two would meet at the same barriers.
                    checkpoints.wait()
                    best_checkpoints.save(at, {"params": state["params"]}, best)
                    if first:
                        items.write(workdir / "items.jsonl", found)
                    saves = True  # So that a checkpoint that names this step is next.
            if saves:
                # It must not be there before the step that it names is.
                best_checkpoints.wait()
                meta = {"loader": batch_iterator.get_state(), "best": best}
                meta |= {"kept": kept_checksum, "seconds": time.time() - began}
                checkpoints.save(at, state, meta)
            if evaluates or saves:
                clock["step"] = time.time()
            if at == steps:
                break
            batch = sharding.place_rows(next(batch_iterator), mesh, axis=1)
            state, values = update(state, kept, batch)
            at += 1
            # The step before this one is done by now: fetching its numbers does not wait.
            if pending:
                report(*pending)
            pending = (at, values)

    # The best step's model ----------------------------------------------------------------------
    checkpoints.close()
    del state
    best_checkpoints.forget_before(best["step"])  # The latest checkpoint names this one.
    best_state, _ = best_checkpoints.restore(best["step"], {"params": shapes["params"]})
    best_checkpoints.close()
    task.params = trainable.finish(trainable.join(best_state["params"], kept))
    model.save(workdir / "model")
    result = {
        "step": best["step"],
        "steps": steps,
        **task.results(),
        "summary": best["summary"],
        "record": records["train"],
        "validation_record": records["validation"],
        "seconds": time.time() - began,
        "trained_parameters": trained_parameters,
        "peak_memory_bytes": folder.peak_memory(),
        "environment": folder.environment(),
    }
    out.say(f"best, step {best['step']}: {task.one_line(best['summary'])}")
    out.close()
    if first:
        trained = [row for row in metrics.read(workdir / "metrics.jsonl") if row["kind"] == "train"]
        result["tokens_per_second"] = record.tokens / sum(row["seconds"] for row in trained)
        folder.write_json(workdir / "evaluation.json", result)
    if jax.process_count() > 1:  # The others must not look for the results before they are there.
        multihost_utils.sync_global_devices("saved")
    return result


def better(summary: dict, than: dict, select: str) -> bool:
    """Whether one evaluation is better than another by `config.select`."""
    value = {
        "loss": lambda s: s["loss"],
        "accuracy": lambda s: s["preferences"]["accuracy"],
    }[select]
    return checks.SELECT[select] * (value(summary) - value(than)) > 0
