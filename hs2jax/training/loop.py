"""Training a reward model, from a config to a run's folder, read top to bottom.

The folder holds config.json, record.json (what happened to the data), metrics.jsonl and
TensorBoard files, checkpoints/ (the latest, to go on from), best/ (parameters of the best step),
and at the end model/ (an export), items.jsonl (scored validation groups) and evaluation.json.
"""

import functools
import json
import logging
import platform
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections

from hs2jax.data import corpora, loader
from hs2jax.data.record import Record
from hs2jax.evaluation import items as scored
from hs2jax.evaluation import statistics
from hs2jax.models import sharding
from hs2jax.reward_model import RewardModel, plan_evaluation, predict, run_batches
from hs2jax.training import metrics, objectives, optimizer, step
from hs2jax.training.checkpoint import Checkpoints

log = logging.getLogger(__name__)

DTYPES = {"": None, "float32": jnp.float32, "bfloat16": jnp.bfloat16}
SELECT = {"loss": -1, "accuracy": 1}  # What the best step has least or most of.


def train(config: ml_collections.ConfigDict, workdir: Path | str) -> dict:
    """Trains, or goes on where a killed run of this folder was. Returns evaluation.json's content.

    Raises ValueError for a config that cannot be, naming the key, and RuntimeError after
    `config.not_finite_limit` steps in a row whose loss or gradient is not finite.
    """
    workdir, started = Path(workdir), time.time()
    finished = workdir / "evaluation.json"
    if finished.exists():
        log.info("%s is finished", workdir)
        return json.loads(finished.read_text(encoding="utf-8"))
    check(config)
    first = jax.process_index() == 0
    if first:
        claim(workdir, config)

    # Mesh and model -----------------------------------------------------------------------------
    mesh = sharding.make_mesh(**config.mesh)
    model = RewardModel.load(
        config.model.name,
        outputs=config.model.outputs,
        bias=config.model.bias,
        weights=config.model.weights.to_dict() or None,
        seed=config.seed,
        mesh=mesh,
        dtype=DTYPES[config.model.dtype],
    )
    objective = objectives.make(config.objective, model.outputs)
    scalar = model.scalar_weights()
    if scalar is None:
        scalar = jax.numpy.eye(len(model.outputs))[objective.output]
        model.weights = {model.outputs[objective.output]: 1.0}

    # Data ---------------------------------------------------------------------------------------
    def read(spec, **planned):
        record = Record()
        groups = list(corpora.read(spec, on_error=config.data.on_error, record=record))
        prepared = loader.prepare(
            groups,
            model.tokenizer,
            attributes=model.outputs,
            row_length=config.data.row_length,
            layout=config.data.layout,
            too_long=config.data.too_long,
            derive=config.data.derive or None,
            record=record,
        )
        usable = record.pairs if config.objective.kind == "bradley_terry" else prepared.examples
        if not usable:
            raise ValueError(
                f"{spec}: nothing to learn from or to evaluate on: {scored.describe(record)}"
            )
        return prepared, record

    shape = {"row_length": config.data.row_length, "layout": config.data.layout}
    trained_on, record = read(config.data.train)
    held_out, held_out_record = read(config.data.validation)
    batches = loader.plan(
        trained_on.examples,
        batch_size=config.batch_size,
        micro_rows=config.micro_rows,
        epochs=config.epochs,
        seed=config.seed,
        record=record,
        process=jax.process_index(),
        processes=jax.process_count(),
        **shape,
    )
    held_out_batches = plan_evaluation(held_out, rows=config.micro_rows, mesh=mesh, **shape)
    means = scored.rating_means(trained_on, model.outputs)
    steps = len(batches)
    log.info("train: %s", scored.describe(record))
    log.info("validation: %s", scored.describe(held_out_record))

    # Optimizer, state, step ---------------------------------------------------------------------
    tx, rate = optimizer.make(config.optimizer, steps)
    params = model.params
    shapes = jax.eval_shape(lambda p: step.init_state(p, tx), params)
    places = sharding.shardings(shapes, mesh)
    state = jax.jit(lambda p: step.init_state(p, tx), out_shardings=places, donate_argnums=0)(
        params
    )
    layout, dtype = config.data.layout, model.dtype
    update = step.make(
        model.config,
        objective,
        tx,
        layout=layout,
        dtype=dtype,
        remat=config.model.remat,
        shardings=places,
    )

    # Restore ------------------------------------------------------------------------------------
    checkpoints = Checkpoints(workdir / "checkpoints")
    best_checkpoints = Checkpoints(workdir / "best")
    batch_iterator = loader.iterate(batches)
    at = restored = 0
    best, seconds = None, 0.0
    if checkpoints.latest is not None:
        at = restored = checkpoints.latest
        state, meta = checkpoints.restore(at, state)
        batch_iterator.set_state(meta["loader"])
        best, seconds = meta["best"], meta["seconds"]
        log.info("going on from step %d", at)
    out = metrics.Metrics(workdir if first else None, start=at, total=steps, name=workdir.name)

    def evaluate(params):
        run = functools.partial(predict, params, config=model.config, layout=layout, dtype=dtype)
        outputs = run_batches(run, held_out_batches, len(model.outputs), mesh)
        found = scored.make(held_out, outputs, scalar)
        summary = statistics.summarize(found, model.outputs, means)
        loss = objectives.loss_of_examples(objective, held_out.examples, outputs)
        return found, {**summary, "loss": loss}

    def report(now, values):
        values = {name: float(x) for name, x in values.items()}
        took = time.time() - clock["step"]
        clock["step"] = time.time()
        values |= {
            "learning_rate": float(rate(now - 1)),
            "seconds": took,
            "tokens_per_second": values.pop("tokens") / took,
        }
        not_finite = values.pop("not_finite")
        out.write("train", now, values)
        shown = ("loss", *objectives.metrics_of(objective), "tokens_per_second")
        out.show(now, {name: values[name] for name in shown})
        if not_finite:
            note_not_finite(workdir, batches, now, values)
        if not_finite >= config.not_finite_limit:
            raise RuntimeError(
                f"{int(not_finite)} steps in a row, up to step {now}, gave a loss or gradient that "
                f"is not finite; the rows are in {workdir / 'not_finite.jsonl'}"
            )

    # Steps --------------------------------------------------------------------------------------
    clock = {"step": time.time()}
    began = time.time() - seconds
    pending = None
    with jax.set_mesh(mesh):
        while True:
            # What was done at the step of the checkpoint is in the checkpoint.
            resumed = at > 0 and at == restored
            if not resumed and (at in (0, steps) or at % config.evaluate_every == 0):
                if pending:
                    report(*pending)
                    pending = None
                found, summary = evaluate(state["params"])
                out.write("validation", at, summary)
                out.say(
                    f"step {at}: objective {summary['loss']:.4f}; {statistics.one_line(summary)}"
                )
                value = _selected(summary, config.select)
                if at and (best is None or SELECT[config.select] * (value - best["value"]) > 0):
                    best = {"step": at, "value": value, "summary": summary}
                    best_checkpoints.save(at, {"params": state["params"]}, best)
                    if first:
                        scored.write(workdir / "items.jsonl", found)
                clock["step"] = time.time()
            if at and not resumed and (at == steps or at % config.checkpoint_every == 0):
                meta = {"loader": batch_iterator.get_state(), "best": best}
                checkpoints.save(at, state, {**meta, "seconds": time.time() - began})
            if at == steps:
                break
            batch = sharding.place_rows(next(batch_iterator), mesh, axis=1)
            state, values = update(state, batch)
            at += 1
            # The step before this one is done by now: fetching its numbers does not wait.
            if pending:
                report(*pending)
            pending = (at, values)

        # The best step's model ------------------------------------------------------------------
        checkpoints.close()
        best_state, _ = best_checkpoints.restore(best["step"], {"params": state["params"]})
        best_checkpoints.close()
        model.params = best_state["params"]
    result = {
        "step": best["step"],
        "steps": steps,
        "outputs": list(model.outputs),
        "summary": best["summary"],
        "record": record.to_dict(),
        "validation_record": held_out_record.to_dict(),
        "seconds": time.time() - began,
        "environment": environment(),
    }
    out.say(f"best, step {best['step']}: {statistics.one_line(best['summary'])}")
    out.say(f"{time.time() - started:.0f} s in this process")
    out.close()
    if first:
        model.save(workdir / "model")
        write_json(finished, result)
    return result


def check(config) -> None:
    """What can be seen of a bad config before anything is loaded."""
    for key, allowed in (("select", SELECT), ("model.dtype", DTYPES)):
        value = functools.reduce(getattr, key.split("."), config)
        if value not in allowed:
            raise ValueError(f"config.{key} is {value!r}; it must be one of {list(allowed)}")
    for key in ("batch_size", "micro_rows", "epochs", "evaluate_every", "checkpoint_every"):
        if config[key] < 1:
            raise ValueError(f"config.{key} is {config[key]}; it must be at least 1")
    if (
        config.select == "accuracy"
        and config.objective.kind == "regression"
        and not config.data.derive
    ):
        raise ValueError("config.select 'accuracy' needs pairs; set config.data.derive")


def claim(workdir: Path, config) -> None:
    """Writes the config, or sees that a run that is there already has the same one."""
    workdir.mkdir(parents=True, exist_ok=True)
    path, now = workdir / "config.json", json.loads(config.to_json_best_effort())
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before != now:
            old, new = _flat(before), _flat(now)
            changed = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
            raise ValueError(
                f"{workdir} holds a run of another config (different: {', '.join(changed)}); "
                "give another --workdir, or remove it"
            )
    else:
        write_json(path, now)


def note_not_finite(workdir: Path, batches: loader.Batches, now: int, values: dict) -> None:
    """Writes down which rows the batch of this step had."""
    numbers = sorted({example for _, _, example, _ in batches.slots(now - 1)})
    row = {"step": now, "examples": numbers, **{k: str(v) for k, v in values.items()}}
    with (workdir / "not_finite.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def environment() -> dict:
    """What a number was obtained with."""
    devices = jax.devices()
    return {
        "device": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def write_json(path: Path, value) -> None:
    """Whole or not at all."""
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    scratch.replace(path)


def _flat(tree: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in tree.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def _selected(summary: dict, name: str) -> float:
    return summary["loss"] if name == "loss" else summary["preferences"]["accuracy"]
