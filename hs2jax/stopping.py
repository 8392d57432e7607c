"""End a run before its end: by a signal, or because another process of it is gone.

SIGTERM (preemption, `docker stop`, a scheduler), SIGHUP and Ctrl-C ask a run to stop. Training then
saves and stops after the step that it is at, on all hosts after the same one; other verbs stop at
once, as what they have computed is kept. A second Ctrl-C ends at once, and so does, GRACE seconds
after a signal, a wait or a computation that no signal interrupts. Exit code: STOPPED.
"""

import atexit
import contextlib
import logging
import math
import os
import platform
import select
import signal
import sys
import threading
import time

import jax
from jax._src import distributed

from hs2jax import joining

log = logging.getLogger(__name__)

STOPPED = 75  # EX_TEMPFAIL of sysexits.h: the same command goes on.
FAILED = 1
GRACE = 5.0  # Seconds after a signal.
BEAT = 1.0  # Seconds between two signs of life of a process.
SILENCE = 20.0  # Seconds without a sign of life after which a process counts as dead.
_cluster = distributed.global_state  # Of processes: ids, and what they say to one another.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_asked: str = ""  # The signal that asked this process to stop.
_deferred = False
_insisting = False
_steps = 0  # How many times `asked` was called.


class Stopped(SystemExit):
    """A signal has asked this process to stop. No `except Exception` takes it for a fault."""

    def __init__(self, why: str):
        super().__init__(STOPPED)
        self.why = why


# Signals ------------------------------------------------------------------------------------------


def install() -> None:
    """Answer signals from now on, but for those that whoever started this lets it ignore (nohup).

    To be called again after `jax.distributed.initialize`, which takes SIGTERM for itself.
    """
    global _insisting
    for each in _SIGNALS:
        if signal.getsignal(each) != signal.SIG_IGN:
            signal.signal(each, _answer)
    if not _insisting:
        _insisting, (read, write) = True, os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        threading.Thread(target=_insist, args=(read,), daemon=True).start()


def _answer(number: int, frame) -> None:
    global _asked
    _asked = signal.Signals(number).name
    if not _deferred:
        raise Stopped(_asked)
    log.warning("%s: stopping after this step", _asked)


def _insist(signals: int) -> None:
    """End this process where the main thread does not, of which the handlers of signals have to
    wait for what it is at. signals: a pipe from which their numbers come."""
    interrupts, name, until = 0, "", math.inf
    while interrupts < 2 and time.monotonic() < until:
        wait = min(max(until - time.monotonic(), 0.0), BEAT) if name else None
        if select.select([signals], [], [], wait)[0]:
            for number in os.read(signals, 64):
                if number in _SIGNALS:
                    interrupts += number == signal.SIGINT
                    name, until = signal.Signals(number).name, min(until, time.monotonic() + GRACE)
        if name and _deferred:
            until = time.monotonic() + GRACE
    if not _done:
        print(f"hs2jax: stopped by {name}; the same command goes on", file=sys.stderr, flush=True)
        leave(STOPPED, f"stopped by {name}")
    os._exit(STOPPED)


@contextlib.contextmanager
def deferred():
    """Let `asked` tell of signals in this block, instead of an exception anywhere in it."""
    global _deferred
    _deferred = True
    try:
        yield
    finally:
        _deferred = False
    if _asked:  # After the last step.
        raise Stopped(_asked)


def asked() -> str:
    """Return the name of the signal after which to stop now, "" to go on.

    Every process asks before each step of training or evaluating, and all stop at the same one. A
    process whose step S + 1 waits for another one cannot have asked for step S + 3: so who is asked
    at S says S + 2.
    """
    global _steps
    if _cluster.num_processes == 1:
        return _asked
    _steps += 1
    if _asked:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # Another one was first.
            _cluster.client.key_value_set("hs2jax/stop", f"{_steps + 2} {_asked}")
    said = dict(_cluster.client.key_value_dir_get("hs2jax")).get("hs2jax/stop", "0 ")
    at, _, name = said.partition(" ")
    return name if name and _steps >= int(at) else ""


def check() -> None:
    """Raise Stopped where, within `deferred`, a signal has asked all processes to stop now."""
    if _deferred and (name := asked()):
        raise Stopped(name)


# Other processes ----------------------------------------------------------------------------------


def join(address: str = "", count: int = 0, rank: int = -1) -> None:
    """Join the other processes, and end with them from now on (see `joining`)."""
    global _watching
    joining.join(_gone, SILENCE, address, count, rank)
    install()
    if _cluster.num_processes > 1:
        _watching = threading.Thread(target=_watch, daemon=True)
        _watching.start()
        atexit.register(_part)


def joined() -> bool:
    """Tell whether this process has joined others."""
    return _cluster.client is not None


_gathered = 0  # How many times `gather` was called.
_reached = 0  # How many times this process has come to where all wait for one another.
_waiting = ""  # Where it waits now.
_watching: threading.Thread | None = None
_parting = threading.Event()
_ending = threading.Lock()
_done = False  # Its work: from now on, others that end are not missed.


@contextlib.contextmanager
def waiting(where: str):
    """Say where this process waits for the others, for as long as the block lasts."""
    global _reached, _waiting
    _reached, _waiting = _reached + 1, where
    try:
        yield
    finally:
        _waiting = ""


def gather(text: str) -> dict[int, str]:
    """Give every process the texts of all, by number. To be called by all."""
    global _gathered
    _gathered += 1
    store, place = _cluster.client, f"hs2jax-said-{_gathered}"
    store.key_value_set(f"{place}/{_cluster.process_id}", text)
    with waiting("the others' words"):  # For as long as they live.
        store.wait_at_barrier(place, 1_000_000_000)
    return {_number(key): each for key, each in store.key_value_dir_get(place)}


def lost(error: Exception) -> None:
    """Wait for `_watch` to tell whose connection broke, where an error says that one did."""
    broken = ("Connection closed by peer", "Connection reset by peer", "UNAVAILABLE", "Gloo")
    if joined() and any(each in str(error) for each in broken):
        time.sleep(SILENCE + 5 * BEAT)


def leave(code: int = 0, why: str = "") -> None:
    """Tell the other processes that this one ends: done (code 0), or so that they end too."""
    global _done
    _done = True
    if _cluster.client is not None and _cluster.num_processes > 1:
        _note(
            _cluster.process_id, code, f"process {_cluster.process_id} on {platform.node()}: {why}"
        )
        if code:
            _exit(code)


def _note(number: int, code: int, why: str) -> None:
    """Say how a process has ended, where the others look."""
    place = f"hs2jax-left/{number}"
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        _cluster.client.key_value_set(place, f"{code} {why}", allow_overwrite=True)


def _left() -> dict[int, tuple[int, str]]:
    """Find which processes have ended: with what code, and why."""
    found = {}
    for key, text in _cluster.client.key_value_dir_get("hs2jax-left"):
        code, _, why = text.partition(" ")
        found[_number(key)] = int(code), why
    return found


def _part() -> None:
    """End with the others, when all have done their work; until then they are watched. A thread
    within a call of JAX would end this process with an abort."""
    if not _done:
        leave(FAILED, "an exception that nothing answered")
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        while len(_left()) < _cluster.num_processes:
            time.sleep(BEAT / 4)
    _parting.set()
    _watching.join()


def _exit(code: int) -> None:
    """End at once, but the first process after the others: what they say to one another is kept
    there."""
    until = time.monotonic() + 5
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        while _cluster.process_id == 0 and time.monotonic() < until:
            if len(_left()) == _cluster.num_processes:
                time.sleep(BEAT)  # They have said so, and end now.
                break
            time.sleep(BEAT / 4)
    os._exit(code)


def _end(number: int, code: int, why: str) -> None:
    """End this process because another one is gone."""
    if not _ending.acquire(blocking=False):
        return  # Another thread is at it.
    print(f"hs2jax: {why}", file=sys.stderr, flush=True)
    for each in (number, _cluster.process_id):
        _note(each, code, why)
    _exit(code)


def _gone(number: int, name: str, how: str) -> None:
    """Answer that the connection between the first process and another one has ended."""
    why = f"{name}: {how}; the same command goes on"
    if _done or (number and _watching and number in _left()):
        return  # It has ended well, or `_watch` tells the reason.
    if number and _watching:
        _end(number, FAILED, why)
    print(f"hs2jax: {why}", file=sys.stderr, flush=True)  # There is no way to say it to others.
    os._exit(FAILED)


def _watch() -> None:
    """Give signs of life, and look for those of the others.

    A process that has given none for SILENCE seconds, or has ended with an error, ends this one
    with its name and reason: it would otherwise wait for it without end.
    """
    store, me, seen, left = _cluster.client, _cluster.process_id, {}, {}
    began = said = time.monotonic()
    while not _parting.wait(BEAT):
        sign = f"{time.monotonic() - began} {_reached} {platform.node()}"
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            store.key_value_set(f"hs2jax-alive/{me}", sign, allow_overwrite=True)
            left = _left()
            for key, found in store.key_value_dir_get("hs2jax-alive"):
                if found != seen.get(_number(key), ("",))[0]:
                    seen[_number(key)] = found, time.monotonic()
        seen.pop(me, None)
        for number, (code, why) in left.items():
            if code and number != me:
                _end(number, code, why)
        behind = []
        for number, (found, at) in seen.items():
            _, reached, host = found.split(" ", 2)
            if number not in left and time.monotonic() - at > SILENCE:
                why = f"no sign of life for {SILENCE:.0f} s; the same command goes on"
                _end(number, FAILED, f"process {number} on {host}: {why}")
            if int(reached) < _reached:
                behind.append(f"{number} on {host}")
        if not (_waiting and behind):
            said = time.monotonic()
        elif time.monotonic() - said > joining.EVERY:
            log.warning("%s: waiting for process %s", _waiting, ", ".join(behind))
            said = time.monotonic()


def _number(key: str) -> int:
    return int(key.rpartition("/")[2])
