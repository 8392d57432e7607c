"""HelpSteer2-Preference's best: helpfulness regression, then Bradley-Terry from it, head included,
then ExPO beyond that, and RewardBench.

    python -m hs2jax.data.tfds helpsteer2/ratings
    python -m hs2jax.data.tfds helpsteer2/preference
    python -m hs2jax.data.tfds reward_bench
    hs2jax run --config=configs/helpsteer2_preference_from_regression.py:llama31_70b \
        --workdir=runs/combined

Argument: llama31_70b (the paper's, arXiv 2410.01257), llama31_8b, llama32_1b, smollm2_135m, or
runlocal (SmolLM2 on the mini set). Another kind is
`--config.preference.objective.preference=margin`. Published on RewardBench (overall, chat,
chat-hard, safety, reasoning): regular 92.7, 98.9, 82.9, 93.7, 95.4; margin 93.0, 98.3, 83.8, 94.0,
95.8; scaled 93.7, 98.0, 85.7, 94.3, 96.7; with ExPO 94.1, 97.5, 85.7, 95.1, 98.1, at the factor
1.52. Theirs was found on RewardBench, as far as one can tell; here it is the validation pairs'.

As in the released code: 2 epochs at 2e-6, then 1 epoch at 1e-6. Otherwise than there, conversations
are in the model's own template, as the released reward model wants them, and not in NeMo's
(--config.STAGE.model.template=extra_id), the head has no bias
(--config.STAGE.model.bias=True), and the second stage is shuffled too.

Hardware: 20 bytes for each parameter, as in helpsteer2_regression.py: 1.4 TB at 70B, 160 GB at 8B.
"""

from hs2jax import configs, sizes


def get_config(arg=None):
    recipe = configs.defaults("recipe")
    recipe.stages = ("regression", "preference", "expo", "evaluation")

    regression = configs.defaults("train_reward_model")
    regression.model.outputs = ("helpfulness",)
    regression.data.train = "tfds:helpsteer2/ratings[train]"
    regression.data.validation = "tfds:helpsteer2/ratings[validation]"
    regression.data.derive = "helpfulness"
    regression.objective.kind = "regression"
    sizes.apply(regression, arg, default="llama31_70b")
    recipe.regression = regression

    preference = configs.defaults("train_reward_model")
    preference.data.train = "tfds:helpsteer2/preference[train]"
    preference.data.validation = "tfds:helpsteer2/preference[validation]"
    preference.objective.kind = "bradley_terry"
    preference.objective.preference = "scaled"
    preference.optimizer.learning_rate = 1e-6
    preference.epochs = 1
    sizes.apply(preference, arg, default="llama31_70b", local="preferences")
    preference.model.name = "{regression}/model"
    preference.model.outputs = ()
    recipe.preference = preference

    expo = configs.defaults("expo")
    expo.initial, expo.trained = "{regression}/model", "{preference}/model"
    expo.data = preference.data.validation
    expo.mesh = preference.mesh
    recipe.expo = expo

    evaluation = configs.defaults("evaluate")
    evaluation.model.name = "{expo}/model"
    evaluation.data = "tfds:reward_bench"
    evaluation.mesh = preference.mesh
    if arg == "runlocal":
        evaluation.data = "helpsteer2:mini/validation.jsonl"
    recipe.evaluation = evaluation
    return recipe
