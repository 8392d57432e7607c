"""Signals stop a run so that it can go on: training after a step, other verbs at once."""

import os
import signal
import threading
import time

import pytest

from hs2jax import stopping


@pytest.fixture(autouse=True)
def _handlers(monkeypatch):
    monkeypatch.setattr(stopping, "_asked", "")
    # Where the tests run they may have been ignored.
    before = {each: signal.signal(each, signal.SIG_DFL) for each in stopping._SIGNALS}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_stops_at_once_and_within_training_after_the_step(name):
    number = getattr(signal, name)
    stopping.install()
    told = []
    with pytest.raises(stopping.Stopped), stopping.deferred():  # At the end, if not before.
        told.append((os.kill(os.getpid(), number), stopping.asked()))
    assert told == [(None, name)]
    with pytest.raises(SystemExit) as stopped:
        os.kill(os.getpid(), number)
    assert stopped.value.code == 75
    assert stopped.value.why == name


def test_what_the_caller_ignores_stays_ignored():
    """As under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stopping.install()
    os.kill(os.getpid(), signal.SIGHUP)
    assert not stopping.asked()


@pytest.mark.parametrize(
    ("numbers", "deferred", "grace", "ends"),
    [
        ([signal.SIGTERM], False, 0.2, True),
        ([signal.SIGINT, signal.SIGINT], True, 600.0, True),
        ([signal.SIGINT, signal.SIGHUP], True, 0.2, False),
        ([signal.SIGCHLD], False, 0.2, False),
    ],
    ids=str,
)
def test_what_no_signal_interrupts_is_ended(numbers, deferred, grace, ends, monkeypatch, capsys):
    """After a while, and at a second Ctrl-C at once; a step of training is not."""
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(stopping, "GRACE", grace)
    monkeypatch.setattr(stopping, "BEAT", 0.02)
    monkeypatch.setattr(stopping, "_deferred", deferred)
    monkeypatch.setattr(stopping, "_done", False)
    read, write = os.pipe()
    thread = threading.Thread(target=stopping._insist, args=(read,), daemon=True)
    thread.start()
    began = time.monotonic()
    os.write(write, bytes(numbers))
    thread.join(60 if ends else 0.5)
    assert codes == ([75] if ends else [])
    if not ends:
        os.write(write, bytes([signal.SIGINT] * 2))
        thread.join(60)
    else:
        assert deferred or time.monotonic() - began >= grace
        name = signal.Signals(numbers[-1]).name
        assert capsys.readouterr().err == f"hs2jax: stopped by {name}; the same command goes on\n"
