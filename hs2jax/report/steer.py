"""The page of `hs2jax steer`: do policies follow what they are asked for?"""

from collections.abc import Iterator

from hs2jax import config_rules
from hs2jax.data.groups import Group, prompt_text
from hs2jax.report import charts, format
from hs2jax.report.page import Answer, Case, Figure, Section, Table, Verdict, side_of, verdict_over
from hs2jax.report.run import Run, family_table, leaf, select, table_of

SHOWN = 2  # prompts of which samples are shown, for each attribute
MOST_CHARACTERS = 700  # of a sample that is shown
CLOSELY = {"better": "more closely", "worse": "less closely", "not shown": "not surely otherwise"}
NOTE = (
    "Slope: change of the measured attribute for each unit requested; 1 is as asked. Error: mean "
    "absolute difference of measured and requested. Length spearman: of requested and characters; "
    "length partial: Pearson's of requested and measured among samples of equal length. Left out: "
    "samples that are empty or too long. Intervals count prompts, not samples, as independent."
)
RATIO = (
    "KL from the reference in nats for a response, asked for nothing where the policy is asked for "
    "attributes; log-ratio where responses were not sampled at temperature 1 and top-p 1."
)


def sections(run: Run) -> list[Section]:
    parts = [verdict(run, policy) for policy in run.sets()], figures(run), tables(run)
    return [Section("Requested against measured", *parts, list(cases(run)), "Samples side by side")]


def verdict(run: Run, policy: str) -> Verdict:
    """Say whether a policy follows, whether it may be by length alone, and whether more closely
    than the one before it."""
    rows = select(run.rows, set=policy, family="attribute")
    of = {leaf(row): row for row in select(rows, metric="spearman")}
    sure = [name for name, row in of.items() if side_of(row) == "better"]
    rest = [name for name in of if name not in sure]
    label = f"{policy} is not shown to follow what it is asked for"
    if sure:
        label = f"{policy} follows {format.listed(sure)}"
        label += f", not surely {format.listed(rest)}" if rest else ""
    said = [
        f"{name} {format.value(row, '.2f') or row['note']}{_by_length(rows, row)}"
        for name, row in of.items()
    ]
    sentence = f"Correlation of requested and measured: {'; '.join(said)}."
    for test in select(rows, metric="spearman_difference"):
        found = format.value(test, format.SIGNED) or test["note"]
        sentence += f" Against {test['against']}: {leaf(test)} {CLOSELY[side_of(test)]}, {found}."
    return verdict_over(of, "chance", sentence)._replace(label=label)


def _by_length(rows: list[dict], row: dict) -> str:
    """Say so where the correlation is sure, and not among responses of equal length."""
    (given,) = select(rows, metric="length_partial", part=row["part"])
    if side_of(row) != "better" or side_of(given) == "better":
        return ""
    return f", but {format.value(given, '.2f')} given the length, which alone may be what follows"


def figures(run: Run) -> list[Figure]:
    """Measured attributes and lengths by what was requested, and how they are correlated."""
    lines: dict[tuple[str, str], dict[str, list]] = {}
    for row in select(run.rows, family="requested", metric=("measured", "characters")):
        attribute, value = leaf(row).split("/")
        of = lines.setdefault((row["metric"], attribute), {})
        point = (int(value), row["value"], row["low"], row["high"])
        of.setdefault(row["set"], []).append(point)
    drawn = []
    for (metric, name), of in lines.items():
        diagonal = "as asked" if metric == "measured" else ""
        svg = charts.curves(of, f"requested {name}", diagonal=diagonal)
        drawn.append(Figure(f"{metric.capitalize()}, asked for {name}", svg))
    found = select(run.rows, family="attribute", metric="spearman")
    tracks = [charts.track(row, f"{row['set']}, {leaf(row)}") for row in found]
    svg = charts.intervals(tracks, ".2f", reference=0.0, reference_name="no correlation")
    return [*drawn, Figure("Correlation of requested and measured (Spearman)", svg)]


def tables(run: Run) -> list[Table]:
    rows = select(run.rows, family="attribute")
    alone, tests = select(rows, against=None), [row for row in rows if row.get("against")]
    between = "Differences on the same prompts and requests"
    by_policy = {"across": "set", "folded": True}
    return [
        table_of("How closely", alone, lambda r: f"{r['set']}, {leaf(r)}", note=NOTE),
        table_of(between, tests, lambda r: f"{r['set']} − {r['against']}, {leaf(r)}"),
        table_of("All requests together", select(run.rows, part=""), "set", note=RATIO),
        family_table("What changes for each unit requested", run.rows, "change", **by_policy),
        family_table("By requested value", run.rows, "requested", **by_policy),
    ]


def cases(run: Run) -> Iterator[Case]:
    """Show the first response of every policy to the lowest, the middle and the highest request."""
    base = config_rules.parse_condition(run.config["base"])
    values = sorted(run.config["requested"])
    asked = dict.fromkeys((values[0], values[len(values) // 2], values[-1]))
    items = {policy: run.items(policy) for policy in run.sets()}
    sources = dict.fromkeys(item["source"] for some in items.values() for item in some)
    for attribute in run.config["attributes"]:
        for source in list(sources)[:SHOWN]:
            shown = [
                (item, f"{policy}, {attribute} {value}")
                for policy, some in items.items()
                for value in asked
                for item in some
                if item["source"] == source and item["condition"] == base | {attribute: value}
            ]
            if shown:
                prompt = prompt_text(Group(tuple(shown[0][0]["prompt"]), ("-",)))
                answers = [_answer(attribute, *each) for each in shown]
                yield Case(f"{attribute}, {source}", prompt, answers)


def _answer(attribute: str, item: dict, role: str) -> Answer:
    text, measured = item["responses"][0], item["measured"][0]
    facts = [f"measured {measured[attribute]:.2f}" if measured else "not measured"]
    facts += [format.count(len(text), "character"), *["unfinished"] * (not item["finished"][0])]
    if len(text) > MOST_CHARACTERS:
        text = f"{text[:MOST_CHARACTERS].rstrip()} … [cut here]"
    return Answer(role, ", ".join(facts), text)
