"""JudgeBench: hard questions with a right and a wrong response of one model."""

from hs2jax.data.tfds import building


class Builder(building.Builder):
    """JudgeBench (arXiv 2410.12784); see README.md."""
