"""What a run has left in its folder, and tables of its rows."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hs2jax import workdir
from hs2jax.report import format
from hs2jax.report.page import Answer, Cell, Table

# What items have of each response: how it is called and written.
FACTS = {
    "rewards": ("reward", format.SIGNED),
    "tokens": ("tokens", format.COUNT),
    "ratings": ("", "g"),
    "measured": ("measured", ".2f"),
    "target": ("target", format.NUMBER),
    "baseline": ("policy", format.NUMBER),
}


class Run:
    """A finished run, read from its folder.

    Attributes:
        folder, name: where it lies, and what it is called.
        kind, config: as in the config that made it.
        result: result.json. rows: results.jsonl (see `workdir.row`).
    """

    def __init__(self, folder: Path | str):
        """Raises FileNotFoundError where the folder holds no finished run, and ValueError where its
        result cannot be read."""
        self.folder = Path(folder)
        self.name = self.folder.resolve().name
        path = self.folder / "result.json"
        if not path.exists():
            raise FileNotFoundError(
                f"no finished run in {folder}: there is no result.json (does it still go on? The "
                "same command that made it finishes it)"
            )
        try:
            self.result = workdir.read_json(path)
            self.kind, self.config = self.result["kind"], self.result.get("config") or {}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no whole result of this version: {error!r}") from error
        self.rows = self.read("results.jsonl")

    def sets(self) -> list[str]:
        """The sets that rows are of, in their order."""
        return list(dict.fromkeys(row["set"] for row in self.rows if row["set"]))

    def items(self, name: str) -> list[dict]:
        """The scored groups of a set; [] where there are none."""
        return self.read(f"items/{name}.jsonl")

    def metrics(self, kind: str = "train") -> list[dict]:
        """The lines of metrics.jsonl of a kind: "train" or "validation"."""
        return [line for line in self.read("metrics.jsonl") if line["kind"] == kind]

    def read(self, name: str) -> list[dict]:
        """The rows of a file in the folder; [] where there is none."""
        path = self.folder / name
        try:
            return workdir.read_rows(path) if path.exists() else []
        except ValueError as error:
            raise ValueError(f"{path} is not whole: {error}") from error


def family(row: Mapping) -> str:
    """The first name of a row's part: "section" of "section/Chat"; "" for all of a set."""
    return row["part"].partition("/")[0]


def leaf(row: Mapping) -> str:
    """The rest of a row's part: "Chat" of "section/Chat"."""
    return row["part"].partition("/")[2]


def select(rows: Sequence[Mapping], **fields) -> list[dict]:
    """The rows whose fields have these values; `family="section"` takes all parts of a family, a
    sequence of values takes each of them."""

    def fits(row: Mapping) -> bool:
        for name, wanted in fields.items():
            value = family(row) if name == "family" else row.get(name)
            if not (value == wanted or (isinstance(wanted, list | tuple) and value in wanted)):
                return False
        return True

    return [row for row in rows if fits(row)]


def find(rows: Sequence[Mapping], **fields) -> dict | None:
    """The first row whose fields have these values; None where there is none."""
    return next(iter(select(rows, **fields)), None)


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


def points(rows: Sequence[Mapping], by: str = "metric") -> dict[str, list[tuple]]:
    """Make lines for `charts.curves`, one for each value of the field `by`: (x, value, low, high),
    with x the number that ends a row's part."""
    lines: dict[str, list[tuple]] = {}
    for row in rows:
        x = float(row["part"].rpartition("/")[2])
        lines.setdefault(row[by], []).append((x, row["value"], row["low"], row["high"]))
    return lines


def table_of(
    title: str,
    rows: Sequence[Mapping],
    index: str | Callable[[Mapping], str] = "leaf",
    *,
    across: str | Callable[[Mapping], str] = "method",
    heading: str = "",
    note: str = "",
    folded: bool = False,
    strong: Sequence[str] = (),
) -> Table:
    """Make a table with a line for each value of `index`, and a column for each metric: where it
    has several values of `across` one for each. Beside it stand what else rows have of the fields
    in words.toml, such as p of differences; their notes stand below.

    index, across: a field's name, "leaf", or a function of a row; with the index "metric" there is
    a column for each value of `across`. heading: of the first column. strong: the lines' names that
    sum up others. A column or a line without any value is left out.
    """
    across, fields = "" if across == index else across, format.WORDS["fields"]
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    several = {(row["metric"], _get(row, across)) for row in rows}
    several = {metric for metric in metrics if sum(each[0] == metric for each in several) > 1}
    lines: dict[str, dict[tuple[int, str, str], str | Cell]] = {}
    for row in rows:
        metric, value = row["metric"], str(_get(row, across) or "value")
        words, form = _heading(metric), format.form_of_row(row)
        line = lines.setdefault(words if index == "metric" else str(_get(row, index)), {})
        if index == "metric" or (metric in several and len(metrics) == 1):
            column = (0, value)
        else:
            column = (metrics.index(metric), f"{words}, {value}" if metric in several else words)
        cell = Cell(format.number(row["value"], form), format.interval(row, form))
        line.setdefault((*column, ""), cell)
        if index != "metric":
            line.setdefault((-1, "n", ""), _field(row, "n"))
            tested = row.get("against") or metric.endswith("difference")
            for field in fields:
                if field != "p" or tested:
                    line.setdefault((*column, field), _field(row, field))
    names = list(dict.fromkeys(column for line in lines.values() for _, column, _ in line))
    lines = {
        name: line
        for name, line in lines.items()
        if any(str(cell) for (_, column, _), cell in line.items() if column != "n")
    }
    used = {key for line in lines.values() for key, cell in line.items() if str(cell)}
    order = ["", *fields]
    used = sorted(used, key=lambda key: (key[0], names.index(key[1]), order.index(key[2])))
    notes = {(leaf(row) or _heading(row["metric"]), row.get("note")) for row in rows}
    notes = [f"{name}: {text}." for name, text in sorted(notes, key=str) if text]
    return Table(
        title,
        [heading, *(fields.get(field, name) for _, name, field in used)],
        [[name, *(line.get(key, "") for key in used)] for name, line in lines.items()],
        " ".join(filter(None, [note, *notes])),
        folded,
        [i for i, name in enumerate(lines) if name in strong],
    )


def _get(row: Mapping, by: str | Callable[[Mapping], str]):
    return by(row) if callable(by) else leaf(row) if by == "leaf" else row.get(by)


def _heading(metric: str) -> str:
    points = format.form_of(metric) == format.POINTS
    return format.words_of(metric) + ", points" * points


def _field(row: Mapping, name: str) -> str:
    value = row.get(name)
    if name in ("p", "p_mcnemar"):
        return format.probability(value)
    if isinstance(value, str):
        return value
    return format.number(value, format.COUNT if isinstance(value, int) else format.form_of(name))
