"""Five-attribute regression on a sample of HelpSteer, split by prompt.

    hs2jax train --config=configs/helpsteer.py --workdir=runs/helpsteer \
        --config.data.train='helpsteer:FILE[:110]' --config.data.validation='helpsteer:FILE[110:]'

FILE is a JSON lines file of 500 rows, 139 prompts. A slice counts prompts, so no prompt is on both
sides. On two CPU cores an epoch takes about half an hour; experiments/helpsteer has what came out.
The learning rate is for SmolLM2-135M; the papers' is 2e-6 at 70B.
"""

from hs2jax import configs

FILE = "data/helpsteer/sample500.jsonl"


def get_config():
    config = configs.defaults("train_reward_model")
    config.model.remat = False
    config.model.outputs = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    config.model.weights = "helpfulness=1"
    config.data.train = f"helpsteer:{FILE}[:110]"
    config.data.validation = f"helpsteer:{FILE}[110:]"
    config.data.derive = "helpfulness"
    config.data.row_length = 1024
    config.data.too_long = "truncate"
    config.objective.kind = "regression"
    config.optimizer.learning_rate = 5e-5
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = 5
    config.batch_size = 4
    config.micro_batch_size = 1
    config.epochs = 1
    config.evaluate_every = 14
    config.checkpoint_every = 14
    return config
