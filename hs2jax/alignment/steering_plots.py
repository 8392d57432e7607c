"""Pictures of steering, as SVG text in the manner of `evaluation.plots`.

Every function returns one `<svg>` element, or None where there is nothing to draw.
"""

from collections.abc import Sequence

from hs2jax.evaluation import drawing

KINDS = ("dotted", "dashed", "two dashed", "one")  # Of policies; the last one is the plainest.
APART = 0.07  # Between policies at one request, so that their intervals stay apart.
LETTER = 6.4  # Width of a letter of the legend, in SVG units.


def by_request(
    curves: dict[str, Sequence[dict]], title: str, *, key: str, asked: str, ideal: bool = False
) -> str | None:
    """Means over requested values, a line for each policy, with 95 % intervals.

    curves: {policy: the "values" of `steering_statistics.follow`}; key: which of their means.
    asked: what runs along the bottom. ideal: draws where what is measured is what was asked for.
    """
    points = {
        name: [(each["requested"], each[key]) for each in values if each[key]["value"] is not None]
        for name, values in curves.items()
    }
    every = [point for some in points.values() for point in some]
    if not every:
        return None
    requested = sorted({value for value, _ in every})
    ends = [end for _, of in every for end in of["interval"] or [of["value"]]]
    if ideal:
        ends += [requested[0], requested[-1]]
    rows = _legend_rows(points)
    axes = drawing.Axes(
        (requested[0] - 0.4, requested[-1] + 0.4),
        drawing.padded(min(ends), max(ends), 0.05),
        left=52,
        top=16 + 18 * len(rows),
        height=232 + 18 * len(rows),
    )
    body = drawing.frame(axes, requested, drawing.round_ticks(*axes.y), asked)
    if ideal:
        body.append(
            drawing.line(axes, requested[0], requested[0], requested[-1], requested[-1], "axis")
        )
        # Where the line begins: where it ends there are the points of policies that follow.
        corner = axes.at(requested[0], requested[0])
        body.append(drawing.words(*drawing.shift(corner, 20, 0), "as asked", "note"))
    said = []
    kinds = _kinds(points)
    for i, (name, some) in enumerate(points.items()):
        shift = APART * (i - (len(points) - 1) / 2)
        colour = _colour(kinds[name])
        for value, of in some:
            if of["interval"]:
                x = value + shift
                body.append(
                    drawing.line(
                        axes, x, of["interval"][0], x, of["interval"][1], f"bar thin {colour}"
                    )
                )
        x = [value + shift for value, _ in some]
        y = [of["value"] for _, of in some]
        body.append(drawing.polyline(axes, x, y, f"curve {kinds[name]}"))
        body += [drawing.dot(axes, *point, colour) for point in zip(x, y, strict=True)]
        listed = ", ".join(f"{of['value']:.3g} at {value:g}" for value, of in some)
        said.append(f"{name}: {listed}.")
    body += _legend(rows, kinds)
    return drawing.svg(title, " ".join(said), axes, body)


def correlations(policies: Sequence[dict]) -> str | None:
    """Spearman's correlation of requested and measured: a group for each attribute, a dot with its
    interval for each policy. policies: as in steering.json."""
    kinds = _kinds([each["name"] for each in policies])
    names = list(dict.fromkeys(of["attribute"] for each in policies for of in each["attributes"]))
    found = [
        (names.index(of["attribute"]), i, each["name"], of["spearman"])
        for i, each in enumerate(policies)
        for of in each["attributes"]
        if of["spearman"]["value"] is not None
    ]
    if not found:
        return None
    ends = [0.0, *(end for *_, of in found for end in of["interval"] or [of["value"]])]
    rows = _legend_rows(kinds)
    axes = drawing.Axes(
        (-0.5, len(names) - 0.5),
        drawing.padded(min(ends), max(ends), 0.08),
        left=52,
        top=16 + 18 * len(rows),
        height=232 + 18 * len(rows),
    )
    body = drawing.frame(axes, [], drawing.round_ticks(*axes.y), "asked for")
    body.append(drawing.line(axes, *(axes.x[0], 0), *(axes.x[1], 0), "axis"))
    below = axes.height - axes.bottom + 17
    body += [
        drawing.words(axes.at(i, 0)[0], below, name, "tick middle") for i, name in enumerate(names)
    ]
    said = []
    for group, i, name, of in found:
        x = group + 0.22 * (i - (len(policies) - 1) / 2)
        colour = _colour(kinds[name])
        if of["interval"]:
            low, high = of["interval"]
            body.append(drawing.line(axes, x, low, x, high, f"bar {colour}"))
        body.append(drawing.dot(axes, x, of["value"], colour, 5))
        said.append(f"{name}, {names[group]}: {of['value']:.3f}.")
    body += _legend(rows, kinds)
    return drawing.svg("Correlation of requested and measured", " ".join(said), axes, body)


def _kinds(names: Sequence[str]) -> dict[str, str]:
    """How each policy is drawn."""
    return dict(zip(names, KINDS[-len(names) :], strict=True))


def _colour(kind: str) -> str:
    """Without how its line is broken; "" for the plain one."""
    return kind.split()[0] if kind.split()[0] in ("one", "two") else ""


def _legend_rows(names: Sequence[str]) -> list[list[str]]:
    """Names in as many rows as they need."""
    rows, room = [], 0.0
    for name in names:
        width = 44 + LETTER * len(name)
        if not rows or width > room:
            rows.append([])
            room = drawing.Axes((0, 1), (0, 1)).width - 8
        rows[-1].append(name)
        room -= width
    return rows


def _legend(rows: Sequence[Sequence[str]], kinds: dict[str, str]) -> list[str]:
    return [
        f'<g transform="translate(0 {18 * i})">'
        + "".join(drawing.legend([(kinds[name], name) for name in names]))
        + "</g>"
        for i, names in enumerate(rows)
    ]
