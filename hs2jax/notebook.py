"""A notebook's way in: presets and runs of every kind, with their rows, pages and figures.

config = hs2jax.config("quickstart", {"regression.epochs": 1})
result = hs2jax.run(config, "runs/quickstart")
result.to_pandas()
"""

import dataclasses
from collections.abc import Mapping
from html import escape
from pathlib import Path

from hs2jax import cli, config_rules, flags, report
from hs2jax.report import charts, format, page
from hs2jax.report.run import Run


@dataclasses.dataclass(frozen=True, repr=False)
class Result:
    """What a run has made, shown in a notebook as its page.

    folder: of the run. rows: of results.jsonl, see `workdir.row`. page: report.html. made: what was
    written for others to use, by name: "model", or a file of rows.
    """

    folder: Path
    rows: list[dict]
    page: Path
    made: dict[str, Path]

    @property
    def model(self) -> Path:
        """The folder of the model that was made. Raises KeyError where there is none."""
        return self.made["model"]

    @property
    def figures(self) -> dict:
        """The page's charts as matplotlib figures, by section and title."""
        every = ((s.title, part) for s in report.sections(Run(self.folder)) for part in s.parts)
        drawn = ((title, part) for title, part in every if isinstance(part, page.Figure))
        return {f"{title}: {part.title}": part.svg.figure() for title, part in drawn if part.svg}

    def to_pandas(self):
        """The rows as a pandas.DataFrame."""
        import pandas

        return pandas.DataFrame(self.rows)

    def __repr__(self) -> str:
        chief = (format.line(row) for row in self.rows if row.get("headline"))
        return "\n".join([*chief, f"report: {self.page}"])

    def _repr_html_(self) -> str:
        text = escape(self.page.read_text(encoding="utf-8"))
        style = "width: 100%; height: 36rem; border: 0"
        return f'<pre>{escape(repr(self))}</pre><iframe srcdoc="{text}" style="{style}"></iframe>'


def config(name: str, changes: Mapping[str, object] | None = None):
    """Make the config of a preset's name or of a file, with ":ARGUMENT" behind it where it takes
    one, with values by dotted key, as in {"optimizer.learning_rate": 1e-5}.

    Raises FileNotFoundError, and ValueError that names the key: of one that is not there, the
    nearest.
    """
    return config_rules.changed(flags.load(name), changes or {})


def run(config, workdir: Path | str) -> Result:
    """Do what a config of any kind says, or go on where its folder is, and write the page.

    config: a config, or what `config` takes. Raises what the verb raises.
    """
    if isinstance(config, str):
        config = flags.load(config)
    folder = Path(workdir).expanduser()
    if wrong := flags.misplaced(str(folder), "run", "workdir"):
        raise ValueError(f"workdir {folder} {wrong}")
    rows = cli.work(config, folder)
    return Result(folder, rows, report.write(folder), cli.made(config, folder))


def curves(lines: Mapping, xlabel: str = "", **options):
    """Draw lines through points (x, y) or (x, y, low, high) by name; see `report.charts.curves`."""
    return charts.curves(lines, xlabel, **options).figure()


def histograms(sides: Mapping, xlabel: str = ""):
    """Draw how values are spread, several kinds by name; see `report.charts.histograms`."""
    return charts.histograms(sides, xlabel).figure()
