"""TFDS builders of the HelpSteer sets and of benchmarks; none needs TensorFlow.

`catalogue` lists them, `registration` makes `tfds.builder` find them, a folder each holds a
builder with its README, `python -m hs2jax.data.tfds` builds one, and `reading` gives its rows to
`hs2jax.data.corpora`.
"""
