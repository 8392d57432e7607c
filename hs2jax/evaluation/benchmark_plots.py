"""Pictures of an evaluation and of a comparison, as SVG text in the manner of `plots`.

Every function returns one `<svg>` element, or None where there is nothing to draw.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from hs2jax.evaluation import drawing

ROW = 42  # height of a track, in SVG units
ROOM = 38  # characters of a name and its note; more would run into each other


class Track(NamedTuple):
    """A named value on a horizontal scale; `number` is the value as text."""

    name: str
    number: str
    note: str
    value: float | None
    interval: Sequence[float] | None
    whole: bool = True  # False: only a part is here; drawn hollow and dashed
    marks: Sequence[float] = ()  # what others got


def sections(benchmark: dict) -> str | None:
    """Overall and section scores beside published ones, on a scale from 0 to 100%.

    A score over a part of its items cannot be compared with a published one, so it is drawn hollow
    and without them.
    """
    parts = [
        {**each, "note": f"{each['items']:,} of {each['expected']:,}"}
        for each in benchmark["sections"]
    ]
    for each in parts:
        if each["items"] and not each["complete"]:
            each["note"] = f"part: {each['note']}"
    if benchmark["overall"]:
        parts.insert(0, {**benchmark["overall"], "name": "Overall", "note": ""})
    tracks = []
    for each in parts:
        published = [row["scores"].get(each["name"]) for row in benchmark["published"]]
        tracks.append(
            Track(
                each["name"],
                _percent(each["score"]),
                each["note"],
                each["score"],
                each["interval"],
                each["complete"],
                [score / 100 for score in published if score is not None]
                if each["complete"] and each["score"] is not None
                else [],
            )
        )
    key = [("one", "this model"), ("dotted", f"chance, {benchmark['chance']:.0%}")]
    if any(track.marks for track in tracks):
        key.insert(1, ("mark", "published"))
    return _tracks("Scores by section", tracks, (0, 1), [(benchmark["chance"], "chance")], key)


def length_bands(bands: Sequence[dict]) -> str | None:
    """Accuracy by how much longer the chosen response is, beside "the longer one wins"."""
    tracks = [
        Track(
            band["name"],
            _percent(band["accuracy"]),
            f"{band['pairs']:,}",
            band["accuracy"],
            band["interval"],
            marks=[] if band["longer"] is None else [band["longer"]],
        )
        for band in bands
    ]
    key = [("one", "this model"), ("mark", "longer wins"), ("dotted", "chance")]
    return _tracks("Accuracy by length", tracks, (0, 1), [(0.5, "chance")], key)


def differences(parts: Sequence[dict]) -> str | None:
    """Second minus first accuracy, in points, for all pairs and per subset.

    A part has name, pairs, difference and interval.
    """
    tracks = [
        Track(
            part["name"],
            f"{100 * part['difference']:+.1f}".replace("-", "−"),
            f"{part['pairs']:,}",
            part["difference"],
            part["interval"],
        )
        for part in parts
    ]
    ends = [abs(end) for track in tracks for end in (track.value, *(track.interval or ()))]
    reach = min(1.0, max([0.1, *(math.ceil(10 * end - 1e-9) / 10 for end in ends)]))
    key = [("one", "difference, points"), ("dotted", "no difference")]
    return _tracks("Differences", tracks, (-reach, reach), [(0.0, "chance")], key)


def _tracks(
    title: str,
    tracks: Sequence[Track],
    limits: tuple[float, float],
    lines: Sequence[tuple[float, str]],
    key: Sequence[tuple[str, str]],
) -> str | None:
    """One below the other: name and number in a line, and the scale under them."""
    if not tracks:
        return None
    axes = drawing.Axes(
        limits, (0, len(tracks)), height=34 + ROW * len(tracks) + 26, left=12, bottom=26
    )
    signed = limits[0] < 0
    body = []
    for tick in (limits[0] + share * (limits[1] - limits[0]) for share in (0, 0.25, 0.5, 0.75, 1)):
        x = axes.at(tick, 0)[0]
        place = {limits[0]: "tick", limits[1]: "tick end"}.get(tick, "tick middle")
        number = f"{100 * tick:+g}".replace("-", "−") if signed and tick else f"{100 * tick:g}"
        body.append(drawing.line(axes, tick, 0, tick, len(tracks), "grid"))
        body.append(
            drawing.words(x, axes.height - 8, number if signed else f"{number}%", f"note {place}")
        )
    body += [drawing.line(axes, at, 0, at, len(tracks), kind) for at, kind in lines]
    said = []
    for i, track in enumerate(tracks):
        _, top = axes.at(limits[0], len(tracks) - i)
        middle = len(tracks) - i - 30 / ROW
        body.append(
            drawing.words(axes.left, top + 15, _short(track.name, ROOM - len(track.note)), "tick")
        )
        body.append(drawing.words(axes.width - axes.right, top + 15, track.number, "value end"))
        body.append(drawing.words(axes.width - axes.right - 56, top + 15, track.note, "note end"))
        body.append(drawing.line(axes, limits[0], middle, limits[1], middle, "grid"))
        for mark in track.marks:
            x, y = axes.at(mark, middle)
            body.append(f'<line class="mark" x1="{x}" y1="{y - 6:g}" x2="{x}" y2="{y + 6:g}"/>')
        if track.interval:
            kind = "bar one" if track.whole else "part one"
            body.append(
                drawing.line(axes, track.interval[0], middle, track.interval[1], middle, kind)
            )
        if track.value is not None:
            kind = "one" if track.whole else "one hollow"
            body.append(drawing.dot(axes, track.value, middle, kind, 5))
        said.append(f"{track.name}: {track.number} ({track.note}).")
    return drawing.svg(title, " ".join(said), axes, [*body, *drawing.legend(key)])


def reliability(calibration: dict, calibrated: dict | None = None) -> str | None:
    """How often the model was right, over how sure it was; a calibrated one lies on the diagonal.

    `calibrated` is the same at a fitted temperature.
    """
    curves = [("one", calibration)] + [("two", calibrated)] * bool(calibrated)
    curves = [(kind, [b for b in each["bins"] if b["pairs"]]) for kind, each in curves]
    shown = [each for _, bins in curves for each in bins]
    if not shown:
        return None
    left = 0.5 if min(each["predicted"] for each in shown) >= 0.5 else 0.0
    lowest = min([left, *((each["interval"] or [each["observed"]])[0] for each in shown)])
    axes = drawing.Axes((left, 1.0), (math.floor(10 * lowest) / 10, 1.0), right=20)
    y_ticks = [tick for tick in drawing.round_ticks(*axes.y) if tick <= 1]
    body = drawing.frame(axes, [], y_ticks, "how sure the model is", percent=True)
    for tick in drawing.round_ticks(*axes.x, 5):
        x = axes.at(tick, axes.y[0])[0]
        body.append(drawing.words(x, axes.height - axes.bottom + 17, f"{tick:.0%}", "tick middle"))
    body.append(drawing.line(axes, left, left, 1, 1, "rule dotted"))
    said = []
    for kind, bins in curves:
        # The intervals of both would hide each other.
        for each in bins if kind == "one" else []:
            if each["interval"]:
                x, (low, high) = each["predicted"], each["interval"]
                body.append(drawing.line(axes, x, low, x, high, "bar thin one"))
        points = [(each["predicted"], each["observed"]) for each in bins]
        dashes = " dashed" if kind == "two" else ""
        body.append(drawing.polyline(axes, *zip(*points, strict=True), f"curve {kind}{dashes}"))
        body += [drawing.dot(axes, *point, kind, 4) for point in points]
        said += [f"Sure to {sure:.0%}: right in {right:.0%}." for sure, right in points]
    key = [("one", "as scored"), ("dotted", "calibrated")]
    if calibrated:
        key.insert(1, ("two", f"fitted, T={calibrated['temperature']:.3g}"))
    return drawing.svg("Reliability", " ".join(said), axes, [*body, *drawing.legend(key)])


def confusion(name: str, agreement: dict) -> str | None:
    """Counts of human rating (rows) by rounded prediction (columns), shaded by share of the row."""
    counts, levels = agreement["confusion"], agreement["levels"]
    if not any(map(sum, counts)):
        return None
    size = len(levels)
    axes = drawing.Axes((0, size), (0, size), 300, 220, left=34, top=8, bottom=40, right=8)
    body = []
    for i, (level, row) in enumerate(zip(levels, counts, strict=True)):
        x, y = axes.at(0, size - i - 0.5)
        body.append(drawing.words(x - 8, y + 4, f"{level:g}", "tick end"))
        below = axes.at(i + 0.5, 0)
        body.append(drawing.words(below[0], below[1] + 16, f"{level:g}", "tick middle"))
        for j, n in enumerate(row):
            (a, b), (c, d) = axes.at(j, size - i), axes.at(j + 1, size - i - 1)
            share = 0.6 * n / max(1, sum(row))  # at most 0.6, so that the number stays readable
            body.append(
                f'<rect class="cell" x="{a + 1:g}" y="{b + 1:g}" width="{c - a - 2:.1f}" '
                f'height="{d - b - 2:.1f}" fill-opacity="{0.05 + share:.2f}"/>'
            )
            kind = "value middle" if i == j else "tick middle"
            body.append(drawing.words((a + c) / 2, (b + d) / 2 + 4, f"{n:,}", kind))
    body.append(drawing.words((axes.left + 292) / 2, 214, "rounded prediction", "note middle"))
    label = " ".join(
        f"Rated {level:g}: {row[i]:,} of {sum(row):,} predicted so."
        for i, (level, row) in enumerate(zip(levels, counts, strict=True))
    )
    return drawing.svg(f"Rounded predictions and human {name}", label, axes, body)


def _percent(share: float | None) -> str:
    return "absent" if share is None else f"{100 * share:.1f}%"


def _short(name: str, room: int) -> str:
    return name if len(name) <= room else name[: room - 1] + "…"
