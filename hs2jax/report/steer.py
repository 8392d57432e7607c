"""The page of `hs2jax steer`: do policies follow what they are asked for?"""

import itertools

from hs2jax import config_rules
from hs2jax.data.groups import Group, prompt_text
from hs2jax.report import charts
from hs2jax.report.page import Case, Figure, Section, Table, Verdict, side_of, verdict_of
from hs2jax.report.run import Run, answer, leaf, points, select, table_of

SHOWN = 2  # prompts of which samples are shown, for each attribute


def sections(run: Run) -> list[Section]:
    verdicts = [verdict for policy in run.sets() for verdict in verdicts_of(run, policy)]
    parts = verdicts, _figures(run), _tables(run), _cases(run)
    return [Section("Requested against measured", *parts, "Samples side by side")]


def verdicts_of(run: Run, policy: str) -> list[Verdict]:
    """Judge whether a policy follows what it is asked for, whether it may be by length alone, and
    whether more closely than the one before it."""
    rows = select(run.rows, set=policy, family="attribute")
    of, given = (
        {leaf(row): row for row in select(rows, metric=metric)}
        for metric in ("spearman", "length_partial")
    )
    sure = [name for name, row in of.items() if side_of(row) == "better"]
    alone = [name for name in sure if side_of(given[name]) != "better"]
    names = ", ".join(alone)
    note = f"{names}: not given the length, which alone may be what follows." if alone else ""
    asked = f"{policy}, requested and measured"
    said = [verdict_of(of, "chance", subject=asked, note=note)]
    if tests := {leaf(row): row for row in select(rows, metric="spearman_difference")}:
        said.append(verdict_of(tests, next(iter(tests.values()))["against"], subject=policy))
    return said


def _figures(run: Run) -> list[Figure]:
    """Measured attributes and lengths by what was requested, and how they are correlated."""
    drawn = []
    for metric, diagonal in (("measured", "as asked"), ("characters", "")):
        for name in run.config["attributes"]:
            rows = select(run.rows, family="requested", metric=metric)
            rows = [row for row in rows if leaf(row).startswith(f"{name}/")]
            svg = charts.curves(points(rows, "set"), f"requested {name}", diagonal=diagonal)
            drawn.append(Figure(f"{metric.capitalize()}, asked for {name}", svg))
    found = select(run.rows, family="attribute", metric="spearman")
    found = [{**row, "name": f"{row['set']}, {leaf(row)}"} for row in found]
    svg = charts.intervals(found, ".2f", reference=0.0, reference_name="no correlation")
    return [*drawn, Figure("Correlation of requested and measured (Spearman)", svg)]


def _tables(run: Run) -> list[Table]:
    rows = select(run.rows, family="attribute")
    alone, tests = select(rows, against=None), [row for row in rows if row.get("against")]
    between = "Differences on the same prompts and requests"
    changes, requested = (select(run.rows, family=name) for name in ("change", "requested"))
    by_policy = {"across": "set", "folded": True}
    return [
        table_of("How closely", alone, lambda r: f"{r['set']}, {leaf(r)}"),
        table_of(between, tests, lambda r: f"{r['set']} − {r['against']}, {leaf(r)}"),
        table_of("All requests together", select(run.rows, part=""), "set"),
        table_of("What changes for each unit requested", changes, **by_policy),
        table_of("By requested value", requested, **by_policy),
    ]


def _cases(run: Run) -> list[Case]:
    """Show the first response of every policy to the lowest, the middle and the highest request."""
    base = config_rules.parse_condition(run.config["base"])
    values = sorted(run.config["requested"])
    asked = dict.fromkeys((values[0], values[len(values) // 2], values[-1]))
    cases: dict[str, Case] = {}
    for policy in run.sets():
        items = run.items(policy)
        for attribute, value in itertools.product(run.config["attributes"], asked):
            found = [item for item in items if item["condition"] == base | {attribute: value}]
            for item in found[:SHOWN]:
                heading = f"{attribute}, {item['source']}"
                prompt = prompt_text(Group(tuple(item["prompt"]), ("-",)))
                case = cases.setdefault(heading, Case(heading, prompt, []))
                case.answers.append(answer(f"{policy}, {attribute} {value}", item, 0))
    return [*cases.values()]
