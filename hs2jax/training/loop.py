"""Training, from a config to a run's folder, read top to bottom: reward models and policies.

Beside what `workdir` describes, the folder holds record.json (what happened to the data),
metrics.jsonl and TensorBoard files, items/start.jsonl and items/validation.jsonl (validation groups
as they were seen before the first step and by the best one) and model/ (the best step's export);
until the run is finished, or for good with `config.keep_checkpoints`, checkpoints/ (the latest, to
go on from) and best/ (parameters of the best step). What differs between a reward model and a
policy is in `training.tasks`.
"""

import functools
import logging
import statistics
import time
from pathlib import Path

import jax
import ml_collections

from hs2jax import configs, locks, stopping, workdir
from hs2jax.data import loader
from hs2jax.inference import plan_evaluation
from hs2jax.models import sharding
from hs2jax.training import frozen_states, metrics, optimizer, skipped, step, tasks, trainable
from hs2jax.training.checkpoint import SPENT, RunState, check_room
from hs2jax.training.objectives import METRICS_OF
from hs2jax.training.profiling import traced

log = logging.getLogger(__name__)


@locks.released
def train(config: ml_collections.ConfigDict, folder: Path | str) -> list[dict]:
    """Train, or go on where a killed run of this folder was. Returns the rows of results.jsonl.

    Raises ValueError or FileNotFoundError for a config that cannot be, naming the key, and
    ValueError after `config.not_finite_limit` steps in a row that are not finite; then the last
    checkpoint has what was learned before them.
    """
    folder, started = Path(folder), time.monotonic()
    configs.check(config)
    spent = () if config.keep_checkpoints else SPENT
    if (done := workdir.claim(folder, config, spent)) is not None:
        return done
    first = workdir.is_first()

    # Mesh, model and data -----------------------------------------------------------------------
    mesh = sharding.make_mesh(**config.mesh)
    task = tasks.make(config, mesh)
    model, layout, dtype = task.model, config.data.layout, task.model.dtype
    shape = {"row_length": config.data.row_length, "layout": layout}
    with jax.set_mesh(mesh):
        trained_on, record = task.read(config.data.train)
        held_out, held_out_record = task.read(config.data.validation)
    trained_on, notes = task.prepare_training(trained_on)
    rows = sharding.fit_rows(config.micro_batch_size, mesh)
    shape["here"] = sharding.rows_here(rows, mesh)
    batches = loader.plan(
        trained_on.examples,
        batch_size=config.batch_size,
        micro_batch_size=rows,
        epochs=config.epochs,
        seed=config.seed,
        record=record,
        **shape,
    )
    of_held_out = {"rows": config.micro_batch_size, "record": held_out_record}
    held_out_batches = plan_evaluation(held_out.examples, mesh=mesh, **of_held_out, **shape)
    steps = len(batches)
    log.info("train: %s", record)
    log.info("validation: %s", held_out_record)
    for warning in notes["warnings"]:
        log.warning("%s", warning)
    records = {"train": record.to_dict(), "validation": held_out_record.to_dict()}
    if first:
        workdir.write_json(folder / "record.json", records)

    # What is trained, optimizer and step --------------------------------------------------------
    params = trainable.begin(task.params, config, mesh)
    params, frozen = trainable.split(params, config, task.model.dtype)
    task.params = None
    trained_parameters = trainable.count(params)
    if config.trainable.cache:
        decoder = trainable.join(params, frozen)["decoder"]
        batches, held_out_batches = (
            frozen_states.attach(
                each, [x.source for x in data.groups], decoder, model.config, dtype=dtype, mesh=mesh
            )
            for each, data in ((batches, trained_on), (held_out_batches, held_out))
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
        remat=step.remat_of(config),
        shardings=places,
    )

    export = jax.eval_shape(trainable.finish, trainable.join(shapes["params"], frozen))
    check_room(folder, shapes, shapes["params"], export, stay=config.keep_checkpoints)

    # Begin, or restore --------------------------------------------------------------------------
    run = RunState(folder, frozen, started=started)
    run.need("metrics.jsonl", "items/start.jsonl")
    limit = config.not_finite_limit
    if run.stopped and (run.stopped["steps"] >= limit or task.diverged(run.stopped)):
        raise ValueError(run.stopped["why"])
    batch_iterator = loader.iterate(batches)
    if run.restored:
        del params
        state = run.restore(shapes, batch_iterator)
        log.info("going on from step %d", run.step)
    else:
        state = jax.jit(init, out_shardings=places, donate_argnums=0)(params)
    about = {"project": config.wandb_project, "config": config.to_dict()}
    out = metrics.Metrics(folder, start=run.step, total=steps, **about)
    unused = {name for names in METRICS_OF.values() for name in names} - {*task.shown}

    def report(now, found, state):
        unwritten = {"bad_gradients", *unused}  # Of parts that this objective does not have.
        values = {name: float(x) for name, x in found.items() if name not in unwritten}
        took, clock["step"] = time.monotonic() - clock["step"], time.monotonic()
        values |= {"learning_rate": float(rate(now - 1)), "seconds": took}
        values["tokens_per_second"] = values.pop("tokens") / took
        not_finite = int(values.pop("not_finite"))
        out.write("train", now, values)
        out.show(now, {x: values[x] for x in ("loss", *task.shown, "tokens_per_second")})
        if now == 1 and "loss_at_reference" in values:
            known = f"{values['loss_at_reference']:.6f} where the policy is its reference"
            out.say(f"the first batch's loss is {values['loss']:.6f}; it is {known}")
        if not not_finite:
            why = task.diverged(values)
            return {**values, "steps": 0, "why": f"step {now}: {why}"} if why else None
        numbers = sorted({example for _, _, example, _ in batches.slots(now - 1)})
        about = (state["params"], frozen, found, trained_on, numbers, model.config)
        note = skipped.describe(*about, dtype=dtype, mesh=mesh)
        out.note_skipped(now, note)
        log.warning("step %d is skipped, as not finite: %s", now, skipped.in_words(note))
        if not_finite < config.not_finite_limit:
            return None
        why = (
            f"{not_finite} steps in a row, up to step {now}, gave a loss or gradient that is not "
            f"finite and were skipped; the last: {skipped.in_words(note)}. All are in "
            f"{folder / 'not_finite.jsonl'}; {folder / 'checkpoints'} has what was learned before, "
            "and a higher config.not_finite_limit goes on from there"
        )
        return {"steps": not_finite, "why": why}

    def better(values, than):
        side = -1 if config.select == "loss" else 1
        return side * (values[config.select] - than[config.select]) > 0

    # Steps --------------------------------------------------------------------------------------
    clock = {"step": time.monotonic()}
    pending = stopped = None
    tracer = traced(folder / "profile", config.profile)
    with stopping.deferred(), jax.set_mesh(mesh), tracer as before_step:
        while True:
            new = run.step != run.restored  # What was done at a checkpoint's step is in it.
            at_end, stop = run.step == steps, stopping.asked()
            evaluates = at_end or run.step % config.evaluate_every == 0
            evaluates, evaluated = evaluates and (new or not run.evaluated), True
            due = at_end or stop or stopped or run.step % config.checkpoint_every == 0
            saves = new and run.step and due
            if pending and (evaluates or saves):
                reached = report(*pending, state)
                stopped = stopped or reached
                pending, saves = None, saves or stopped
            if evaluates or saves:
                step.check_finite(state["params"])
            if evaluates:
                params = trainable.join(state["params"], frozen)
                try:
                    found, values = task.evaluate(params, held_out, held_out_batches, run.step)
                except stopping.Stopped as signal:
                    stop, evaluated, saves = signal.why, False, new and run.step
                del params  # Or it would be held beside the state after the next step.
            if evaluates and evaluated:
                out.write("validation", run.step, values)
                out.say(f"step {run.step}: {metrics.one_line(values)}")
                if run.step == 0 and first:
                    workdir.write_rows(folder / "items" / "start.jsonl", found)
                elif run.step and (run.best is None or better(values, run.best["values"])):
                    run.save_best(state["params"], values)
                    if first:
                        workdir.write_rows(folder / "items" / "validation.jsonl", found)
                    saves = True  # So that a checkpoint that names this step is next.
            if saves:
                run.save(state, batch_iterator, evaluated, stopped)
            if evaluates or saves:
                clock["step"] = time.monotonic()
            if stopped:
                run.wait()
                raise ValueError(stopped["why"])
            if stop:
                run.wait()
                raise stopping.Stopped(f"{stop}; saved at step {run.step}")
            if at_end:
                break
            run.check()
            before_step(state)
            batch = sharding.place_rows(next(batch_iterator), mesh, axis=1)
            state, values = update(state, frozen, batch)
            run.step += 1
            # The step before this one is done by now: fetching its numbers does not wait.
            if pending:
                stopped = report(*pending, state)
            pending = (run.step, values)

    # The best step's model ----------------------------------------------------------------------
    del state
    task.params = trainable.finish(trainable.join(run.restore_best(shapes["params"]), frozen))
    model.save(folder / "model")
    out.say(f"best, step {run.best['step']}: {metrics.one_line(run.best['values'])}")
    out.close()
    rows = []
    if first:
        start, best = (
            workdir.read_rows(folder / "items" / f"{x}.jsonl") for x in ("start", "validation")
        )
        seconds = [row["seconds"] for row in metrics.read(folder / "metrics.jsonl", "train")]
        costs = {
            "step": run.best["step"],
            "steps": steps,
            "seconds": run.seconds,
            "seconds_per_step": statistics.median(seconds),  # As the first ones compile.
            "tokens_per_second": record.tokens / sum(seconds),
            "peak_memory_bytes": metrics.peak_memory(),
            "trained_parameters": trained_parameters,
            "skipped_steps": len(metrics.read(folder / "not_finite.jsonl")),
        }
        if costs["skipped_steps"]:
            said = "steps gave a loss or gradient that is not finite and were skipped"
            notes["warnings"].append(f"{costs['skipped_steps']} of {steps} {said}")
        rows = task.rows(start, best, notes)
        rows += [workdir.row("", "", name, value) for name, value in costs.items()]
    result = {"step": run.best["step"], "steps": steps, "values": run.best["values"], **notes}
    result |= {"objective": config.objective.kind, **task.results(), "records": records}
    result["seconds"] = run.seconds
    return workdir.finish(folder, config, result, workdir.from_first(rows), spent)
