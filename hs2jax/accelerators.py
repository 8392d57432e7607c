"""What a process computes with: accelerators that JAX does not use, and memory of the CPU."""

import ctypes
import os

import jax

# What a device's driver leaves, and the extra that brings what JAX needs for it.
TRACES = {"tpu": ("/dev/accel0", "/dev/vfio/0"), "cuda": ("/dev/nvidia0", "/dev/nvidiactl")}


def unused() -> str | None:
    """Say which accelerator is there and not used; None where all is well, or the CPU was asked for
    (JAX_PLATFORMS=cpu)."""
    seen = [extra for extra, traces in TRACES.items() if any(map(os.path.exists, traces))]
    # What is not seen is not asked for either: JAX would take its devices.
    if not seen or jax.config.jax_platforms == "cpu" or jax.default_backend() != "cpu":
        return None
    name = {"tpu": "TPU", "cuda": "GPU"}[seen[0]]
    return (
        f"this machine has a {name}, but JAX does not use it and computes on the CPU: "
        f'pip install "hs2jax[{seen[0]}]" (in a notebook, then restart its session)'
    )


# M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD of glibc: one heap for all threads, of which
# nothing is mapped apart and nothing given back, and which grows by 256 MB.
_HEAP = ((-8, 1), (-4, 0), (-1, -1), (-2, 1 << 28))


def keep_memory() -> bool:
    """Keep freed memory for the next buffers, where the C library is glibc: else each step's large
    ones are mapped anew, page by page, a fifth of a training step's time on a CPU. Returns whether
    it is so now. Memory that the process has had at its peak stays with it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    return mallopt is not None and all(mallopt(*each) for each in _HEAP)
