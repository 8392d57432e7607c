"""Shapes are asserted and never broadcast."""

import jax.numpy as jnp


def same_shape(**arrays):
    """Raises ValueError, naming the arrays, unless all that are not None have one shape."""
    shapes = {name: jnp.shape(x) for name, x in arrays.items() if x is not None}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"shapes must be equal, they are {shapes}")
