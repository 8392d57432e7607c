"""The first paper's comparison: a reward model from HH-RLHF (arXiv 2406.08673, table 3).

    hs2jax train --config=configs/hh_bradley_terry.py:llama3_70b --workdir=runs/hh \
        --config.data.train=hh_rlhf:FILE --config.data.validation=hh_rlhf:FILE

FILE is HH-RLHF's train or test split, rows of `chosen` and `rejected`. Arguments as in
helpsteer2_regression.py. Published for Llama-3-70B on RewardBench (overall, chat, chat-hard,
safety, reasoning): 73.9, 94.4, 54.6, 81.2, 65.6, after 1 epoch.
Hardware: 20 bytes for each parameter, as in helpsteer2_regression.py: 1.4 TB at 70B, 160 GB at 8B.
"""

from hs2jax import configs, sizes


def get_config(arg=None):
    config = configs.defaults("train_reward_model")
    config.data.train = "hh_rlhf:data/hh_rlhf/train.jsonl.gz"
    config.data.validation = "hh_rlhf:data/hh_rlhf/test.jsonl.gz"
    config.data.on_error = "skip"  # Some of its rows have an empty turn.
    config.objective.kind = "bradley_terry"
    config.epochs = 1
    config.evaluate_every = 100
    sizes.apply(config, arg, default="llama3_70b", local="preferences")
    return config
