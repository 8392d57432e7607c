"""A policy against its start on the same prompts: rewards, wins, KL, length.

    hs2jax compare --config=configs/compare.py --config.policy=runs/dpo/model \\
        --config.reward_models=main=runs/hh_helpful/model,second=runs/helpsteer/model \\
        --config.data='hh_rlhf:FILE[-250:]' --workdir=runs/dpo_against_start

A reward model that the policy was not trained by tells what of the gain is real. What
`hs2jax reinforce` says of its held-out prompts, for a policy that was trained in another way.
config.start is the model that the policy was trained from, and of its shape. Each answers every
prompt once, as it is (temperature 1), so that the mean log-ratio is the KL divergence.
"""

from hs2jax import configs


def get_config():
    config = configs.defaults("compare")
    config.start = "smollm2-135m-instruct"
    config.on_error = "skip"
    return config
