"""The page of a training: what the best step is worth on held-out data, and its course."""

from collections.abc import Mapping, Sequence

from hs2jax.report import charts, evaluate, format, made
from hs2jax.report.page import Answer, Case, Figure, Section, Table, verdict_of
from hs2jax.report.run import Run, find, metrics_table, select

SHOWN = 5  # Held-out groups that are furthest from what is learned.
LOSSES = {
    "likelihood": ("Loss", "nats per token"),
    "steerlm2": ("Distance to the target, KL(w′‖b′)", "nats"),
}


def sections(run: Run) -> list[Section]:
    """The validation data as an evaluation shows it, or what a policy learned of it."""
    rows, items = select(run.rows, set="validation"), run.items("validation")
    course = _course(run)
    if run.kind == "train_policy":
        tables = [metrics_table("On held-out data", rows), _evaluations(run)]
        cases, title = _cases(items, run.result["objective"])
        said = Section(run.name, [_verdict(run, rows)], course, tables, cases, title)
    else:
        said = evaluate.set_section(run.name, rows, items, run.result["outputs"])
        said = said._replace(
            figures=[*course, *said.figures], tables=[*said.tables, _evaluations(run)]
        )
    return [said._replace(verdicts=[*said.verdicts, *made.warnings(run)])]


def _verdict(run: Run, rows: Sequence[Mapping]):
    loss, change = (find(rows, metric=metric) for metric in ("loss", "change of loss"))
    what, unit = LOSSES[run.result["objective"]]
    start = format.number(loss["value"] - change["value"], ".4f")
    sentence = (
        f"{what} on {format.count(loss['n'], 'held-out group')} went from {start} to "
        f"{format.number(loss['value'], '.4f')} {unit}, a change of "
        f"{format.value(change, '+.4f')}; step {run.result['step']:,} of {run.result['steps']:,} "
        "is the best."
    )
    return verdict_of({"at the start": change}, sentence)


def _course(run: Run) -> list[Figure]:
    train, validation = (
        [(line["step"], line["loss"]) for line in run.metrics(kind) if line.get("loss") is not None]
        for kind in ("train", "validation")
    )
    svg = charts.training_curve(train, validation)
    what, *unit = LOSSES.get(run.result["objective"], ("Loss",))
    caption = " ".join([what, *(f"({each})" for each in unit)])
    return [Figure(caption, svg)]


def _evaluations(run: Run) -> Table:
    """A line for each evaluation, with all its numbers."""
    lines = run.metrics("validation")
    names = list(dict.fromkeys(name for line in lines for name in line if name != "kind"))
    rows = [[format.number(line.get(n), format.form_of(n)) for n in names] for line in lines]
    columns = ["step" if name == "step" else format.words_of(name) for name in names]
    # Dozens of them would push everything else off the page.
    return Table("Evaluations during training", columns, rows, folded=len(rows) > 12)


def _cases(items: Sequence[Mapping], objective: str) -> tuple[list[Case], str]:
    """Held-out groups that are furthest from what is learned, and what they are called."""
    if objective == "steerlm2":
        furthest = sorted(items, key=lambda item: -sum(item["distance"]))[:SHOWN]
        cases = [_case(sum(item["distance"]), "nats", item) for item in furthest]
        return cases, "Held-out groups furthest from the target"
    losses = [
        (-item["log_probability"][r] / item["tokens"][r], "nats per token", item, r)
        for item in items
        for r in range(len(item["responses"]))
    ]
    losses.sort(key=lambda entry: -entry[0])
    return [_case(*each) for each in losses[:SHOWN]], "Held-out responses that are least likely"


def _case(distance: float, unit: str, item: Mapping, only: int | None = None) -> Case:
    """Show all responses of a group, or one of them, with what is wanted and had of each."""
    answers = []
    for r, text in enumerate(item["responses"]):
        facts = [format.count(item["tokens"][r], "token")]
        if "target" in item:
            facts.append(f"target {item['target'][r]:.3f}, policy {item['baseline'][r]:.3f}")
        if only in (None, r):
            answers.append(Answer("Response", ", ".join(facts), text))
    return Case(f"{distance:.2f} {unit}, {_where(item)}", item["prompt"], answers)


def _where(item: Mapping) -> str:
    asked = ", ".join(f"{name} {value}" for name, value in (item.get("condition") or {}).items())
    return item["source"] + (f", asked for {asked}" if asked else "")
