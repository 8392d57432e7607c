"""HelpSteer: single-turn prompts, up to four responses each, five ratings by one annotator."""

from hs2jax.data.tfds import building, columns


class Builder(building.Builder):
    """HelpSteer (arXiv 2311.09528, section 3). A row is one response; see README.md."""

    HOMEPAGE = "https://huggingface.co/datasets/nvidia/HelpSteer"
    LICENSE = "CC-BY-4.0"

    def columns(self) -> dict[str, building.Column]:
        return columns.ratings("integer", "by one annotator")
