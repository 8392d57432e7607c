"""Processes that wait for one another say where and for whom, and end where one does not come."""

import platform
from concurrent.futures import ThreadPoolExecutor

import pytest
from command import fail, free_address

from hs2jax import joining

HOST = platform.node()


@pytest.fixture
def address(monkeypatch):
    monkeypatch.setattr(joining, "PATIENCE", 2.0)
    return free_address()


def meet(address: str, rank: int, count: int) -> str:
    """What a process is told that waits in vain."""
    first = (joining._await_others, address, count)
    wait = (joining._meet_first, address, rank, count) if rank else first
    with pytest.raises(ValueError, match="in vain, for 2 s") as told:
        wait[0](*wait[1:])
    return str(told.value)


def test_all_are_told_which_processes_and_slices_are_missing(address, monkeypatch):
    monkeypatch.setenv("MEGASCALE_NUM_SLICES", "3")
    with ThreadPoolExecutor() as pool:
        told = [*pool.map(lambda rank: meet(address, rank, 6), range(4))]
    there = ", ".join(f"{rank} on {HOST}" for rank in range(4))
    said = f"waiting at {address} for process 4, 5 of 6, all of slice 2 of 3 (there: {there})"
    for each in told:
        assert said in each


def test_a_closed_port_is_told_with_its_address(address, monkeypatch, caplog):
    monkeypatch.setattr(joining, "EVERY", 0.1)
    told = meet(address, 1, 2)
    for said in (told, caplog.messages[0]):
        assert f"process 1 of 2 on {HOST} is waiting for process 0 at {address}" in said
        assert "a firewall keeps the port closed (--coordinator=:PORT takes another)" in said


def test_flags_say_what_no_cloud_tells(monkeypatch):
    for name in ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID"):
        monkeypatch.delenv(f"JAX_{name}", raising=False)
    assert joining._found("a:1", 2, 0)[:3] == ("a:1", 2, 0)
    for given in (("", 0, -1), ("a", 2, 0), ("a:1", 0, 1), (":1", 2, 0)):
        with pytest.raises(ValueError, match="give --coordinator=HOST:PORT of process 0"):
            joining._found(*given)
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "a:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "3")
    monkeypatch.setenv("JAX_PROCESS_ID", "2")
    assert joining._found("", 0, -1)[:3] == ("a:1", 3, 2)
    assert joining._found(":9", 0, 0)[:3] == ("a:9", 3, 0)
    with pytest.raises(ValueError, match="there is no process 5 of 3"):
        joining._found("", 0, 5)
    given = ("--model=x", "--data=x", "--output=-", "--process=1")
    assert "are of --distributed: give it" in fail("score", *given)
