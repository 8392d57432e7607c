"""The page of a recipe: what is to be seen of each of its stages, in their order."""

from collections.abc import Callable

from hs2jax.report import made
from hs2jax.report.page import Section
from hs2jax.report.run import Run


def sections(run: Run, view: Callable[[Run], list[Section]]) -> list[Section]:
    """Put all stages on one page. view: gives the sections of any kind of run."""
    said = []
    for name in run.result["stages"]:
        stage = Run(run.folder / name)
        parts = view(stage)
        for section in parts:
            title = name if len(parts) == 1 else f"{name}: {section.title}"
            said.append(section._replace(title=title))
        said.append(made.making(stage)._replace(title=f"How {name} was made"))
    return said
