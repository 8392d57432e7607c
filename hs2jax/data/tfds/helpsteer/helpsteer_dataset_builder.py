"""HelpSteer: single-turn prompts, up to four responses each, five ratings by one annotator."""

from hs2jax.data.tfds import building


class Builder(building.Builder):
    """HelpSteer (arXiv 2311.09528, section 3). A row is one response; see README.md."""
