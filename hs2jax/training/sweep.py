"""Sweeps: arms x seeds of training runs, each in a process of its own, as rows of one table. On
several hosts, all of whose processes make each run, one that fails ends the sweep.

The run of an arm and a seed is WORKDIR/ARM/seed-N, as `hs2jax train` would leave it; the sweep's
rows are written anew after each. `sweep_arms` says which runs there are.
"""

import functools
import logging
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from hs2jax import configs, disk, faults, locks, stopping, workdir
from hs2jax.training import loop
from hs2jax.training.sweep_arms import Arms, plan
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
    workdir.take(folder, config)
    failed: dict[tuple[str, int], str] = {}
    # Seed by seed, so that what is there at any time compares all arms.
    todo = [(arm, seed) for seed in arms.seeds for arm in arms.arms]
    for number, (arm, seed) in enumerate(todo, 1):
        place = arms.run_folder(arm, seed)
        if workdir.finished(place):
            if not arm.config.keep_checkpoints:
                disk.remove(place, loop.SPENT)  # It may have been killed before.
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
    if stopping.joined():
        loop.train(config, place)
        return ""
    receive, send = PROCESSES.Pipe(duplex=False)
    level = logging.getLogger("hs2jax").getEffectiveLevel()
    process = PROCESSES.Process(target=_work, args=(config, place, level, send))
    process.start()
    send.close()
    try:
        try:
            return receive.recv()
        except stopping.Stopped:  # It saves and stops, too.
            with stopping.deferred():  # Which raises it again.
                process.terminate()
                process.join(60)
        finally:
            process.join(60)
    except EOFError:  # It ended without a word.
        memory = " (out of memory?)" * (process.exitcode == -signal.SIGKILL)
        return f"its process ended with code {process.exitcode}{memory}"
    finally:
        process.kill()  # Does nothing, unless the waiting was interrupted.


def _work(config: ConfigDict, place: Path, level: int, send) -> None:
    # Whoever presses ^C means the sweep, which then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stopping.install()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("hs2jax").setLevel(level)
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # What orbax raises is told anyway.
    why = ""
    try:
        place.mkdir(parents=True, exist_ok=True)
        with locks.locked(place.parent / f".{place.name}.lock"):
            loop.train(config, place)
    except Exception as error:
        if os.environ.get("HS2JAX_TRACEBACK"):
            traceback.print_exc()
        why = faults.told(error)
    send.send(why[:MOST_LETTERS])


def _end_with_parent() -> None:
    """A sweep that is killed must not leave a run behind that the next one would train as well."""
    multiprocessing.parent_process().join()
    os._exit(1)


# Rows ---------------------------------------------------------------------------------------------


def _write(config: ConfigDict, arms: Arms, folder: Path, failed: Mapping) -> list[dict]:
    """Write the rows of the runs that are finished, those of other seeds too, as another sweep may
    be at work on them. Nothing is claimed but the runs: seeds may be added to a sweep."""
    runs: dict[str, dict[int, Run]] = {arm.name: {} for arm in arms.arms}
    notes = []
    for arm in arms.arms:
        places = arm.folder.glob("seed-*/result.json")
        seeds = (path.parent.name.removeprefix("seed-") for path in places)
        for seed in sorted(int(each) for each in seeds if each.isdecimal()):
            place = arms.run_folder(arm, seed)
            try:
                workdir.check(place, arms.run_config(arm, seed))
                runs[arm.name][seed] = _read_run(place)
            except (ValueError, OSError) as error:
                notes.append(f"Left out: {error}.")
        waiting = []
        for seed in (each for each in arms.seeds if each not in runs[arm.name]):
            if why := failed.get((arm.name, seed)):
                notes.append(f"Missing: {arm.name}, seed {seed}: {' '.join(why.split())}.")
            else:
                waiting.append(str(seed))
        if waiting:
            notes.append(f"Not yet run: {arm.name}, seed {', '.join(waiting)}.")
    rows, more = make_rows(runs, arms.reference)
    settings = arms.settings()
    result = {
        "kind": config.kind,
        "reference": arms.reference,
        "arms": {
            name: {"settings": settings[name], "seeds": sorted(of)} for name, of in runs.items()
        },
        "notes": [*notes, *more],
        "config": config.to_dict(),
    }
    # Not by `workdir.finish`, which would take the device that the runs need.
    if not stopping.joined() or workdir.is_first():
        workdir.write_json(folder / "config.json", config.to_dict())
        workdir.write_results(folder, rows)
        workdir.write_json(folder / "result.json", result)
    return rows


@functools.cache  # A finished run does not change.
def _read_run(place: Path) -> Run:
    rows = workdir.read_rows(place / "results.jsonl")
    costs = {each["metric"]: each["value"] for each in rows if each["metric"] in COSTS}
    outputs = workdir.read_json(place / "result.json")["outputs"]
    return Run(workdir.read_rows(place / "items" / "validation.jsonl"), outputs, costs)
