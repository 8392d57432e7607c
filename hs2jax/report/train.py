"""The page of a training: what the best step is worth on held-out data, and its course."""

from collections.abc import Mapping, Sequence

from hs2jax.report import charts, evaluate, format, made
from hs2jax.report.page import Case, Figure, Section, Table, verdict_of
from hs2jax.report.run import Run, find
from hs2jax.report.views import answer, view

SHOWN = 5  # Held-out groups that are furthest from what is learned.
LOSSES = {
    "likelihood": "Loss (nats per token)",
    "steerlm2": "Distance to the target, KL(w′‖b′) (nats)",
}


def sections(run: Run) -> list[Section]:
    """The validation data as an evaluation shows it, or what a policy learned of it."""
    if run.kind == "train_policy":
        best = f"Best step: {run.result['step']:,} of {run.result['steps']:,}."
        verdicts = [verdict_of({"the start": find(run.rows, metric="change of loss")}, note=best)]
        cases = _cases(run.items("validation")), "Held-out, furthest from learned"
        said = Section(run.name, verdicts, view("policy", run.rows), *cases)
    else:
        said = evaluate.set_section(run, "validation")._replace(title=run.name)
    parts = [_course(run), *said.parts, _evaluations(run)]
    return [said._replace(verdicts=[*said.verdicts, *made.warnings(run)], parts=parts)]


def _course(run: Run) -> Figure:
    train, validation = (
        [(line["step"], line["loss"]) for line in run.metrics(kind) if line.get("loss") is not None]
        for kind in ("train", "validation")
    )
    lines = {"training": charts.course(train), "validation": sorted(validation)}
    caption = LOSSES.get(run.result["objective"], "Loss")
    return Figure(caption, charts.curves(lines) if lines["training"] else "")


def _evaluations(run: Run) -> Table:
    """A line for each evaluation, with all its numbers."""
    lines = run.metrics("validation")
    names = list(dict.fromkeys(name for line in lines for name in line if name != "kind"))
    rows = [[format.number(line.get(n), format.form_of(n)) for n in names] for line in lines]
    columns = ["step" if name == "step" else format.words_of(name) for name in names]
    # Dozens of them would push everything else off the page.
    return Table("Evaluations during training", columns, rows, folded=len(rows) > 12)


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
