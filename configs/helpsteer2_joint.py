"""Ratings and preferences of HelpSteer2 in one loss, on batches that mix both. Ours, not a paper's.

    python -m hs2jax.data.tfds helpsteer2/ratings
    python -m hs2jax.data.tfds helpsteer2/preference
    hs2jax train --config=configs/helpsteer2_joint.py:llama31_70b --workdir=runs/joint

Argument: llama31_70b, llama31_8b, llama32_1b, smollm2_135m, or runlocal (SmolLM2 on the mini set).
One output is regressed on helpfulness where there are ratings, and compared by scaled
Bradley-Terry where there are preferences; no published number.
Hardware: 20 bytes for each parameter, as in helpsteer2_regression.py: 1.4 TB at 70B, 160 GB at 8B.
"""

from hs2jax import configs, sizes


def get_config(arg=None):
    config = configs.defaults("train_reward_model")
    config.model.outputs = ("helpfulness",)
    config.data.train = "tfds:helpsteer2/ratings[train]+tfds:helpsteer2/preference[train]"
    config.data.validation = (
        "tfds:helpsteer2/ratings[validation]+tfds:helpsteer2/preference[validation]"
    )
    config.objective.kind = "joint"
    config.objective.preference = "scaled"
    config.epochs = 1
    sizes.apply(config, arg, default="llama31_70b", local="both")
    return config
