"""HelpSteer3-Preference: conversations of many kinds and languages with two responses each."""

from typing import ClassVar

import tensorflow_datasets as tfds

from hs2jax.data.tfds import building
from hs2jax.data.tfds.building import Column


class Builder(building.Builder):
    """HelpSteer3-Preference (arXiv 2505.11475); see README.md."""

    HOMEPAGE = "https://huggingface.co/datasets/nvidia/HelpSteer3"
    LICENSE = "CC-BY-4.0"
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(
            name="preference",
            description="Two responses to a conversation and how much the second is better.",
        )
    ]

    def columns(self) -> dict[str, Column]:
        return {
            "domain": Column("text", "Kind of task", "general, stem, code or multilingual"),
            "language": Column(
                "text", "Programming language (code), natural language (multilingual), or english"
            ),
            "context": Column(
                "turns", "The conversation before the response, as messages with role and content"
            ),
            "response1": Column("text", "The first response"),
            "response2": Column("text", "The second response"),
            "overall_preference": Column(
                "integer",
                "How much the second response is better than the first, which is better where it "
                "is negative; 1 slightly, 2 better, 3 much better, 0 about the same",
                "-3 to 3",
            ),
            "individual_preference": Column(
                "json", "JSON list of up to three annotators' objects with score and reasoning"
            ),
        }
