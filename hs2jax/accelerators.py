"""Accelerators that this machine has and JAX does not use."""

from pathlib import Path

import jax

# What a device's driver leaves, and the extra that brings what JAX needs for it.
TRACES = {"tpu": ("/dev/accel0", "/dev/vfio/0"), "cuda": ("/dev/nvidia0", "/dev/nvidiactl")}


def unused() -> str | None:
    """Say which accelerator is there and not used; None where all is well, or the CPU was asked for
    (JAX_PLATFORMS=cpu)."""
    if jax.config.jax_platforms == "cpu" or jax.default_backend() != "cpu":
        return None
    for extra, traces in TRACES.items():
        if any(Path(trace).exists() for trace in traces):
            name = {"tpu": "TPU", "cuda": "GPU"}[extra]
            return (
                f"this machine has a {name}, but JAX does not use it and computes on the CPU: "
                f'pip install "hs2jax[{extra}]" (in a notebook, then restart its session)'
            )
    return None
