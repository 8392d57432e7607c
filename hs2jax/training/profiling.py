"""A trace of a few steps, for TensorBoard (its plugin `xprof`) and Perfetto."""

import contextlib
import logging
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

log = logging.getLogger(__name__)


@contextlib.contextmanager
def traced(folder: Path, steps: int) -> Iterator[Callable]:
    """Trace so many steps of a process, after its first one, which compiles, into `folder`.

    Gives a function to be called before each step with the state, for whose computation the trace
    waits. Parts of a step are named embed, layers, head, loss and update.
    """
    number, tracing = 0, False

    def before_step(state) -> None:
        nonlocal number, tracing
        number += 1
        if number == 2 + steps and tracing:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            tracing = False
            say = "trace of %d steps: tensorboard --logdir=%s (pip install xprof)"
            log.info(say, steps, shlex.quote(str(folder)))
        if number == 2 and steps:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # Its events would be most of the file.
            jax.profiler.start_trace(folder, profiler_options=options)
            tracing = True

    try:
        yield before_step
    finally:
        if tracing:
            jax.profiler.stop_trace()
