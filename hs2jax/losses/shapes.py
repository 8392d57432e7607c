"""Shapes are asserted and never broadcast."""

import jax.numpy as jnp


def same_shape(*, axes: str = "", **arrays):
    """Raises ValueError, naming the arrays, unless all that are not None have one shape, and where
    `axes` is given, as in "[P]", that one axis."""
    shapes = {name: jnp.shape(x) for name, x in arrays.items() if x is not None}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"shapes must be equal, they are {shapes}")
    if axes and any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"{', '.join(shapes)} must have one axis, {axes}; they are {shapes}")
