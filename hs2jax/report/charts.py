"""The charts of a page, drawn by matplotlib in colours that the page's style sheet gives, so that
one picture serves light, dark and paper.

Every function returns one <svg> element, or "" where there is nothing to draw.
"""

import functools
import io
import itertools
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hs2jax.report import format

WIDTH, HEIGHT = 340, 250  # SVG units; about the pixels of a phone.
MOST_POINTS = 60  # Of a curve; single steps are too noisy to be told apart.
MARGIN = 16  # Of a scale with intervals, for half of its last number.
TRACK = 44  # Height of a named value, in SVG units.
LETTERS = 46  # Characters that fit over a track.

# Stand-ins, for matplotlib wants to know colours; on the page they are variables. chart.mplstyle
# has them too.
NAMES = ("ink", "soft", "rule", "card", "one", "two", "three", "four")
COLOURS = {name: f"#10fe{i:02x}" for i, name in enumerate(NAMES)}
INK, SOFT, RULE, CARD, *SERIES = COLOURS.values()
DOTTED = (0, (1, 1.5))
DASHES = ("-", (0, (6, 3)), (0, (1.5, 2)), (0, (6, 2, 1.5, 2)))
SETTINGS = Path(__file__).with_name("chart.mplstyle")


def drawn(draw: Callable) -> Callable[..., str]:
    """Make a function that draws on given axes one that returns what it drew as SVG. What has a
    label gets a key above the axes."""

    @functools.wraps(draw)
    def chart(*args, **options) -> str:
        with matplotlib.rc_context(fname=SETTINGS):
            figure = Figure((WIDTH / 72, HEIGHT / 72))
            axes = figure.add_subplot()
            draw(axes, *args, **options)
            return _svg(figure) if axes.has_data() else ""

    return chart


def _svg(figure: Figure) -> str:
    """Write a figure as one <svg> element, without what the page has itself."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if labels:
        # As many beside one another as there is room for.
        columns = min(len(labels), max(1, int(WIDTH // (45 + 7 * max(map(len, labels))))))
        columns = len(labels) if sum(40 + 6 * len(name) for name in labels) < WIDTH else columns
        place = "outside " * bool(figure.get_layout_engine()) + "upper left"
        figure.legend(handles, labels, loc=place, ncols=columns)
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of letters that its own font has not; the page's has.
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for what in ("<metadata>.*?</metadata>", "<style.*?</style>", "<!--.*?-->"):
        text = re.sub(what, "", text, flags=re.S)
    text = re.sub(r" ?font-family: [^;\"]*;| transform=\"rotate\(-0 [^\"]*\"", "", text)
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    view = re.search(r'viewBox="([^"]+)"', text)[1]
    text = f'<svg viewBox="{view}" role="img">' + text[text.index(">") + 1 :]
    return format.clean(re.sub(r"\s*\n\s*", "\n", text).strip())


@drawn
def intervals(
    axes: Axes,
    rows: Sequence[Mapping],
    form: str = format.PERCENT,
    *,
    span: tuple[float, float] | None = None,
    reference: float | None = None,
    reference_name: str = "chance",
    mark_name: str = "",
) -> None:
    """Draw values with their intervals below one another: name and number over each scale.

    rows: of results; with a `name`, a `note` (by default n), `marks` (what others have, as short
    lines) and `hollow` (what cannot be compared with the rest) where wanted. span: of the scale, by
    default what fits. reference: a dotted line, such as chance.
    """
    if not rows:
        return
    numbers = ((row["value"], row["low"], row["high"], *row.get("marks", ())) for row in rows)
    low, high = span or limits([reference, *itertools.chain(*numbers)])
    top, below, tall = 30, 28, TRACK * len(rows)
    height = top + tall + below
    axes.figure.set_layout_engine("none")
    axes.figure.set_size_inches(WIDTH / 72, height / 72)
    axes.set_position((MARGIN / WIDTH, below / height, 1 - 2 * MARGIN / WIDTH, tall / height))
    axes.set(xlim=(low, high), ylim=(-len(rows), 0), yticks=[])
    axes.spines["bottom"].set_visible(False)
    ticks = [t for t in MaxNLocator(5).tick_values(low, high) if low <= t <= high]
    axes.set_xticks(ticks, [tick(t, form) for t in ticks], color=SOFT)
    for i, row in enumerate(rows):
        _interval(axes, row, -i, form)
        y = -i - 0.72
        # Short, so that no line runs through a name.
        axes.vlines(ticks, y - 0.1, y + 0.1, colors=RULE, lw=1, zorder=1)
        if marks := row.get("marks"):
            axes.plot(marks, [y] * len(marks), "|", color=SERIES[1], ms=13, mew=2, alpha=0.6)
            axes.lines[-1].set_label(mark_name)
            mark_name = ""  # One key is enough.
        if reference is not None:
            axes.vlines(reference, y - 0.2, y + 0.2, colors=SOFT, lw=1.5, ls=DOTTED)
    if reference is not None:
        name = f"{reference_name}, {tick(reference, form)}"
        axes.plot([], [], color=SOFT, ls=DOTTED, label=name)


def _interval(axes: Axes, row: Mapping, top: float, form: str) -> None:
    text = {"va": "center", "transform": axes.get_yaxis_transform()}
    note = row.get("note", "" if row.get("n") is None else f"{row['n']:,}")
    name, room = row["name"], LETTERS - len(note) - 8
    name = name if len(name) <= room else name[: room - 1] + "…"
    axes.text(0, top - 0.28, name, ha="left", **text)
    number = format.number(row["value"], form) or "none"
    axes.text(1, top - 0.28, number, ha="right", weight="bold", **text)
    axes.text(1 - 58 / (WIDTH - 2 * MARGIN), top - 0.28, note, ha="right", color=SOFT, **text)
    y, hollow = top - 0.72, row.get("hollow")
    axes.axhline(y, color=RULE, lw=1, zorder=1)
    if row["low"] is not None and row["high"] is not None:
        dashes = DOTTED if hollow else "-"
        axes.plot([row["low"], row["high"]], [y, y], color=SERIES[0], lw=3, ls=dashes)
    if row["value"] is not None:
        face = CARD if hollow else SERIES[0]
        axes.plot(row["value"], y, "o", ms=9, color=SERIES[0], mfc=face, mew=2, clip_on=False)


@drawn
def curves(
    axes: Axes,
    lines: Mapping[str, Sequence[Sequence[float | None]]],
    xlabel: str = "step",
    form: str = "",
    *,
    across: Mapping[str, float] | None = None,
    faint: Iterable[Sequence[Sequence[float]]] = (),
    diagonal: str = "",
) -> None:
    """Draw lines through points (x, y) or (x, y, low, high), by the name of each, interrupted where
    y is None or not finite.

    across: named levels, as lines. faint: lines without a name, in the first one's colour.
    diagonal: the name of the line where y is x, and both have the same form.
    """
    points = {name: np.array(line, float) for name, line in lines.items() if len(line)}
    if not any(np.isfinite(line[:, 1]).any() for line in points.values()):
        return
    for line in faint:
        axes.plot(*np.array(line, float).T, color=SERIES[0], lw=1, alpha=0.35)
    x = np.unique(np.concatenate([line[:, 0] for line in points.values()]))
    # Side by side, so that intervals at one x do not hide each other.
    apart = 0.05 * np.diff(x).min() if len(x) > 1 and len(points) > 1 else 0.0
    keys = len(points) > 1 or bool(diagonal or across)
    for i, (name, (at, y, *ends)) in enumerate((n, line.T) for n, line in points.items()):
        at = at + apart * (i - (len(points) - 1) / 2) * bool(ends)
        dotted = {"marker": "o" * (bool(ends) or len(at) <= 12), "ms": 6, "clip_on": False}
        axes.plot(at, y, label=name if keys else None, zorder=3, **dotted, **series(i))
        if ends:
            axes.vlines(at, *ends, colors=series(i)["color"], lw=1.5)
    if diagonal:
        ends = [0.5 if x[0] >= 0.5 else 0, 1] if form == format.PERCENT else x[[0, -1]]
        axes.plot(ends, ends, color=SOFT, lw=1.2, ls=DOTTED, label=diagonal)
    for i, (name, level) in enumerate((across or {}).items(), len(points)):
        axes.axhline(level, zorder=1, label=name, **{**series(i), "lw": 1.5})
    axes.margins(y=0.08)
    if form == format.PERCENT:
        axes.set_ylim(top=min(axes.get_ylim()[1], 1.02))
    axes.set_xlabel(xlabel)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=not (x % 1).any()))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    for axis in [axes.yaxis, *[axes.xaxis] * bool(diagonal)] if form else []:
        axis.set_major_formatter(FuncFormatter(lambda value, _: tick(value, form)))


def training_curve(
    train: Sequence[Sequence[float]], validation: Sequence[Sequence[float]], xlabel: str = "step"
) -> str:
    """Draw the course of a training, points (step, value): means of some logged steps each, and
    validation as dots."""
    points = np.array([point for point in sorted(train) if math.isfinite(point[1])])
    parts = np.array_split(points, max(1, min(len(points), MOST_POINTS)))
    lines = {"training": [part.mean(axis=0) for part in parts if len(part)]}
    return curves({**lines, "validation": sorted(validation)} if len(points) else {}, xlabel)


@drawn
def histograms(axes: Axes, sides: Mapping[str, Sequence[float]], xlabel: str) -> None:
    """Draw how values are spread, several kinds in the same bins, with their means as lines."""
    sides = {name: np.asarray(values, float) for name, values in sides.items() if len(values)}
    if not sides:
        return
    low, high = limits(np.concatenate(list(sides.values())), 0.02)
    bins = 4 + min(24, int(2 * math.sqrt(max(map(len, sides.values())))))
    for i, (name, values) in enumerate(sides.items()):
        outline = np.histogram(values, bins, (low, high))
        axes.stairs(*outline, fill=True, color=SERIES[i], alpha=0.15, lw=0)
        axes.stairs(*outline, lw=2, **series(i))
        axes.axvline(values.mean(), lw=1.5, label=name, **series(i))
    axes.set(xlim=(low, high), ylim=(0, None), xlabel=f"{xlabel} (vertical lines: means)")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))


def predicted_by_rating(predicted: Sequence[float], ratings: Sequence[float]) -> str:
    """Draw predictions for each human rating (rounded): median, 5th to 95th percentile; the dotted
    diagonal is where a perfect prediction would lie."""
    predicted, levels = np.asarray(predicted, float), np.rint(ratings)
    found = [
        (level, *np.quantile(predicted[levels == level], [0.5, 0.05, 0.95]))
        for level in np.unique(levels)
    ]
    return curves({"predicted": found}, "human rating", diagonal="as people rate")


def series(i: int) -> dict:
    """Choose the colour and dashes of the i-th of several lines."""
    return {"color": SERIES[i % len(SERIES)], "ls": DASHES[(i + i // len(SERIES)) % len(DASHES)]}


def limits(values: Iterable[float | None], share: float = 0.06) -> tuple[float, float]:
    """Give limits a share wider than the values on both sides, and never empty."""
    found = np.array(list(values), float)
    found = found[np.isfinite(found)] if np.isfinite(found).any() else np.array([0.0, 1.0])
    low, high = float(found.min()), float(found.max())
    empty = high - low <= 1e-9 * max(1.0, abs(low), abs(high))
    room = 0.5 if empty else share * (high - low)
    return low - room, high + room


def tick(value: float, form: str) -> str:
    """Write a number of a scale, without decimals that say nothing."""
    value *= 100 if form in (format.PERCENT, format.POINTS) else 1
    sign = "+" if form == format.POINTS and round(value, 7) else ""
    return f"{value:{sign}.4g}".replace("-", "−") + "%" * (form == format.PERCENT)
