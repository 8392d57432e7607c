"""HelpSteer2-Preference's regression of helpfulness alone (arXiv 2410.01257).

    python -m hs2jax.data.tfds helpsteer2/ratings
    hs2jax train --config=configs/helpsteer2_preference_helpfulness.py:llama31_70b \
        --workdir=runs/helpfulness

Argument: llama31_70b (the paper's), llama31_8b, llama32_1b, smollm2_135m, or runlocal (SmolLM2 on
the mini set). Published on RewardBench (overall, chat, chat-hard, safety, reasoning): 93.0, 97.2,
84.2, 94.6, 95.8. As in the released code: 128 responses a batch, 2 epochs, 2e-6.
Otherwise than there, conversations are in the model's own template, as the released reward model
wants them, and not in NeMo's (--config.model.template=extra_id), the head has no bias
(--config.model.bias=True).
Hardware: 20 bytes for each parameter, as in helpsteer2_regression.py: 1.4 TB at 70B, 160 GB at 8B.
"""

from hs2jax import configs, sizes


def get_config(arg=None):
    config = configs.defaults("train_reward_model")
    config.model.outputs = ("helpfulness",)
    config.data.train = "tfds:helpsteer2/ratings[train]"
    config.data.validation = "tfds:helpsteer2/ratings[validation]"
    config.data.derive = "helpfulness"
    config.objective.kind = "regression"
    sizes.apply(config, arg, default="llama31_70b")
    return config
