"""Columns that say how much better one of two responses is.

Each function takes a row and names of its fields, and raises FieldError.
"""

import re

from hs2jax.data import fields
from hs2jax.data.fields import Row
from hs2jax.data.groups import MAX_STRENGTH, FieldError, check_number
from hs2jax.data.rows import choice, integer

SCORE = re.compile(r"chosen_(\w+_)?{0}|(\w+_)?{0}_chosen".format("(score|rating|reward|grade)s?"))
WINNERS = {"model_a": -1.0, "model_b": 1.0}
WINNERS |= dict.fromkeys(("tie", "tie (bothbad)", "both_bad"), 0.0)
NEITHER_VALID = -100  # What HelpSteer2-Preference's annotators chose where no response was valid.


def signed(row: dict, field: str) -> float:
    """Read a strength from -3 to 3, above 0 where the second response is better."""
    if row.get(field) == NEITHER_VALID:
        what = f"{NEITHER_VALID} says that neither response is valid, expected -3 to 3"
        raise FieldError(field, what, "neither response valid")
    return float(integer(row, field, -3, 3))


def winner(row: dict, field: str, first: object, second: object) -> float:
    """Read a strength of 1 for the response that a column names."""
    return 1.0 if choice(row, field, (first, second)) == second else -1.0


def arena(row: dict, field: str) -> float:
    """Read a strength of 1 for the response of the model that a column names, 0 for a tie."""
    return WINNERS[choice(row, field, tuple(WINNERS))]


def majority(row: dict, *fields: str) -> float:
    """Read a strength of 1 for the response that most annotators voted for, 1 or 2; else a tie."""
    found = [integer(row, field, 0, 2) for field in fields]
    return float((2 * found.count(2) > len(fields)) - (2 * found.count(1) > len(fields)))


def margin(row: Row) -> float:
    """Read how much better `chosen` is than `rejected`, at least 0 (a tie): `strength` or `margin`
    from 0 to 3, `preference_strength` with HelpSteer2's sign, or the difference, at most 3, of the
    two columns of a score; 1 where there is none. Raises FieldError where two of them differ."""
    named = {fields.plain(name): name for name in (*row.of_null, *row)}
    found: dict[str, tuple[str, float]] = {}
    for plain, sign in {"strength": 1, "margin": 1, "preference_strength": -1}.items():
        if (name := named.get(plain)) in row:
            found[name] = _stated(row, name, sign)
    for plain, name in named.items():
        other = named.get(plain.replace("chosen", "rejected"))
        if not SCORE.fullmatch(plain) or other is None:
            continue
        sides = [fields.number(row.get(each), each) for each in (name, other)]
        if None not in sides:
            found[name] = f"{name} - {other}, at most 3", min(sides[0] - sides[1], MAX_STRENGTH)
            if sides[1] > sides[0]:
                what = (
                    f"is above {name}: where the higher one wins, map {{strength={name}-{other}}}; "
                    f"else leave both out, {{-{name},-{other}}}"
                )
                raise FieldError(other, what, "rejected above chosen")
    if len({value for _, value in found.values()}) > 1:
        first, second, *_ = found
        what = f"and {first} say different strengths, {found[second][1]:g} and {found[first][1]:g}"
        raise FieldError(second, f"{what}: leave one of them out, -{first}", "two of one field")
    rule, value = next(iter(found.values()), ("none, so 1", 1.0))
    row.notes.append(("strengths", rule))
    return value


def _stated(row: Row, name: str, sign: int) -> tuple[str, float]:
    """Read a column that says a strength, and by which rule."""
    mapped = dict(row.fields.columns).get(name, name)
    if name in row.signed:
        value = check_number(row[name], name, -1e6, 1e6)
        return f"{mapped}, at most 3", max(-MAX_STRENGTH, min(value, MAX_STRENGTH))
    low, high = (0, MAX_STRENGTH) if sign > 0 else (-MAX_STRENGTH, 0)
    try:
        return mapped, sign * check_number(row[name], name, low, high)
    except FieldError as error:
        if error.reason == "out of range":
            error.what += f": scale it, as in {{strength={mapped}*0.5}}"
        raise
