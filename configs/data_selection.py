"""Training data chosen by a judge: seven criteria, the best tenth (LAGER, arXiv 2508.03550).

    hs2jax judge --config=configs/data_selection.py:meta-llama/Llama-3.1-8B-Instruct \\
        --config.data=instructions:alpaca_data_cleaned.json --workdir=runs/selection

The argument is a language model. Each row has `instruction`, `input` and `output` (or `response`);
the chosen rows are written as they are to selected.jsonl, and all scores to scores.jsonl.
The paper chooses a tenth of Alpaca's 52k with Llama-3.1-8B; a model trained on it then wins 11.77%
(even weights) and 12.65% (fitted) on AlpacaEval 2 with length control, 7.73% on all of it.
"""

from hs2jax import configs


def get_config(model: str = "smollm2-135m-instruct"):
    config = configs.defaults("judge")
    config.task = "selection"
    config.model.name = model
    config.data = "instructions:alpaca_data_cleaned.json"
    return config
