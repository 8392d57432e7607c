"""The frequencies of rotary position embeddings, plain or scaled for longer texts."""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Scaling:
    """A change of the plain frequencies; `kind` is "linear", "dynamic", "llama3" or "yarn".

    `original` is the length in tokens that the unscaled model was made for; `low` and `high` are
    numbers of turns in it. Of YaRN: what rotated queries and keys are multiplied by (`attention`),
    and whether the ends of its ramp are whole numbers (`whole`).
    """

    kind: str
    factor: float
    low: float | None = None
    high: float | None = None
    original: int | None = None
    attention: float = 1.0
    whole: bool = True


def frequencies(size: int, base: float, scaling: Scaling | None = None) -> np.ndarray:
    """Radians per position, float32 [size // 2], where `size` numbers of a head are rotated.

    "llama3" (Llama 3.1's release) leaves short wavelengths, divides long ones by the factor and
    goes over from one to the other linearly in the number of turns per original length. "yarn"
    (arXiv 2309.00071, section 3.2) goes over linearly in the number of the frequency.
    """
    plain = base ** (-np.arange(size // 2) * 2.0 / size)
    if scaling is None or scaling.kind == "dynamic":
        return plain.astype(np.float32)
    if scaling.kind == "linear":
        return (plain / scaling.factor).astype(np.float32)
    if scaling.kind == "yarn":

        def place(turns: float) -> float:  # Of the frequency with so many turns.
            return size * math.log(scaling.original / (turns * 2 * math.pi)) / (2 * math.log(base))

        first, last = place(scaling.high), place(scaling.low)
        if scaling.whole:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, size - 1)
        width = (last - first) or 0.001
        divided = np.clip((np.arange(size // 2) - first) / width, 0.0, 1.0)
        return (plain * (1 - divided + divided / scaling.factor)).astype(np.float32)
    turns = scaling.original * plain / (2 * math.pi)
    kept = np.clip((turns - scaling.low) / (scaling.high - scaling.low), 0.0, 1.0)
    return (plain * (kept + (1 - kept) / scaling.factor)).astype(np.float32)
