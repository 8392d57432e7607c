"""The page of `hs2jax steer`: do policies follow what they are asked for?"""

import itertools

from hs2jax import config_rules
from hs2jax.data.groups import Group, prompt_text
from hs2jax.report.page import Case, Section, Verdict, side_of, verdict_of
from hs2jax.report.run import Run, field, select
from hs2jax.report.views import answer, view

SHOWN = 2  # prompts of which samples are shown, for each attribute


def sections(run: Run) -> list[Section]:
    """Judge every policy, and show samples of all side by side."""
    verdicts = [verdict for policy in run.sets() for verdict in verdicts_of(run, policy)]
    said = verdicts, view("steer", run.rows), _cases(run), "Samples side by side"
    return [Section("Requested against measured", *said)]


def verdicts_of(run: Run, policy: str) -> list[Verdict]:
    """Judge whether a policy follows what it is asked for, whether it may be by length alone, and
    whether more closely than the one before it."""
    rows = select(run.rows, set=policy, family="attribute")
    of, given, tests = (
        {field(row, "leaf"): row for row in select(rows, metric=metric)}
        for metric in ("spearman", "length_partial", "spearman_difference")
    )
    sure = [name for name, row in of.items() if side_of(row) == "better"]
    names = ", ".join(name for name in sure if side_of(given[name]) != "better")
    note = f"{names}: not given the length, which alone may be what follows." if names else ""
    asked = f"{policy}, requested and measured"
    said = [verdict_of(of, "chance", subject=asked, note=note)]
    for earlier in dict.fromkeys(row["against"] for row in tests.values()):
        said.append(verdict_of(tests, earlier, subject=policy))
    return said


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
