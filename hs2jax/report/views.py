"""Verdicts, charts and tables of rows, as views.toml describes them."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hs2jax.report import charts, format
from hs2jax.report.page import Answer, Cell, Figure, Table, Verdict, verdict_of
from hs2jax.report.run import field, fill, select

VIEWS = tomllib.loads(Path(__file__).with_name("views.toml").read_text(encoding="utf-8"))
# What items have of each response: how it is called and written.
FACTS = {
    "rewards": ("reward", format.SIGNED),
    "tokens": ("tokens", format.COUNT),
    "ratings": ("", "g"),
    "measured": ("measured", ".2f"),
    "target": ("target", format.NUMBER),
    "baseline": ("policy", format.NUMBER),
}


def view(
    name: str, rows: Sequence[Mapping], strong: Sequence[str] = ()
) -> tuple[list[Verdict], list[Figure | Table]]:
    """Make verdicts, and charts and tables; strong: names of lines that sum up others."""
    verdicts, parts = [], []
    for spec in VIEWS[name]:
        wanted = spec["rows"] if isinstance(spec["rows"], list) else [spec["rows"]]
        chosen = [row for each in wanted for row in select(rows, **each)]
        for key, values in spec.get("first", {}).items():
            there = [value for value in values if select(chosen, **{key: value})]
            chosen = select(chosen, **{key: there[:1]})
        groups: dict[str, list] = {}
        for row in chosen:
            groups.setdefault(field(row, spec["each"]) if "each" in spec else "", []).append(row)
        if "missing" in spec:
            label = spec.get("label", "Not judged")
            verdicts += [Verdict("unsure", label, spec["missing"])] * (not chosen)
            continue
        for some in groups.values():
            if "verdict" in spec:
                verdicts.append(_verdict(some, **spec["verdict"]))
                continue
            title = format.capital(fill(some[0], spec["title"]))
            if "chart" in spec:
                parts.append(Figure(title, _chart(some, **spec["chart"])))
            else:
                parts.append(_table(title, some, spec, strong))
    return verdicts, parts


def _verdict(
    rows: Sequence[Mapping], by: str = "", than: str = "", subject: str = "", note: str = ""
) -> Verdict:
    than, subject, note = (fill(rows[0], text) for text in (than, subject, note))
    if by:
        return verdict_of({field(row, by): row for row in rows}, than, subject=subject, note=note)
    known = format.WORDS["against"]
    names = [row["metric"] if row["metric"] in known else row.get("against") or "" for row in rows]
    held = {known.get(name, name): row for name, row in zip(names, rows, strict=True)}
    return verdict_of(held, subject=subject, note=note)


def _chart(rows: Sequence[Mapping], x: str = "last", lines: str = "method", **options) -> str:
    points: dict[str, list[tuple]] = {}
    for row in rows:
        at, name = field(row, x), str(field(row, lines) or "")
        point = float(at) if at else None, row["value"], row["low"], row["high"]
        points.setdefault(name, []).append(point)
    return charts.curves(points, form=format.form_of(rows[0]["metric"]), **options)


def _table(title: str, rows: Sequence[Mapping], spec: Mapping, strong: Sequence[str]) -> Table:
    """Make a table; beside each value stand the fields of words.toml that its row has, below it the
    notes of rows. A column or a line without any value is left out."""
    name, across = spec.get("line", "leaf"), spec.get("column", "method")
    across, listing = "" if across == name else across, name == "metric"
    fields = {} if listing else format.WORDS["fields"]
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    pairs = {(row["metric"], field(row, across)) for row in rows}
    several = [each for each in metrics if sum(metric == each for metric, _ in pairs) > 1]
    tracked = next((metric for metric in spec.get("track", ()) if metric in metrics), None)
    metrics.sort(key=lambda metric: metric != tracked)  # First, to be seen on a phone.
    track = _tracks([row for row in rows if row["metric"] == tracked])

    def line_of(row: Mapping) -> str:
        found = _heading(row) if listing else field(row, name)
        return str(found or spec.get("rest", ""))

    def column_of(row: Mapping) -> str:
        value = str(field(row, across) or "value")
        if listing or (row["metric"] in several and len(metrics) == 1):
            return value
        return _heading(row) + f", {value}" * (row["metric"] in several)

    lines: dict[str, dict[tuple[str, str], str | Cell]] = {line_of(row): {} for row in rows}
    columns = {} if listing else {("n", ""): None}
    for row in rows if listing else sorted(rows, key=lambda row: metrics.index(row["metric"])):
        form, head = format.form_of_row(row), column_of(row)
        drawn = track(row) if row["metric"] == tracked else ()
        cell = Cell(format.number(row["value"], form), format.interval(row, form), drawn)
        found = {(head, ""): cell} | {(head, key): format.beside(row, key) for key in fields}
        columns |= dict.fromkeys(found)
        if not listing:
            found["n", ""] = format.beside(row, "n")
        lines[line_of(row)] = found | lines[line_of(row)]
    columns = [key for key in columns if any(str(line.get(key, "")) for line in lines.values())]
    cells = {
        name: [line.get(key, "") for key in columns]
        for name, line in lines.items()
        if any(str(cell) for key, cell in line.items() if key != ("n", ""))
    }
    noted = select(rows, note="*")
    notes = sorted({f"{field(row, 'leaf') or _heading(row)}: {row['note']}." for row in noted})
    heads = [fields.get(key, head) for head, key in columns]
    return Table(
        title,
        [spec.get("heading", ""), *heads],
        [[name, *line] for name, line in cells.items()] * (len(cells) >= spec.get("least", 1)),
        " ".join([*filter(None, [spec.get("note")]), *notes]),
        spec.get("folded", False),
        [i for i, name in enumerate(cells) if name in strong],
    )


def _heading(row: Mapping) -> str:
    points = format.form_of(row["metric"]) == format.POINTS
    return format.words_of(row["metric"]) + ", points" * points


def _tracks(rows: Sequence[Mapping]) -> Callable[[Mapping], list[float | None]]:
    """Make a function from a row to the places of its value, its interval's ends and its reference,
    in hundredths of the scale that all are drawn on: all of it for shares."""

    def ends(row: Mapping) -> tuple[float | None, ...]:
        return row["value"], row["low"], row["high"], row.get("reference")

    low, high = charts.limits(x for row in rows for x in ends(row))
    if rows and format.form_of_row(rows[0]) == format.PERCENT:
        low, high = 0.0, 1.0
    return lambda row: [
        x if x is None else round(100 * (x - low) / (high - low), 1) for x in ends(row)
    ]


def answer(role: str, item: Mapping, r: int) -> Answer:
    """Show a response of an item, with what is known of it."""
    facts = []
    for key, (words, form) in FACTS.items():
        found = item[key][r] if item.get(key) else None
        for name, x in (found if isinstance(found, Mapping) else {"": found}).items():
            if x is not None:
                facts.append(" ".join(filter(None, [words, name, format.number(x, form)])))
    if item.get("finished") and not item["finished"][r]:
        facts.append("unfinished")
    return Answer(role, ", ".join(facts), item["responses"][r])
