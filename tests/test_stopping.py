"""Signals stop a run so that it can go on: training after a step, other verbs at once."""

import os
import signal

import pytest

from hs2jax import stopping


@pytest.fixture(autouse=True)
def _handlers(monkeypatch):
    monkeypatch.setattr(stopping, "_asked", "")
    monkeypatch.setattr(stopping, "_interrupts", 0)
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
    stopping._interrupts = 0
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


def test_a_second_interrupt_ends_at_once(monkeypatch):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    stopping.install()
    with pytest.raises(stopping.Stopped), stopping.deferred():
        interrupted = [(os.kill(os.getpid(), signal.SIGINT), list(codes)) for _ in range(2)]
    assert interrupted == [(None, []), (None, [75])]
    assert codes == [75]
