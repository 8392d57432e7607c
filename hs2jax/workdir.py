"""A run's folder: claimed, resumed, stored, finished.

    config.json    the config, with its kind
    run.json       what the run is (see `identity`), whether it has made something of it, and when
                   it is finished how many bytes of disk it takes, a hash of its rows, and the sizes
                   of the files that it made
    run.lock       who is at work here
    results.jsonl  what came out, one tidy table (see `row`)
    result.json    what does not fit into rows; the last file of a run, so that it marks the end

Of several processes, which must see the same folder, the first one writes.
"""

import json
import logging
import pickle
import platform
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from hs2jax import (
    atomic,
    config_rules,
    configs,
    disk,
    identity,
    locks,
    session,
    stopping,
    survey,
    unchanged,
)
from hs2jax.models.hf import card, fingerprint

log = logging.getLogger(__name__)

MEND = "bring back a whole copy of it, or give another folder"
# Kinds whose folders hold those of other runs, or are written at once.
UNCLAIMED = ("recipe", "sweep", "best_of_n")


# A run's folder ---------------------------------------------------------------------------------


def claim(workdir: Path, config, spent: Sequence[str] = ()) -> list[dict] | None:
    """Claim a folder for a run, and return its rows where it is finished.

    spent: what `finish` removes, and has not where it was killed.
    Until the run has settled, the folder takes any config; then only those of the same identity
    (see `identity`). Raises ValueError where the folder is another run's, naming what differs, is
    no run's, another process is at work in it, or what it made is gone or cut; and what
    `survey.check` raises.
    """
    survey.check(config)
    found = identity.of(config)
    _agree(workdir, config, found)
    if is_first():
        check(workdir, config, found)
        try:
            locks.hold(workdir)
            for each in workdir.rglob(atomic.SCRATCH):  # Of a killed process.
                each.unlink()
        except OSError:
            if not finished(workdir):
                raise  # Of a finished run nothing is written.
        check(workdir, config, found)  # Another process may have been at work until now.
        _check_dtype(workdir, config)
        if _settled(workdir):
            _say_what_changed(workdir, config)
        else:
            record = {"kind": config.kind, "settled": False, "identity": found}
            record |= {kind: identity.free(config, kind) for kind in ("free", "sums")}
            write_json(workdir / "run.json", record)
        if not finished(workdir):
            write_json(workdir / "config.json", json.loads(config.to_json_best_effort()))
    barrier("claimed")
    if not finished(workdir):
        return None
    if lost := disk.lost(workdir, read_json(workdir / "run.json")):
        raise ValueError(
            f"{lost} is not as the run left it; bring it back, or remove "
            f"{workdir / 'result.json'}, and the same command makes it again"
        )
    log.info("%s is finished", workdir)
    if is_first():
        disk.remove(workdir, spent)
    return read_rows(workdir / "results.jsonl")


def _agree(workdir: Path, config, found: identity.Identity) -> None:
    """See that all processes have one config, code and contents, and one folder.

    Raises ValueError on each of them, on those that differ naming what does.
    """
    if jax.process_count() == 1:
        return
    mark = workdir / f".{from_first(uuid.uuid4().hex)}"
    if is_first():
        workdir.mkdir(parents=True, exist_ok=True)
        mark.touch()
    barrier("the start")
    mine = found | {"config": identity.content_key(config.to_dict()), "jax": jax.__version__}
    mine |= {"hs2jax's code": fingerprint.code_hash(), "--workdir": "another folder"}
    if mark.exists():
        mine["--workdir"] = "process 0's"
    wrong = stopping.gather("; ".join(identity.differences(from_first(mine), mine)))
    if is_first():
        mark.unlink()
    if any(wrong.values()):
        each = (f"process {number} ({text})" for number, text in wrong.items() if text)
        raise ValueError(f"the same command and data are needed on all hosts: {', '.join(each)}")


def check(workdir: Path, config, found: identity.Identity | None = None) -> None:
    """See that a folder is free for a run, or its own. Writes nothing.

    found: the identity of the run, where it is known. Raises ValueError as `claim` does.
    """
    check_place(workdir, config.kind)
    if not _settled(workdir):
        return
    old = read_json(workdir / "run.json")
    parts = [old.get(name) for name in ("identity", "free", "sums", "environment")]
    if not all(isinstance(part, dict) for part in parts):
        raise ValueError(f"{workdir} holds a run of an earlier version; give another --workdir")
    changed = identity.differences(old["identity"], found or identity.of(config))
    if changed:
        raise ValueError(
            f"{workdir} holds another run (different: {'; '.join(changed)}).{_advice(workdir)} "
            "Give another --workdir, or remove it"
        )


def _say_what_changed(workdir: Path, config) -> None:
    """Say what is not as it was and makes no other run."""
    record = read_json(workdir / "run.json")
    told = {"free": "not a bit of the result changes by", "sums": "last bits may differ, by"}
    for kind, what in told.items():
        old, now = record[kind], identity.free(config, kind)
        if kind == "sums":
            old |= {"device": record["environment"]["device"]}
            now |= {"device": environment()["device"]}
        if changed := identity.differences(old, now):
            what = "its result stands, and was made without" if finished(workdir) else what
            log.info("%s: the same run; %s %s", workdir, what, "; ".join(changed))


def check_place(workdir: Path, kind: str) -> None:
    """See that a folder is new, empty, or one of a run of this kind. Raises ValueError."""
    session.warn_of_loss(workdir)
    if re.match(r"\w+:/", str(workdir)):
        raise ValueError(f"{workdir} is an address; a run's folder is here, or mounted (gcsfuse)")
    names = {path.name for path in workdir.iterdir()} if workdir.is_dir() else set()
    names = {name for name in names if not name.startswith(".")} - {"lost+found"}
    if names and not names & {"config.json", "run.json", locks.NAME}:
        raise ValueError(
            f"{workdir} is not a run's folder: there is {min(names)} in it, but no run.json; give "
            "another --workdir"
        )
    there = kind
    if "run.json" in names:
        there = read_json(workdir / "run.json").get("kind", kind)
    elif "config.json" in names:
        there = read_json(workdir / "config.json").get("kind")
    if there is None:
        raise ValueError(f"{workdir} is a model's folder, not a run's; give another --workdir")
    made = _settled(workdir) or finished(workdir)
    # Of a recipe or a sweep, runs below.
    made |= any(map(any, map(workdir.glob, ("checkpoints/[0-9]*", "*/run.json", "*/*/run.json"))))
    if made and there != kind:
        raise ValueError(f"{workdir} is of kind {there!r}, not {kind!r}; give another --workdir")
    if made and "run.json" not in names and kind not in UNCLAIMED:
        raise ValueError(f"{workdir} holds a run of an earlier version; give another --workdir")


def take(workdir: Path, config) -> None:
    """Take a folder for runs in folders below it, which claim their own: a recipe's or sweep's.

    Alone it opens no device, which a sweep leaves to its runs."""
    if not stopping.joined() or is_first():
        check_place(workdir, config.kind)
        write_json(workdir / "config.json", json.loads(config.to_json_best_effort()))


def _check_dtype(workdir: Path, config) -> None:
    """See that a dtype that the platform decides is what it was. Raises ValueError."""
    flat = config_rules.flat(config)
    if _settled(workdir) and "" in (flat.get("model.dtype"), flat.get("dtype")):
        before, now = read_json(workdir / "run.json")["environment"], environment()
        if ("(cpu)" in before["device"]) != ("(cpu)" in now["device"]):
            raise ValueError(
                f"{workdir} was computed on {before['device']}, and this is {now['device']}: the "
                'dtype "" means float32 on a CPU and bfloat16 elsewhere; give the one or other'
            )


def _advice(workdir: Path) -> str:
    if not finished(workdir):
        return ""
    kind, more = read_json(workdir / "result.json")["kind"], ""
    if kind.startswith("train"):
        more = f": to train further, start from config.model.name={str(workdir / 'model')!r}"
    elif kind == "evaluate":
        more = "; another takes the scores that are kept, and computes only what is new"
    return f" It is finished{more}."


def settle(workdir: Path) -> None:
    """Note that a run has made something: from now on its folder takes no other run."""
    if is_first() and locks.held(workdir) and not (workdir / "run.json").exists():
        raise FileNotFoundError(
            f"{workdir}: the folder of this run is gone, or its run.json is; bring it back, and "
            "the same command goes on"
        )
    claimed = (workdir / "run.json").exists()  # A recipe's folder is not.
    if is_first() and claimed and not _settled(workdir):
        record = read_json(workdir / "run.json")
        record |= {"settled": True, "environment": environment()}
        write_json(workdir / "run.json", record)


def _settled(workdir: Path) -> bool:
    path = workdir / "run.json"
    return path.exists() and read_json(path).get("settled", True)


def finish(
    workdir: Path, config, result: Mapping, rows: Sequence[Mapping], spent: Sequence[str] = ()
) -> list[dict]:
    """Write results.jsonl, then result.json, and return the rows. Nothing may come after it but
    the page; all that the run makes must be there.

    result: what does not fit into rows; kind, config and, if it says none, environment are added.
    spent: what no later step needs of the folder, which is then removed.
    """
    rows = [{"kind": config.kind, **each} for each in rows]
    if is_first():
        settle(workdir)
        write_results(workdir, rows)
        head = {"kind": config.kind, "environment": environment(), **result}
        if (workdir / "model" / "config.json").exists():
            card.write(workdir / "model", card.made_by(configs.inputs(config), rows))
        if (record := workdir / "run.json").exists():
            write_json(record, read_json(record) | disk.record(workdir, spent))
        write_json(workdir / "result.json", head | {"config": config.to_dict()})
        disk.remove(workdir, spent)
    barrier("finished")  # The others must not look for the run's files too early.
    return rows


def finished(workdir: Path) -> bool:
    return (workdir / "result.json").exists()


def row(
    set: str,
    part: str,
    metric: str,
    value: float | None,
    interval: Sequence[float] | None = None,
    n: int | None = None,
    **more,
) -> dict:
    """Make a row of results.jsonl.

    set: what it is of: a data set, a policy, an arm of a sweep; "" for the whole run.
    part: of the set, a path whose first name is a family: "section/Chat", "attribute/helpfulness",
        "strength/2", "layer/7"; "" for all of it.
    value: a finite number or None. interval: its 95% interval. n: how many values it is made from.
    more: `method` (an aggregation or baseline), `reference` (the value that the interval is held
        against) and `better` ("higher" | "lower") for a verdict, `against` (what a paired
        difference is taken to), `p`, `step`, `headline` (True: shown in the terminal).
    """
    low, high = (None, None) if interval is None else map(float, interval)
    value = None if value is None or not np.isfinite(value) else float(value)
    head = {"set": set, "part": part, "metric": metric, "value": value, "low": low, "high": high}
    return head | {"n": None if n is None else int(n)} | more


# Processes --------------------------------------------------------------------------------------


def is_first() -> bool:
    """Tell whether this process is the one that writes for all."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait for all processes."""
    if jax.process_count() > 1:
        with stopping.waiting(name):
            multihost_utils.sync_global_devices(name)


def from_first(value):
    """Give every process what the first one has: anything that can be pickled."""
    if jax.process_count() == 1:
        return value
    content = pickle.dumps(value if is_first() else None)
    with stopping.waiting("process 0's word"):
        size = int(multihost_utils.broadcast_one_to_all(np.int64(len(content))))
        padded = np.zeros(size, np.uint8)
        if is_first():
            padded[:] = np.frombuffer(content, np.uint8)
        return pickle.loads(multihost_utils.broadcast_one_to_all(padded).tobytes())


# Files ------------------------------------------------------------------------------------------


def to_json(value, **options) -> str:
    """Make JSON, which has no numbers that are not finite: null stands for one."""
    return json.dumps(json.loads(json.dumps(value), parse_constant=lambda _: None), **options)


def write_json(path: Path, value) -> None:
    """Write JSON as `write_text` does."""
    write_text(path, to_json(value, indent=2) + "\n")


def read_json(path: Path) -> dict:
    """Read a JSON object. Raises ValueError that names the file where it is not."""
    unchanged.check(path)
    return _parsed(_text_of(path), path)


def write_rows(path: Path, rows: Iterable[Mapping]) -> None:
    """Write JSON lines, whole or not at all."""
    with atomic.writing(path) as file:
        file.writelines(to_json(row, ensure_ascii=False) + "\n" for row in rows)


def write_results(folder: Path, rows: Iterable[Mapping]) -> None:
    """Write results.jsonl of a run's folder as `write_text` does."""
    text = "".join(to_json(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(folder / "results.jsonl", text)


def read_rows(path: Path, *, torn: bool = False) -> list[dict]:
    """Read JSON lines, as an editor may have saved them. Raises ValueError that names the line
    where one is not. torn: leave out a last line that was cut off by a kill."""
    lines = _text_of(path).removeprefix("\ufeff").split("\n")
    lines = lines[:-1] if torn else lines
    return [_parsed(each, f"{path}, line {n}") for n, each in enumerate(lines, 1) if each.strip()]


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is not there; {MEND}") from None


def _parsed(text: str, where: Path | str) -> dict:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where}: damaged, not JSON ({error}); {MEND}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{where}: damaged, a {type(content).__name__}, no JSON object; {MEND}")
    return content


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all; one that says it keeps its date, when a run ended."""
    if not path.is_file() or path.read_bytes() != text.encode():
        with atomic.writing(path) as file:
            file.write(text)


# The machine ------------------------------------------------------------------------------------


def environment() -> dict:
    """Say what a number was obtained with."""
    devices = jax.devices()
    return {
        "device": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "jax": jax.__version__,
        "python": platform.python_version(),
    }
