"""RewardBench: prompts with a response that should win and one that should not."""

from hs2jax.data.tfds import building


class Builder(building.Builder):
    """RewardBench (arXiv 2403.13787), the split `filtered` that is scored; see README.md."""
