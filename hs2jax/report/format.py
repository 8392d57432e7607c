"""Numbers, counts and settings as people read them."""

import math
import re
from collections.abc import Mapping

PERCENT, POINTS, NUMBER, SIGNED, COUNT = "percent", "points", "number", "signed", "count"


def number(value: float | None, form: str = NUMBER) -> str:
    """Write a value; "" where there is none.

    form: "percent" (of a share: 81.8%), "points" (of a difference of shares: +3.2), "number" (three
    decimals), "signed" (two decimals with the sign), "count" (1,234), or a format specification of
    Python's, as ".4g".
    """
    if value is None:
        return ""
    if form in (PERCENT, POINTS):
        value *= 100
    decimals = ",.3f" if abs(value) < 1000 else ",.0f"
    known = {PERCENT: ".1f", POINTS: "+.1f", NUMBER: decimals, SIGNED: "+.2f", COUNT: ",.0f"}
    text = format(value, known.get(form, form)).replace("-", "−")
    return text + "%" * (form == PERCENT)


def interval(row: Mapping, form: str = NUMBER) -> str:
    """Write the ends of a row's interval; "" where it has none."""
    if row.get("low") is None or row.get("high") is None:
        return ""
    return f"{number(row['low'], form)} to {number(row['high'], form)}".replace("%", "")


def value(row: Mapping, form: str = NUMBER) -> str:
    """Write a row's value with its 95% interval, as in a sentence."""
    ends = interval(row, form)
    return number(row["value"], form) + (f" (95% interval {ends})" if ends else "")


def probability(p: float | None) -> str:
    """Write a p-value."""
    return "" if p is None else "under 0.001" if p < 0.001 else f"{p:.3f}"


def count(n: int, noun: str) -> str:
    """Write how many there are of something."""
    return f"{n:,} {noun}" + "s" * (n != 1)


def duration(seconds: float) -> str:
    if not math.isfinite(seconds) or seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def memory(size: int) -> str:
    """Write a number of bytes."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def listed(names) -> str:
    """Write names as in a sentence: "a", "a and b", "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def listing(values: Mapping, prefix: str = "") -> list[list[str]]:
    """Flatten nested settings to rows [key, value], as one would type them."""
    rows = []
    for key, each in values.items():
        if isinstance(each, Mapping) and each:
            rows += listing(each, f"{prefix}{key}.")
        else:
            rows.append([f"{prefix}{key}", setting(each)])
    return rows


def setting(value: object) -> str:
    """Write a setting's value."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return "; ".join(map(setting, value))
    return "" if value is None or value == {} else str(value)


def clean(text: str) -> str:
    """Replace control characters, which neither HTML nor SVG allows, and lone surrogates."""
    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", text)
