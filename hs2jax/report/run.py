"""What a run has left in its folder, and how to choose among its rows."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from hs2jax import workdir
from hs2jax.report import format
from hs2jax.training import metrics

METRICS = "metrics.jsonl"


class Run:
    """A run, read from its folder.

    Attributes:
        folder, name: where it lies, and what it is called.
        kind, config: as in the config that made it.
        finished: else it is a training, or a recipe, that goes on or was stopped.
        result: result.json, or what is known before. rows: results.jsonl (see `workdir.row`).
    """

    def __init__(self, folder: Path | str):
        """Raises FileNotFoundError where the folder holds no run that can be shown, and ValueError
        where its result cannot be read."""
        self.folder = Path(folder)
        self.name = self.folder.resolve().name
        path = self.folder / "result.json"
        self.finished = path.exists()
        try:
            self.result = workdir.read_json(path) if self.finished else self._so_far()
            self.kind, self.config = self.result["kind"], self.result.get("config") or {}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no whole result of this version: {error!r}") from error
        self.rows = self.read("results.jsonl")
        for number, row in enumerate(self.rows, 1):
            texts = [row.get(name) for name in ("set", "part", "metric")]
            numbers = [row.get(name, "absent") for name in ("value", "low", "high")]
            said = all(isinstance(each, str) for each in texts) and row["metric"]
            if not said or not all(x is None or _is_number(x) for x in numbers):
                raise ValueError(
                    f"{self.folder / 'results.jsonl'}, row {number}: expected set, part and metric "
                    "as texts, and value, low and high as finite numbers or null; it is of another "
                    f"version or was edited: {format.listing(row)}"
                )

    def _so_far(self) -> dict:
        """Know of a training or recipe that is not finished what result.json will hold."""
        found = {}
        for name in ("config", "run", "record"):
            path = self.folder / f"{name}.json"
            found[name] = workdir.read_json(path) if path.exists() else {}
        config = found["config"]
        result = {"kind": config.get("kind"), "config": config, "records": found["record"]}
        result["environment"] = found["run"].get("environment")
        if "stages" in config:
            there = [x for x in config["stages"] if (self.folder / x / "config.json").exists()]
            return result | {"stages": there}
        if not (self.folder / METRICS).exists():
            raise FileNotFoundError(
                f"no finished run in {self.folder}, and no training that goes on: there is no "
                "result.json (the same command that made it finishes it)"
            )
        return result | {"objective": config.get("objective", {}).get("kind")}

    def course(self, **more) -> list[dict]:
        """Rows of what was measured at each step, each with `more`."""
        # Of a run that goes on the last line may not be whole.
        lines = self.read(METRICS) if self.finished else metrics.read(self.folder / METRICS)
        return [
            workdir.row(line["kind"], f"step/{line['step']}", name, value, **more)
            for line in lines
            for name, value in line.items()
            if name not in ("kind", "step")
        ]

    def sets(self) -> list[str]:
        """The sets that rows are of, in their order."""
        return list(dict.fromkeys(row["set"] for row in self.rows if row["set"]))

    def items(self, name: str) -> list[dict]:
        """The scored groups of a set; [] where there are none."""
        return self.read(f"items/{name}.jsonl")

    def read(self, name: str) -> list[dict]:
        """The rows of a file in the folder; [] where there is none."""
        path = self.folder / name
        try:
            return workdir.read_rows(path) if path.exists() else []
        except ValueError as error:
            raise ValueError(f"{path} is not whole: {error}") from error


def _is_number(x: object) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)


def field(row: Mapping, name: str):
    """A field of a row, or of its part "family/head/last": "family", the "leaf" behind it, of which
    "last" is the last name and "head" what stands before, or the leaf as a "name"; or several
    fields, as `fill` takes them."""
    if "{" in name:
        return fill(row, name)
    if name in row:
        return row[name]
    family, _, leaf = row["part"].partition("/")
    head, _, last = leaf.rpartition("/")
    text = leaf.replace("/", ", ") or family or "overall"
    return {"family": family, "leaf": leaf, "head": head, "last": last, "name": text}.get(name)


def fill(row: Mapping, text: str) -> str:
    """Put fields of a row where they stand in braces in a text, metrics and parts in words."""

    def said(found: re.Match) -> str:
        value = str(field(row, found[1]) or "")
        return format.words_of(value) if found[1] in ("metric", "part") else value

    return re.sub(r"{(\w+)}", said, text)


def select(rows: Sequence[Mapping], **fields) -> list[dict]:
    """The rows whose fields (see `field`) have these values: one, any of a list, "*" for any at
    all, "" or None for none, {"not": [...]} for any but these."""

    def fits(row: Mapping, name: str, wanted) -> bool:
        value = field(row, name)
        value = "" if value is None else value
        if isinstance(wanted, Mapping):
            return value not in wanted["not"]
        if isinstance(wanted, list | tuple):
            return value in wanted
        return value != "" if wanted == "*" else value == ("" if wanted is None else wanted)

    return [row for row in rows if all(fits(row, *each) for each in fields.items())]


def find(rows: Sequence[Mapping], **fields) -> dict | None:
    """The first row whose fields have these values; None where there is none."""
    return next(iter(select(rows, **fields)), None)
