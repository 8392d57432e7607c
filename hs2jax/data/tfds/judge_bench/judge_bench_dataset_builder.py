"""JudgeBench: hard questions with a right and a wrong response of one model."""

from hs2jax.data.tfds import building
from hs2jax.data.tfds.building import Column


class Builder(building.Builder):
    """JudgeBench (arXiv 2410.12784); see README.md."""

    HOMEPAGE = "https://huggingface.co/datasets/ScalerLab/JudgeBench"
    LICENSE = "MIT"

    def columns(self) -> dict[str, Column]:
        return {
            "pair_id": Column("text", "Identifies the pair"),
            "original_id": Column("note", "Identifies the question in its source"),
            "source": Column(
                "text", "mmlu-pro-SUBJECT, livebench-reasoning, livebench-math or livecodebench"
            ),
            "question": Column("text", "The question, one user turn"),
            "response_model": Column("text", "Who wrote both responses"),
            "response_A": Column("text", "One response"),
            "response_B": Column("text", "The other response"),
            "label": Column("text", "Which one is right", "A>B or B>A"),
        }
