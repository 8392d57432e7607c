"""RewardBench 2: prompts with one right response, or several, and wrong ones."""

from hs2jax.data.tfds import building
from hs2jax.data.tfds.building import Column


class Builder(building.Builder):
    """RewardBench 2 (arXiv 2506.01937); see README.md."""

    HOMEPAGE = "https://huggingface.co/datasets/allenai/reward-bench-2"
    LICENSE = "ODC-BY-1.0"

    def columns(self) -> dict[str, Column]:
        return {
            "id": Column("text", "Number in the subset; ref:N or tied:N in Ties"),
            "prompt": Column("text", "The instruction, one user turn"),
            "chosen": Column("texts", "The right responses, one but in Ties"),
            "rejected": Column("texts", "The wrong responses, three but in Ties"),
            "num_correct": Column("integer", "How many are right"),
            "num_incorrect": Column("integer", "How many are wrong"),
            "total_completions": Column("integer", "How many there are"),
            "models": Column("texts", "Who wrote the responses"),
            "subset": Column("text", "Factuality, Precise IF, Math, Safety, Focus or Ties"),
            "additional_metadata": Column(
                "object", "JSON of what else is known, such as the category of a prompt"
            ),
        }
