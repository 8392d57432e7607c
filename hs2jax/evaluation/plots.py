"""The report's pictures, as SVG text.

Written by hand rather than drawn by a plotting library: the page's style sheet gives the colours,
so one picture serves light, dark and paper, and its labels stay real text.
Every function returns one `<svg>` element, or None where there is nothing to draw.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from hs2jax.evaluation import drawing

MOST_POINTS = 300  # of a curve; more cannot be told apart at this size
STRENGTHS = {"1": "slightly", "2": "better", "3": "much better"}


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
    axes = drawing.Axes(
        drawing.padded(all_steps.min(), all_steps.max(), 0), drawing.padded(low, high, 0.08)
    )
    body = [
        drawing.polyline(axes, steps, np.clip(values, *axes.y), "curve faint one"),
        drawing.polyline(axes, steps, smooth, "curve one"),
    ]
    legend = [("one", "training")]
    label = (
        f"Training loss from {smooth[0]:.3g} to {smooth[-1]:.3g} over {len(train)} logged steps."
    )
    if len(validation):
        body.append(drawing.polyline(axes, *validation.T, "curve two dashed"))
        body += [drawing.dot(axes, step, loss, "two") for step, loss in validation]
        legend.append(("two", "validation"))
        label += f" Validation loss ends at {validation[-1, 1]:.3g}."
    frame = drawing.frame(axes, drawing.round_ticks(*axes.x), drawing.round_ticks(*axes.y), "step")
    return drawing.svg("Loss over steps", label, axes, [*frame, *body, *drawing.legend(legend)])


def reward_histograms(chosen: Sequence[float], rejected: Sequence[float]) -> str | None:
    """Rewards of chosen and of rejected responses in the same bins, their means as lines."""
    if not len(chosen):
        return None
    sides = np.array([chosen, rejected], float)
    limits = drawing.padded(sides.min(), sides.max(), 0.02)
    edges = np.linspace(*limits, 5 + min(24, int(2 * math.sqrt(sides.shape[1]))))
    counts = [np.histogram(side, edges)[0] for side in sides]
    axes = drawing.Axes(limits, (0, 1.08 * max(count.max() for count in counts)))
    body = []
    for colour, count, side in zip(("one", "two"), counts, sides, strict=True):
        outline = np.concatenate([[0], np.repeat(count, 2), [0]])
        body.append(drawing.polyline(axes, np.repeat(edges, 2), outline, f"area {colour}"))
        body.append(drawing.line(axes, side.mean(), 0, side.mean(), axes.y[1], f"mean {colour}"))
    label = (
        f"{len(chosen)} pairs: the chosen responses' mean reward is {sides[0].mean():.2f}, "
        f"the rejected responses' {sides[1].mean():.2f}."
    )
    whole = [tick for tick in drawing.round_ticks(*axes.y) if tick == int(tick)]
    frame = drawing.frame(
        axes, drawing.round_ticks(*axes.x), whole, "reward (vertical lines: means)"
    )
    legend = drawing.legend([("one", "chosen"), ("two", "rejected")])
    return drawing.svg(
        "Rewards of chosen and rejected responses", label, axes, [*frame, *body, *legend]
    )


def accuracy_by_strength(preferences: dict) -> str | None:
    """Accuracy on all pairs and per strength with 95 % intervals, beside chance and length.

    A corpus without strengths has them all equal; then there is only "all pairs".
    """
    columns = [("all pairs", preferences)]
    if len(preferences["by_strength"]) > 1:
        columns += [(STRENGTHS[level], part) for level, part in preferences["by_strength"].items()]
    baseline = preferences["length_baseline"]["accuracy"]
    low = min([0.4, baseline - 0.05, *(result["interval"][0] for _, result in columns)])
    axes = drawing.Axes((0, len(columns)), (max(0.0, math.floor(10 * low) / 10), 1.0), bottom=50)
    ticks = [t / 10 for t in range(11) if t / 10 >= axes.y[0]]
    ticks = ticks if len(ticks) < 8 else [t for t in ticks if round(10 * t) % 2 == 0]
    body = drawing.frame(axes, [], ticks, "", percent=True)
    body.append(drawing.line(axes, 0, 0.5, axes.x[1], 0.5, "rule dotted"))
    body.append(drawing.line(axes, 0, baseline, axes.x[1], baseline, "rule two dashed"))
    for i, (name, result) in enumerate(columns):
        x, bottom = i + 0.5, axes.height - axes.bottom
        body += [
            drawing.line(axes, x, result["interval"][0], x, result["interval"][1], "bar one"),
            drawing.dot(axes, x, result["accuracy"], "one", 5),
            drawing.words(
                *drawing.shift(axes.at(x, result["accuracy"]), 9, 4),
                f"{result['accuracy']:.0%}",
                "value",
            ),
            drawing.words(axes.at(x, 0)[0], bottom + 17, name, "tick middle"),
            drawing.words(axes.at(x, 0)[0], bottom + 33, f"{result['pairs']:,}", "note middle"),
        ]
    body.append(drawing.words(axes.left - 6, axes.height - axes.bottom + 34, "pairs", "note end"))
    label = f"The longer response wins on {baseline:.1%} of the pairs. " + " ".join(
        f"{name}: {r['accuracy']:.1%}, interval {r['interval'][0]:.1%} to {r['interval'][1]:.1%}."
        for name, r in columns
    )
    legend = [("one", "this model"), ("two dashed", "longer wins"), ("dotted", "chance")]
    body += drawing.legend(legend)
    return drawing.svg("Accuracy on pairs", label, axes, body)


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
    axes = drawing.Axes(
        (first - 0.5, last + 0.5),
        drawing.padded(min(limits), max(limits), 0.05),
        *(340, 240, 30, 12, 10, 54),
    )
    body = drawing.frame(axes, [], drawing.round_ticks(*axes.y, 5), "")
    body.append(drawing.line(axes, first, first, last, last, "rule dotted"))
    for level in range(first, last + 1):
        x, below = axes.at(level, first)[0], axes.height - axes.bottom
        body.append(drawing.words(x, below + 16, str(level), "tick middle"))
        body.append(drawing.words(x, below + 31, f"{(levels == level).sum():,}", "note middle"))
    for level, q in shown.items():
        body.append(drawing.line(axes, level, q[0], level, q[4], "bar thin one"))
        body.append(drawing.line(axes, level, q[1], level, q[3], "bar thick one"))
        body.append(drawing.dot(axes, level, q[2], "one hollow", 4.5))
    medians = [f"{level}: {q[2]:.2f}" for level, q in shown.items()]
    middle = (axes.left + axes.width - axes.right) / 2
    body.append(drawing.words(middle, axes.height - 5, "human rating, and how many", "note middle"))
    label = f"Median prediction for each human rating of {name}: {', '.join(medians)}."
    return drawing.svg(f"Predicted and human {name}", label, axes, body)


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
