"""What every page says of how a run was made, and the page of runs that make rows or models."""

from collections.abc import Mapping

from hs2jax.report import format
from hs2jax.report.page import Section, Table, Verdict
from hs2jax.report.run import Run, family, family_table, metrics_table, select

KINDS = {
    "train_reward_model": "Training of a reward model",
    "train_policy": "Training of a policy",
    "recipe": "Recipe",
    "sweep": "Sweep",
    "evaluate": "Evaluation of a reward model",
    "expo": "ExPO: beyond a trained model",
    "judge": "Evaluation of a judge",
    "best_of_n": "Best of n",
    "sample": "Sampled responses",
    "rescale": "Rescaled reward model",
    "annotate": "Annotated conversations",
    "weigh": "Weighed groups",
    "steer": "Steering of policies",
}
# A record's counts, in words; those that are always shown come first.
ALWAYS = {"rows": "rows read", "groups": "prompts", "pairs": "preference pairs", "tokens": "tokens"}
COUNTS = {
    "ties": "ties, left out of the pairs",
    "truncated": "prompts cut from the left",
    "too_long": "left out: too long",
    "refused": "left out: refused by the chat template",
    "unlearned_turns": "assistant turns in prompts that are not learned",
}
NUMBERS = (
    *("trained_parameters", "step", "steps", "seconds_per_step", "tokens_per_second"),
    "peak_memory_bytes",
)


def title(run: Run) -> str:
    """The heading of a run's page: its model where it is of one, else its folder."""
    model = run.result.get("model")
    return model["name"] if isinstance(model, Mapping) else run.name


def subtitle(run: Run) -> str:
    """Say what a run is and where it ran."""
    device = (run.result.get("environment") or {}).get("device")
    return " · ".join(filter(None, (KINDS.get(run.kind, run.kind), run.name, device)))


def sections(run: Run) -> list[Section]:
    """Show all rows of a run, a table for each family of parts and one for the whole."""
    whole = select(run.rows, part="")
    tables = [metrics_table("What it made", whole, by="set")]
    for name in dict.fromkeys(family(row) for row in run.rows if row["part"]):
        tables.append(family_table(name.capitalize(), run.rows, name))
    return [Section(KINDS.get(run.kind, run.kind), warnings(run), tables=tables)]


def warnings(run: Run) -> list[Verdict]:
    """Say what a run warned of."""
    return [Verdict("bad", "Warning", f"{text}.") for text in run.result.get("warnings", ())]


def making(run: Run) -> Section:
    """Say what became of the data, how long it took, what was set and where it ran."""
    tables = [record_table(run.result.get("records") or {})]
    facts = []
    if isinstance(model := run.result.get("model"), Mapping):
        facts += format.listing({"model": model})
    for row in select(run.rows, set="", part="", metric=NUMBERS):
        said = format.number(row["value"], format.form_of(row["metric"]))
        facts.append([format.words_of(row["metric"]), said])
    if run.result.get("seconds") is not None:
        facts.append(["wall time", format.duration(run.result["seconds"])])
    facts += format.listing(run.result.get("environment") or {})
    tables.append(Table("Model, time and machine", ["", ""], facts))
    tables.append(Table("Settings", ["", ""], format.listing(run.config), folded=True))
    return Section("How it was made", tables=tables)


def record_table(records: Mapping[str, Mapping]) -> Table:
    """Say what became of the data of each set: what was read, and what was left out and why."""
    every = list(records.values())
    lines = [
        [words, *(f"{each.get(key, 0):,}" for each in every)]
        for key, words in {**ALWAYS, **COUNTS}.items()
        if any(each.get(key) for each in every) or key in ("rows", "groups")
    ]
    for reason in dict.fromkeys(reason for each in every for reason in each.get("skipped", {})):
        counts = (each.get("skipped", {}).get(reason, 0) for each in every)
        lines.append([f"left out: {reason}", *(f"{count:,}" for count in counts)])
    if any(each.get("padding") for each in every):
        shares = (format.number(each.get("padding_fraction"), format.PERCENT) for each in every)
        lines.append(["padding, of all positions", *shares])
    examples = [text for each in every for text in each.get("skipped_examples", ())]
    note = f"The first of what was left out: {'; '.join(examples)}" if examples else ""
    return Table("Data", ["", *records], lines if records else [], note)
