"""What a plan says: rows of the memory and the time of compiled programs, and sentences."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hs2jax import compiled, roofline
from hs2jax.planned import Step
from hs2jax.training import trainable
from hs2jax.workdir import row

GIB = 2**30


class Program(NamedTuple):
    """A step as it was compiled. memory: bytes of a chip by name, of which "memory" is all of it;
    flops: of all its products, on all chips. Of one that does not fit into the memory nothing more
    is known: then times is None."""

    step: Step
    memory: dict[str, int]
    flops: int
    moved: list[compiled.Collective]
    times: roofline.Times | None


# Rows ---------------------------------------------------------------------------------------------


def rows_of(config, programs: Sequence[Program]) -> list[dict]:
    """Rows of all programs together, and of each by its name where there are several."""
    rows = summary(config, programs)
    for each in programs:
        name = each.step.name if len(programs) > 1 else ""
        rows += [row(name, "held", part, size) for part, size in each.memory.items() if size]
        rows += work_rows(name, each)
        if each.step.name == "update":
            state, frozen, _ = each.step.given
            stored = {"checkpoint_bytes": state, "export_bytes": (state["params"], frozen)}
            rows += [row("", "disk", x, trainable.nbytes(tree)) for x, tree in stored.items()]
    return rows + collective_rows(programs)


def summary(config, programs: Sequence[Program]) -> list[dict]:
    """Chief rows: the largest memory of all programs against the chip's, and of the time that they
    take together what it is worth. The model's operations are those of the groups' own tokens; not
    of padding, of what is computed again for the backward pass, or of what masks hide."""
    (chip, axes), groups = roofline.of(config.topology), batch_of(config, programs)
    memory, seconds = needs(programs), seconds_of(config, programs)
    rows = [
        row("", "memory", "memory", memory, headline=True),
        row("", "memory", "memory_left", chip.memory * GIB - memory, headline=True),
    ]
    if seconds == math.inf:
        return rows
    useful = groups * sum(each.step.useful / each.step.groups for each in programs)
    peak = math.prod(axes) * chip.teraflops * 1e12
    steps = config.base.get("steps") or config.base.get("epochs", 1) * config.groups / groups
    return [
        *rows,
        row("", "time", "predicted_seconds", seconds, n=groups, headline=True),
        row("", "time", "predicted_mfu", useful / peak / seconds, headline=True),
        row("", "time", "groups_per_second", groups / seconds),
        row("", "time", "hours", steps * seconds / 3600, n=round(steps * groups)),
    ]


def needs(programs: Sequence[Program]) -> int:
    """Find the bytes that a chip needs for all programs, one after another."""
    return max(each.memory["memory"] for each in programs)


def batch_of(config, programs: Sequence[Program]) -> int:
    """Find the groups of a batch; where a run has none, of what its last program works on."""
    return config.base.get("batch_size") or programs[-1].step.groups


def seconds_of(config, programs: Sequence[Program]) -> float:
    """Predict the seconds of a batch; infinity where a program does not fit."""
    if any(each.times is None for each in programs):
        return math.inf
    of_a_group = (x.times.total * x.step.times / x.step.groups for x in programs)
    return batch_of(config, programs) * sum(of_a_group)


def cost(config, programs: Sequence[Program]) -> tuple[bool, float]:
    """(it does not fit, seconds, or where it does not the bytes that it needs)."""
    fits = needs(programs) <= roofline.of(config.topology)[0].memory * GIB
    return not fits, seconds_of(config, programs) if fits else needs(programs)


def work_rows(name: str, each: Program) -> list[dict]:
    """Rows of what a program computes each time that it is run, and how long that takes."""
    step, (useful, computed) = each.step, each.step.tokens
    rows = [row(name, "work", "model_flops", step.useful / step.times)]
    if computed:
        rows.append(row(name, "work", "padding", 1 - useful / computed))
    if step.rows[1]:
        rows.append(row(name, "work", "rows", step.rows[1], n=step.rows[0]))
    if each.times:
        rows.append(row(name, "work", "program_flops", each.flops))
        named = ("peak_seconds", "compute_seconds", "link_seconds", "waited_seconds")
        times = zip((*named, "predicted_seconds"), each.times, strict=True)
        rows += [row(name, "work", metric, value, n=step.times) for metric, value in times]
    return rows


def collective_rows(programs: Sequence[Program]) -> list[dict]:
    """Rows of the collectives by kind and type: bytes that a chip sends in them in all programs,
    each run once, how often, and the share of the bytes whose collective is not waited for where it
    begins."""
    rows, every = [], [each for program in programs for each in program.moved]
    for kind in sorted({(each.kind, each.dtype) for each in every}):
        some = [each for each in every if (each.kind, each.dtype) == kind]
        total = sum(each.bytes * each.times for each in some)
        apart = sum(each.bytes * each.times for each in some if each.overlaps)
        part = f"collective/{' '.join(kind)}"
        rows.append(row("", part, "sent_bytes", total, n=sum(x.times for x in some)))
        rows.append(row("", part, "overlapping", apart / total if total else None))
    return rows


def candidate_rows(config, tried: Mapping[tuple, Sequence[Program]]) -> list[dict]:
    """Rows of all settings that were tried, the fastest that fits first."""
    rows = []
    for changes in sorted(tried, key=lambda each: cost(config, tried[each])):
        part = f"candidate/{as_flags(changes, '')}"
        rows += [x | {"part": part, "headline": False} for x in summary(config, tried[changes])]
    return rows


def as_flags(changes: tuple, before: str = "--config.") -> str:
    """Write changes of a config as they are typed."""
    return " ".join(f"{before}{name}={value}" for name, value in changes)


# Words --------------------------------------------------------------------------------------------


def words(config, programs: Sequence[Program], tried: Mapping) -> list[dict]:
    """Say what fits, what limits and what would help: sentences under labels, in tones "good",
    "unsure" and "bad"."""
    said = [fit(config, programs)]
    if all(each.times for each in programs):
        said.append(limit(programs))
    said += [padding(config, x.step) for x in programs if x.step.rows[0] < 0.9 * x.step.rows[1]]
    if tried:
        fitting = sum(not cost(config, each)[0] for each in tried.values())
        best = min(tried, key=lambda each: cost(config, tried[each]))
        text = f"Of {len(tried)} settings {fitting} fit. This is of {as_flags(best)}."
        said.append(("good" if fitting else "bad", "Searched", text))
    return [dict(zip(("tone", "label", "sentence"), each, strict=True)) for each in said]


def fit(config, programs: Sequence[Program]) -> tuple[str, str, str]:
    """Say whether all of it fits into a chip's memory, and what would make it fit."""
    chip, axes = roofline.of(config.topology)
    worst = max(programs, key=lambda each: each.memory["memory"])
    left = chip.memory * GIB - worst.memory["memory"]
    during = f" while it runs “{worst.step.name}”" if len(programs) > 1 else ""
    text = f"A chip has {chip.memory:g} GiB and needs {needs(programs) / GIB:.1f} GiB{during}"
    if left >= 0:
        return "good", "It fits", f"{text}: {left / GIB:.1f} GiB are left."
    over = f"{text}, {-left / GIB:.1f} GiB too much."
    helps = "; ".join(helping(config.base, worst.memory, chip.memory * GIB, math.prod(axes)))
    return "bad", "It does not fit", f"{over} What may help: {helps}."


def helping(base, memory: Mapping[str, int], room: float, chips: int) -> list[str]:
    """Say what would make a program fit that needs this memory. Its parameters and what belongs to
    them are divided among all chips; the rest belongs to rows."""
    rest = ("memory", "temporaries", "batch", "cache", "cache of prompts")
    divided = sum(size for name, size in memory.items() if name not in rest)
    of_rows, parts = memory["memory"] - divided, chips // base.mesh.tensor
    found = ["its rows alone are too much for a chip, however many there are"]
    if of_rows < room:
        least = math.ceil(divided * chips / (room - of_rows))
        found = [f"{least} chips would hold it with as many rows on each"]
    if base.get("micro_batch_size", 0) > parts:
        found.append(f"--config.micro_batch_size={parts} has one row at a time")
    if base.mesh.tensor < 8:
        found.append(f"--config.mesh.tensor={2 * base.mesh.tensor} divides what a row needs")
    if base.get("model", {}).get("remat") is False:
        found.append("--config.model.remat=True keeps less of each layer")
    if base.get("lora") and not base.lora.rank:
        found.append("--config.lora.rank=16 has no optimizer for the model's own weights")
    return found


def limit(programs: Sequence[Program]) -> tuple[str, str, str]:
    """Say of the program that takes longest what its time is spent on."""
    slow = max(programs, key=lambda each: each.times.total * each.step.times)
    peak, compute, links, waited, total = slow.times
    text = (
        f"Of {total:.3g} s{f' of “{slow.step.name}”' if len(programs) > 1 else ''} computing takes "
        f"{compute:.3g} s, {peak:.3g} s of it products at the chips' peak; collectives take "
        f"{links:.3g} s, and {waited:.3g} s of that nothing hides."
    )
    if links > compute or waited > total / 3:
        return "unsure", "Links limit it", text
    if compute > 2 * peak:
        return "unsure", "Memory's bandwidth limits it", text
    return "good", "Products limit it", text


def padding(config, step: Step) -> tuple[str, str, str]:
    """Say of a program whose rows are not filled what would fill them."""
    (filled, computed), (useful, of_all) = step.rows, step.tokens
    text = (
        f"{step.groups} groups fill {filled} of the {computed} rows that “{step.name}” computes, "
        f"of {of_all // computed} tokens each: {1 - useful / of_all:.0%} is padding."
    )
    if step.name == "update":
        text += f" --config.batch_size={step.groups * computed // filled} would fill them"
        tensor = config.base.mesh.tensor * 2 ** math.floor(math.log2(computed / filled))
        if tensor > config.base.mesh.tensor:
            text += f"; --config.mesh.tensor={tensor} has fewer rows, on several chips each"
        text += "."
    return "unsure", "Rows are empty", text
