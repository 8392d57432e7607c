"""The parts of a page, the rule for its verdicts, and how it is set as HTML and Markdown."""

import itertools
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from hs2jax.report import format


class Verdict(NamedTuple):
    tone: str  # "good", "unsure" or "bad"
    label: str
    sentence: str


class Figure(NamedTuple):
    """A chart; one with nothing to draw is left out, as is a table without rows."""

    title: str
    svg: str  # as `charts` makes it


class Cell(NamedTuple):
    """A value, its interval, and where they are drawn, the places of value, ends and reference."""

    text: str
    interval: str = ""
    track: Sequence[float | None] = ()

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


class Opening(NamedTuple):
    """The top of a page: large numbers, as (value, interval, words), facts by name,
    and a remark."""

    numbers: Sequence[tuple[str, str, str]] = ()
    facts: Mapping[str, str] = {}
    note: str = ""


NOTHING = Opening()


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
    """A part of the page, about one thing; all verdicts stand at the top of the page."""

    title: str
    verdicts: Sequence[Verdict] = ()
    parts: Sequence[Figure | Table] = ()
    cases: Sequence[Case] = ()
    cases_title: str = "Worst mistakes"
    note: str = ""


def verdict_of(
    rows: Mapping[str, Mapping], than: str = "", *, subject: str = "", note: str = ""
) -> Verdict:
    """Judge one thing by rows that each hold it against something; or with `than`, several things,
    such as attributes, by rows that each hold one against the same.

    rows: by what they are held against, as in {"chance": accuracy, "length": lead};
    with `than`, by the things. subject: what is judged. All better is good; one thing that is worse
    than any is bad, and so are several of which none is better and some are worse.
    """
    sides: dict[str, list[str]] = {"better": [], "worse": [], "not shown to be better": []}
    for name, row in rows.items():
        side, ends = "not shown to be better", [row.get(x) for x in ("low", "reference", "high")]
        if None not in ends and not ends[0] <= ends[1] <= ends[2]:
            above = ends[0] > ends[1]
            side = "better" if above == (row.get("better", "higher") == "higher") else "worse"
        sides[side].append(name)
    tone = "good" if len(sides["better"]) == len(rows) else "unsure"
    if sides["worse"] and not (than and sides["better"]):
        tone, sides = "bad", {"worse": sides.pop("worse"), **sides}
    said: list[str] = []
    for side, names in sides.items():
        if names:
            where = f" than {than}" * (not said) + " on " if than else " than "
            said.append(f"{side}{where}{format.listed(names)}")
    label = f"{subject}: {', '.join(said)}" if subject else format.capital(", ".join(said))
    if than:  # Of one metric.
        metric = format.words_of(next(iter(rows.values()))["metric"])
        numbers = [f"{name} {format.value(row, '')}" for name, row in rows.items()]
        sentence = f"{format.capital(metric)}, with 95% intervals: {'; '.join(numbers)}."
    else:
        sentence = format.sentence(rows.values())
    sentence = f"{sentence} {note}".rstrip()
    return Verdict(tone, label, sentence)


def render(
    name: str, title: str, subtitle: str, sections: Sequence[Section], opening: Opening = NOTHING
) -> str:
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
    environment.filters["inline"] = lambda figure: Markup(_inline(figure, next(numbers)))
    environment.filters |= {"plain": _plain, "quoted": _quoted}
    template = environment.get_template(f"template.{name}.j2")
    return template.render(title=title, subtitle=subtitle, sections=sections, opening=opening)


def _inline(figure: Figure, number: int) -> str:
    """Name a figure's <svg>, and keep the ids of several on one page apart."""
    text = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>f{number}-", figure.svg)
    return text.replace("<svg", f'<svg aria-label="{escape(format.clean(figure.title))}"', 1)


def _plain(text: str) -> str:
    """Text that cannot end a table cell of Markdown or begin markup."""
    return re.sub(r"([\\|<>`*\[\]])", r"\\\1", " ".join(text.split()))


def _quoted(text: str) -> str:
    """A code block of indented lines, which no content can close."""
    return "\n".join("    " + line for line in (text or "(empty)").splitlines())
