"""RewardBench 2: prompts with one right response, or several, and wrong ones."""

from hs2jax.data.tfds import building


class Builder(building.Builder):
    """RewardBench 2 (arXiv 2506.01937); see README.md."""
