"""Numbers, names and settings as people read them."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from flax.traverse_util import flatten_dict

PERCENT, POINTS, NUMBER, SIGNED, COUNT = "percent", "points", "number", "signed", "count"
MEMORY = "memory"
UNKNOWN = "interval not known"
WORDS = tomllib.loads(Path(__file__).with_name("words.toml").read_text(encoding="utf-8"))


def words_of(metric: str) -> str:
    """Call a metric by what people call it."""
    *of, last = metric.rsplit(" ", 1)  # As in "helpfulness mse".
    known = WORDS["metrics"]
    last = known.get(last, last.replace("_", " "))
    return known.get(metric, " ".join([*of, last]))


def form_of(metric: str) -> str:
    """Say how a metric's values are written."""
    return next((form for form, names in WORDS["forms"].items() if metric in names), NUMBER)


def form_of_row(row: Mapping) -> str:
    """Say how a row's value is written: with its sign where it is a difference to something."""
    form = form_of(row["metric"])
    if row.get("against") and not row.get("reference"):
        return {PERCENT: POINTS, NUMBER: "+.3f"}.get(form, form)
    return form


def number(value: float | None, form: str = NUMBER) -> str:
    """Write a value; "" where there is none.

    form: "percent" (of a share: 81.8%), "points" (of a difference of shares: +3.2), "number" (three
    decimals), "signed" (two decimals with the sign), "count" (1,234), "memory" (of bytes: 2.0 GiB),
    or a format specification of Python's, as ".4g".
    """
    if value is None:
        return ""
    if form == MEMORY:
        return f"{value / 2**30:.1f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"
    if form in (PERCENT, POINTS):
        value *= 100
    decimals = ",.3f" if abs(value) < 1000 else ",.0f"
    known = {PERCENT: ".1f", POINTS: "+.1f", NUMBER: decimals, SIGNED: "+.2f", COUNT: ",.0f"}
    text = format(value, known.get(form, form)).replace("-", "−")
    return text + "%" * (form == PERCENT)


def interval(row: Mapping, form: str = NUMBER) -> str:
    """Write the ends of a row's interval; where it has none "", or, of a value that should be held
    against something, that it is not known (of one prompt, or where all are alike)."""
    if row.get("low") is None or row.get("high") is None:
        return UNKNOWN if row.get("better") and row["value"] is not None else ""
    return f"{number(row['low'], form)} to {number(row['high'], form)}".replace("%", "")


def value(row: Mapping, ends: str = "95% interval ") -> str:
    """Write a row's value with its unit and its interval, or why it has none."""
    found = interval(row, form_of_row(row))
    ends = "" if found == UNKNOWN else ends
    return f"{shown(row)} ({ends}{found})" if found else shown(row)


def shown(row: Mapping) -> str:
    """Write a row's value with its unit."""
    form = form_of_row(row)
    return (number(row["value"], form) or row.get("note") or "none") + " points" * (form == POINTS)


def about(row: Mapping) -> str:
    """Say what a row's value is: stage, set, metric, and what that is of."""
    method = row.get("method")
    if method and row.get("against"):
        method = f"{method} against {row['against']}"
    of = ", ".join(filter(None, [*row["part"].split("/")[1:], method]))
    metric = words_of(row["metric"]) + f" of {of}" * bool(of)
    return ", ".join(filter(None, [row.get("stage"), row["set"], metric]))


def line(row: Mapping) -> str:
    """Write a row as the terminal shows it: what it is, value and n."""
    many = f", n={row['n']:,}" if row["n"] else ""
    return f"{about(row)}: {value(row)}{many}"


def sentence(rows: Iterable[Mapping]) -> str:
    """Write rows of one set as a sentence."""
    return f"{capital('; '.join(line({**row, 'set': ''}) for row in rows))}."


def beside(row: Mapping, name: str) -> str:
    """Write a field that stands beside a row's value, such as p of a difference."""
    found = row.get(name)
    if name == "p" and not (row.get("against") or row["metric"].endswith("difference")):
        return ""
    if isinstance(found, str):
        return found
    if name in ("p", "p_mcnemar"):
        return probability(found)
    if name == "deviation":
        return number(found, form_of(row["metric"])).lstrip("+")
    return number(found, COUNT if isinstance(found, int) else form_of(name))


def probability(p: float | None) -> str:
    """Write a p-value."""
    return "" if p is None else "under 0.001" if p < 0.001 else f"{p:.3f}"


def listed(names: Iterable[str]) -> str:
    """Write names as in a sentence: "a", "a and b", "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def capital(text: str) -> str:
    """Begin with a capital letter."""
    return text[:1].upper() + text[1:]


def listing(values: dict) -> dict[str, str]:
    """Flatten nested settings to {key: value}, as one would type them."""
    return {key: setting(each) for key, each in flatten_dict(values, sep=".").items()}


def setting(value: object) -> str:
    """Write a setting's value."""
    if isinstance(value, list | tuple):
        return "; ".join(map(setting, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)


def clean(text: str) -> str:
    """Replace control characters, which neither HTML nor SVG allows, and lone surrogates."""
    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", text)
