"""ExPO: how far to go beyond a trained reward model, found on validation pairs.

A sweep over factors of `models.merge.expo`, coarse then fine (arXiv 2410.01257 found 1.52 in such a
way). The folder holds config.json, sweep.jsonl (a line for each factor, written as soon as it is
scored, so that a killed sweep goes on), model/ (the chosen one), items/ (groups scored by the
initial, the trained and the chosen model), expo.json and the report.
"""

import hashlib
import logging
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from hs2jax import choices, folder
from hs2jax.data import corpora, loader
from hs2jax.data.record import Record
from hs2jax.evaluation import expo_report, statistics
from hs2jax.evaluation import items as scored_items
from hs2jax.models import merge, sharding
from hs2jax.models.checksum import checksum
from hs2jax.reward_model import RewardModel, parse_weights
from hs2jax.training import expo_sweep, sources

log = logging.getLogger(__name__)

NAMES = ("initial", "trained", "chosen")


def expo(config: ml_collections.ConfigDict, workdir: Path | str) -> dict:
    """Sweeps, or goes on where a killed sweep of this folder was. Returns expo.json's content.

    Raises ValueError or FileNotFoundError for a config that cannot be, naming the key, and for two
    models that cannot be merged, naming what differs.
    """
    workdir = Path(workdir)
    first = jax.process_index() == 0
    check(config)
    if first:
        folder.claim(workdir, config)
    if (workdir / "expo.json").exists():
        log.info("%s is finished; to sweep again, remove it", workdir)
        return folder.read_json(workdir / "expo.json")

    # Models and data ----------------------------------------------------------------------------
    mesh = sharding.make_mesh(**config.mesh)
    initial = sources.open_source(config.initial, mesh)
    trained = sources.open_source(config.trained, mesh)
    merge.check_alike(initial, trained)
    dtype = config.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    model = RewardModel(
        trained.config,
        None,
        trained.tokenizer,
        trained.outputs,
        parse_weights(config.weights) or trained.weights,
        mesh,
        getattr(jnp, dtype),
        trained.template,
        trained.read,
    )
    if model.scalar_weights() is None:
        raise ValueError(
            f"{trained.name} has the outputs {', '.join(model.outputs)}: say in config.weights how "
            "they make one reward"
        )
    record = Record()
    prepared = read(config, config.data, model, record)
    log.info("validation: %s", scored_items.describe(record))
    test = config.test and read(config, config.test, model, Record())  # Told before all the work.
    sweep = expo_sweep.Sweep(
        workdir / "sweep.jsonl", of=_fingerprint(initial, trained, prepared), writes=first
    )

    def score(factor: float, data: loader.Prepared) -> list[np.ndarray]:
        model.params = None  # Gone before the next ones come.
        model.params = merge.merge(initial, trained, factor)
        return model.predict(data.examples)

    def items_of(factor: float) -> list[dict]:
        return scored_items.make(prepared, sweep.outputs(factor), model.scalar_weights())

    # The sweep ----------------------------------------------------------------------------------
    def measure(factors: Sequence[float], stage: str) -> None:
        for factor in factors:
            if factor not in sweep.rows:
                began = time.time()
                outputs = score(factor, prepared)
                items = scored_items.make(prepared, outputs, model.scalar_weights())
                row = {"factor": factor, "stage": stage, **_measured(factor, items)}
                sweep.add({**row, "seconds": time.time() - began}, outputs)
                if bar.disable:
                    log.info("%s", expo_sweep.describe(row))
            bar.set_postfix_str(f"best: {expo_sweep.describe(sweep.best())}")
            bar.update()

    coarse = expo_sweep.coarse_factors(config.factors)
    bar = tqdm(total=len(coarse), desc="expo", unit="factor", disable=not sys.stderr.isatty())
    with jax.set_mesh(mesh):
        measure(coarse, "coarse")
        fine = expo_sweep.fine_factors(
            sweep.best(coarse)["factor"], coarse, step=config.fine_step, reach=config.fine_reach
        )
        bar.total += len(fine)
        measure(fine, "fine")
        bar.close()
        factor = sweep.best()["factor"]
        factors = dict(zip(NAMES, (0.0, 1.0, factor), strict=True))
        found = {name: items_of(f) for name, f in factors.items()}

        # What came of it ------------------------------------------------------------------------
        tested = None
        if test:
            tested = {
                name: scored_items.make(test, score(f, test), model.scalar_weights())
                for name, f in factors.items()
            }
        model.params = None
        model.params = merge.merge(initial, trained, factor)
    model.save(workdir / "model")
    result = {
        "initial": config.initial,
        "trained": config.trained,
        "outputs": list(model.outputs),
        "weights": model.weights,
        "dtype": dtype,
        "factor": factor,
        "at_edge": factor > 1 and factor >= max(coarse),
        "validation": _summed_up(config.data, found),
        "held_out": expo_sweep.held_out(coarse, items_of),
        "test": tested and _summed_up(config.test, tested),
        "curve": sweep.curve(),
        "record": record.to_dict(),
        "seconds": sum(row["seconds"] for row in sweep.curve()),
        "environment": folder.environment(),
        "config": config.to_dict(),
    }
    if first:
        (workdir / "items").mkdir(exist_ok=True)
        for name in NAMES:
            scored_items.write(workdir / "items" / f"{name}.jsonl", found[name])
            if tested:
                scored_items.write(workdir / "items" / f"test-{name}.jsonl", tested[name])
        folder.write_json(workdir / "expo.json", result)
        expo_report.write(workdir)
    if jax.process_count() > 1:  # The others must not look for the results before they are there.
        multihost_utils.sync_global_devices("expo")
    return result


def check(config) -> None:
    """Raises ValueError or FileNotFoundError that names the config key."""
    for key in ("initial", "trained", "data"):
        if not config[key]:
            raise ValueError(f"config.{key} is not set")
    choices.check(config, {"dtype": choices.DTYPES, "on_error": loader.ON_ERROR})
    for key in ("fine_step", "fine_reach", "max_tokens"):
        if not 0 <= config[key] < math.inf:
            raise ValueError(f"config.{key} is {config[key]}; it must be 0 or more")
    for factor in config.factors:
        if not (isinstance(factor, (int, float)) and 0 <= factor < math.inf):
            raise ValueError(f"config.factors has {factor!r}; they must be numbers, 0 or more")
    for key in ("data", "test"):
        if config[key]:
            corpora.read(config[key])  # Raises where there is no such format or file.


def read(config, spec: str, model: RewardModel, record: Record) -> loader.Prepared:
    """The groups of a specification that have pairs, tokenised. Raises ValueError without any."""
    groups = list(corpora.read(spec, on_error=config.on_error, record=record))
    longest = min(config.max_tokens or model.config.max_seq_len, model.config.max_seq_len)
    prepared = loader.prepare(
        groups,
        model.tokenizer,
        attributes=model.outputs,
        # Only a conversation's length counts.
        row_length=longest * max((len(group.responses) for group in groups), default=1),
        max_tokens=longest,
        read=model.read,
        too_long="truncate",
        derive=config.derive or None,
        on_error=config.on_error,
        record=record,
    )
    prepared = loader.with_pairs(prepared)
    if not prepared.examples:
        raise ValueError(
            f"{spec}: no preference pairs to judge a factor by: {scored_items.describe(record)}. "
            "Ratings become pairs with config.derive"
        )
    return prepared


def _measured(factor: float, items: list[dict]) -> dict:
    try:
        found = statistics.preferences(items)
    except ValueError as error:
        raise ValueError(f"with factor {factor:g}: {error}") from error
    return {name: found[name] for name in ("pairs", "accuracy", "interval", "margin", "loss")}


def _summed_up(spec: str, items: dict[str, list[dict]]) -> dict:
    """What a set says of the three models, and of the chosen one against the trained one."""
    return {
        "data": spec,
        **{name: statistics.preferences(some) for name, some in items.items()},
        "gain": expo_sweep.compare(items["trained"], items["chosen"]),
    }


def _fingerprint(initial: merge.Source, trained: merge.Source, prepared: loader.Prepared) -> str:
    """A hash of what a sweep's results follow from, besides its config."""
    digest = hashlib.sha256()
    for source in (initial, trained):
        for path, _ in jax.tree.leaves_with_path(source.shapes):
            digest.update(checksum(source.leaf(sharding.path_name(path))).encode())
    for example in prepared.examples:
        for ids in (example.encoded.prompt, *example.encoded.responses):
            digest.update(np.asarray(ids, "<i4").tobytes() + b"|")
        digest.update(repr(example.pairs).encode())
    return digest.hexdigest()[:32]
