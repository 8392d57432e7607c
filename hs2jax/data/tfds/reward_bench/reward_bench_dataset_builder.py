"""RewardBench: prompts with a response that should win and one that should not."""

from hs2jax.data.tfds import building
from hs2jax.data.tfds.building import Column


class Builder(building.Builder):
    """RewardBench (arXiv 2403.13787), the split `filtered` that is scored; see README.md."""

    HOMEPAGE = "https://huggingface.co/datasets/allenai/reward-bench"
    LICENSE = "ODC-BY-1.0"

    def columns(self) -> dict[str, Column]:
        return {
            "prompt": Column("text", "The instruction, one user turn"),
            "chosen": Column("text", "The response that should win"),
            "chosen_model": Column("text", "Who wrote it, where known"),
            "rejected": Column("text", "The response that should lose"),
            "rejected_model": Column("text", "Who wrote it, where known"),
            "subset": Column("text", "One of 23 sources; sections are made of subsets"),
            "id": Column("integer", "Number of the prompt in the unfiltered benchmark"),
        }
