"""Sweeps: arms x seeds of training runs, each in a process of its own, then one table.

The run of an arm and a seed is WORKDIR/ARM/seed-N, as `hs2jax train` would leave it; sweep.md and
sweep.csv beside them are written anew after every run. A process of its own gives memory back and
is measured alone, and one that dies takes only its run with it. `sweep_plan` says what is to do.
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
from collections.abc import Callable
from pathlib import Path

from hs2jax import workdir as folders
from hs2jax.evaluation import items, sweep_table
from hs2jax.training import loop
from hs2jax.training.sweep_plan import Arm, Plan

log = logging.getLogger(__name__)

# A copy of this process would inherit what JAX holds; a fresh one does not.
PROCESSES = multiprocessing.get_context("spawn")
MOST_LETTERS = 500  # Of an error: compilers tell theirs with the whole program.


def run(
    plan: Plan, workdir: Path | str, prepare: Callable[[], None] | None = None
) -> tuple[str, int]:
    """Makes the runs that are not finished, one at a time. Returns the table and how many failed.

    `prepare` is called first in every process (a function of a module, for logging). A run that
    fails is told and counted, and so is each that needs it; the others go on.
    """
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    failed: dict[tuple[str, int], str] = {}
    # Seed by seed, so that what is there at any time compares all arms.
    todo = [(arm, seed) for seed in plan.seeds for arm in plan.arms]
    for number, (arm, seed) in enumerate(todo, 1):
        place = plan.run_folder(arm, seed)
        if _finished(place):
            log.info("%s is finished", place)
            continue
        broken = [name for name in arm.needs if (name, seed) in failed]
        if broken:
            why = f"it starts from {', '.join(broken)}, which failed"
        else:
            log.info("run %d of %d: %s, seed %d", number, len(todo), arm.name, seed)
            why = _train(plan.run_config(arm, seed), place, prepare)
        if why:
            failed[arm.name, seed] = why
            log.error("%s failed: %s", place, why)
        write_table(plan, workdir, failed)
    return write_table(plan, workdir, failed), len(failed)


# One run ------------------------------------------------------------------------------------------


def _train(config, place: Path, prepare: Callable[[], None] | None) -> str:
    """Trains in a new process; returns why that failed, or ""."""
    receive, send = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_work, args=(config, place, prepare, send))
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


def _work(config, place: Path, prepare: Callable[[], None] | None, send) -> None:
    # Whoever presses ^C means the sweep, which then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if prepare is not None:
        logging.getLogger().handlers.clear()  # Imports have set one up, in another form.
        prepare()
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
    """Holds a run's folder against other sweeps; waits for one that works on it."""
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another sweep works on %s; waiting for it", place)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


# The table ----------------------------------------------------------------------------------------


def write_table(plan: Plan, workdir: Path, failed: dict[tuple[str, int], str]) -> str:
    """Writes sweep.md and sweep.csv of the runs that are finished; returns the former's text.

    Runs of other seeds count too, as another sweep may be at work on them.
    """
    arms, notes = [], []
    for arm in plan.arms:
        runs = {}
        for seed in _seeds_there(plan, arm):
            place = plan.run_folder(arm, seed)
            try:
                folders.claim(place, plan.run_config(arm, seed))
            except ValueError as error:
                notes.append(f"Left out: {error}.")
                continue
            runs[seed] = _measured(place)
        arms.append(sweep_table.Arm(arm.name, arm.settings, runs))
        missing = [seed for seed in plan.seeds if seed not in runs]
        for seed in missing:
            if why := failed.get((arm.name, seed)):
                notes.append(f"Missing: {arm.name}, seed {seed}: {' '.join(why.split())}.")
        if waiting := [str(seed) for seed in missing if (arm.name, seed) not in failed]:
            notes.append(f"Not yet run: {arm.name}, seed {', '.join(waiting)}.")
    rows, more = sweep_table.make_rows(arms, plan.reference)
    text = sweep_table.write_markdown(rows, plan.reference, [*notes, *more])
    for name, content in (("sweep.md", text), ("sweep.csv", sweep_table.write_csv(rows))):
        # Another name until it is whole, and one of this process: others may write the table too.
        scratch = workdir / f"{name}.{os.getpid()}.tmp"
        scratch.write_text(content, encoding="utf-8")
        scratch.replace(workdir / name)
    return text


def _finished(place: Path) -> bool:
    return (place / "result.json").exists()


def _seeds_there(plan: Plan, arm: Arm) -> list[int]:
    found = [path.parent for path in arm.folder.glob("seed-*/result.json")]
    seeds = [place.name.removeprefix("seed-") for place in found]
    return sorted(int(seed) for seed in seeds if seed.isdecimal())


@functools.cache  # A finished run does not change.
def _measured(place: Path) -> sweep_table.Run:
    outputs = folders.read_json(place / "result.json")["outputs"]
    rows = folders.read_rows(place / "results.jsonl")
    costs = {row["metric"]: row["value"] for row in rows if row["metric"] in sweep_table.COSTS}
    found = items.read(place / "items" / "validation.jsonl")
    return sweep_table.measure(found, outputs, costs)
