"""The page of `hs2jax steer`: do policies follow what they are asked for?"""

import itertools

from hs2jax import config_rules
from hs2jax.data.groups import Group, prompt_text
from hs2jax.report.page import Case, Section
from hs2jax.report.run import Run
from hs2jax.report.views import answer, view

SHOWN = 2  # prompts of which samples are shown, for each attribute


def sections(run: Run) -> list[Section]:
    """Judge every policy, and show samples of all side by side."""
    said = *view("steer", run.rows), _cases(run), "Samples side by side"
    return [Section("Requested against measured", *said)]


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
