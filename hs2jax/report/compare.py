"""The page of a comparison: whether one reward model is better than another, set by set."""

from collections.abc import Mapping, Sequence

from hs2jax.evaluation import comparison
from hs2jax.report import charts, format
from hs2jax.report.format import COUNT, PERCENT, POINTS, SIGNED
from hs2jax.report.page import (
    Answer,
    Case,
    Figure,
    Section,
    Table,
    Verdict,
    side_of,
    verdict_of,
    verdict_over,
)
from hs2jax.report.run import Column, Run, family_table, find, leaf, metrics_table, select, table_of


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
    return [*said, Section("What was compared", tables=_making(first, second, names, shared))]


def names_of(first: Run, second: Run) -> list[str]:
    """Call the two models by the last part of their names that differs, else by their folders."""
    full = [run.result["model"]["name"] for run in (first, second)]
    parts = [name.rstrip("/").split("/") for name in full]
    while min(map(len, parts)) > 1 and parts[0][-1] == parts[1][-1]:
        parts = [each[:-1] for each in parts]
    for found in ([each[-1] for each in parts], full, [first.name, second.name]):
        if found[0] != found[1]:
            return found
    return [str(first.folder), str(second.folder)]


def _set(name: str, first: Run, second: Run, names: Sequence[str]) -> Section:
    outputs = [run.result["model"]["outputs"] for run in (first, second)]
    try:
        rows, differ = comparison.rows(name, first.items(name), second.items(name), *outputs)
    except ValueError as error:
        raise ValueError(f"set {name}: {error}") from error
    differences = select(rows, metric="accuracy_difference")
    verdicts = [_verdict(rows, names)] if differences else []
    ratings = {leaf(row): row for row in select(rows, metric="mse_difference")}
    if ratings:
        sentence = f"Squared errors of {names[1]} against those of {names[0]}, on people's ratings."
        verdicts.append(verdict_over(ratings, names[0], sentence))
    if not verdicts:
        sentence = "Without pairs or ratings neither can be said to be better."
        verdicts = [Verdict("unsure", "Nothing to compare", sentence)]
    tracks = [charts.track(row, _part(row)) for row in differences]
    svg = charts.intervals(tracks, POINTS, reference=0.0, reference_name="no difference")
    figures = [Figure(f"{names[1]} minus {names[0]}, points", svg, chief=True)]
    tables = _tables(rows, names, [select(run.rows, set=name) for run in (first, second)])
    cases = [_case(each, names) for each in differ[:5]]
    return Section(name, verdicts, figures, tables, cases, "Where they differ most")


def _verdict(rows: Sequence[Mapping], names: Sequence[str]) -> Verdict:
    difference = find(rows, metric="accuracy_difference", part="")
    one, two = (
        format.number(find(rows, metric="accuracy", part="", method=side)["value"], PERCENT)
        for side in ("first", "second")
    )
    sentence = (
        f"On {format.count(difference['n'], 'pair')} that both scored, {names[1]} is right on "
        f"{two} and {names[0]} on {one}: {format.value(difference, POINTS)}; p = "
        f"{format.probability(difference['p_mcnemar'])} by McNemar's exact test."
    )
    side = side_of(difference)
    label = "No difference shown" if side == "not shown" else f"{names[1]} is {side}"
    return verdict_of({names[0]: difference}, sentence)._replace(label=label)


def _tables(rows, names: Sequence[str], own: Sequence[Sequence[Mapping]]) -> list[Table]:
    """The pairs, the ratings, the benchmark's own scores, and how many items were compared."""
    sides = {"first": names[0], "second": names[1], None: None}
    rows = [{**row, "method": sides[row.get("method")]} for row in rows]
    pairs = select(rows, family=["", "subset"])
    right = [row for row in pairs if "accuracy" in row["metric"]]
    counts = [row for row in pairs if row not in right]
    columns = [Column("p, McNemar", "accuracy_difference", ".3f", "p_mcnemar")]
    fields = {
        "both right": "both",
        f"only {names[0]} right": "only_first",
        f"only {names[1]} right": "only_second",
        "neither right": "neither",
    }
    columns += [Column(words, "accuracy_difference", COUNT, name) for words, name in fields.items()]
    scores = [
        {**row, "method": name}
        for name, found in zip(names, own, strict=True)
        for row in select(found, metric="score", family=["", "section"])
        if row["part"].count("/") < 2
    ]
    many = (
        "Equal rewards count as wrong. Of many subsets some differ by chance: their p-values are "
        "not corrected for that."
    )
    better = f"A difference below 0 is for {names[1]}."
    by_rule = "Each by the benchmark's own rule, over all that it scored."
    strong = {"strong": ["all pairs"]}
    return [
        table_of("Right on pairs", right, _part, further=columns, note=many, **strong),
        family_table("Ratings", rows, "attribute", note=better),
        table_of("The benchmark's own scores", scores, _part, note=by_rule),
        metrics_table("Items", counts),
    ]


def _part(row: Mapping) -> str:
    return leaf(row) or ("overall" if row["metric"] == "score" else "all pairs")


def _case(each: Mapping, names: Sequence[str]) -> Case:
    chosen, rejected, *_ = each["pair"]
    one, two = (format.number(each[f"{side}_margin"], SIGNED) for side in ("first", "second"))
    answers = [
        Answer("Marked better", "", each["responses"][chosen]),
        Answer("Marked worse", "", each["responses"][rejected]),
    ]
    heading = f"Margin {one} by {names[0]}, {two} by {names[1]}, {each['source']}"
    return Case(heading, each["prompt"], answers)


def _making(first: Run, second: Run, names: Sequence[str], shared: Sequence[str]) -> list[Table]:
    """The models and their settings side by side, as far as they differ."""
    sides = []
    for run in (first, second):
        facts = {"folder": str(run.folder), "model": run.result["model"], "config": run.config}
        facts["sets of its own, not compared"] = [n for n in run.sets() if n not in shared]
        sides.append(dict(format.listing(facts | {"environment": run.result["environment"]})))
    lines = [[key, *(side.get(key, "") for side in sides)] for key in {**sides[0], **sides[1]}]
    different = [line for line in lines if line[1] != line[2]]
    return [Table("What differs between them", ["", *names], different)]
