"""The page of an evaluation: how good a reward model is on each set."""

from collections.abc import Mapping, Sequence

from hs2jax.report import charts, format
from hs2jax.report.benchmark import with_benchmark
from hs2jax.report.format import PERCENT, SIGNED
from hs2jax.report.page import Case, Figure, Section, Table, Verdict, verdict_of
from hs2jax.report.run import Run, answer, find, leaf, select, table_of

MISTAKES = 5
OVERVIEW = (
    *("score", "accuracy", "lead_over_length", "longer_wins", "shorter_wins"),
    *("accuracy_at_equal_length", "groups", "left_out", "prompts_cut"),
)
FAMILIES = {
    "strength": "By strength",
    "band": "By length of the chosen response against the rejected one",
    "attribute": "Ratings",
    "confusion": "Rounded ratings and predictions",
}


def sections(run: Run) -> list[Section]:
    """All sets at a glance, each set, and the weights of the attributes."""
    said = [set_section(run, name) for name in run.sets()]
    if len(said) > 1:
        whole = select(run.rows, part="", metric=OVERVIEW)
        table = table_of("Scores at a glance", whole, "set", heading="set")
        said.insert(0, Section("All sets", tables=[table]))
    weights = _weights(select(run.rows, set=""))
    return [*said, *[weights] * any(table.rows for table in weights.tables)]


def set_section(run: Run, name: str) -> Section:
    """Say what is to be seen of one scored set, whichever verb scored it."""
    rows, items = select(run.rows, set=name), run.items(name)
    outputs = run.result.get("outputs") or (run.result.get("model") or {}).get("outputs") or []
    figures = _pair_figures(rows, items) + _rating_figures(items, outputs)
    section = Section(name, _verdicts(rows), figures, _tables(rows), _worst_mistakes(items))
    benchmark = run.result.get("sets", {}).get(name, {}).get("benchmark")
    return with_benchmark(section, rows, benchmark) if benchmark else section


def _verdicts(rows: Sequence[Mapping]) -> list[Verdict]:
    """Judge the pairs by chance and by counting characters, the ratings by always answering the
    mean."""
    said = []
    accuracy, lead = (find(rows, metric=m, part="") for m in ("accuracy", "lead_over_length"))
    if accuracy:
        said.append(verdict_of({"chance": accuracy, "counting characters": lead}))
    if gains := {leaf(row): row for row in select(rows, metric="mse_below_mean")}:
        said.append(verdict_of(gains, f"the {find(rows, metric='mse_of_mean')['method']}"))
    sentence = "Without pairs or ratings nothing can be said of how good the scores are."
    return said or [Verdict("unsure", "Scored, not judged", sentence)]


def _tables(rows: Sequence[Mapping]) -> list[Table]:
    """The numbers of a set: of pairs as a whole, of how they are calibrated, and by part."""
    whole = [row for row in select(rows, part="") if row["metric"] not in ("score", "published")]
    methods = [row for row in whole if row.get("method")]
    numbers = [row for row in whole if row not in methods]
    paired = "Equal rewards and equal lengths count as wrong." * bool(find(rows, metric="accuracy"))
    tables = [
        table_of("Numbers", numbers, "metric", note=paired),
        table_of("Calibration", methods, "metric"),
    ]
    for family, title in FAMILIES.items():
        found = select(rows, family=family)
        # One strength is what a corpus without strengths has.
        if family == "attribute" or len({row["part"] for row in found}) > 1:
            tables.append(table_of(title, found))
    return tables


def _pair_figures(rows: Sequence[Mapping], items: Sequence[Mapping]) -> list[Figure]:
    """Pictures of rewards, and of how sure the model is."""
    pairs = [(item["rewards"], c, r) for item in items for c, r, _ in item.get("pairs") or []]
    sides = {"chosen": [x[c] for x, c, _ in pairs], "rejected": [x[r] for x, _, r in pairs]}
    bins: dict[str, list] = {}
    for row in select(rows, family="bin", metric="agreement"):
        point = (row["confidence"], row["value"], row["low"], row["high"])
        bins.setdefault(row.get("method") or "as scored", []).append(point)
    sure = charts.curves(bins, "how sure the model is", PERCENT, diagonal="calibrated")
    return [Figure("Rewards", charts.histograms(sides, "reward")), Figure("Calibration", sure)]


def _rating_figures(items: Sequence[Mapping], outputs: Sequence[str]) -> list[Figure]:
    """Pictures of predicted against human ratings."""
    drawn = []
    for k, name in enumerate(outputs):
        rated = [
            (values[k], rating[name])
            for item in items
            for values, rating in zip(item["outputs"], item["ratings"] or [], strict=False)
            if (rating or {}).get(name) is not None
        ]
        svg = charts.predicted_by_rating([p for p, _ in rated], [r for _, r in rated])
        drawn.append(Figure(name, svg, group="Predicted against human ratings"))
    return drawn


def _worst_mistakes(items: Sequence[Mapping]) -> list[Case]:
    """Show the pairs whose rejected response got the higher reward, the largest gap first, each
    prompt once."""
    wrong = []
    for item in items:
        margins = [(item["rewards"][c] - item["rewards"][r], c, r, s) for c, r, s in item["pairs"]]
        if margins and min(margins)[0] < 0:
            wrong.append((*min(margins), item))
    cases = []
    for margin, *pair, strength, item in sorted(wrong, key=lambda each: each[0])[:MISTAKES]:
        strong = f"strength {strength:g}" if strength != 1 else ""
        subset = (item.get("about") or {}).get("subset")
        about = [f"Margin {format.number(margin, SIGNED)}", strong, item["source"], subset]
        roles = zip(("Marked better", "The model preferred"), pair, strict=True)
        answers = [answer(role, item, r) for role, r in roles]
        cases.append(Case(", ".join(filter(None, about)), item["prompt"], answers))
    return cases


def _weights(rows: Sequence[Mapping]) -> Section:
    """The weights that make one reward of the outputs; where they were searched, their worth."""
    searched, verdicts = select(rows, part="weights"), []
    if held_out := find(searched, metric="held_out", method=None):
        gain = {"equal weights": find(searched, metric="gain_over_equal")}
        verdicts.append(verdict_of(gain, note=format.sentence([held_out])))
    for row in rows:
        if row.get("warning"):
            text = f"{format.words_of(row['metric'])}: {row['warning']}."
            verdicts.append(Verdict("bad", "Warning", text))
    weights = select(rows, metric="weight", family="attribute")
    tables = [
        table_of("Weights of the attributes", weights),
        table_of("What the weights are worth", searched, "metric"),
        table_of("Temperature", select(rows, metric="temperature"), "metric"),
    ]
    return Section("Weights and temperature", verdicts, tables=tables)
