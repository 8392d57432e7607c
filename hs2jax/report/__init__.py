"""Pages of finished runs: report.html to look at, report.md to quote.

It reads only what runs have left in their folders. A kind of run has a view in views.toml, or a
file here with a function `sections(run)`; what has neither shows all of its rows.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from hs2jax.report import compare as comparison
from hs2jax.report import evaluate, judge, made, page, reinforce, steer, sweep, train
from hs2jax.report.format import WORDS
from hs2jax.report.page import Section
from hs2jax.report.run import Run
from hs2jax.workdir import write_text

VIEWS: dict[str, Callable[[Run], list[Section]]] = {
    "train_reward_model": train.sections,
    "train_policy": train.sections,
    "sweep": sweep.sections,
    "evaluate": evaluate.sections,
    "judge": judge.sections,
    "steer": steer.sections,
    "reinforce": reinforce.sections,
}


def write(workdir: Path | str) -> Path:
    """Write report.html and report.md of a finished run into its folder; return the former.

    Raises FileNotFoundError where nothing finished is there.
    """
    run = Run(workdir)
    model, device = run.result.get("model"), (run.result.get("environment") or {}).get("device")
    title = model["name"] if isinstance(model, Mapping) else run.name
    subtitle = " · ".join(filter(None, (WORDS["kinds"].get(run.kind, run.kind), run.name, device)))
    return write_page(run.folder, title, subtitle, [*sections(run), made.making(run)])


def compare(workdir: Path | str, against: Path | str, output: Path | str | None = None) -> Path:
    """Write the page of one evaluation against another into a folder, by default one within its
    own; return the path of report.html."""
    first, second = Run(against), Run(workdir)
    parts = comparison.sections(first, second)
    folder = Path(output) if output else second.folder / f"against-{first.name}"
    names = comparison.names_of(first, second)
    subtitle = f"Two reward models · {second.folder} against {first.folder}"
    return write_page(folder, f"{names[1]} against {names[0]}", subtitle, parts)


def sections(run: Run) -> list[Section]:
    """Say what is to be seen of a run of any kind."""
    return stages(run) if run.kind == "recipe" else VIEWS.get(run.kind, made.sections)(run)


def stages(run: Run) -> list[Section]:
    """Put all stages of a recipe on one page, in their order."""
    said = []
    for name in run.result["stages"]:
        stage = Run(run.folder / name)
        for section in (*sections(stage), made.making(stage)):
            title = name if section.title == name else f"{name}: {section.title}"
            said.append(section._replace(title=title))
    return said


def write_page(folder: Path, title: str, subtitle: str, parts: list[Section]) -> Path:
    """Write report.html and report.md of sections into a folder, each whole or not at all."""
    for name in ("md", "html"):
        text = page.render(name, title, subtitle, parts)
        write_text(folder / f"report.{name}", text)
    return folder / "report.html"
