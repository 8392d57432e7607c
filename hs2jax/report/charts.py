"""The charts of a page, drawn by matplotlib.

Every function returns one <svg> element, or "" where there is nothing to draw.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hs2jax.report import format
from hs2jax.report.style import (
    CARD,
    DOTTED,
    RULE,
    SERIES,
    SOFT,
    WIDTH,
    drawing,
    is_number,
    limits,
    series,
    short,
    tick,
)

MOST_POINTS = 60  # Of a curve; single steps are too noisy to be told apart.
TRACK = 44  # Height of a named value, in SVG units.
LETTERS = 48  # Characters that fit over a track.


class Track(NamedTuple):
    """A named value with its interval, on a scale that it shares with others.

    note: beside the value, such as how many it is made from. marks: what others have, as short
    lines. hollow: what cannot be compared with the rest.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""
    marks: Sequence[float] = ()
    hollow: bool = False


def track(row: Mapping, name: str, **more) -> Track:
    """Make a track of a row of results, with how many values it is made from as its note."""
    note = f"{row['n']:,}" if row.get("n") is not None else ""
    return Track(name, row["value"], row.get("low"), row.get("high"), **{"note": note, **more})


def intervals(
    tracks: Sequence[Track],
    form: str = format.PERCENT,
    *,
    span: tuple[float, float] | None = None,
    reference: float | None = None,
    reference_name: str = "chance",
    mark_name: str = "",
) -> str:
    """Draw values with their intervals below one another: name and number over each scale.

    span: of the scale, by default what fits. reference: a dotted line, such as chance.
    """
    if not tracks:
        return ""
    every = [x for each in tracks for x in (*each[1:4], *each.marks)]
    low, high = span or limits([*every, reference])
    top, below, tall = 30, 28, TRACK * len(tracks)
    height = top + tall + below
    place = (10 / WIDTH, below / height, 1 - 20 / WIDTH, tall / height)
    with drawing(height, place) as chart:
        axes = chart.axes
        axes.set(xlim=(low, high), ylim=(-len(tracks), 0), yticks=[])
        axes.spines["bottom"].set_visible(False)
        ticks = [t for t in MaxNLocator(5).tick_values(low, high) if low <= t <= high]
        axes.set_xticks(ticks, [tick(t, form) for t in ticks], color=SOFT)
        for label, at in zip(axes.get_xticklabels(), ticks, strict=True):
            share = (at - low) / (high - low)
            label.set_ha("left" if share < 0.05 else "right" if share > 0.95 else "center")
        for i, each in enumerate(tracks):
            _track(axes, each, -i, form)
            y = -i - 0.72
            # Short, so that no line runs through a name.
            axes.vlines(ticks, y - 0.1, y + 0.1, colors=RULE, lw=1, zorder=1)
            if reference is not None:
                axes.vlines(reference, y - 0.2, y + 0.2, colors=SOFT, lw=1.5, ls=DOTTED)
        if mark_name and any(each.marks for each in tracks):
            chart.key(mark_name, SERIES[1], marker="|", ms=10, mew=2, ls="")
        if reference is not None:
            chart.key(f"{reference_name}, {tick(reference, form)}", SOFT, ls=DOTTED)
        said = [f"{each.name}: {format.number(each.value, form) or 'none'}." for each in tracks]
        return chart.svg(" ".join(said))


def _track(axes, each: Track, top: float, form: str) -> None:
    text = {"va": "center", "transform": axes.get_yaxis_transform()}
    name = short(each.name, LETTERS - len(each.note) - 8)
    axes.text(0, top - 0.28, name, ha="left", **text)
    number = format.number(each.value, form) or "none"
    axes.text(1, top - 0.28, number, ha="right", weight="bold", **text)
    beside = 1 - 58 / (WIDTH - 20)
    axes.text(beside, top - 0.28, each.note, ha="right", color=SOFT, **text)
    y = top - 0.72
    axes.axhline(y, color=RULE, lw=1, zorder=1)
    axes.vlines(each.marks, y - 0.16, y + 0.16, colors=SERIES[1], lw=2, alpha=0.6)
    if each.low is not None and each.high is not None:
        dashes = DOTTED if each.hollow else "-"
        axes.plot([each.low, each.high], [y, y], color=SERIES[0], lw=3, ls=dashes)
    if each.value is not None:
        face = CARD if each.hollow else SERIES[0]
        axes.plot(each.value, y, "o", ms=9, color=SERIES[0], mfc=face, mew=2, clip_on=False)


def curves(
    lines: Mapping[str, Sequence[Sequence[float]]],
    xlabel: str = "step",
    form: str = "",
    *,
    across: Mapping[str, float] | None = None,
    faint: Sequence[Sequence[Sequence[float]]] = (),
    diagonal: str = "",
    whole: bool = True,
    dots: bool | None = None,
) -> str:
    """Draw lines through points (x, y) or (x, y, low, high), by the name of each.

    across: named levels, as lines. faint: lines without a
    name, in the first one's colour. diagonal: the name of the line where y is x, and both have the
    same form. whole: x takes whole numbers only. dots: at each point; by default where there are
    few or they have intervals. A line is interrupted where y is None or not finite.
    """
    numbers = {name: [p for p in line if is_number(p[1])] for name, line in lines.items()}
    if not any(numbers.values()):
        return ""
    with drawing() as chart:
        axes = chart.axes
        for line in faint:
            axes.plot(*_columns(line), color=SERIES[0], lw=1, alpha=0.35)
        x = np.unique([point[0] for line in numbers.values() for point in line])
        # Side by side, so that intervals at one x do not hide each other.
        step = 0.05 * np.diff(x).min() if len(x) > 1 and len(lines) > 1 else 0.0
        for i, (name, line) in enumerate(lines.items()):
            bars = [point for point in numbers[name] if len(point) > 3 and is_number(point[2])]
            shift = step * (i - (len(lines) - 1) / 2) if bars else 0.0
            dotted = dots if dots is not None else bool(bars) or len(line) <= 12
            at, y = _columns(line)
            axes.plot(
                at + shift, y, marker="o" * dotted, ms=6, zorder=3, clip_on=False, **series(i)
            )
            for point in bars:
                axes.vlines(point[0] + shift, *point[2:4], colors=series(i)["color"], lw=1.5)
            if name and (len(lines) > 1 or diagonal or across):
                chart.key(name, **series(i))
        if diagonal:
            ends = [0.5 if x[0] >= 0.5 else 0, 1] if form == format.PERCENT else x[[0, -1]]
            axes.plot(ends, ends, color=SOFT, lw=1.2, ls=DOTTED)
            chart.key(diagonal, SOFT, ls=DOTTED)
        for i, (name, level) in enumerate((across or {}).items(), len(lines)):
            axes.axhline(level, zorder=1, **{**series(i), "lw": 1.5})
            chart.key(name, **series(i))
        axes.margins(y=0.08)
        if form == format.PERCENT:
            axes.set_ylim(top=min(axes.get_ylim()[1], 1.02))
        axes.set_xlabel(xlabel)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=whole))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        for axis in [axes.yaxis, *[axes.xaxis] * bool(diagonal)] if form else []:
            axis.set_major_formatter(FuncFormatter(lambda value, _: tick(value, form)))
        said = [f"{name}: {p[0][1]:.3g} to {p[-1][1]:.3g}." for name, p in numbers.items() if p]
        said += [f"{name}: {level:.3g}." for name, level in (across or {}).items()]
        return chart.svg(" ".join(said))


def training_curve(
    train: Iterable[Sequence[float]], validation: Iterable[Sequence[float]], xlabel: str = "step"
) -> str:
    """Draw the course of a training, points (step, value): means of some logged steps each, and
    validation as dots."""
    train = np.array(sorted(p for p in train if is_number(p[1])), float)
    validation = sorted(p for p in validation if is_number(p[1]))
    if not len(train):
        return ""
    parts = np.array_split(train, min(len(train), MOST_POINTS))
    lines = {"training": [part.mean(axis=0) for part in parts]}
    return curves({**lines, "validation": validation} if validation else lines, xlabel)


def histograms(sides: Mapping[str, Sequence[float]], xlabel: str) -> str:
    """Draw how values are spread, several kinds in the same bins, with their means as lines."""
    sides = {name: np.asarray(values, float) for name, values in sides.items() if len(values)}
    if not sides:
        return ""
    low, high = limits(np.concatenate(list(sides.values())), 0.02)
    bins = 4 + min(24, int(2 * math.sqrt(max(map(len, sides.values())))))
    with drawing() as chart:
        for i, (name, values) in enumerate(sides.items()):
            outline = np.histogram(values, bins, (low, high))
            chart.axes.stairs(*outline, fill=True, color=SERIES[i], alpha=0.15, lw=0)
            chart.axes.stairs(*outline, lw=2, **series(i))
            chart.key(name, **series(i))
            chart.axes.axvline(values.mean(), lw=1.5, **series(i))
        label = f"{xlabel} (vertical lines: means)"
        chart.axes.set(xlim=(low, high), ylim=(0, None), xlabel=label)
        chart.axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        said = [f"{name}: mean {x.mean():.2f} of {len(x)}." for name, x in sides.items()]
        return chart.svg(" ".join(said))


def predicted_by_rating(predicted: Sequence[float], ratings: Sequence[float]) -> str:
    """Draw predictions for each human rating (rounded): median, middle half, 5th to 95th
    percentile; the dotted diagonal is where a perfect prediction would lie."""
    if not len(ratings):
        return ""
    predicted, levels = np.asarray(predicted, float), np.rint(ratings).astype(int)
    shown = {
        level: np.quantile(predicted[levels == level], [0.05, 0.25, 0.5, 0.75, 0.95])
        for level in np.unique(levels).tolist()
    }
    first, last = min(shown), max(shown)
    with drawing() as chart:
        axes = chart.axes
        axes.plot([first, last], [first, last], color=SOFT, lw=1.5, ls=DOTTED)
        for level, (low, quarter, middle, three_quarters, high) in shown.items():
            axes.vlines(level, low, high, colors=SERIES[0], lw=1.5)
            axes.vlines(level, quarter, three_quarters, colors=SERIES[0], lw=10, alpha=0.45)
            axes.plot(level, middle, "o", ms=8, color=SERIES[0], mfc=CARD, mew=2)
        ticks = range(first, last + 1)
        axes.set_xticks(ticks, [f"{level}\n{(levels == level).sum():,}" for level in ticks])
        axes.set(xlim=(first - 0.5, last + 0.5), xlabel="human rating, and how many")
        axes.yaxis.set_major_locator(MaxNLocator(5))
        said = ", ".join(f"{level}: {quantiles[2]:.2f}" for level, quantiles in shown.items())
        return chart.svg(f"Median prediction for each human rating: {said}.")


def _columns(points: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """The x and y of points; NaN where there is no y."""
    x, y = zip(*(point[:2] for point in points), strict=True) if len(points) else ((), ())
    return np.array(x, float), np.array(y, float)
