"""Whether a judge knows that a question has no answer: SelfAware (LAGER, arXiv 2508.03550).

    hs2jax judge --config=configs/knowledge.py:meta-llama/Llama-3.1-8B-Instruct \\
        --config.data=SelfAware.json --workdir=runs/knowledge

The argument is a language model. Published for Llama-3.1-8B (F1): likeliest 0.553, expected 0.574,
all layers 0.590, fitted 0.570.
"""

from hs2jax import configs


def get_config(model: str = "smollm2-135m-instruct"):
    config = configs.defaults("judge")
    config.task = "knowledge"
    config.model.name = model
    config.data = "SelfAware.json"
    return config
