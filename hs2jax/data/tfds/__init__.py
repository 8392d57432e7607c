"""TFDS builders of the HelpSteer sets and of benchmarks; none needs TensorFlow.

`catalogue` lists them, `building` makes their builders, each with a folder of its README, citation
and dummy rows, `registration` lets `tfds.builder` find them, `python -m hs2jax.data.tfds` builds
one, and `reading` gives its rows to `hs2jax.data.corpora`.
"""
