"""HelpSteer3-Preference: conversations of many kinds and languages with two responses each."""

from hs2jax.data.tfds import building


class Builder(building.Builder):
    """HelpSteer3-Preference (arXiv 2505.11475); see README.md."""
