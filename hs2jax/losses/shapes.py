"""Arguments are asserted: shapes are never broadcast, and a sign is not lost."""

import jax.numpy as jnp


def same_shape(*, axes: str = "", **arrays):
    """Raises ValueError, naming the arrays, unless all that are not None have one shape, and where
    `axes` is given, as in "[P]", that one axis."""
    shapes = {name: jnp.shape(x) for name, x in arrays.items() if x is not None}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"shapes must be equal, they are {shapes}")
    if axes and any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"{', '.join(shapes)} must have one axis, {axes}; they are {shapes}")


def positive(**numbers):
    """Raises ValueError, naming it, for one of the numbers that is not above 0; None may be."""
    for name, x in numbers.items():
        if x is not None and not x > 0:
            raise ValueError(f"{name} is {x}; it must be more than 0")
