"""The page of `reinforce` and `compare`: is the policy better than its start, at what price?"""

from hs2jax.data.groups import Group, prompt_text
from hs2jax.report.page import Case, Section
from hs2jax.report.run import Run
from hs2jax.report.views import answer, view

SHOWN = 6  # Held-out prompts of which the answers are shown.


def sections(run: Run) -> list[Section]:
    """Hold the policy against its start, show its course, and answers before and after."""
    said = view("reinforce", [*run.rows, *run.course()])
    step, steps = (run.result.get(name) for name in ("step", "steps"))  # None of `compare`.
    name, note = "end" if step == steps else f"step_{step:06d}", ""
    if step:
        note = (
            f"Best step: {step:,} of {steps:,}, by reward less KL penalty on the held-out prompts."
        )
    return [Section(run.name, *said, _cases(run, name), "Answers", note=note)]


def _cases(run: Run, name: str) -> list[Case]:
    """Show answers to held-out prompts by the start and by the policy."""
    cases = []
    for start, end in list(zip(run.items("start"), run.items(name), strict=True))[:SHOWN]:
        answers = []
        for role, item in (("Start", start), ("Policy", end)):
            rewards = {name: x[0] for name, x in item["rewards"].items() if x[0] is not None}
            answers.append(answer(role, item | {"rewards": [rewards], "tokens": []}, 0))
        prompt = prompt_text(Group(tuple(start["prompt"]), ("-",)))
        cases.append(Case(start["source"], prompt, answers))
    return cases
