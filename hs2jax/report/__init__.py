"""Pages of finished runs: report.html to look at, report.md to quote.

It reads only what runs have left in their folders. A kind of run has a view in views.toml, or a
file here with a function `sections(run)`; what has neither shows all of its rows.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hs2jax.report import compare as comparison
from hs2jax.report import evaluate, judge, made, page, reinforce, steer, sweep, train
from hs2jax.report.format import WORDS
from hs2jax.report.page import Opening, Section
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
    "compare": reinforce.sections,
}


def write(workdir: Path | str, output: Path | str | None = None) -> Path:
    """Write report.html and report.md of a finished run into a folder, by default its own; return
    the former.

    A training or recipe that is not finished is shown as far as it is. Raises FileNotFoundError
    where there is none.
    """
    run = Run(workdir)
    model, device = run.result.get("model"), (run.result.get("environment") or {}).get("device")
    title = model["name"] if isinstance(model, Mapping) else run.name
    subtitle = " · ".join(filter(None, (WORDS["kinds"].get(run.kind, run.kind), run.name, device)))
    parts = [*sections(run), made.making(run)]
    return write_page(Path(output or run.folder), title, subtitle, parts, made.opening(run))


def compare(
    workdir: Path | str, against: Path | str | Sequence[str], output: Path | str | None = None
) -> Path:
    """Write the page of a run beside others of its kind into a folder, by default one within its
    own; of two evaluations set by set. Return the path of report.html."""
    others = [against] if isinstance(against, Path | str) else against
    *firsts, second = runs = [*map(Run, others), Run(workdir)]
    names = [run.name for run in runs]
    folder = Path(output) if output else second.folder / f"against-{'-'.join(names[:-1])}"
    kind = WORDS["kinds"].get(second.kind, second.kind)
    if len(runs) == 2 and {run.kind for run in runs} == {"evaluate"}:
        parts, names = comparison.sections(*runs), comparison.names_of(*runs)
    else:
        parts = comparison.side_by_side(runs)
    folders = ", ".join(str(run.folder) for run in firsts)
    subtitle = f"{kind} · {second.folder} against {folders}"
    title = f"{names[-1]} against {', '.join(names[:-1])}"
    return write_page(folder, title, subtitle, parts)


def sections(run: Run) -> list[Section]:
    """Say what is to be seen of a run of any kind."""
    if run.kind == "recipe":
        return stages(run)
    return (VIEWS.get(run.kind, made.sections) if run.finished else train.so_far)(run)


def stages(run: Run) -> list[Section]:
    """Put all stages of a recipe on one page: in one table, then each, in their order."""
    every = [Run(run.folder / name) for name in run.result["stages"]]
    glance = made.side_by_side("At a glance", every, run.result["stages"])
    said = [Section("Stages", parts=[glance])]
    for name, stage in zip(run.result["stages"], every, strict=True):
        for section in (*sections(stage), made.making(stage)):
            title = name if section.title == name else f"{name}: {section.title}"
            said.append(section._replace(title=title))
    return said


def write_page(
    folder: Path, title: str, subtitle: str, parts: list[Section], opening: Opening = page.NOTHING
) -> Path:
    """Write report.html and report.md of sections into a folder, each whole or not at all."""
    for name in ("md", "html"):
        text = page.render(name, title, subtitle, parts, opening)
        write_text(folder / f"report.{name}", text)
    return folder / "report.html"
