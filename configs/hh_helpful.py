"""Bradley-Terry on 1,600 pairs of HH-RLHF helpful, the last 250 held out.

    hs2jax train --config=configs/hh_helpful.py --workdir=runs/hh_helpful \
        --config.data.train='hh_rlhf:FILE[:1600]' --config.data.validation='hh_rlhf:FILE[-250:]'

FILE is the helpful part's test split as JSON lines of `chosen` and `rejected`. On two CPU cores an
epoch takes about an hour; experiments/hh_helpful has what came out. The learning rate is for
SmolLM2-135M; the papers' is 1e-6 at 70B.
"""

from hs2jax import configs

FILE = "data/hh_rlhf/helpful_test_1850.jsonl"


def get_config():
    config = configs.defaults("train_reward_model")
    config.model.remat = False
    config.data.train = f"hh_rlhf:{FILE}[:1600]"
    config.data.validation = f"hh_rlhf:{FILE}[-250:]"
    config.data.on_error = "skip"  # Three of the file's rows have an empty turn.
    config.data.too_long = "truncate"
    config.data.row_length = 768
    config.objective.kind = "bradley_terry"
    config.objective.centering = 0.01
    config.optimizer.learning_rate = 3e-5
    config.optimizer.schedule = "cosine"
    config.batch_size = 16
    config.micro_batch_size = 1
    config.epochs = 1
    config.evaluate_every = 50
    config.checkpoint_every = 25
    return config
