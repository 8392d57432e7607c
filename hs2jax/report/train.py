"""The page of a training: what the best step is worth on held-out data, and its course."""

from collections.abc import Mapping, Sequence

from hs2jax import config_rules
from hs2jax.report import evaluate
from hs2jax.report.page import Case, Figure, Section, Table, Verdict
from hs2jax.report.run import Run, field, select
from hs2jax.report.views import answer, view

SHOWN = 5  # Held-out groups that are furthest from what is learned.
LOSSES = {
    "likelihood": "Loss (nats per token)",
    "steerlm2": "Distance to the target, KL(w′‖b′) (nats)",
}


def sections(run: Run) -> list[Section]:
    """The validation data as an evaluation shows it, or what a policy learned of it."""
    of_pairs = run.result.get("objective") in config_rules.OF_PAIRS
    if run.kind == "train_policy" and not of_pairs:
        cases = _cases(run.items("validation")), "Held-out, furthest from learned"
        said = Section(run.name, *view("train_policy", select(run.rows, set="validation")), *cases)
    else:
        said = evaluate.set_section(run, "validation")._replace(title=run.name)
    note = f"Best step: {run.result['step']:,} of {run.result['steps']:,}."
    course = _course(run)
    return [said._replace(parts=[*course[:1], *said.parts, *course[1:]], note=note)]


def so_far(run: Run) -> list[Section]:
    """Show the course of a run that is not finished."""
    step = max((int(field(row, "last")) for row in run.course()), default=0)
    said = f"At step {step:,}; it goes on, or was stopped and goes on by the same command."
    return [Section(run.name, [Verdict("unsure", "Unfinished", said)], _course(run))]


def _course(run: Run) -> list[Figure | Table]:
    rows = run.course(loss=LOSSES.get(run.result["objective"], "Loss"))
    return view(run.kind if run.kind == "reinforce" else "course", rows)[1]


def _cases(items: Sequence[Mapping]) -> list[Case]:
    """Held-out groups that are furthest from their target, or responses that are least likely."""
    found = []
    for item in items:
        if "distance" in item:
            found.append((sum(item["distance"]), "nats", item, range(len(item["responses"]))))
            continue
        losses = zip(item["log_probability"], item["tokens"], strict=True)
        found += [(-p / n, "nats per token", item, [r]) for r, (p, n) in enumerate(losses)]
    cases = []
    for loss, unit, item, shown in sorted(found, key=lambda each: -each[0])[:SHOWN]:
        asked = ", ".join(f"{name} {x}" for name, x in (item.get("condition") or {}).items())
        heading = f"{loss:.2f} {unit}, {item['source']}" + f", asked for {asked}" * bool(asked)
        answers = [answer("Response", item, r) for r in shown]
        cases.append(Case(heading, item["prompt"], answers))
    return cases
