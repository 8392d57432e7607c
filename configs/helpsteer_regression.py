"""The first paper's comparison: the same regression on HelpSteer (arXiv 2406.08673, table 3).

    python -m hs2jax.data.tfds helpsteer
    hs2jax train --config=configs/helpsteer_regression.py:llama3_70b --workdir=runs/helpsteer

Arguments as in helpsteer2_regression.py. Published for Llama-3-70B on RewardBench
(overall, chat, chat-hard, safety, reasoning): 66.1, 93.3, 59.7, 56.8, 54.9, after 2 epochs.
Hardware: 20 bytes for each parameter, as in helpsteer2_regression.py: 1.4 TB at 70B, 160 GB at 8B.
"""

from hs2jax import configs, sizes


def get_config(arg=None):
    config = configs.defaults("train_reward_model")
    config.model.outputs = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    config.model.weights = "helpfulness=1"
    config.data.train = "tfds:helpsteer[train]"
    config.data.validation = "tfds:helpsteer[validation]"
    config.data.derive = "helpfulness"
    config.objective.kind = "regression"
    config.batch_size = 32  # Prompts; with four responses each, 128 rows.
    sizes.apply(config, arg, default="llama3_70b")
    return config
