"""The command line, called in this process: how it ended and what it said."""

import contextlib
import io
import itertools
import os
import signal
import socket
from typing import NamedTuple

from hs2jax import cli


class Done(NamedTuple):
    """Exit code and texts of a command that has ended."""

    code: int
    out: str
    err: str


def hs2jax(*arguments) -> Done:
    """Runs `hs2jax ARGUMENTS`. An exception that leaves `main` fails the test that calls this."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
    return Done(code, out.getvalue(), err.getvalue())


def succeed(*arguments) -> str:
    """Runs `hs2jax ARGUMENTS`, which must end well, and returns what it printed."""
    done = hs2jax(*arguments)
    assert done.code == 0, done.err
    return done.out


def fail(*arguments) -> str:
    """Runs `hs2jax ARGUMENTS`, which must be refused with words for people, and returns them."""
    done = hs2jax(*arguments)
    said = done.out + done.err
    assert done.code in (1, 2), said
    assert "Traceback" not in said
    assert "a fault of hs2jax" not in said
    return said


def devices(count: int) -> dict[str, str]:
    """The environment of a child process with so many devices, which compiles as this one does."""
    last = f"--xla_force_host_platform_device_count={count}"  # Of two values the last one counts.
    return {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {last}"}


def free_address() -> str:
    """An address at which processes of a test can meet. Its port is below those that the system
    gives out by itself, so that nobody takes it in between, and another for each process."""
    for port in itertools.count(10_000 + os.getpid() % 10_000):
        with contextlib.suppress(OSError), socket.create_server(("localhost", port)):
            return f"localhost:{port}"


def die(*_) -> None:
    """Ends this process as a lack of memory does."""
    os.kill(os.getpid(), signal.SIGKILL)
