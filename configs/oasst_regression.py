"""The first paper's comparison: regression on OpenAssistant's labels (arXiv 2406.08673, table 3).

    hs2jax train --config=configs/oasst_regression.py:llama3_70b --workdir=runs/oasst \
        --config.data.train=ratings:FILE --config.data.validation=ratings:FILE

FILE is in the format `ratings`: prompt as messages, response, and ratings of quality, toxicity,
humor and creativity from 0 to 4 (a label v in [0, 1] times 4, rounded), missing ones left out.
Arguments as in helpsteer2_regression.py. Published for Llama-3-70B on RewardBench
(overall, chat, chat-hard, safety, reasoning): 79.1, 91.3, 59.2, 76.0, 89.9, after 1 epoch.
Hardware: 20 bytes for each parameter, as in helpsteer2_regression.py: 1.4 TB at 70B, 160 GB at 8B.
"""

from hs2jax import configs, sizes


def get_config(arg=None):
    config = configs.defaults("train_reward_model")
    config.model.outputs = ("quality", "toxicity", "humor", "creativity")
    config.model.weights = "quality=1"
    config.data.train = "ratings:data/oasst/train.jsonl"
    config.data.validation = "ratings:data/oasst/validation.jsonl"
    config.objective.kind = "regression"
    config.batch_size = 128  # A group is one response here.
    config.epochs = 1
    sizes.apply(config, arg, default="llama3_70b")
    if arg == "runlocal":  # The mini set has HelpSteer2's attributes.
        config.model.outputs, config.model.weights = ("helpfulness", "verbosity"), "helpfulness=1"
    return config
