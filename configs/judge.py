"""A language model as a judge that reads every layer (LAGER, arXiv 2508.03550).

    hs2jax judge --config=configs/judge.py --workdir=runs/judge
    hs2jax judge --config=configs/judge.py:meta-llama/Llama-3.1-8B-Instruct --workdir=runs/judge \\
        --config.data='tfds:helpsteer[validation]' --config.weights=cross-validate \\
        --config.baselines=gpt_score,ridge_probe

The argument is a language model, by default SmolLM2-135M-Instruct. Without data of your own it
judges the bundled mini set by HelpSteer's five attributes, beside the ratings there, which takes
some minutes on two CPU cores. With `--config.data=responses:FILE.jsonl` it judges what nobody has
rated. Readings are kept in the run's folder; killed, it goes on where it was.

Published for Llama-3.1-8B on HelpSteer (Table 1, Spearman, direct): the last layer's likeliest
score 0.374, its expected score 0.464, all layers evenly 0.520, by fitted weights 0.515.
"""

from hs2jax import configs


def get_config(model: str = "smollm2-135m-instruct"):
    config = configs.defaults("judge")
    config.model.name = model
    config.data = "helpsteer2:mini/validation.jsonl"
    return config
