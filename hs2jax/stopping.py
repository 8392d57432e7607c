"""End a run before its end: by a signal, or because another process of it is gone.

SIGTERM (preemption, `docker stop`, a scheduler), SIGHUP and Ctrl-C ask a run to stop. Training then
saves and stops after the step that it is at, on all hosts after the same one; other verbs stop at
once, as what they have computed is kept. A second Ctrl-C ends at once. Exit code: STOPPED.
"""

import contextlib
import logging
import os
import platform
import signal
import sys
import threading
import time

import jax
from jax._src import distributed

log = logging.getLogger(__name__)

STOPPED = 75  # EX_TEMPFAIL of sysexits.h: the same command goes on.
FAILED = 1
BEAT = 1.0  # Seconds between two signs of life of a process.
SILENCE = 20.0  # Seconds without a sign of life after which a process counts as dead.
_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

_asked: str = ""  # The signal that asked this process to stop.
_interrupts = 0
_deferred = False


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
    for each in _SIGNALS:
        if signal.getsignal(each) != signal.SIG_IGN:
            signal.signal(each, _answer)


def _answer(number: int, frame) -> None:
    global _asked, _interrupts
    name = signal.Signals(number).name
    _interrupts += name == "SIGINT"
    if _interrupts > 1:
        os._exit(STOPPED)
    _asked = name
    if not _deferred:
        raise Stopped(name)
    log.warning("%s: stopping after this step", name)


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


def asked(step: int) -> str:
    """Return the name of the signal after which to stop at this step, "" to go on.

    Every process asks before each step, and all stop at the same one. A process whose step S + 1
    waits for another one cannot have asked for step S + 3: so who is asked at S says S + 2.
    """
    if jax.process_count() == 1:
        return _asked
    store = distributed.global_state.client
    if _asked:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # Another one was first.
            store.key_value_set("hs2jax/stop", f"{step + 2} {_asked}")
    at, _, name = dict(store.key_value_dir_get("hs2jax")).get("hs2jax/stop", "0 ").partition(" ")
    return name if name and step >= int(at) else ""


# Other processes ----------------------------------------------------------------------------------


def join() -> None:
    """Join the other processes, saying who is waited for, and end with them from now on.

    On TPU pods and under SLURM the address is known; elsewhere JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID say it.
    """
    joined = threading.Event()
    threading.Thread(target=_say_waiting, args=(joined,), daemon=True).start()
    count, rank = (os.environ.get(f"JAX_{x}") for x in ("NUM_PROCESSES", "PROCESS_ID"))
    try:
        jax.distributed.initialize(
            num_processes=int(count) if count else None, process_id=int(rank) if rank else None
        )
    finally:
        joined.set()
    install()
    if jax.process_count() > 1:
        threading.Thread(target=_watch, daemon=True).start()


def joined() -> bool:
    """Tell whether this process has joined others."""
    return distributed.global_state.client is not None


def _say_waiting(joined: threading.Event) -> None:
    began = time.time()
    while not joined.wait(5):
        log.warning("waiting for the other processes to join (%.0f s)", time.time() - began)


_gathered = 0  # How many times `gather` was called.
_reached = 0  # How many times this process has come to where all wait for one another.
_waiting = ""  # Where it waits now.


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
    store, place = distributed.global_state.client, f"hs2jax-said-{_gathered}"
    store.key_value_set(f"{place}/{jax.process_index()}", text)
    store.wait_at_barrier(place, 60_000)
    return {int(_number(key)): each for key, each in store.key_value_dir_get(place)}


def lost(error: Exception) -> None:
    """Wait for `_watch` to tell whose connection broke, where an error says that one did."""
    broken = ("Connection closed by peer", "Connection reset by peer", "UNAVAILABLE", "Gloo")
    if joined() and any(each in str(error) for each in broken):
        time.sleep(SILENCE + 5 * BEAT)


def leave(code: int = 0, why: str = "") -> None:
    """Tell the other processes that this one ends: done (code 0), or so that they end too."""
    store = distributed.global_state.client
    if store is None or jax.process_count() == 1:
        return
    sign = f"ended {code} {platform.node()}: {why}" if code else "done"
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        store.key_value_set(f"hs2jax-left/{jax.process_index()}", sign, allow_overwrite=True)
    if code:
        _exit(code)


def _exit(code: int) -> None:
    """End at once, but the first process after the others: what they say to one another is kept
    there, and without it they are ended by an abort."""
    store, until = distributed.global_state.client, time.time() + 5
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        while jax.process_index() == 0 and time.time() < until:
            if len(store.key_value_dir_get("hs2jax-left")) == jax.process_count():
                time.sleep(BEAT)  # They have said so, and end now.
                break
            time.sleep(BEAT / 4)
    os._exit(code)


def _watch() -> None:
    """Give signs of life, and look for those of the others.

    A process that has given none for SILENCE seconds, or has ended with an error, ends this one
    with its name and reason: it would otherwise wait for it without end.
    """
    store, seen, said, beat = distributed.global_state.client, {}, time.time(), 0
    while True:
        beat += 1
        sign, left = f"{beat} {_reached} {platform.node()}", {}
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            key = f"hs2jax-alive/{jax.process_index()}"
            store.key_value_set(key, sign, allow_overwrite=True)
            left = {_number(key): each for key, each in store.key_value_dir_get("hs2jax-left")}
            for key, found in store.key_value_dir_get("hs2jax-alive"):
                if found != seen.get(_number(key), ("",))[0]:
                    seen[_number(key)] = found, time.time()
        seen.pop(str(jax.process_index()), None)
        for number, (found, at) in seen.items():
            _, reached, host = found.split(" ", 2)
            if left.get(number, "").startswith("ended"):
                _, code, why = left[number].split(" ", 2)
                _end(int(code), f"process {number} on {why}")
            elif number not in left and time.time() - at > SILENCE:
                why = f"no sign of life for {SILENCE:.0f} s; the same command goes on"
                _end(FAILED, f"process {number} on {host}: {why}")
            elif _waiting and int(reached) < _reached and time.time() - said > 5:
                log.warning("%s: waiting for process %s on %s", _waiting, number, host)
                said = time.time()
        time.sleep(BEAT)


def _number(key: str) -> str:
    return key.rpartition("/")[2]


def _end(code: int, why: str) -> None:
    print(f"hs2jax: {why}", file=sys.stderr, flush=True)
    leave(code, why)
