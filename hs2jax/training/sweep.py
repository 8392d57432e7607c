"""Sweeps: arms x seeds of training runs, each in a process of its own, as rows of one table.

The run of an arm and a seed is WORKDIR/ARM/seed-N, as `hs2jax train` would leave it; the sweep's
rows are written anew after each. A process of its own gives memory back and is measured alone, and
one that dies takes only its run with it. `sweep_arms` says which runs there are.
"""

import contextlib
import fcntl
import functools
import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from hs2jax import configs, workdir
from hs2jax.training import loop
from hs2jax.training.sweep_arms import Arm, Arms, plan
from hs2jax.training.sweep_rows import COSTS, Run, make_rows

log = logging.getLogger(__name__)

# A copy of this process would inherit what JAX holds; a fresh one does not.
PROCESSES = multiprocessing.get_context("spawn")
MOST_LETTERS = 500  # Of an error: compilers tell theirs with the whole program.


class FailedRunsError(ValueError):
    """Some runs of a sweep have failed; the rows of the others are written."""

    written = True


def sweep(config: ConfigDict, folder: Path | str) -> list[dict]:
    """Make the runs that are not finished, one at a time. Returns the rows of results.jsonl.

    A run that fails is told, and so is each that starts from it; the others go on. Raises
    ValueError before the first run for a config that cannot be, naming the arm and the key, and
    FailedRunsError at the end.
    """
    folder = Path(folder)
    configs.check(config)
    arms = plan(config, folder)
    failed: dict[tuple[str, int], str] = {}
    # Seed by seed, so that what is there at any time compares all arms.
    todo = [(arm, seed) for seed in arms.seeds for arm in arms.arms]
    for number, (arm, seed) in enumerate(todo, 1):
        place = arms.run_folder(arm, seed)
        if workdir.finished(place):
            log.info("%s is finished", place)
            continue
        broken = [name for name in arm.needs if (name, seed) in failed]
        if broken:
            why = f"it starts from {', '.join(broken)}, which failed"
        else:
            log.info("run %d of %d: %s, seed %d", number, len(todo), arm.name, seed)
            why = _train(arms.run_config(arm, seed), place)
        if why:
            failed[arm.name, seed] = why
            log.error("%s failed: %s", place, why)
        _write(config, arms, folder, failed)
    rows = _write(config, arms, folder, failed)
    if failed:
        text = f"{len(failed)} of {len(todo)} runs failed; the same command tries them again"
        raise FailedRunsError(text)
    return rows


# One run ------------------------------------------------------------------------------------------


def _train(config: ConfigDict, place: Path) -> str:
    """Train in a new process; returns why that failed, or ""."""
    receive, send = PROCESSES.Pipe(duplex=False)
    levels = {name: logging.getLogger(name).level for name in ("hs2jax", "absl")}
    process = PROCESSES.Process(target=_work, args=(config, place, levels, send))
    process.start()
    send.close()
    try:
        try:
            why = receive.recv()
        except EOFError:  # It ended without a word.
            why = ""
        process.join()
    finally:
        process.kill()  # Does nothing, unless the waiting was interrupted.
    if process.exitcode and not why:
        why = f"its process ended with code {process.exitcode}"
        if process.exitcode < 0:
            why = f"its process was ended by {signal.Signals(-process.exitcode).name}"
            why += " (out of memory?)" if process.exitcode == -signal.SIGKILL else ""
    return why


def _work(config: ConfigDict, place: Path, levels: Mapping[str, int], send) -> None:
    # Whoever presses ^C means the sweep, which then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        with _alone(place):
            loop.train(config, place)
    except Exception as error:
        known = isinstance(error, (ValueError, OSError))
        if not known or os.environ.get("HS2JAX_TRACEBACK"):
            traceback.print_exc()
        why = str(error) if known else f"{type(error).__name__}: {error}"
        send.send(why if len(why) <= MOST_LETTERS else why[:MOST_LETTERS] + " ...")
        sys.exit(1)


def _end_with_parent() -> None:
    """A sweep that is killed must not leave a run behind that the next one would train as well."""
    multiprocessing.parent_process().join()
    os._exit(1)


@contextlib.contextmanager
def _alone(place: Path):
    """Hold a run's folder against other sweeps; wait for one that works on it."""
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another sweep works on %s; waiting for it", place)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


# Rows ---------------------------------------------------------------------------------------------


def _write(config: ConfigDict, arms: Arms, folder: Path, failed: Mapping) -> list[dict]:
    """Write the rows of the runs that are finished, those of other seeds too, as another sweep may
    be at work on them. Nothing is claimed but the runs: seeds may be added to a sweep."""
    runs, notes = {}, []
    for arm in arms.arms:
        runs[arm.name] = {}
        for seed in _seeds_there(arms, arm):
            place = arms.run_folder(arm, seed)
            try:
                workdir.check_config(place, arms.run_config(arm, seed))
            except ValueError as error:
                notes.append(f"Left out: {error}.")
            else:
                runs[arm.name][seed] = _read_run(place)
        missing = [seed for seed in arms.seeds if seed not in runs[arm.name]]
        for seed in missing:
            if why := failed.get((arm.name, seed)):
                notes.append(f"Missing: {arm.name}, seed {seed}: {' '.join(why.split())}.")
        if waiting := [str(seed) for seed in missing if (arm.name, seed) not in failed]:
            notes.append(f"Not yet run: {arm.name}, seed {', '.join(waiting)}.")
    rows, more = make_rows(runs, arms.reference)
    result = {
        "kind": config.kind,
        "reference": arms.reference,
        "arms": {
            arm.name: {"settings": arm.settings, "seeds": sorted(runs[arm.name])}
            for arm in arms.arms
        },
        "notes": [*notes, *more],
        "config": config.to_dict(),
    }
    # Not by `workdir.finish`, which would take the device that the runs need.
    workdir.write_json(folder / "config.json", config.to_dict())
    workdir.write_rows(folder / "results.jsonl", rows)
    workdir.write_json(folder / "result.json", result)
    return rows


def _seeds_there(arms: Arms, arm: Arm) -> list[int]:
    found = [path.parent for path in arm.folder.glob("seed-*/result.json")]
    seeds = [place.name.removeprefix("seed-") for place in found]
    return sorted(int(seed) for seed in seeds if seed.isdecimal())


@functools.cache  # A finished run does not change.
def _read_run(place: Path) -> Run:
    rows = workdir.read_rows(place / "results.jsonl")
    costs = {each["metric"]: each["value"] for each in rows if each["metric"] in COSTS}
    outputs = workdir.read_json(place / "result.json")["outputs"]
    return Run(workdir.read_rows(place / "items" / "validation.jsonl"), outputs, costs)
