"""Pictures of a judge's evaluation, as SVG text in the manner of `evaluation.plots`.

Every function returns one `<svg>` element, or None where there is nothing to draw.
"""

from collections.abc import Sequence

import numpy as np

from hs2jax.evaluation import drawing

LINES = ("lager_w", "lager_wo", "e_score", "direct")  # Drawn across, where they are there.
GAP = 14  # Between names, in SVG units.
PARTS = 4  # Bins of the judge's scores per step of the scale.


def by_layer(layers: dict[str, Sequence[float | None]], scores: dict[str, float]) -> str | None:
    """Spearman's correlation of each layer's own expected score, and of some scores as lines.

    layers: {"none": [L + 1], "final": [L + 1]}, intermediate states without and with the model's
    final norm; None where it is not defined. scores: {method: value}.
    """
    curves = {
        kind: [(layer, value) for layer, value in enumerate(layers[norm]) if value is not None]
        for kind, norm in (("one", "none"), ("two", "final"))
    }
    values = [value for points in curves.values() for _, value in points]
    if not values:
        return None
    scores = {name: scores[name] for name in LINES if scores.get(name) is not None}
    ends = [0.0, *values, *scores.values()]
    last = max(len(each) for each in layers.values()) - 1
    axes = drawing.Axes(
        drawing.padded(0, last, 0), drawing.padded(min(ends), max(ends), 0.06), height=300, right=72
    )
    body = drawing.frame(axes, _whole(axes.x), drawing.round_ticks(*axes.y), "layer")
    body.append(drawing.line(axes, axes.x[0], 0, axes.x[1], 0, "axis"))
    for value in scores.values():
        body.append(drawing.line(axes, axes.x[0], value, axes.x[1], value, "rule dotted"))
    right = axes.width - axes.right
    at = {name: axes.at(0, value)[1] for name, value in scores.items()}
    for name, y in _apart(at, axes.top, axes.height - axes.bottom).items():
        body.append(f'<line class="grid" x1="{right}" y1="{at[name]}" x2="{right + 8}" y2="{y}"/>')
        body.append(drawing.words(right + 11, y + 4, name, "note"))
    said = []
    for kind, norm in (("two", "with"), ("one", "without")):
        points = curves[kind]
        dashes = " dashed" if kind == "two" else ""
        body += [
            drawing.polyline(axes, *zip(*run, strict=True), f"curve {kind}{dashes}")
            if len(run) > 1
            else drawing.dot(axes, *run[0], kind)
            for run in _runs(points)
        ]
        if points:
            layer, best = max(points, key=lambda point: point[1])
            body.append(drawing.dot(axes, layer, best, kind, 4))
            said.append(f"Best {norm} the final norm: {best:.3f} at layer {layer}.")
    said += [f"{name}: {value:.3f}." for name, value in scores.items()]
    key = [("one", "without norm"), ("two", "with final norm")]
    return drawing.svg("Correlation by layer", " ".join(said), axes, [*body, *drawing.legend(key)])


def layer_weights(mean: Sequence[float], folds: Sequence[Sequence[float]]) -> str | None:
    """Fitted weights over layers [L']: their mean, and each fold's faintly; dotted, even ones."""
    if not len(mean):
        return None
    layers = np.arange(len(mean))
    even = 1 / len(mean)
    top = max(even, *mean, *(weight for fold in folds for weight in fold))
    axes = drawing.Axes(drawing.padded(0, len(mean) - 1, 0), (0, 1.06 * top))
    body = drawing.frame(axes, _whole(axes.x), drawing.round_ticks(*axes.y, 5), "layer")
    body.append(drawing.line(axes, axes.x[0], even, axes.x[1], even, "rule dotted"))
    body += [drawing.polyline(axes, layers, fold, "curve faint one") for fold in folds]
    body.append(drawing.polyline(axes, layers, mean, "curve one"))
    largest = int(np.argmax(mean))
    label = f"The largest is {mean[largest]:.3f}, at layer {largest}; even ones are {even:.3f}."
    key = [("one", "fitted"), ("dotted", "even")]
    if folds:
        key.insert(1, ("faint one", "folds"))
    return drawing.svg("Weights by layer", label, axes, [*body, *drawing.legend(key)])


def histogram(
    scale: Sequence[int], counts: Sequence[int] | None, scores: Sequence[float], name: str
) -> str | None:
    """How often people gave each value of the scale, and the judge's scores in finer bins.

    Both as shares per step of the scale, so that equal areas are equally many. counts: people's,
    per value of the scale; None without ratings. Scores beyond the scale count at its ends.
    """
    if not len(scores):
        return None
    low, high = scale[0] - 0.5, scale[-1] + 0.5
    fine = np.linspace(low, high, PARTS * round(high - low) + 1)
    shares = PARTS * np.histogram(np.clip(scores, low, high), fine)[0] / len(scores)
    sides = [("two", fine, shares, name)]
    if counts and sum(counts):
        # Only whole values can be given: bins between two of them stay empty.
        whole = np.concatenate([np.asarray(scale) - 0.5, [high]])
        sides.insert(0, ("one", whole, np.array(counts) / sum(counts), "people"))
    axes = drawing.Axes((low, high), (0, 1.08 * max(side[2].max() for side in sides)))
    body = drawing.frame(
        axes, list(scale), drawing.round_ticks(*axes.y), "score (height: share per step)"
    )
    for kind, edges, share, _ in sides:
        outline = np.concatenate([[0], np.repeat(share, 2), [0]])
        body.append(drawing.polyline(axes, np.repeat(edges, 2), outline, f"area {kind}"))
    label = f"{name}: mean {np.mean(scores):.2f} of {len(scores)} scores."
    key = [(kind, who) for kind, _, _, who in sides]
    return drawing.svg("Scores", label, axes, [*body, *drawing.legend(key)])


def _whole(limits: tuple[float, float]) -> list[float]:
    return [tick for tick in drawing.round_ticks(*limits) if tick == int(tick)]


def _runs(points: Sequence[tuple[int, float]]) -> list[list[tuple[int, float]]]:
    """Points of neighbouring layers, so that no line is drawn over what is not defined."""
    runs: list = []
    for point in points:
        if runs and runs[-1][-1][0] == point[0] - 1:
            runs[-1].append(point)
        else:
            runs.append([point])
    return runs


def _apart(at: dict[str, float], top: float, bottom: float) -> dict[str, float]:
    """Heights of names, as near to where they belong as they can be without touching."""
    placed, y = {}, top - GAP
    for name in sorted(at, key=at.get):
        placed[name] = y = max(at[name], y + GAP)
    y = bottom + GAP
    for name in reversed(placed):
        placed[name] = y = min(placed[name], y - GAP)
    return placed
