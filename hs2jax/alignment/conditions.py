"""Attribute settings as configs write them, "helpfulness=4,verbosity=2"."""

from hs2jax.losses.steerlm import HIGHEST


def parse(text: str) -> dict[str, int]:
    """The attribute values that a text asks for; {} for "". Raises ValueError that says why not."""
    found: dict[str, int] = {}
    for part in text.split(",") if text.strip() else []:
        name, _, value = (piece.strip() for piece in part.partition("="))
        if not name or value not in map(str, range(HIGHEST + 1)):
            raise ValueError(
                f"{text!r} asks for {part.strip()!r}; expected name=value,name=value with whole "
                f"numbers from 0 to {HIGHEST}"
            )
        if name in found:
            raise ValueError(f"{text!r} asks for {name} twice")
        found[name] = int(value)
    return found


def show(condition: dict[str, int]) -> str:
    """As `parse` reads it."""
    return ",".join(f"{name}={value}" for name, value in condition.items())
