"""Kinds of DPO compared, small: SmolLM2-135M on human ratings of HelpSteer and HelpSteer2.

    hs2jax sweep --config=configs/dpo_losses.py:DATA --workdir=runs/dpo_losses

DATA is the folder with helpsteer2/train_first100.jsonl and helpsteer/sample500.jsonl; strengths are
differences of helpfulness. HelpSteer2-Preference (arXiv 2410.01257) compares regular, margin and
scaled at 70B by what judges say of the answers (configs/dpo.py); here it is how often the chosen
response has the higher implicit reward on held-out pairs. Smoothed and IPO are ours. The last three
layers are trained, so that the states below are computed once.
"""

from hs2jax import configs


def get_config(data="data"):
    sweep = configs.defaults("sweep")
    sweep.seeds = (0, 1, 2)
    sweep.arms = (
        ("regular", {"objective.preference": "regular"}),
        ("margin", {"objective.preference": "margin"}),
        ("scaled", {"objective.preference": "scaled"}),
        ("smoothed", {"objective.label_smoothing": 0.1}),
        ("ipo", {"objective.kind": "ipo"}),
    )
    config = configs.defaults("train_policy")
    config.objective.kind = "dpo"
    config.model.remat = False
    files = (
        f"helpsteer2:{data}/helpsteer2/train_first100.jsonl",
        f"helpsteer:{data}/helpsteer/sample500.jsonl",
    )
    config.data.train = "+".join(f"{file}[:75%]" for file in files)
    config.data.validation = "+".join(f"{file}[75%:]" for file in files)
    config.data.derive = "helpfulness"
    config.data.row_length = 768
    config.data.too_long = "truncate"
    config.trainable.last_layers = 3
    config.trainable.cache = True
    config.optimizer.learning_rate = 1e-5
    config.optimizer.schedule = "cosine"
    config.batch_size = 8
    config.micro_batch_size = 1
    config.epochs = 2
    # Only the last step is evaluated: the best of several would have been chosen on the test set.
    config.evaluate_every = config.checkpoint_every = 1000
    sweep.base = config
    return sweep
