"""Lines, dots and words of a picture, as SVG text.

The page's style sheet gives the colours, so one picture serves light, dark and paper, and its
labels stay real text.
"""

import math
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

import numpy as np


class Axes(NamedTuple):
    """Data limits, and the picture's size and margins in SVG units."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: int = 340
    height: int = 250
    left: int = 42
    right: int = 12
    top: int = 34
    bottom: int = 44

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            round(float(self.left + across * (self.width - self.left - self.right)), 1),
            round(
                float(self.height - self.bottom - up * (self.height - self.top - self.bottom)), 1
            ),
        )


def svg(title: str, label: str, axes: Axes, body: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {axes.width} {axes.height}" role="img" '
        f'aria-label="{escaped(f"{title}. {label}")}">'
        f"<title>{escaped(title)}</title>{''.join(body)}</svg>"
    )


def frame(
    axes: Axes, x_ticks: Sequence[float], y_ticks: Sequence[float], x_name: str, percent=False
) -> list[str]:
    """Horizontal grid lines with their numbers, numbers below, and what runs along the bottom."""
    bottom = axes.height - axes.bottom
    parts = []
    for tick in y_ticks:
        parts.append(line(axes, axes.x[0], tick, axes.x[1], tick, "grid"))
        number = f"{tick:.0%}" if percent else tick_label(tick, y_ticks)
        parts.append(words(*shift(axes.at(axes.x[0], tick), -7, 4), number, "tick end"))
    for tick in x_ticks:
        x = axes.at(tick, axes.y[0])[0]
        parts.append(words(x, bottom + 17, tick_label(tick, x_ticks), "tick middle"))
    parts.append(line(axes, axes.x[0], axes.y[0], axes.x[1], axes.y[0], "axis"))
    if x_name:
        middle = (axes.left + axes.width - axes.right) / 2
        parts.append(words(middle, axes.height - 6, x_name, "note middle"))
    return parts


def legend(entries: Sequence[tuple[str, str]]) -> list[str]:
    parts, x = [], 8.0
    for kind, name in entries:
        parts.append(f'<line class="rule {kind}" x1="{x}" y1="13" x2="{x + 20}" y2="13"/>')
        parts.append(words(x + 26, 17, name, "tick"))
        x += 44 + 6.4 * len(name)
    return parts


def polyline(axes: Axes, x: np.ndarray, y: np.ndarray, kind: str) -> str:
    points = " ".join("{},{}".format(*axes.at(*point)) for point in zip(x, y, strict=True))
    return f'<polyline class="{kind}" points="{points}"/>'


def line(axes: Axes, x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    (a, b), (c, d) = axes.at(x1, y1), axes.at(x2, y2)
    return f'<line class="{kind}" x1="{a}" y1="{b}" x2="{c}" y2="{d}"/>'


def dot(axes: Axes, x: float, y: float, kind: str, radius: float = 3.5) -> str:
    a, b = axes.at(x, y)
    return f'<circle class="dot {kind}" cx="{a}" cy="{b}" r="{radius}"/>'


def words(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escaped(text)}</text>'


def escaped(text: str) -> str:
    """Text for HTML and SVG, without the control characters that neither allows."""
    return escape(re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]", "\ufffd", text))


def shift(point: tuple[float, float], x: float, y: float) -> tuple[float, float]:
    return point[0] + x, point[1] + y


def padded(low: float, high: float, share: float) -> tuple[float, float]:
    """Limits a share wider on both sides, and never empty."""
    span = high - low
    if span <= 1e-9 * max(1.0, abs(low), abs(high)):
        return float(low - 0.5), float(high + 0.5)
    return float(low - share * span), float(high + share * span)


def round_ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers within the limits: multiples of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [step * i for i in range(first, last + 1)]


def tick_label(value: float, among: Sequence[float]) -> str:
    """A tick's number with just the decimals that its neighbours need."""
    step = among[1] - among[0] if len(among) > 1 else max(abs(value), 1e-9)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{decimals}f}".replace("-", "−")
