"""How charts look: colours that the page's style sheet gives, keys, and SVG without what a page has
itself, so that one picture serves light, dark and paper."""

import contextlib
import io
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import matplotlib
from markupsafe import escape
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hs2jax.report import format

WIDTH, HEIGHT = 340, 250  # SVG units; about the pixels of a phone.

# Stand-ins, for matplotlib wants to know colours; on the page they are variables. chart.mplstyle
# has them too.
NAMES = ("ink", "soft", "rule", "card", "one", "two", "three", "four")
COLOURS = {name: f"#10fe{i:02x}" for i, name in enumerate(NAMES)}
INK, SOFT, RULE, CARD, *SERIES = COLOURS.values()
DOTTED = (0, (1, 1.5))
DASHES = ("-", (0, (6, 3)), (0, (1.5, 2)), (0, (6, 2, 1.5, 2)))
SETTINGS = Path(__file__).with_name("chart.mplstyle")


class Drawing:
    """A chart in the making: axes to draw on, and keys for what is drawn."""

    def __init__(self, height: float = HEIGHT, place: Sequence[float] | None = None):
        """place: (left, bottom, width, height) of the axes as shares; None lays them out."""
        self._figure = Figure((WIDTH / 72, height / 72), layout="none" if place else None)
        self.axes = self._figure.add_axes(place) if place else self._figure.add_subplot()
        self._keys: list[Line2D] = []

    def key(self, name: str, color: str, **style) -> None:
        """Add a key, to stand above the axes."""
        self._keys.append(Line2D([], [], color=color, label=name, **{"lw": 2, **style}))

    def svg(self, label: str) -> str:
        """Write it as one <svg> element; `label` says in words what is to be seen."""
        self._set_keys()
        buffer = io.StringIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of letters that its own font has not; the page's has.
            self._figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        text = buffer.getvalue()
        text = text[text.index("<svg") :]
        for what in ("<metadata>.*?</metadata>", "<style.*?</style>", "<!--.*?-->"):
            text = re.sub(what, "", text, flags=re.S)
        used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', text))
        text = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", text)
        text = re.sub(r" ?font-family: [^;\"]*;| transform=\"rotate\(-0 [^\"]*\"", "", text)
        for name, colour in COLOURS.items():
            text = text.replace(colour, f"var(--{name})")
        view = re.search(r'viewBox="([^"]+)"', text)[1]
        head = f'<svg viewBox="{view}" role="img" aria-label="{escape(label)}">'
        text = head + text[text.index(">") + 1 :]
        return format.clean(re.sub(r"\s*\n\s*", "\n", text).strip())

    def _set_keys(self) -> None:
        """Put the keys above the axes, as many beside one another as there is room for."""
        if self._keys:
            letters = [len(key.get_label()) for key in self._keys]
            columns = max(1, min(len(letters), int(WIDTH // (45 + 7 * max(letters)))))
            if sum(40 + 6 * n for n in letters) < WIDTH:
                columns = len(letters)
            place = "outside " * bool(self._figure.get_layout_engine()) + "upper left"
            self._figure.legend(handles=self._keys, loc=place, ncols=columns)


@contextlib.contextmanager
def drawing(height: float = HEIGHT, place: Sequence[float] | None = None) -> Iterator[Drawing]:
    """Begin a chart; all of it, `svg` included, happens within."""
    with matplotlib.rc_context(fname=SETTINGS):
        yield Drawing(height, place)


def series(i: int) -> dict:
    """The colour and dashes of the i-th of several lines."""
    return {"color": SERIES[i % len(SERIES)], "ls": DASHES[(i + i // len(SERIES)) % len(DASHES)]}


def is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def limits(values: Iterable[float | None], share: float = 0.06) -> tuple[float, float]:
    """Give limits a share wider than the values on both sides, and never empty."""
    found = [x for x in values if is_number(x)] or [0.0, 1.0]
    low, high = float(min(found)), float(max(found))
    empty = high - low <= 1e-9 * max(1.0, abs(low), abs(high))
    room = 0.5 if empty else share * (high - low)
    return low - room, high + room


def tick(value: float, form: str) -> str:
    """Write a number of a scale, without decimals that say nothing."""
    if form in (format.PERCENT, format.POINTS):
        sign = "+" if form == format.POINTS and round(value, 9) else ""
        return f"{100 * value:{sign}.4g}".replace("-", "−") + "%" * (form == format.PERCENT)
    return f"{value:.4g}".replace("-", "−")


def short(name: str, room: int) -> str:
    return name if len(name) <= room else name[: room - 1] + "…"
