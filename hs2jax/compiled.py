"""What a compiled program does, read from its text: collectives and cycles, with loops counted by
their trips; and what a traced one computes."""

import math
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from jax.extend.core import jaxprs_in_params

KINDS = "(?:ragged-)?all-to-all|all-gather|all-reduce|reduce-scatter|collective-permute"
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8}


class Collective(NamedTuple):
    """A collective of a program, of one device. kind, dtype: as XLA names them. devices: that take
    part together. bytes: that a device sends in it, by a ring. times: how often it is run.
    overlaps: something is computed between its start and its end."""

    kind: str
    dtype: str
    devices: int
    bytes: float
    times: int
    overlaps: bool


def collectives(text: str, devices: int, unknown: int = 1) -> list[Collective]:
    """Find the collectives in a compiled program's text for so many devices. unknown: the trips of
    a loop whose bound is no constant; of one within it, 1."""
    parts, found = _computations(text), {}
    times, apart = _times(parts, unknown), _apart(parts)
    for name, lines in parts.items():
        for line in lines if times[name] else ():
            match = re.search(rf"([\w.-]+) = (.*?) ({KINDS})(-start)?\(", line)
            if match is None:
                continue
            own, result, kind, start = match.groups()
            arrays = [
                (BYTES.get(dtype, 4) * math.prod(int(n) for n in sizes.split(",") if n), dtype)
                for dtype, sizes in re.findall(r"(\w+)\[([\d,]*)\]", result)
            ]
            size, dtype = max(arrays)
            # What has begun gives its operand, its result, and numbers of its own; else several
            # are done as one.
            if not start or kind == "all-reduce":
                size = sum(bytes for bytes, _ in arrays)
            together = _together(line, devices)
            if kind == "reduce-scatter" and not start:  # Its result is one part of what it sums up.
                size *= together
            of_ring = (together - 1) / together
            sent = {"all-reduce": 2 * of_ring, "collective-permute": 1.0}.get(kind, of_ring) * size
            # One that is done piece by piece, fused with products, stands in each of them.
            channel = re.search(r"channel_id=(\d+)", line)
            key = (channel[1], times[name]) if channel else (name, own)
            overlaps = bool(apart & {own, name}) or "async_collective_fusion" in name
            overlaps |= key in found and found[key].overlaps
            found[key] = Collective(kind, dtype, together, sent, times[name], overlaps)
    return list(found.values())


def cycles(text: str, unknown: int = 1) -> int:
    """Sum up the cycles of a chip that the TPU compiler expects of each operation of a program,
    where they stand in its text: of products and what is fused with them, with the memory that they
    read and write; not of collectives, nor of kernels written by hand. 0 of another compiler's."""
    parts = _computations(text)
    return sum(
        int(found) * times
        for name, times in _times(parts, unknown).items()
        for found in re.findall(r'"estimated_cycles":"(\d+)"', "\n".join(parts.get(name, ())))
        if int(found) < 2**63 - 1  # Which stands where it is not known.
    )


def allocated(folder: Path) -> int | None:
    """Find the bytes of a device's memory that a program needs, arguments and results among them,
    in what the TPU compiler wrote with `xla_dump_to`; None where it wrote nothing of it."""
    for path in sorted(folder.glob("*memory-usage-report.txt")):
        if match := re.search(r"Total bytes: (\d+)", path.read_text()):
            return int(match[1])
    return None


def _computations(text: str) -> dict[str, list[str]]:
    """Part a program's text into computations by name; the one that it begins with is ""."""
    found, lines = {}, []
    for line in text.splitlines():
        if line.endswith("{") and (match := re.match(r"(ENTRY )?%?([\w.-]+) \(", line)):
            lines = found["" if match[1] else match[2]] = []
        else:
            lines.append(line)
    return found


def _apart(parts: dict[str, list[str]]) -> set[str]:
    """Find what is started, and waited for only after something else is computed: the names of
    instructions, and of the computations that they call."""
    found = set()
    for lines in parts.values():
        for i, line in enumerate(lines):
            if not (start := re.search(r"([\w.-]+) = .*? [\w-]+-start\(", line)):
                continue
            for later in lines[i + 1 :]:
                if re.search(rf"-done\(%?{re.escape(start[1])}\b", later):
                    break
                if re.search(r" (fusion|dot|convolution|custom-call)\(.*estimated_cycles", later):
                    found |= {start[1], *re.findall(r"(?:calls|to_apply)=%?([\w.-]+)", line)}
                    break
    return found


def _times(parts: dict[str, list[str]], unknown: int) -> Counter:
    """Count how often each computation is run; of a condition's branches, each as if taken."""
    times: Counter = Counter()

    def visit(name: str, count: int, unknown: int) -> None:
        times[name] += count
        for line in parts.get(name, ()):
            if loop := re.search(r" while\(.*condition=%?([\w.-]+), body=%?([\w.-]+)", line):
                known = _trips(line, parts.get(loop[1], ()))
                visit(loop[2], count * (known or unknown), unknown if known else 1)
                continue
            for called in re.findall(r"(?:calls|to_apply|\w*computations?)=\{?%?([\w.-]+)", line):
                visit(called, count, unknown)

    visit("", 1, unknown)
    return times


def _trips(line: str, condition: list[str]) -> int:
    """Find the trips of a loop that counts from 0: as the compiler notes them, or as its condition
    has the only number that it holds; 0 where that is no constant."""
    if known := re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', line):
        return int(known[1])
    bounds = set(re.findall(r"s32\[\].* constant\((\d+)\)", "\n".join(condition)))
    return int(bounds.pop()) if len(bounds) == 1 else 0


def _together(line: str, devices: int) -> int:
    """Find how many devices take part in one collective."""
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(match[1])
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(match[1].split(","))
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", match[2])  # A part of one: before, size.
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    return devices


def traced_flops(jaxpr, unknown: int = 1, *, kernels: bool = False) -> int:
    """Count the floating-point operations of the products in a traced program, of all devices, two
    for each multiplication. unknown: the trips of a loop whose bound is no constant; of one within
    it, 1. kernels: only of those in kernels written by hand, as these say themselves, or as if no
    block of their grid were skipped."""
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if said := params.get("cost_estimate"):
            total += said.flops
            continue
        if name == "dot_general" and not kernels:
            summed, _ = params["dimension_numbers"][0]
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += 2 * math.prod(out) * math.prod(left[i] for i in summed)
        rest, within = kernels and name != "pallas_call", 1 if name == "while" else unknown
        inner = [traced_flops(x, within, kernels=rest) for x in jaxprs_in_params(params)]
        match name:
            case "cond":  # Of branches one is taken.
                times, inner = 1, [max(inner)]
            case "scan":
                times = params["length"]
            case "while":
                times = unknown
            case "pallas_call":
                times = math.prod(params["grid_mapping"].grid)
            case "shard_map":  # Shapes in it are of one device.
                times = math.prod(
                    params["mesh"].shape[axis] for axis in params["newly_manual_axes"]
                )
            case _:
                times = 1
        total += times * sum(inner)
    return total
