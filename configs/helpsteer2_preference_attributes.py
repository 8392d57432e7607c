"""HelpSteer2-Preference's regression of five attributes (arXiv 2410.01257).

    python -m hs2jax.data.tfds helpsteer2/ratings
    hs2jax train --config=configs/helpsteer2_preference_attributes.py:llama31_70b \
        --workdir=runs/attributes

Argument: llama31_70b (the paper's), llama31_8b, llama32_1b, smollm2_135m, or runlocal (SmolLM2 on
the mini set). Published on RewardBench (overall, chat, chat-hard, safety, reasoning): 92.4, 95.0,
85.5, 94.0, 95.1. The paper's weights of the five are not known: helpfulness alone is compared here.
Hardware: 20 bytes for each parameter, as in helpsteer2_regression.py: 1.4 TB at 70B, 160 GB at 8B.
"""

from hs2jax import configs, sizes


def get_config(arg=None):
    config = configs.defaults("train_reward_model")
    config.model.outputs = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    config.model.weights = "helpfulness=1"
    config.data.train = "tfds:helpsteer2/ratings[train]"
    config.data.validation = "tfds:helpsteer2/ratings[validation]"
    config.data.derive = "helpfulness"
    config.objective.kind = "regression"
    sizes.apply(config, arg, default="llama31_70b")
    return config
