"""What a run has left in its folder, and tables of its rows."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hs2jax import workdir
from hs2jax.report import format
from hs2jax.report.page import Cell, Table


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
        self.rows = self._read("results.jsonl")

    def sets(self) -> list[str]:
        """The sets that rows are of, in their order."""
        return list(dict.fromkeys(row["set"] for row in self.rows if row["set"]))

    def items(self, name: str = "") -> list[dict]:
        """Scored groups: items/NAME.jsonl, or items.jsonl without a name; [] where there are
        none."""
        return self._read(f"items/{name}.jsonl" if name else "items.jsonl")

    def metrics(self, kind: str = "train") -> list[dict]:
        """The lines of metrics.jsonl of a kind: "train" or "validation"."""
        return [line for line in self._read("metrics.jsonl") if line["kind"] == kind]

    def _read(self, name: str) -> list[dict]:
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


class Column(NamedTuple):
    """A column of a table of rows: a metric, or another field of the row that has it; without a
    metric that of the line.

    form: how it is written, by default as `format.METRICS` says.
    show: "value" (with the interval), "plain" (without), a field's name ("n", "p", "reference"), or
    a function of the row. where: further fields that the row must have, as {"method": "longer"}.
    """

    heading: str
    metric: str
    form: str = ""
    show: str | Callable[[Mapping], str] = "value"
    where: Mapping = {}


def table_of(
    title: str,
    rows: Sequence[Mapping],
    index: str | Callable[[Mapping], str],
    columns: Sequence[Column | str] | None = None,
    *,
    across: str = "method",
    further: Sequence[Column] = (),
    heading: str = "",
    note: str = "",
    folded: bool = False,
    strong: Sequence[str] = (),
) -> Table:
    """Make a table with a line for each value of `index`, in the order of the rows.

    index: a field's name, "leaf", or a function of a row. columns: a metric's name is a column with
    its own words; by default all metrics, each for every value of the field `across`, and then
    `further` ones. heading: of the first column. strong: the lines' names that sum up others.
    Columns without any value are left out, and so is a line without any.
    """
    name_of = index if callable(index) else leaf if index == "leaf" else lambda r: str(r.get(index))
    if columns is None:
        columns = columns_of(rows, "" if across == index else across)
    columns = [*columns, *further]
    columns = [Column(format.words_of(c), c) if isinstance(c, str) else c for c in columns]
    lines: dict[str, list[Mapping]] = {}
    for row in rows:
        lines.setdefault(name_of(row), []).append(row)
    cells = {name: [_cell(found, each) for each in columns] for name, found in lines.items()}
    cells = {name: line for name, line in cells.items() if any(map(str, line))}
    used = [i for i in range(len(columns)) if any(str(line[i]) for line in cells.values())]
    return Table(
        title,
        [heading, *(columns[i].heading for i in used)],
        [[name, *(line[i] for i in used)] for name, line in cells.items()],
        note,
        folded,
        [i for i, name in enumerate(cells) if name in strong],
    )


def columns_of(rows: Sequence[Mapping], across: str = "method") -> list[Column]:
    """Make a column of each metric that rows have, of each value of a field where it has several,
    with p beside differences; before all of them, the number of values of a line's first."""
    tested = {r["metric"] for r in rows if r.get("against") or r["metric"].endswith("difference")}
    values: dict[str, dict] = {}
    for row in rows:
        values.setdefault(row["metric"], {})[row.get(across)] = None
    made = [Column("n", "", show="n")]
    for metric, names in values.items():
        for name in names:
            words = ", ".join([format.words_of(metric), *[str(name)] * (len(names) > 1)])
            made.append(Column(words, metric, where={across: name}))
            if metric in tested:
                made.append(Column("p", metric, show="p", where={across: name}))
    return made


def family_table(title: str, rows: Sequence[Mapping], family: str, **more) -> Table:
    """Make a table with a line for each part of a family. more: as in `table_of`."""
    return table_of(title, select(rows, family=family), "leaf", **more)


def metrics_table(title: str, rows: Sequence[Mapping], by: str = "method", note: str = "") -> Table:
    """Make a table with a line for each metric, and a column for each value of the field `by`."""
    across = dict.fromkeys(row.get(by) for row in rows)
    columns = [Column(each or "value", "", where={by: each}) for each in across]
    return table_of(title, rows, lambda row: format.words_of(row["metric"]), columns, note=note)


def _cell(rows: Sequence[Mapping], column: Column) -> str | Cell:
    metric = {"metric": column.metric} if column.metric else {}
    row = find(rows, **metric, **column.where)
    if row is None:
        return ""
    if callable(column.show):
        return column.show(row)
    form = column.form or format.form_of(row["metric"], difference="against" in row)
    if column.show == "value":
        return Cell(format.number(row["value"], form), format.interval(row, form))
    if column.show == "p":
        return format.probability(row.get("p"))
    value = row["value"] if column.show == "plain" else row.get(column.show)
    return format.number(value, format.COUNT if column.show == "n" else form)
