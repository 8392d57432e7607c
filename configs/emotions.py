"""How strongly somebody feels, by a judge: EQ-Bench's dialogues (LAGER, arXiv 2508.03550).

    hs2jax judge --config=configs/emotions.py:meta-llama/Llama-3.1-8B-Instruct \\
        --config.data=eq_bench_v2_questions_171.json --workdir=runs/emotions

The argument is a language model. Published for Llama-3.1-8B (Spearman): likeliest 0.478, expected
0.652, all layers 0.653, fitted 0.657.
"""

from hs2jax import configs


def get_config(model: str = "smollm2-135m-instruct"):
    config = configs.defaults("judge")
    config.task = "emotions"
    config.model.name = model
    config.data = "eq_bench_v2_questions_171.json"
    return config
