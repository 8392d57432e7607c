"""Accelerators that this machine has and JAX does not use."""

import os

import jax
from jax._src import hardware_utils

# What a device's driver leaves, and the extra that brings what JAX needs for it.
TRACES = {"tpu": ("/dev/accel0", "/dev/vfio/0"), "cuda": ("/dev/nvidia0", "/dev/nvidiactl")}


def unused() -> str | None:
    """Say which accelerator is there and not used; None where all is well, or the CPU was asked for
    (JAX_PLATFORMS=cpu)."""
    seen = [extra for extra, traces in TRACES.items() if any(map(os.path.exists, traces))]
    # A TPU's runtime image of another chip leaves no trace; the chip itself is there.
    if hardware_utils.num_available_tpu_chips_and_device_id()[0]:
        seen = ["tpu", *seen]
    # What is not seen is not asked for either: JAX would take its devices.
    if not seen or jax.config.jax_platforms == "cpu" or jax.default_backend() != "cpu":
        return None
    name = {"tpu": "TPU", "cuda": "GPU"}[seen[0]]
    image = ", or create it with the runtime image of its chip (experiments/launch)"
    return (
        f"this machine has a {name}, but JAX does not use it and computes on the CPU: pip install "
        f'"hs2jax[{seen[0]}]" (in a notebook, then restart its session){image * (name == "TPU")}'
    )
