"""What a compiled program does, read from its text: collectives, with loops counted by their trips;
and what a traced one computes."""

import math
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import jax

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
)
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8}


class Collective(NamedTuple):
    """A collective of a program, of one device. kind: of COLLECTIVES. dtype: as XLA names it.
    devices: that take part together. bytes: that a device sends in it, by a ring. times: how often
    it is run. overlaps: it is started before it is waited for."""

    kind: str
    dtype: str
    devices: int
    bytes: float
    times: int
    overlaps: bool


def collectives(text: str, devices: int, unknown: int = 1) -> list[Collective]:
    """Find the collectives in a compiled program's text for so many devices. unknown: the trips of
    a loop whose bound is no constant."""
    parts = _computations(text)
    times, found = _times(parts, unknown), []
    kinds = "|".join(COLLECTIVES)
    for name, lines in parts.items():
        for line in lines if times[name] else ():
            match = re.search(rf"= (.*?) ({kinds})(-start)?\(", line)
            if match is None:
                continue
            result, kind, start = match.groups()
            arrays = [
                (dtype, BYTES.get(dtype, 4) * math.prod(int(n) for n in sizes.split(",") if n))
                for dtype, sizes in re.findall(r"(\w+)\[([\d,]*)\]", result)
            ]
            # What has begun gives its operand, its result, and numbers of its own.
            dtype, size = max(arrays, key=lambda each: each[1])
            together = _together(line, devices)
            others = (together - 1) / max(together, 1)
            if kind == "reduce-scatter":  # Its result is one part of what it sums up.
                size *= 1 if start else together
            sent = {"all-reduce": 2 * others, "collective-permute": 1.0}.get(kind, others) * size
            apart = bool(start) or "async" in name
            found.append(Collective(kind, dtype, together, sent, times[name], apart))
    return found


def _computations(text: str) -> dict[str, list[str]]:
    """Part a program's text into computations by name; the one that it begins with is ""."""
    found, name = {}, None
    for line in text.splitlines():
        if line.endswith("{") and (match := re.match(r"(ENTRY )?%?([\w.-]+) \(", line)):
            name = "" if match[1] else match[2]
            found[name] = []
        elif line == "}":
            name = None
        elif name is not None:
            found[name].append(line)
    return found


def _times(parts: dict[str, list[str]], unknown: int) -> Counter:
    """Count how often each computation is run; of a condition's branches, each as if taken."""
    times: Counter = Counter()

    def visit(name: str, count: int) -> None:
        times[name] += count
        for line in parts.get(name, ()):
            loop = re.search(r" while\(.*condition=%?([\w.-]+), body=%?([\w.-]+)", line)
            if loop:
                visit(loop[2], count * _trips(line, parts.get(loop[1], ()), unknown))
                continue
            for called in re.findall(r"(?:calls|to_apply|\w*computations?)=\{?%?([\w.-]+)", line):
                visit(called, count)

    visit("", 1)
    return times


def _trips(line: str, condition: list[str], unknown: int) -> int:
    """Find the trips of a loop that counts from 0: as the compiler notes them, or as its condition
    has the only number that it holds."""
    if known := re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', line):
        return int(known[1])
    bounds = {
        int(n) for each in condition for n in re.findall(r"s32\[\].* constant\((\d+)\)", each)
    }
    return bounds.pop() if len(bounds) == 1 else unknown


def _together(line: str, devices: int) -> int:
    """Find how many devices take part in one collective."""
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]", line):
        return int(match[2])
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(match[1].split(","))
    return devices


def temporaries(folder: Path) -> int | None:
    """Find the bytes of a device's memory that a program allocates, arguments not among them, in
    what the TPU compiler wrote with `xla_dump_to`; None where it wrote nothing of it."""
    for path in sorted(folder.glob("*memory-usage-report.txt")):
        if match := re.search(r"Total bytes: (\d+)", path.read_text()):
            return int(match[1])
    return None


def traced_flops(jaxpr, unknown: int = 1) -> int:
    """Count the floating-point operations of the products in a traced program, of all devices, two
    for each multiplication; unknown: the trips of a loop whose bound is no constant."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            summed, _ = equation.params["dimension_numbers"][0]
            left = equation.invars[0].aval.shape
            size = math.prod(equation.outvars[0].aval.shape)
            total += 2 * size * math.prod(left[i] for i in summed)
        times = {"scan": equation.params.get("length"), "while": unknown}
        inner = [
            traced_flops(each, unknown)
            for each in jax.tree.leaves(
                equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
            )
            for each in [getattr(each, "jaxpr", each)]
            if hasattr(each, "eqns")
        ]
        # Of branches one is taken.
        count = max(inner, default=0) if equation.primitive.name == "cond" else sum(inner)
        total += times.get(equation.primitive.name, 1) * count
    return total
