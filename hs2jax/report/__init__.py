"""Pages of finished runs: report.html to look at, report.md to quote.

It reads only what runs have left in their folders. A kind of run has a file here with a function
`sections(run)`; what has none shows all of its rows.
"""

from collections.abc import Callable
from pathlib import Path

from hs2jax.report import made, page
from hs2jax.report.page import Section
from hs2jax.report.run import Run

VIEWS: dict[str, Callable[[Run], list[Section]]] = {}


def write(workdir: Path | str) -> Path:
    """Write report.html and report.md of a finished run into its folder; return the former.

    Raises FileNotFoundError where nothing finished is there.
    """
    run = Run(workdir)
    return write_page(run.folder, made.title(run), made.subtitle(run), sections(run))


def sections(run: Run) -> list[Section]:
    """Say what is to be seen of a run, how it was made last."""
    return [*VIEWS.get(run.kind, made.sections)(run), made.making(run)]


def write_page(folder: Path, title: str, subtitle: str, sections: list[Section]) -> Path:
    """Write report.html and report.md of sections into a folder, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, set_as in (("report.md", page.markdown), ("report.html", page.render)):
        scratch = folder / f"{name}.tmp"
        scratch.write_text(set_as(title, subtitle, sections), encoding="utf-8")
        scratch.replace(folder / name)
    return folder / "report.html"
