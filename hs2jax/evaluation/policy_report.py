"""What the page of a run says of a policy's training: verdict first, then its course and data."""

from collections.abc import Sequence

from hs2jax.evaluation import plots
from hs2jax.evaluation.report import Answer, Mistake, Section, Verdict
from hs2jax.evaluation.tables import Table, count, percent, stage_tables

SHOWN = 5  # Held-out groups, those that are furthest from what is learned.


def section(stage: dict) -> Section:
    """A stage of training as `report.section` takes it, with what evaluation.json says of a policy:
    objective ("likelihood" or "steerlm2"), step, steps and warnings. The first of its evaluations
    is that of the model that training began with."""
    describe = {"likelihood": _likelihood, "steerlm2": _steerlm2}[stage["objective"]]
    rest = {name: x for name, x in stage.items() if name != "evaluations"}
    said: Section = describe(stage, stage["evaluations"])
    verdicts = said.verdicts + [Verdict("bad", "Warning", f"{w}.") for w in stage["warnings"]]
    return said._replace(verdicts=verdicts, tables=said.tables + stage_tables(rest, {}))


def _likelihood(stage: dict, evaluations: Sequence[dict]) -> Section:
    summary = stage["summary"]
    start, end = evaluations[0], summary
    sentence = (
        f"On {count(summary['learned_tokens'], 'held-out token')} of "
        f"{count(summary['responses'], 'response')} the loss {_changed(start['loss'], end['loss'])}"
        f" nats per token (perplexity {start['perplexity']:.4g} to {end['perplexity']:.4g})"
    )
    rows = [
        [f"{row['step']:,}", f"{row['loss']:.4f}", f"{row['perplexity']:.4g}"]
        for row in evaluations
    ]
    return Section(
        stage["name"],
        [_verdict(stage, sentence, start["loss"], end["loss"])],
        _curve("Loss (nats per token)", stage["metrics"], "loss", evaluations),
        [],
        [_evaluations(["step", "loss", "perplexity"], rows)],
        _least_likely(stage["items"]),
        mistakes_title="Held-out responses that are least likely",
    )


def _steerlm2(stage: dict, evaluations: Sequence[dict]) -> Section:
    summary = stage["summary"]
    start, end = evaluations[0], summary
    sentence = (
        f"The distance to the target, KL(w′‖b′) on {count(summary['groups'], 'held-out group')}, "
        f"{_changed(start['loss'], end['loss'])} nats"
    )
    rows = [
        [
            f"{row['step']:,}",
            f"{row['loss']:.4f}",
            f"{row['effective_sample_size']:.2f}",
            percent(row["effective_fraction"]),
            f"{row['log_likelihood']:.4f}",
        ]
        for row in evaluations
    ]
    columns = ["step", "distance", "effective samples", "of all", "log-likelihood per token"]
    return Section(
        stage["name"],
        [_verdict(stage, sentence, start["loss"], end["loss"])],
        _curve("Distance to the target (nats)", stage["metrics"], "distance", evaluations),
        [],
        [_evaluations(columns, rows)],
        _furthest(stage["items"]),
        mistakes_title="Held-out groups that are furthest from the target",
    )


def _changed(start: float, end: float) -> str:
    return f"{'fell' if end < start else 'did not fall: it went'} from {start:.4f} to {end:.4f}"


def _verdict(stage: dict, sentence: str, start: float, end: float) -> Verdict:
    """Lower than at the start is good; it is the best of the evaluations, so that is no surprise,
    but what is not lower has learned nothing that holds beyond the training data."""
    at = f", best at step {stage['step']:,} of {stage['steps']:,}"
    if end < start:
        return Verdict("good", "Lower than at the start", f"{sentence}{at}.")
    return Verdict("bad", "Not lower than at the start", f"{sentence}{at}.")


def _curve(caption: str, metrics, name: str, evaluations) -> list[tuple[str, str]]:
    train = [(row["step"], row[name]) for row in metrics]
    drawn = plots.loss_curve(train, [(row["step"], row["loss"]) for row in evaluations])
    return [(caption, drawn)] if drawn else []


def _evaluations(columns: list[str], rows: list[list[str]]) -> Table:
    return Table("Evaluations during training", columns, rows, folded=len(rows) > 12)


def _least_likely(items: Sequence[dict]) -> list[Mistake]:
    losses = [
        (-log_probability / tokens, item, r)
        for item in items
        for r, (log_probability, tokens) in enumerate(
            zip(item["log_probability"], item["tokens"], strict=True)
        )
    ]
    losses.sort(key=lambda entry: -entry[0])
    return [
        Mistake(
            f"{loss:.2f} nats per token, {_where(item)}",
            item["prompt"],
            [Answer("Response", count(item["tokens"][r], "token"), item["responses"][r])],
        )
        for loss, item, r in losses[:SHOWN]
    ]


def _furthest(items: Sequence[dict]) -> list[Mistake]:
    furthest = sorted(items, key=lambda item: -sum(item["distance"]))[:SHOWN]
    found = []
    for item in furthest:
        answers = []
        for role, name in (("The target prefers", "target"), ("The policy prefers", "baseline")):
            weights = item[name]
            r = weights.index(max(weights))
            facts = f"w′ {item['target'][r]:.3f}, b′ {item['baseline'][r]:.3f}"
            facts += f", {count(item['tokens'][r], 'token')}"
            answers.append(Answer(role, facts, item["responses"][r]))
        heading = f"Distance {sum(item['distance']):.2f} nats, {_where(item)}"
        found.append(Mistake(heading, item["prompt"], answers))
    return found


def _where(item: dict) -> str:
    asked = ", ".join(f"{name} {value}" for name, value in item["condition"].items())
    return item["source"] + (f", asked for {asked}" if asked else "")
