"""The page of an evaluation: how good a reward model is on each set."""

from collections.abc import Mapping, Sequence

from hs2jax.report import charts, format
from hs2jax.report.benchmark import benchmark_figures, benchmark_tables, benchmark_verdict
from hs2jax.report.format import PERCENT, POINTS, SIGNED
from hs2jax.report.page import (
    Answer,
    Case,
    Figure,
    Group,
    Section,
    Table,
    Verdict,
    verdict_of,
    verdict_over,
)
from hs2jax.report.run import Run, family_table, find, leaf, metrics_table, select, table_of

MISTAKES = 5
LENGTH = "counting characters"
OVERVIEW = (
    *("score", "accuracy", "lead_over_length", "longer_wins", "shorter_wins"),
    *("accuracy_at_equal_length", "groups", "left_out", "prompts_cut"),
)
CALIBRATION = (
    "Of the probability sigmoid(margin / temperature). A calibrated model shows more than no error "
    "on few pairs. One that says one half to everything has Brier score 0.25 and loss 0.6931."
)
FAMILIES = {
    "strength": ("By strength", "1: slightly better, 2: better, 3: much better."),
    "band": ("By length of the chosen response against the rejected one", ""),
    "attribute": (
        "Ratings",
        "“Of the mean”: of always answering it. Kappa: of rounded predictions, with quadratic "
        "weights; predictions beyond the scale count as its ends.",
    ),
}
PREDICTED = Group(
    "Predicted against human ratings",
    "For each human rating: the median prediction (dot), the middle half (thick bar) and the 5th "
    "to 95th percentile (thin line). A perfect model would lie on the dotted diagonal.",
)


def sections(run: Run) -> list[Section]:
    """All sets at a glance, each set, and the weights of the attributes."""
    said = [_set(run, name) for name in run.sets()]
    if len(said) > 1:
        note = "The score of a benchmark is its own, given only where all of its items are here."
        whole = select(run.rows, part="", metric=OVERVIEW)
        table = table_of("Scores at a glance", whole, "set", OVERVIEW, heading="set", note=note)
        said.insert(0, Section("All sets", tables=[table]))
    if weights := _weights(select(run.rows, set="")):
        said.append(weights)
    return said


def _set(run: Run, name: str) -> Section:
    about = (run.result.get("sets") or {}).get(name) or {}
    rows, items = select(run.rows, set=name), run.items(name)
    outputs = (run.result.get("model") or {}).get("outputs") or []
    section = set_section(name, rows, items, outputs)
    tables = list(section.tables)
    figures, verdicts = section.figures, section.verdicts
    if benchmark := about.get("benchmark"):
        tables = benchmark_tables(rows, benchmark) + tables
        figures = benchmark_figures(rows, benchmark) + figures
        verdicts = [benchmark_verdict(rows, benchmark, verdicts[0]), *verdicts[1:]]
    title = benchmark["title"] if benchmark else name
    return section._replace(title=title, verdicts=verdicts, figures=figures, tables=tables)


def set_section(
    name: str,
    rows: Sequence[Mapping],
    items: Sequence[Mapping],
    outputs: Sequence[str],
) -> Section:
    """Say what is to be seen of one scored set, whichever verb scored it.

    rows: of this set. items: its scored groups. outputs: the names of the model's, in order.
    """
    figures = set_figures(rows, items, outputs)
    return Section(name, set_verdicts(rows), figures, set_tables(rows), worst_mistakes(items))


def set_verdicts(rows: Sequence[Mapping]) -> list[Verdict]:
    """Judge the pairs by chance and by counting characters, the ratings by always answering the
    mean."""
    said = []
    accuracy, lead = (find(rows, metric=m, part="") for m in ("accuracy", "lead_over_length"))
    if accuracy:
        sentence = (
            f"The model agrees with people on {format.value(accuracy, PERCENT)} of "
            f"{format.count(accuracy['n'], 'pair')}."
        )
        if lead:
            rule = find(rows, metric=f"{lead['against']}_wins", part="")
            sentence += (
                f" The better rule of length, always preferring the {lead['against']} response, "
                f"agrees on {format.number(rule['value'], PERCENT)}: a difference of "
                f"{format.value(lead, POINTS)}."
            )
        said.append(verdict_of({"chance": accuracy, LENGTH: lead}, sentence))
    if gains := {leaf(row): row for row in select(rows, metric="mse_below_mean")}:
        sentence = _closer(gains, find(rows, metric="mse_of_mean")["method"])
        said.append(verdict_over(gains, "the mean", sentence))
    if not said:
        sentence = "Without pairs or ratings nothing can be said of how good the scores are."
        said.append(Verdict("unsure", "Scored, not judged", sentence))
    return said


def _closer(gains: Mapping[str, Mapping], source: str) -> str:
    """Say how far predicted ratings are closer to people's than the mean is, by attribute."""
    if len(gains) == 1:
        ((name, gain),) = gains.items()
        return (
            f"The squared error of predicted {name} is below that of always answering the {source} "
            f"by {format.value(gain, '+.3f')}, on {format.count(gain['n'], 'response')}."
        )
    worse = [name for name, row in gains.items() if row["value"] <= 0]
    return (
        f"Predicted ratings are closer to people's than always answering the {source} on "
        f"{len(gains) - len(worse)} of {len(gains)} attributes"
        f"{f' (not on {format.listed(worse)})' if worse else ''}."
    )


# Numbers and pictures ---------------------------------------------------------------------------


def set_tables(rows: Sequence[Mapping]) -> list[Table]:
    """The numbers of a set: of pairs as a whole, of how they are calibrated, and by part."""
    whole = [row for row in select(rows, part="") if row["metric"] not in ("score", "published")]
    methods = [row for row in whole if row.get("method")]
    numbers = [row for row in whole if row not in methods]
    paired = "Equal rewards and equal lengths count as wrong." * bool(find(rows, metric="accuracy"))
    tables = [
        metrics_table("Numbers", numbers, note=paired),
        metrics_table("Calibration", methods, note=CALIBRATION),
    ]
    for family, (title, note) in FAMILIES.items():
        found = select(rows, family=family)
        # One strength is what a corpus without strengths has.
        if family == "attribute" or len({row["part"] for row in found}) > 1:
            said = sorted({f"{leaf(row)}: {row['note']}." for row in found if row.get("note")})
            tables.append(table_of(title, found, "leaf", note=" ".join([note, *said])))
    return tables


def set_figures(
    rows: Sequence[Mapping],
    items: Sequence[Mapping],
    outputs: Sequence[str],
) -> list[Figure]:
    """Pictures of rewards, of how sure the model is, of accuracy by part, and of predicted against
    human ratings."""
    pairs = [(item["rewards"], c, r) for item in items for c, r, _ in item.get("pairs") or []]
    sides = {"chosen": [x[c] for x, c, _ in pairs], "rejected": [x[r] for x, _, r in pairs]}
    drawn = [Figure("Rewards", charts.histograms(sides, "reward"))]
    bins: dict[str, list] = {}
    for row in select(rows, family="bin", metric="agreement"):
        # The intervals of several would hide each other.
        ends = (row["low"], row["high"]) if row.get("method") in (None, "as scored") else ()
        point = (row["confidence"], row["value"], *ends)
        bins.setdefault(row.get("method") or "as scored", []).append(point)
    diagonal = {"diagonal": "calibrated", "whole": False}
    svg = charts.curves(bins, "how sure the model is", PERCENT, **diagonal)
    drawn.append(Figure("Calibration", svg))
    for family, name in (("strength", "strength"), ("band", "length")):
        parts = select(rows, family=["", family], metric="accuracy")
        tracks = []
        for row in parts if len(parts) > 2 else []:
            longer = find(rows, metric="longer_wins", part=row["part"])
            marks = [longer["value"]] if longer and longer["value"] is not None else []
            tracks.append(charts.track(row, leaf(row) or "all pairs", marks=marks))
        svg = charts.intervals(tracks, span=(0, 1), reference=0.5, mark_name="longer wins")
        drawn.append(Figure(f"Accuracy by {name}", svg))
    for k, name in enumerate(outputs):
        rated = [
            (values[k], rating[name])
            for item in items
            for values, rating in zip(item["outputs"], item["ratings"] or [], strict=False)
            if (rating or {}).get(name) is not None
        ]
        svg = charts.predicted_by_rating([p for p, _ in rated], [r for _, r in rated])
        drawn.append(Figure(name, svg, group=PREDICTED))
    return drawn


# Mistakes ---------------------------------------------------------------------------------------


def worst_mistakes(items: Sequence[Mapping], most: int = MISTAKES) -> list[Case]:
    """Show the pairs whose rejected response got the higher reward, the largest gap first, each
    prompt once."""
    wrong = []
    for item in items:
        margins = [(item["rewards"][c] - item["rewards"][r], c, r, s) for c, r, s in item["pairs"]]
        if margins and min(margins)[0] < 0:
            wrong.append((*min(margins), item))
    cases = []
    for margin, chosen, rejected, strength, item in sorted(wrong, key=lambda each: each[0])[:most]:
        heading = f"Margin {format.number(margin, SIGNED)}"
        heading += f", strength {strength:g}" * (strength != 1) + f", {source(item)}"
        roles = {"Marked better": chosen, "The model preferred": rejected}
        answers = [answer(role, item, r) for role, r in roles.items()]
        cases.append(Case(heading, item["prompt"], answers))
    return cases


def answer(role: str, item: Mapping, r: int) -> Answer:
    """Show a response of a scored group, with its reward, length and ratings."""
    facts = [f"reward {format.number(item['rewards'][r], SIGNED)}"]
    if item.get("tokens"):
        facts.append(format.count(item["tokens"][r], "token"))
    ratings = (item["ratings"][r] or {}) if item.get("ratings") else {}
    facts += [f"{name} {value:g}" for name, value in ratings.items() if value is not None]
    return Answer(role, ", ".join(facts), item["responses"][r])


def source(item: Mapping) -> str:
    """Name where an item is from: file, line and subset."""
    subset = (item.get("about") or {}).get("subset")
    return f"{item.get('source', '?')}, {subset}" if subset else item.get("source", "?")


def _weights(rows: Sequence[Mapping]) -> Section | None:
    """The weights that make one reward of the outputs; where they were searched, their worth."""
    searched, verdicts = select(rows, part="weights"), []
    if held_out := find(searched, metric="held_out", method=None):
        sentence = (
            f"With the weights found, {format.value(held_out, PERCENT)} of held-out pairs are "
            "right."
        )
        verdicts = [
            verdict_of({"equal weights": find(searched, metric="gain_over_equal")}, sentence)
        ]
    for row in rows:
        if row.get("warning"):
            text = f"{format.words_of(row['metric'])}: {row['warning']}."
            verdicts.append(Verdict("bad", "Warning", text))
    weights = select(rows, metric="weight", family="attribute")
    tables = [
        family_table("Weights of the attributes", weights, "attribute"),
        metrics_table("What the weights are worth", searched),
        table_of("Temperature", select(rows, metric="temperature"), "metric"),
    ]
    some = any(table.rows for table in tables)
    return Section("Weights and temperature", verdicts, tables=tables) if some else None
