"""The report's pictures, as SVG text.

Written by hand rather than drawn by a plotting library: the page's style sheet gives the colours,
so one picture serves light, dark and paper, and its labels stay real text.
Every function returns one `<svg>` element, or None where there is nothing to draw.
"""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

MOST_POINTS = 300  # of a curve; more cannot be told apart at this size
STRENGTHS = {"1": "slightly", "2": "better", "3": "much better"}


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


def loss_curve(
    train: Iterable[tuple[float, float]], validation: Iterable[tuple[float, float]]
) -> str | None:
    """Loss over steps: the logged steps faint, their running mean solid, validation as dots."""
    train = np.array(sorted(point for point in train if math.isfinite(point[1])), float)
    validation = np.array(sorted(p for p in validation if math.isfinite(p[1])), float)
    if not len(train):
        return None
    steps, values = _thinned(train)
    smooth = _running_mean(values, max(1, len(values) // 12))
    shown = np.concatenate([smooth, validation[:, 1] if len(validation) else []])
    # A few wild steps must not flatten the rest of the picture: they are cut at its edge.
    low = min(shown.min(), np.quantile(values, 0.01))
    high = max(shown.max(), np.quantile(values, 0.99))
    all_steps = np.concatenate([steps, validation[:, 0] if len(validation) else []])
    axes = Axes(_padded(all_steps.min(), all_steps.max(), 0), _padded(low, high, 0.08))
    body = [
        _path(axes, steps, np.clip(values, *axes.y), "curve faint one"),
        _path(axes, steps, smooth, "curve one"),
    ]
    legend = [("one", "training")]
    label = (
        f"Training loss from {smooth[0]:.3g} to {smooth[-1]:.3g} over {len(train)} logged steps."
    )
    if len(validation):
        body.append(_path(axes, *validation.T, "curve two dashed"))
        body += [_dot(axes, step, loss, "two") for step, loss in validation]
        legend.append(("two", "validation"))
        label += f" Validation loss ends at {validation[-1, 1]:.3g}."
    frame = _frame(axes, _ticks(*axes.x), _ticks(*axes.y), "step")
    return _svg("Loss over steps", label, axes, [*frame, *body, *_legend(legend)])


def reward_histograms(chosen: Sequence[float], rejected: Sequence[float]) -> str | None:
    """Rewards of chosen and of rejected responses in the same bins, their means as lines."""
    if not len(chosen):
        return None
    sides = np.array([chosen, rejected], float)
    limits = _padded(sides.min(), sides.max(), 0.02)
    edges = np.linspace(*limits, 5 + min(24, int(2 * math.sqrt(sides.shape[1]))))
    counts = [np.histogram(side, edges)[0] for side in sides]
    axes = Axes(limits, (0, 1.08 * max(count.max() for count in counts)))
    body = []
    for colour, count, side in zip(("one", "two"), counts, sides, strict=True):
        outline = np.concatenate([[0], np.repeat(count, 2), [0]])
        body.append(_path(axes, np.repeat(edges, 2), outline, f"area {colour}"))
        body.append(_line(axes, side.mean(), 0, side.mean(), axes.y[1], f"mean {colour}"))
    label = (
        f"{len(chosen)} pairs: the chosen responses' mean reward is {sides[0].mean():.2f}, "
        f"the rejected responses' {sides[1].mean():.2f}."
    )
    whole = [tick for tick in _ticks(*axes.y) if tick == int(tick)]
    frame = _frame(axes, _ticks(*axes.x), whole, "reward (vertical lines: means)")
    legend = _legend([("one", "chosen"), ("two", "rejected")])
    return _svg("Rewards of chosen and rejected responses", label, axes, [*frame, *body, *legend])


def accuracy_by_strength(preferences: dict) -> str | None:
    """Accuracy on all pairs and per strength with 95 % intervals, beside chance and length.

    A corpus without strengths has them all equal; then there is only "all pairs".
    """
    columns = [("all pairs", preferences)]
    if len(preferences["by_strength"]) > 1:
        columns += [(STRENGTHS[level], part) for level, part in preferences["by_strength"].items()]
    baseline = preferences["length_baseline"]["accuracy"]
    low = min([0.4, baseline - 0.05, *(result["interval"][0] for _, result in columns)])
    axes = Axes((0, len(columns)), (max(0.0, math.floor(10 * low) / 10), 1.0), bottom=50)
    ticks = [t / 10 for t in range(11) if t / 10 >= axes.y[0]]
    ticks = ticks if len(ticks) < 8 else [t for t in ticks if round(10 * t) % 2 == 0]
    body = _frame(axes, [], ticks, "", percent=True)
    body.append(_line(axes, 0, 0.5, axes.x[1], 0.5, "rule dotted"))
    body.append(_line(axes, 0, baseline, axes.x[1], baseline, "rule two dashed"))
    for i, (name, result) in enumerate(columns):
        x, bottom = i + 0.5, axes.height - axes.bottom
        body += [
            _line(axes, x, result["interval"][0], x, result["interval"][1], "bar one"),
            _dot(axes, x, result["accuracy"], "one", 5),
            _text(
                *_shift(axes.at(x, result["accuracy"]), 9, 4), f"{result['accuracy']:.0%}", "value"
            ),
            _text(axes.at(x, 0)[0], bottom + 17, name, "tick middle"),
            _text(axes.at(x, 0)[0], bottom + 33, f"{result['pairs']:,}", "note middle"),
        ]
    body.append(_text(axes.left - 6, axes.height - axes.bottom + 34, "pairs", "note end"))
    label = f"The longer response wins on {baseline:.1%} of the pairs. " + " ".join(
        f"{name}: {r['accuracy']:.1%}, interval {r['interval'][0]:.1%} to {r['interval'][1]:.1%}."
        for name, r in columns
    )
    legend = [("one", "this model"), ("two dashed", "longer wins"), ("dotted", "chance")]
    body += _legend(legend)
    return _svg("Accuracy on pairs", label, axes, body)


def predicted_against_rating(
    name: str, predicted: Sequence[float], rating: Sequence[float]
) -> str | None:
    """Predictions for each human rating (rounded): median, middle half, and 5th to 95th percentile.

    The diagonal is where a perfect prediction would lie.
    """
    if not len(rating):
        return None
    predicted, levels = np.asarray(predicted, float), np.rint(np.asarray(rating, float)).astype(int)
    first, last = int(levels.min()), int(levels.max())
    shown = {
        level: np.quantile(predicted[levels == level], [0.05, 0.25, 0.5, 0.75, 0.95])
        for level in range(first, last + 1)
        if (levels == level).any()
    }
    limits = [first, last, *(q[0] for q in shown.values()), *(q[4] for q in shown.values())]
    axes = Axes(
        (first - 0.5, last + 0.5),
        _padded(min(limits), max(limits), 0.05),
        *(340, 240, 30, 12, 10, 54),
    )
    body = _frame(axes, [], _ticks(*axes.y, 5), "")
    body.append(_line(axes, first, first, last, last, "rule dotted"))
    for level in range(first, last + 1):
        x, below = axes.at(level, first)[0], axes.height - axes.bottom
        body.append(_text(x, below + 16, str(level), "tick middle"))
        body.append(_text(x, below + 31, f"{(levels == level).sum():,}", "note middle"))
    for level, q in shown.items():
        body.append(_line(axes, level, q[0], level, q[4], "bar thin one"))
        body.append(_line(axes, level, q[1], level, q[3], "bar thick one"))
        body.append(_dot(axes, level, q[2], "one hollow", 4.5))
    medians = [f"{level}: {q[2]:.2f}" for level, q in shown.items()]
    middle = (axes.left + axes.width - axes.right) / 2
    body.append(_text(middle, axes.height - 5, "human rating, and how many", "note middle"))
    label = f"Median prediction for each human rating of {name}: {', '.join(medians)}."
    return _svg(f"Predicted and human {name}", label, axes, body)


def _svg(title: str, label: str, axes: Axes, body: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {axes.width} {axes.height}" role="img" '
        f'aria-label="{escape(f"{title}. {label}")}">'
        f"<title>{escape(title)}</title>{''.join(body)}</svg>"
    )


def _frame(
    axes: Axes, x_ticks: Sequence[float], y_ticks: Sequence[float], x_name: str, percent=False
) -> list[str]:
    """Horizontal grid lines with their numbers, numbers below, and what runs along the bottom."""
    bottom = axes.height - axes.bottom
    parts = []
    for tick in y_ticks:
        parts.append(_line(axes, axes.x[0], tick, axes.x[1], tick, "grid"))
        number = f"{tick:.0%}" if percent else _number(tick, y_ticks)
        parts.append(_text(*_shift(axes.at(axes.x[0], tick), -7, 4), number, "tick end"))
    for tick in x_ticks:
        x = axes.at(tick, axes.y[0])[0]
        parts.append(_text(x, bottom + 17, _number(tick, x_ticks), "tick middle"))
    parts.append(_line(axes, axes.x[0], axes.y[0], axes.x[1], axes.y[0], "axis"))
    if x_name:
        middle = (axes.left + axes.width - axes.right) / 2
        parts.append(_text(middle, axes.height - 6, x_name, "note middle"))
    return parts


def _legend(entries: Sequence[tuple[str, str]]) -> list[str]:
    parts, x = [], 8.0
    for kind, name in entries:
        parts.append(f'<line class="rule {kind}" x1="{x}" y1="13" x2="{x + 20}" y2="13"/>')
        parts.append(_text(x + 26, 17, name, "tick"))
        x += 44 + 6.4 * len(name)
    return parts


def _path(axes: Axes, x: np.ndarray, y: np.ndarray, kind: str) -> str:
    points = " ".join("{},{}".format(*axes.at(*point)) for point in zip(x, y, strict=True))
    return f'<polyline class="{kind}" points="{points}"/>'


def _line(axes: Axes, x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    (a, b), (c, d) = axes.at(x1, y1), axes.at(x2, y2)
    return f'<line class="{kind}" x1="{a}" y1="{b}" x2="{c}" y2="{d}"/>'


def _dot(axes: Axes, x: float, y: float, kind: str, radius: float = 3.5) -> str:
    a, b = axes.at(x, y)
    return f'<circle class="dot {kind}" cx="{a}" cy="{b}" r="{radius}"/>'


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(text)}</text>'


def _shift(point: tuple[float, float], x: float, y: float) -> tuple[float, float]:
    return point[0] + x, point[1] + y


def _padded(low: float, high: float, share: float) -> tuple[float, float]:
    """Limits a share wider on both sides, and never empty."""
    span = high - low
    if span <= 1e-9 * max(1.0, abs(low), abs(high)):
        return float(low - 0.5), float(high + 0.5)
    return float(low - share * span), float(high + share * span)


def _ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers within the limits: multiples of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [step * i for i in range(first, last + 1)]


def _number(value: float, among: Sequence[float]) -> str:
    """A tick's number with just the decimals that its neighbours need."""
    step = among[1] - among[0] if len(among) > 1 else max(abs(value), 1e-9)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{decimals}f}".replace("-", "−")


def _thinned(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most MOST_POINTS points: means of neighbours. `points` is [n, 2]."""
    parts = np.array_split(points, min(len(points), MOST_POINTS))
    return np.array([part.mean(axis=0) for part in parts]).T


def _running_mean(values: np.ndarray, reach: int) -> np.ndarray:
    """Mean over the neighbours up to `reach` away on both sides, fewer at the ends."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    first, end = np.maximum(at - reach, 0), np.minimum(at + reach + 1, len(values))
    return (total[end] - total[first]) / (end - first)
