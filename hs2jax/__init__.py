"""Reward models in JAX. Importing it makes its data sets known to `tfds.builder` by name."""

from hs2jax.data.tfds import registration

registration.register()
