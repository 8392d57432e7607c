"""HelpSteer2: two responses to each prompt; ratings, each annotator's ratings, or preferences."""

from typing import ClassVar

import tensorflow_datasets as tfds

from hs2jax.data.tfds import building, columns
from hs2jax.data.tfds.building import Column

PREFERENCE = {
    "split": Column("text", "The split, as published", "train or val"),
    "prompt": columns.PROMPT,
    "response_1": Column("text", "The first response"),
    "response_2": Column("text", "The second response"),
    "preference_strength": Column(
        "integer",
        "How much the second response is better than the first, which is better where it is "
        "negative; 1 slightly, 2 better, 3 much better, 0 about the same. The rounded mean of the "
        "three annotators who agree most",
        "-3 to 3",
    ),
    "preference_statement": Column("note", "Which response is better, in an annotator's sentence"),
    "preference_elaboration": Column("note", "The annotator's reasons"),
    "three_most_similar_preferences": Column(
        "json", "JSON list of objects with statement, elaboration and strength"
    ),
    "all_preferences_unprocessed": Column(
        "json", "JSON list of objects with strength (-100: neither is valid) and justification"
    ),
}


class Builder(building.Builder):
    """HelpSteer2 (arXiv 2406.08673) and HelpSteer2-Preference (arXiv 2410.01257); see README.md."""

    HOMEPAGE = "https://huggingface.co/datasets/nvidia/HelpSteer2"
    LICENSE = "CC-BY-4.0"
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(
            name="ratings",
            description="Five ratings of each response; rows 2i and 2i+1 share a prompt.",
        ),
        tfds.core.BuilderConfig(
            name="preference",
            description="Two responses and how much the second is better (HelpSteer2-Preference).",
        ),
        tfds.core.BuilderConfig(
            name="disagreements",
            description="Each annotator's ratings; nothing is left out for disagreement.",
        ),
    ]

    def columns(self) -> dict[str, Column]:
        match self.builder_config.name:
            case "preference":
                return PREFERENCE
            case "disagreements":
                return columns.ratings("integers", "a rating by each annotator")
        return columns.ratings("integer", "the rounded mean of the three annotators who agree most")
