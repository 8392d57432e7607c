"""HelpSteer2-Preference's comparison of losses in small, from scratch and from regression.

    hs2jax sweep --config=configs/helpsteer2_preference_losses.py:DATA --workdir=runs/losses

DATA is the folder with helpsteer2/train_first100.jsonl and helpsteer/sample500.jsonl. The paper
(arXiv 2410.01257) compares the losses at 70B on 6,766 training pairs with human strengths; scaled
Bradley-Terry from the regression model is best. Here strengths are differences of helpfulness
ratings, the model has 135M parameters, and its last three layers are trained: about an hour and a
half on two CPU cores for all 30 runs. experiments/helpsteer2_preference has what came out.
"""

from hs2jax import configs

FROM_REGRESSION = {"model.name": "{regression}/model", "model.outputs": ()}
LOSSES = {
    "regression": {"objective.kind": "regression"},
    "regular": {"objective.preference": "regular"},
    "margin": {"objective.preference": "margin"},
    "scaled": {"objective.preference": "scaled"},
    "joint": {"objective.kind": "joint", "objective.preference": "scaled"},
}


def get_config(data="data"):
    sweep = configs.defaults("sweep")
    sweep.seeds = (0, 1, 2)
    sweep.reference = "regression"
    sweep.arms = (
        *LOSSES.items(),
        *((f"{name} from regression", LOSSES[name] | FROM_REGRESSION) for name in LOSSES),
    )

    config = configs.defaults("train_reward_model")
    config.model.outputs = ("helpfulness",)
    config.model.remat = False
    files = (
        "helpsteer2:{}/helpsteer2/train_first100.jsonl",
        "helpsteer:{}/helpsteer/sample500.jsonl",
    )
    config.data.train = "+".join(f"{file.format(data)}[:75%]" for file in files)
    config.data.validation = "+".join(f"{file.format(data)}[75%:]" for file in files)
    config.data.derive = "helpfulness"
    config.data.row_length = 768
    config.data.too_long = "truncate"
    config.trainable.last_layers = 3
    config.trainable.cache = True
    config.optimizer.learning_rate = 2e-4
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = 3
    config.batch_size = 8
    config.micro_batch_size = 1
    config.epochs = 2
    # Only the last step is evaluated: the best of several would have been chosen on the test set.
    config.evaluate_every = 1000
    config.checkpoint_every = 1000
    sweep.base = config
    return sweep
