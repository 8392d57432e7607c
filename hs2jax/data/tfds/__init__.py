"""TFDS builders of the HelpSteer sets and of benchmarks; none needs TensorFlow.

`catalogue` lists them, `building` makes and reads them, each with a folder of its README, citation
and dummy rows, and `python -m hs2jax.data.tfds` builds one.
"""
