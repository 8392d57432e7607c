"""The card of an exported model, README.md: what it is, how to load it, how it was made."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import jinja2

from hs2jax.models.hf.checkpoint_files import read_json

NAME = "README.md"
MADE = "\n## How it was made\n"  # What comes below it is not known from the folder.
BASE = re.compile(r"\| model\.name \| ([\w-]+/[\w.-]+) \|")
TEMPLATE = jinja2.Environment(
    trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
).from_string(Path(__file__).with_name("card.md.j2").read_text("utf-8"))


def foreign(folder: Path) -> bool:
    """Tell whether a folder's README.md is of somebody else."""
    place = folder / NAME
    return place.exists() and "tags: [hs2jax" not in place.read_text(encoding="utf-8")


def write(folder: Path, made: str = "") -> None:
    """Write the card of an exported folder from its config.json, unless there is a foreign one.
    made: how it was made, see `made_by` and `made_of`."""
    if foreign(folder):
        return
    config = read_json(folder / "config.json")
    about, base = config.get("hs2jax") or {}, BASE.search(made)
    text = TEMPLATE.render(
        architecture=config["architectures"][0],
        model_type=config["model_type"],
        dtype=config.get("dtype", "float32"),
        outputs=list((config.get("id2label") or {}).values()),
        weights=",".join(f"{x}={w:g}" for x, w in (about.get("weights") or {}).items()),
        template=about.get("template_name") or "own",
        bias=about.get("bias"),
        base=base and base[1],
    )
    (folder / NAME).write_text(text + (f"{MADE}\n{made}\n" if made else ""), encoding="utf-8")


def made_by(inputs: Mapping[str, object], rows: Iterable[Mapping]) -> str:
    """Say by which inputs (by key of a config) and with which results (rows of `workdir.row`, those
    that have an interval) a model was made."""
    lines = ["| | |", "|---|---|", *(f"| {key} | {_cell(x)} |" for key, x in inputs.items())]
    scores = [row for row in rows if row["low"] is not None and not row["part"]]
    if scores:
        lines += ["", "| data | measure | value | 95% interval | n |", "|---|---|---|---|---|"]
    for row in scores:
        measure = " ".join(filter(None, [row["metric"].replace("_", " "), row.get("method")]))
        ends = f"{row['low']:.4g} to {row['high']:.4g}"
        lines.append(f"| {row['set']} | {measure} | {row['value']:.4g} | {ends} | {row['n']} |")
    return "\n".join(lines)


def made_of(folder: Path) -> str:
    """Take what the card of an export says of how it was made; "" where it says nothing."""
    place = folder / NAME
    there = place.is_file() and not foreign(folder)
    return place.read_text(encoding="utf-8").partition(MADE)[2].strip() if there else ""


def _cell(value: object) -> str:
    return str(value).replace("|", r"\|")
