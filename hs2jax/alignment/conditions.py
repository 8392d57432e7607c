"""Attributes as configs name them: settings, "helpfulness=4,verbosity=2", and which of a reward
model's."""

from collections.abc import Sequence

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


def of_model(config, outputs: Sequence[str]) -> tuple[str, ...]:
    """config.attributes, () for all of the model's outputs. Raises ValueError for others."""
    if unknown := sorted(set(config.attributes) - set(outputs)):
        raise ValueError(
            f"config.attributes: {config.model.name} rates {', '.join(outputs)}, and not "
            f"{', '.join(unknown)}"
        )
    return tuple(config.attributes) or tuple(outputs)
