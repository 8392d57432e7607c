"""Join the processes of a run, saying who is waited for, and see when the first one is gone.

Before JAX opens its service at the first process's address, all processes meet there. What the
others then say to the service goes through `_relay`: JAX would abort them, with its own stack, in
the moment in which the connection to a dead first process breaks.
"""

import contextlib
import functools
import logging
import os
import platform
import socket
import threading
import time
from collections.abc import Callable

import jax
from jax._src import clusters

log = logging.getLogger(__name__)

PATIENCE = 300.0  # Seconds for all processes to come.
EVERY = 5.0  # Seconds between two lines that say who is waited for.


def join(
    gone: Callable[[int, str, str], None],
    silence: float,
    address: str = "",
    count: int = 0,
    rank: int = -1,
) -> None:
    """Join the other processes. Raises ValueError that names those that have not come.

    address, count, rank: HOST:PORT of the first process, how many there are, and this one's number;
        "", 0 and -1 where JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or a TPU
        pod or SLURM tell. ":PORT" is another port of the host that they tell.
    gone: called, in a thread, with the number and the name of a process whose connection with the
    first one has ended, as it does when either dies, or was silent for so many seconds, and how.
    """
    address, count, rank, devices = _found(address, count, rank)
    where = address
    if count > 1 and rank == 0:
        for number, (host, other) in _await_others(address, count).items():
            _watch(other, functools.partial(gone, number, f"process {number} on {host}"))
    elif count > 1:
        host, first = _meet_first(address, rank, count)
        lost = functools.partial(gone, 0, f"process 0 on {host}")
        _watch(first, lost)
        where = _relay(address, lost, silence)
    jax.distributed.initialize(where, count, rank, local_device_ids=devices)


def _found(address: str, count: int, rank: int) -> tuple[str, int, int, list[int] | None]:
    said = {name: os.environ.get(f"JAX_{name}") for name in ("NUM_PROCESSES", "PROCESS_ID")}
    try:
        known = [None if x is None else int(x) for x in said.values()]
    except ValueError:
        raise ValueError(f"--distributed: {said} of the environment are not numbers") from None
    host, _, port = address.rpartition(":")
    numbers = (count or known[0], rank if rank >= 0 else known[1])
    found = clusters.ClusterEnv.auto_detect_unset_distributed_params(
        (address if host else "") or os.environ.get("JAX_COORDINATOR_ADDRESS"),
        *(*numbers, None, None, int(PATIENCE)),
    )
    if port and not host and found[0]:
        found = (f"{found[0].rpartition(':')[0]}:{port}", *found[1:])
    if None in found[:3] or not found[0].rpartition(":")[2].isdigit():
        raise ValueError(
            "--distributed: this is no cluster that JAX knows, as a TPU pod or a job of SLURM; "
            "give --coordinator=HOST:PORT of process 0, --processes and --process on every host"
        )
    if not 0 <= found[2] < found[1]:
        raise ValueError(f"--distributed: there is no process {found[2]} of {found[1]}")
    return found


# The meeting --------------------------------------------------------------------------------------


def _await_others(address: str, count: int) -> dict[int, tuple[str, socket.socket]]:
    """Wait at the address of this process, the first one, until all others are there; returns the
    host of each, and a connection that lasts as long as it lives."""
    port, tell = int(address.rpartition(":")[2]), _teller()
    there: dict[int, tuple[str, socket.socket]] = {}
    both = {}
    if socket.has_dualstack_ipv6():
        both = {"family": socket.AF_INET6, "dualstack_ipv6": True}
    try:
        server = socket.create_server(("", port), backlog=count, **both)
    except OSError as error:
        raise ValueError(
            f"process 0 cannot wait for the others at {address} ({error.strerror}): give another "
            "port (--coordinator=:PORT), or stop who uses it"
        ) from error
    with server:
        server.settimeout(0.5)
        while len(there) < count - 1:
            why = ""
            with contextlib.suppress(OSError, ValueError):
                came = server.accept()[0]
                came.settimeout(2.0)
                name, rank, of, host = came.makefile(encoding="utf-8").readline().split()
                came.setblocking(False)
                if name == "hs2jax":
                    why = _unfit(there, int(rank), int(of), host, count)
                    there[-1 if why else int(rank)] = host, came
            there = {each: (host, other) for each, (host, other) in there.items() if _there(other)}
            missing = _missing(there, count, address)
            for _, other in there.values():
                _say(other, f"no {why}" if why else missing)
            if why:
                raise ValueError(f"--distributed: {why}")
            try:
                tell(missing)
            except ValueError as error:
                for _, other in there.values():
                    _say(other, f"no {error}")
                raise
    for _, other in there.values():  # Whoever goes on must not come to this meeting again.
        _say(other, f"go {platform.node()}")
    return there


def _watch(other: socket.socket, lost: Callable[[str], None]) -> None:
    """See, in a thread, when a connection of the meeting ends, on which nothing more is said."""
    other.settimeout(None)
    threading.Thread(target=lambda: lost(_end_of(other)), daemon=True).start()


def _end_of(other: socket.socket, pass_on: Callable[[bytes], None] = lambda said: None) -> str:
    """Read a connection until its end, and return how it ended."""
    try:
        while said := other.recv(1 << 16):
            pass_on(said)
    except TimeoutError:
        return "no sign of life"
    except OSError as error:
        return f"its connection broke ({error.strerror})"
    return "its connection was closed"


def _unfit(there: dict, rank: int, of: int, host: str, count: int) -> str:
    """Say why a process cannot be one of these, "" where it can."""
    why, old = "", there.get(rank)
    if of != count:
        why = f"process {rank} on {host} knows of {of} processes, process 0 of {count}"
    elif not rank or (old and _there(old[1])):
        why = f"two are process {rank}: on {old[0] if old else platform.node()} and on {host}"
    return why and f"{why}; see --processes and --process"


def _missing(there: dict, count: int, address: str) -> str:
    """Say which processes have not come to the first one, and which have."""
    away = [rank for rank in range(1, count) if rank not in there]
    hosts = {0: platform.node(), **{rank: host for rank, (host, _) in there.items()}}
    slices, lost = int(os.environ.get("MEGASCALE_NUM_SLICES", 1)), ""
    of_slice = [{*range(n * count // slices, (n + 1) * count // slices)} for n in range(slices)]
    if gone := [str(n) for n, ranks in enumerate(of_slice) if ranks <= {*away}]:
        lost = f", all of slice {', '.join(gone)} of {slices}"
    came = ", ".join(f"{rank} on {host}" for rank, host in sorted(hosts.items()))
    missing = ", ".join(map(str, away))
    return f"waiting at {address} for process {missing} of {count}{lost} (there: {came})"


def _say(other: socket.socket, text: str) -> None:
    with contextlib.suppress(OSError):
        other.sendall(f"{text}\n".encode())


def _there(other: socket.socket) -> bool:
    try:
        return other.recv(1) != b""
    except BlockingIOError:
        return True  # It only listens.
    except OSError:
        return False


def _meet_first(address: str, rank: int, count: int) -> tuple[str, socket.socket]:
    """Wait with the first process until all are there; returns its host, and the connection."""
    tell, host = _teller(), f"process {rank} of {count} on {platform.node()}"
    away = f"{host} is waiting for process 0 at {address}, which does not answer: it has not begun,"
    away += " or a firewall keeps the port closed (--coordinator=:PORT takes another)"
    while True:
        what = away
        with contextlib.suppress(OSError):
            first = _connect(address)
            first.settimeout(60.0)
            _say(first, f"hs2jax {rank} {count} {platform.node()}")
            for line in first.makefile(encoding="utf-8", errors="replace"):
                verb, _, said = line.strip().partition(" ")
                if verb == "go":
                    return said, first
                if verb == "no":
                    raise ValueError(f"--distributed: {said}")
                what = line.strip() if verb == "waiting" else f"{address} is in use by another"
                tell(what)
        tell(what)
        time.sleep(0.2)


def _teller() -> Callable[[str], None]:
    """Make a function that says every few seconds what this process waits for, and for how long.
    It raises ValueError once that has been too long."""
    began = said = time.monotonic()

    def tell(what: str) -> None:
        nonlocal said
        if (now := time.monotonic()) - began > PATIENCE:
            raise ValueError(f"{what}: in vain, for {PATIENCE:.0f} s")
        if now - said > EVERY:
            said = now
            log.warning("%s (%.0f s)", what, now - began)

    return tell


def _connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=EVERY)


# The way to the service ---------------------------------------------------------------------------


def _relay(address: str, lost: Callable[[str], None], silence: float) -> str:
    """Open an address on this host whose connections go on to the one given; returns it."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            here, _ = server.accept()
            try:
                there = _connect(address)
            except OSError:  # Not yet open; who connects tries again.
                here.close()
                continue
            there.settimeout(silence)
            threading.Thread(target=_send, args=(here, there), daemon=True).start()
            threading.Thread(target=_receive, args=(here, there, lost), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return f"127.0.0.1:{server.getsockname()[1]}"


def _send(here: socket.socket, there: socket.socket) -> None:
    with contextlib.suppress(OSError):  # Which `_receive` sees, too.
        while said := here.recv(1 << 16):
            there.sendall(said)
        there.shutdown(socket.SHUT_RDWR)  # Closed here: so its end below is no loss.
        here.close()


def _receive(here: socket.socket, there: socket.socket, lost: Callable[[str], None]) -> None:
    why = _end_of(there, here.sendall)
    if here.fileno() >= 0:
        lost(why)
    here.close()
