"""DPO on HelpSteer2-Preference, in three kinds (arXiv 2410.01257).

    hs2jax train --config=configs/dpo.py:llama31_70b --workdir=runs/dpo \\
        --config.objective.preference=scaled

Argument: llama31_70b (the paper's, Llama-3.1-70B-Instruct), llama3_70b, llama31_8b, llama32_1b,
smollm2_135m, or runlocal (SmolLM2 on the mini set). Published, MT-Bench, AlpacaEval 2 LC and Arena
Hard: regular 8.66, 40.4, 52.8; margin 8.58, 41.1, 52.6; scaled 8.74, 41.0, 52.9; the model that
they start from 8.22, 38.1, 55.7. Its learning rate, beta and epochs are not known. Here they are
HelpSteer2's (arXiv 2406.08673) at 70B: 2e-7, constant, of 9e-8 to 3e-7 that were tried; beta 0.001;
7 epochs of batches of 128 pairs, evaluated every 25 steps; weight decay 0.1. Learning rates below
70B are ours.
Hardware: 20 bytes for each parameter in float32 with Adam, 1.4 TB at 70B and 160 GB at 8B. The
reference takes none: its log-probabilities are computed before the first step and kept.
"""

from hs2jax import configs, sizes


def get_config(arg=None):
    config = configs.defaults("train_policy")
    config.data.train = "tfds:helpsteer2/preference[train]"
    config.data.validation = "tfds:helpsteer2/preference[validation]"
    config.objective.kind = "dpo"
    config.objective.beta = 1e-3
    config.optimizer.learning_rate = 2e-7
    config.optimizer.weight_decay = 0.1
    config.epochs = 7
    config.evaluate_every = 25
    sizes.apply(config, arg, default="llama31_70b", local="preferences")
    if arg == "runlocal":
        config.objective.beta = 0.1
    return config
