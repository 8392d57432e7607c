"""The charts of a page, drawn by matplotlib in colours that the page's style sheet gives, so that
one picture serves light, dark and paper.

Every function returns one <svg> element, or "" where there is nothing to draw.
"""

import functools
import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from hs2jax.report import format

WIDTH, HEIGHT = 340, 250  # SVG units; about the pixels of a phone.

# Stand-ins, for matplotlib wants to know colours; on the page they are variables. chart.mplstyle
# has them too.
NAMES = ("ink", "soft", "rule", "card", "one", "two", "three", "four")
COLOURS = {name: f"#10fe{i:02x}" for i, name in enumerate(NAMES)}
DAY = ("#1d2126", "#5b646e", "#dfe2e6", "#ffffff", "#0067a6", "#c65102", "#00704d", "#9a4a86")
DOTTED = (0, (1, 1.5))
DASHES = ("-", (0, (6, 3)), (0, (1.5, 2)), (0, (6, 2, 1.5, 2)))
SETTINGS = Path(__file__).with_name("chart.mplstyle")


class Drawn(Figure):
    """A figure that a notebook shows, without pyplot too."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=120, facecolor="white")
        return buffer.getvalue()


class Chart(str):
    """A chart as SVG, with `figure`, which draws it as a matplotlib figure."""

    figure: Callable[[], Drawn]


def drawn(draw: Callable) -> Callable[..., Chart]:
    """Make a function that draws on given axes one that returns what it drew. What has a label gets
    a key above the axes."""

    @functools.wraps(draw)
    def chart(*args, **options) -> Chart:
        def figure() -> Drawn:
            made = Drawn((WIDTH / 72, HEIGHT / 72))
            draw(made.add_subplot(), *args, **options)
            handles, labels = made.axes[0].get_legend_handles_labels()
            if labels:
                # As many beside one another as there is room for.
                columns = max(1, int(WIDTH // (45 + 7 * max(map(len, labels)))))
                columns = min(len(labels), columns)
                made.legend(handles, labels, loc="outside upper left", ncols=columns)
            return made

        with matplotlib.rc_context(fname=SETTINGS):
            stood_in = figure()
            found = Chart(_svg(stood_in) if stood_in.axes[0].has_data() else "")
        found.figure = functools.partial(_by_day, figure)
        return found

    return chart


def _by_day(figure: Callable[[], Drawn]) -> Drawn:
    """Draw a figure in the colours that the page has by day."""
    given = matplotlib.rc_params_from_file(SETTINGS, use_default_template=False)
    names = dict(zip(COLOURS.values(), DAY, strict=True))
    day = {key: names.get(str(value), value) for key, value in given.items()}
    day["axes.prop_cycle"] = matplotlib.cycler(color=DAY[-4:])
    with matplotlib.rc_context(day):
        made = figure()
        made.draw_without_rendering()  # Ticks are made by the settings of then.
    return made


def _svg(figure: Figure) -> str:
    """Write a figure as one <svg> element, without what the page has itself."""
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
def curves(
    axes: Axes,
    lines: Mapping[str, Sequence[Sequence[float | None]]],
    xlabel: str = "step",
    form: str = "",
    *,
    diagonal: str = "",
    most: int = 1000,
) -> None:
    """Draw lines through points (x, y) or (x, y, low, high), by the name of each, interrupted where
    y is None or not finite, and levels where x is None; nothing where all have one x.

    diagonal: the name of the line where y is x, and both have the same form. most: points of a
    line; where there are more, means of some each.
    """
    points = {name: np.array(line, float) for name, line in lines.items() if len(line)}
    levels = {name: line[0, 1] for name, line in points.items() if np.isnan(line[0, 0])}
    points = {name: line for name, line in points.items() if name not in levels}
    x = np.unique([at for line in points.values() for at in line[np.isfinite(line[:, 1]), 0]])
    if len(x) < 2:
        return
    # Side by side, so that intervals at one x do not hide each other.
    apart = 0.05 * np.diff(x).min() if len(points) > 1 else 0.0
    keys = len(points) > 1 or bool(diagonal or levels)
    for i, (name, line) in enumerate(points.items()):
        at, y, *ends = _thin(line, most).T
        if ends := ends if np.isfinite(ends).any() else []:
            at = at + apart * (i - (len(points) - 1) / 2)
            axes.vlines(at, *ends, colors=_series(i)["color"], lw=1.5)
        dotted = {"marker": "o" * (bool(ends) or len(at) <= 12), "ms": 6, "clip_on": False}
        axes.plot(at, y, label=name if keys else None, zorder=3, **dotted, **_series(i))
    if diagonal:
        ends = [0.5 if x[0] >= 0.5 else 0, 1] if form == format.PERCENT else x[[0, -1]]
        soft = matplotlib.rcParams["axes.labelcolor"]
        axes.plot(ends, ends, color=soft, lw=1.2, ls=DOTTED, label=diagonal)
    for i, (name, level) in enumerate(levels.items(), len(points)):
        axes.axhline(level, zorder=1, label=name, **{**_series(i), "lw": 1.5})
    axes.margins(y=0.08)
    axes.set_xlabel(xlabel)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=not (x % 1).any()))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if form == format.PERCENT:
        axes.set_ylim(top=min(axes.get_ylim()[1], 1.02))
        for axis in [axes.yaxis, *[axes.xaxis] * bool(diagonal)]:
            axis.set_major_formatter(PercentFormatter(1.0))


def spread(values: Sequence[float], by: Sequence[float]) -> list[tuple[float, ...]]:
    """Make points for `curves` of values for each of what they are by (rounded): their median, 5th
    and 95th percentile."""
    values, levels = np.asarray(values, float), np.rint(by)
    return [
        (level, *np.quantile(values[levels == level], [0.5, 0.05, 0.95]))
        for level in np.unique(levels)
    ]


def _thin(line: np.ndarray, most: int) -> np.ndarray:
    finite = line[np.isfinite(line[:, 1])]
    if len(finite) <= most:
        return line
    return np.array([part.mean(axis=0) for part in np.array_split(finite, most)])


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
        axes.stairs(*outline, fill=True, color=_series(i)["color"], alpha=0.15, lw=0)
        axes.stairs(*outline, lw=2, **_series(i))
        axes.axvline(values.mean(), lw=1.5, label=name, **_series(i))
    axes.set(xlim=(low, high), ylim=(0, None), xlabel=f"{xlabel} (vertical lines: means)")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))


def _series(i: int) -> dict:
    """Choose the colour and dashes of the i-th of several lines."""
    cycle = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    return {"color": cycle[i % len(cycle)], "ls": DASHES[(i + i // len(cycle)) % len(DASHES)]}


def limits(values: Iterable[float | None], share: float = 0.06) -> tuple[float, float]:
    """Give limits a share wider than the values on both sides, and never empty."""
    found = np.array(list(values), float)
    found = found[np.isfinite(found)] if np.isfinite(found).any() else np.array([0.0, 1.0])
    low, high = float(found.min()), float(found.max())
    room = share * (high - low) if high - low > 1e-9 * max(1.0, abs(low), abs(high)) else 0.5
    return low - room, high + room
