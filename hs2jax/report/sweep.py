"""The page of a sweep: arms side by side."""

from hs2jax.report import format
from hs2jax.report.page import Section, Table
from hs2jax.report.run import Run
from hs2jax.report.views import view


def sections(run: Run) -> list[Section]:
    """Say how the arms of a sweep compare."""
    verdicts, parts = view("sweep", run.rows, [run.result["reference"]])
    note = " ".join(run.result["notes"])
    return [Section("Arms", verdicts, [_arms(run.result["arms"]), *parts], note=note)]


def _arms(arms: dict[str, dict]) -> Table:
    """Tell of each arm what is set in it, of all that some arm sets, and its seeds."""
    keys = list(dict.fromkeys(key for arm in arms.values() for key in arm["settings"]))
    lines = [
        [name, *(format.setting(arm["settings"].get(key)) for key in keys), arm["seeds"]]
        for name, arm in arms.items()
    ]
    lines = [[*line, " ".join(map(str, seeds))] for *line, seeds in lines]
    return Table("Arms", ["arm", *keys, "seeds"], lines)
