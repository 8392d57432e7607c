"""The parts of a page, the rule for its verdicts, and how it is set as HTML and Markdown."""

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from hs2jax.report import format


class Verdict(NamedTuple):
    tone: str  # "good", "unsure" or "bad"
    label: str
    sentence: str


class Group(NamedTuple):
    """The heading over some figures, and what they need to be understood."""

    title: str = ""
    note: str = ""


class Figure(NamedTuple):
    caption: str
    svg: str  # as `charts` makes it
    chief: bool = False  # shown larger
    group: Group = Group()


class Cell(NamedTuple):
    """A value with its interval, which stands beside it or, where that is too wide, below."""

    text: str
    interval: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.interval})" if self.interval else self.text


class Table(NamedTuple):
    """Cells as text. Two columns without headings are a listing of names and values."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    note: str = ""
    folded: bool = False  # long listings, shown when asked for
    strong: Sequence[int] = ()  # rows that sum up others

    def is_listing(self) -> bool:
        return len(self.columns) == 2 and not any(self.columns)


class Answer(NamedTuple):
    """A response; `facts` are its reward, ratings, length and the like."""

    role: str
    facts: str
    text: str


class Case(NamedTuple):
    """A prompt with responses to it, such as a mistake."""

    heading: str
    prompt: str
    answers: Sequence[Answer]


class Section(NamedTuple):
    """What the page says of one thing; all verdicts stand at the top of the page."""

    title: str
    verdicts: Sequence[Verdict] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    cases: Sequence[Case] = ()
    cases_title: str = "Worst mistakes"

    def without_empty(self) -> "Section":
        """Leave out figures where there was nothing to draw, and tables without a line."""
        figures = [figure for figure in self.figures if figure.svg]
        return self._replace(figures=figures, tables=[each for each in self.tables if each.rows])

    def grouped(self) -> list[tuple[Group, list[Figure]]]:
        """The figures under their headings, which must stand together."""
        parts = itertools.groupby(self.figures, key=lambda figure: figure.group)
        return [(group, list(figures)) for group, figures in parts]


# Verdicts ---------------------------------------------------------------------------------------


def side_of(row: Mapping | None) -> str:
    """Tell on which side of its reference the interval of a row lies: "better" or "worse" where it
    excludes the reference, else "not shown"."""
    needed = ("reference", "low", "high")
    if row is None or any(row.get(name) is None for name in needed):
        return "not shown"
    above, below = row["low"] > row["reference"], row["high"] < row["reference"]
    if not (above or below):
        return "not shown"
    return "better" if above == (row.get("better", "higher") == "higher") else "worse"


def verdict_of(rows: Mapping[str, Mapping | None], sentence: str) -> Verdict:
    """Judge one thing by rows that each hold it against something.

    rows: by what they are held against, as in {"chance": accuracy, "counting characters": lead}.
    Worse than any is bad, better than all is good, and everything else is not shown.
    """
    sides: dict[str, list[str]] = {"better": [], "worse": [], "not shown": []}
    for than, row in rows.items():
        sides[side_of(row)].append(than)
    if sides["worse"]:
        return Verdict("bad", f"Worse than {format.listed(sides['worse'])}", sentence)
    if sides["not shown"] or not rows:
        than = format.listed(sides["not shown"] or ["chance"])
        return Verdict("unsure", f"Not shown to be better than {than}", sentence)
    return Verdict("good", f"Better than {format.listed(sides['better'])}", sentence)


def verdict_over(rows: Mapping[str, Mapping | None], than: str, sentence: str) -> Verdict:
    """Judge several things, such as attributes, by a row each that holds it against the same.

    All better is good; some worse and none better is bad; everything else is mixed or not shown.
    """
    sides = {name: side_of(row) for name, row in rows.items()}
    better = [name for name, side in sides.items() if side == "better"]
    worse = [name for name, side in sides.items() if side == "worse"]
    if better and len(better) == len(sides):
        everywhere = f" on all {len(sides)}" if len(sides) > 1 else ""
        return Verdict("good", f"Better than {than}{everywhere}", sentence)
    if not better and not worse:
        return Verdict("unsure", f"Not shown to be better than {than}", sentence)
    label = f"Better than {than} on {format.listed(better)}" if better else f"Worse than {than}"
    if worse:
        label += f"{', worse' * bool(better)} on {format.listed(worse)}"
    if len(better) + len(worse) < len(sides):
        label += ", otherwise not shown"
    return Verdict("unsure" if better else "bad", label, sentence)


# Pages ------------------------------------------------------------------------------------------


def render(name: str, title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Set a page by a template, "html" or "md": with every text in it escaped, and figures taken as
    they are."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=name == "html",
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: format.clean(value) if type(value) is str else value,
    )
    numbers = itertools.count(1)
    environment.filters["inline"] = lambda svg: Markup(_with_own_ids(svg, next(numbers)))
    environment.filters |= {"plain": _plain, "quoted": _quoted}
    template = environment.get_template(f"template.{name}.j2")
    sections = [section.without_empty() for section in sections]
    return template.render(title=title, subtitle=subtitle, sections=sections)


def _with_own_ids(svg: str, figure: int) -> str:
    """Keep the ids of several figures on one page apart."""
    return re.sub(r'( id="|url\(#|href="#)', rf"\g<1>f{figure}-", svg)


def _plain(text: str) -> str:
    """Text that cannot end a table cell of Markdown or begin markup."""
    return re.sub(r"([\\|<>`*\[\]])", r"\\\1", " ".join(text.split()))


def _quoted(text: str) -> str:
    """A code block of indented lines, which no content can close."""
    return "\n".join("    " + line for line in (text or "(empty)").splitlines())
