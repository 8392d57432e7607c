"""HelpSteer2-Preference's Bradley-Terry from scratch, in three kinds (arXiv 2410.01257).

    python -m hs2jax.data.tfds helpsteer2/preference
    hs2jax train --config=configs/helpsteer2_preference_bradley_terry.py:llama31_70b \
        --workdir=runs/scaled --config.objective.preference=scaled

Argument: llama31_70b (the paper's), llama31_8b, llama32_1b, smollm2_135m, or runlocal (SmolLM2 on
the mini set). Published on RewardBench (overall, chat, chat-hard, safety, reasoning):
regular 91.5, 97.5, 80.3, 90.5, 97.9; margin 91.5, 98.0, 78.5, 94.6, 94.8; scaled 92.7, 97.8, 83.5,
93.2, 96.0. Learning rate and epochs are those of the released code's second stage; the paper's own
for training from scratch are not known.
Hardware: 20 bytes for each parameter, as in helpsteer2_regression.py: 1.4 TB at 70B, 160 GB at 8B.
"""

from hs2jax import configs, sizes


def get_config(arg=None):
    config = configs.defaults("train_reward_model")
    config.data.train = "tfds:helpsteer2/preference[train]"
    config.data.validation = "tfds:helpsteer2/preference[validation]"
    config.objective.kind = "bradley_terry"
    config.objective.preference = "scaled"
    config.optimizer.learning_rate = 1e-6
    config.epochs = 1
    sizes.apply(config, arg, default="llama31_70b", local="preferences")
    return config
