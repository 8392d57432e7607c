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
        for section in view(stage):
            title = name if section.title == name else f"{name}: {section.title}"
            said.append(section._replace(title=title))
        said.append(made.making(stage)._replace(title=f"{name}: how it was made"))
    return said
