"""The time that a compiled program takes on a TPU slice, by a roofline, and what the chips have.

A chip computes for as long as the TPU compiler expects of each operation (its cycles, in which
memory that is read and written has its share); kernels written by hand, of which it expects
nothing, multiply at `KERNELS` of the chip's peak, without the blocks that they skip. All
collectives stand in one queue, at the speed of the links that they can use. Those that are started
before they are waited for are hidden behind what is computed, as far as that lasts; the others are
added. Nothing is measured, and nothing of it is fitted to a model; `experiments/plan` has the
published runs that it is to be held against.
"""

import math
from typing import NamedTuple

from hs2jax.compiled import Collective

# Share of the peak at which attention's kernel multiplies: two products of a head's 128 numbers.
KERNELS = 0.5


class Chip(NamedTuple):
    """A chip's published numbers: bfloat16 TFLOP/s, memory in GiB, GB/s of one link in one
    direction, its clock in GHz, and what a slice's axis is a multiple of where it is a ring."""

    teraflops: float
    memory: float
    link: float
    clock: float
    ring: int


# https://cloud.google.com/tpu/docs/system-architecture-tpu-vm; v6e leaves 31.25 of its 32 GiB.
# Links as https://jax-ml.github.io/scaling-book has them. The clock is the peak by what all matrix
# units multiply in a cycle.
CHIPS = {
    "v4": Chip(275, 32, 45, 1.05, 4),
    "v5e": Chip(197, 16, 45, 1.5, 16),
    "v5p": Chip(459, 95, 90, 1.75, 4),
    "v6e": Chip(918, 31.25, 90, 1.75, 16),
}


class Times(NamedTuple):
    """Seconds of a program: of its products at the chips' peak; what is computed; all collectives;
    those of them that are waited for; and all of it, what is hidden counted once."""

    peak: float
    compute: float
    links: float
    waited: float
    total: float


def times(topology: str, flops: int, kernels: int, cycles: int, moved: list[Collective]) -> Times:
    """Find how long a program takes on a slice such as "v5p:4x4x4".

    flops: of all products, on all chips; kernels: of those in kernels written by hand. cycles: of
    the rest, on one chip; 0 where none are known, which takes the peak.
    """
    chip, axes = of(topology)
    peak = math.prod(axes) * chip.teraflops * 1e12
    rest = cycles / (chip.clock * 1e9) if cycles else (flops - kernels) / peak
    compute = rest + kernels / (KERNELS * peak)
    sent = [(each.bytes * each.times / speed(each, chip, axes), each.overlaps) for each in moved]
    links = sum(seconds for seconds, _ in sent)
    waited = sum(seconds for seconds, overlaps in sent if not overlaps)
    return Times(flops / peak, compute, links, waited, max(compute, links - waited) + waited)


def of(topology: str) -> tuple[Chip, tuple[int, ...]]:
    """The chip of a slice and the lengths of its axes."""
    name, shape = topology.split(":")
    return CHIPS[name], tuple(map(int, shape.split("x")))


def speed(each: Collective, chip: Chip, axes: tuple[int, ...]) -> float:
    """Find how many bytes a second a chip sends in a collective: over the links of all axes, two
    of an axis that is a ring and else one; where fewer devices take part, of their share of the
    axes; to a neighbour, of two links."""
    links = sum(2 if n % chip.ring == 0 else 1 for n in axes if n > 1)
    if each.kind == "collective-permute":
        links = min(2, links)
    elif 1 < each.devices < math.prod(axes):
        links = max(1, links * math.log(each.devices, math.prod(axes)))
    return max(1, links) * chip.link * 1e9
