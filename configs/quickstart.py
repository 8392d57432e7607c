"""Quick start: a reward model from SmolLM2-135M-Instruct on the bundled mini set.

    hs2jax run --config=configs/quickstart.py --workdir=runs/quickstart

The second paper's best recipe in small: regression of helpfulness, then scaled Bradley-Terry on
preferences from its weights, head included. Seventy-two prompts are enough to see that everything
works, not for a good model: see the report for how wide the interval is.
"""

from hs2jax import configs


def get_config():
    recipe = configs.defaults("recipe")
    recipe.stages = ("regression", "preference")

    config = configs.defaults("train_reward_model")
    config.model.remat = False
    config.data.row_length = 384
    config.batch_size = 6
    config.micro_batch_size = 1
    config.evaluate_every = 12
    config.checkpoint_every = 24
    config.optimizer.warmup = 3
    config.optimizer.schedule = "cosine"

    regression = config.copy_and_resolve_references()
    regression.model.outputs = ("helpfulness",)
    regression.data.train = "helpsteer2:mini/train.jsonl"
    regression.data.validation = "helpsteer2:mini/validation.jsonl"
    regression.data.derive = "helpfulness"
    regression.objective.kind = "regression"
    regression.optimizer.learning_rate = 5e-5
    regression.epochs = 1
    recipe.regression = regression

    preference = config.copy_and_resolve_references()
    preference.model.name = "{regression}/model"
    preference.model.outputs = ()
    preference.data.train = "helpsteer2_preference:mini/preference.jsonl[train]"
    preference.data.validation = "helpsteer2_preference:mini/preference.jsonl[val]"
    preference.objective.preference = "scaled"
    preference.optimizer.learning_rate = 2e-5
    preference.epochs = 1
    recipe.preference = preference
    return recipe
