"""The page of a comparison: whether one reward model is better than another, set by set; and runs
of any kind side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hs2jax.evaluation import comparison
from hs2jax.report import charts, format, made
from hs2jax.report.format import SIGNED
from hs2jax.report.page import Case, Cell, Figure, Section, Table
from hs2jax.report.run import Run, field, select
from hs2jax.report.views import answer, view

SHOWN = 5  # Pairs on which the models differ most.


def sections(first: Run, second: Run) -> list[Section]:
    """Compare the sets that two evaluations share; differences are second minus first.

    Raises ValueError where no set is in both, or where a set's items have nothing in common.
    """
    for run in (first, second):
        if run.kind != "evaluate":
            raise ValueError(f"{run.folder} is of kind {run.kind!r}; expected two evaluations")
    shared = [name for name in first.sets() if name in second.sets()]
    if not shared:
        found = [f"{', '.join(run.sets()) or 'none'} in {run.folder}" for run in (first, second)]
        raise ValueError(
            f"no set is in both evaluations: {' and '.join(found)}. Evaluate both on the same data"
        )
    names = names_of(first, second)
    said = [_set(name, first, second, names) for name in shared]
    return [*said, Section("What was compared", parts=[_making([first, second], names, shared)])]


def side_by_side(runs: Sequence[Run]) -> list[Section]:
    """Put runs of one kind beside one another: curves, chief results, all results of whole sets,
    and what differs in their settings. Raises ValueError for runs of several kinds."""
    if len(kinds := {run.kind for run in runs}) > 1:
        raise ValueError(f"runs of one kind can be compared, not of {format.listed(sorted(kinds))}")
    names = [run.name for run in runs]
    names = names if len({*names}) == len(names) else [str(run.folder) for run in runs]
    lines: dict[str, dict[str, Cell]] = {}
    curves: dict[str, list[tuple[float, float]]] = {}
    for name, run in zip(names, runs, strict=True):
        for row in select(run.rows, part=""):
            lines.setdefault(format.about(row), {})[name] = made.cell(row)
        losses = select(run.course(), set="validation", metric="loss")
        curves[name] = [(int(field(row, "last")), row["value"]) for row in losses]
    whole = [[about, *(each.get(name, "") for name in names)] for about, each in lines.items()]
    parts = [
        Figure("Loss on held-out data", charts.curves(curves) if any(curves.values()) else ""),
        made.side_by_side("Chief results", runs, names),
        Table("Of whole sets", ["", *names], whole),
    ]
    return [Section("Side by side", parts=[*parts, _making(runs, names)])]


def names_of(first: Run, second: Run) -> list[str]:
    """Call the two models by the last part of their names, or where it is the same by their
    folders."""
    names = [Path(run.result["model"]["name"]).name for run in (first, second)]
    return names if names[0] != names[1] else [first.name, second.name]


def _set(name: str, first: Run, second: Run, names: Sequence[str]) -> Section:
    outputs = [run.result["model"]["outputs"] for run in (first, second)]
    try:
        rows, differ = comparison.rows(name, first.items(name), second.items(name), *outputs)
    except ValueError as error:
        raise ValueError(f"set {name}: {error}") from error
    sides = {"first": names[0], "second": names[1]}
    named = ({key: sides.get(row.get(key)) for key in ("method", "against")} for row in rows)
    rows = [row | each | sides for row, each in zip(rows, named, strict=True)]
    # The benchmark's own scores, beside each other.
    for run, method in zip((first, second), names, strict=True):
        scores = select(run.rows, set=name, metric="score", family=["", "section"], head="")
        rows += [row | {"method": method} for row in scores]
    cases = [_case(each, names) for each in differ[:SHOWN]]
    return Section(name, *view("compare", rows, ["overall"]), cases, "Where they differ most")


def _case(each: Mapping, names: Sequence[str]) -> Case:
    one, two = (format.number(each[f"{side}_margin"], SIGNED) for side in ("first", "second"))
    roles = zip(("Marked better", "Marked worse"), each["pair"], strict=False)
    answers = [answer(role, each, r) for role, r in roles]
    heading = f"Margin {one} by {names[0]}, {two} by {names[1]}, {each['source']}"
    return Case(heading, each["prompt"], answers)


def _making(
    runs: Sequence[Run], names: Sequence[str], shared: Sequence[str] | None = None
) -> Table:
    """The models and their settings side by side, as far as they differ."""
    sides = []
    for run in runs:
        facts = {"folder": str(run.folder), "model": run.result.get("model"), "config": run.config}
        if shared is not None:
            facts["sets of its own, not compared"] = [n for n in run.sets() if n not in shared]
        sides.append(format.listing(facts | {"environment": run.result.get("environment")}))
    keys = dict.fromkeys(key for side in sides for key in side)
    lines = [[key, *(side.get(key, "") for side in sides)] for key in keys]
    different = [line for line in lines if len({*line[1:]}) > 1]
    return Table("What differs between them", ["", *names], different)
