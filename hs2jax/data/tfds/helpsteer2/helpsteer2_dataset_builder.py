"""HelpSteer2: two responses to each prompt; ratings, each annotator's ratings, or preferences."""

from hs2jax.data.tfds import building


class Builder(building.Builder):
    """HelpSteer2 (arXiv 2406.08673) and HelpSteer2-Preference (arXiv 2410.01257); see README.md."""
