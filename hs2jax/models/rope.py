"""The frequencies of rotary position embeddings, plain or scaled for longer texts."""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Scaling:
    """A change of the plain frequencies; `kind` is "linear", "dynamic" or "llama3".

    `original` is the length in tokens that the unscaled model was made for.
    """

    kind: str
    factor: float
    low: float | None = None
    high: float | None = None
    original: int | None = None


def frequencies(size: int, base: float, scaling: Scaling | None = None) -> np.ndarray:
    """Radians per position, float32 [size // 2], where `size` numbers of a head are rotated.

    "llama3" (Llama 3.1's release) leaves short wavelengths, divides long ones by the factor and
    goes over from one to the other linearly in the number of turns per original length.
    """
    plain = base ** (-np.arange(size // 2) * 2.0 / size)
    if scaling is None or scaling.kind == "dynamic":
        return plain.astype(np.float32)
    if scaling.kind == "linear":
        return (plain / scaling.factor).astype(np.float32)
    turns = scaling.original * plain / (2 * math.pi)
    kept = np.clip((turns - scaling.low) / (scaling.high - scaling.low), 0.0, 1.0)
    return (plain * (kept + (1 - kept) / scaling.factor)).astype(np.float32)
