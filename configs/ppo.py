"""PPO in two rounds, from a reward model (HelpSteer2-Preference, section 5; HelpSteer2, 4.4).

    hs2jax run --config=configs/ppo.py:llama31_70b --distributed \\
        --config.reward_models=main=runs/preference/model --workdir=runs/ppo
    hs2jax run --config=configs/ppo.py --workdir=runs/ppo \\
        --config.reward_models=main=runs/quickstart/preference/model

Argument: the policy, as of configs/reinforce.py. The second round's policy, and its start, is what
the first has made, and its value model starts from the reward model again. HelpSteer2's settings
where it states them (batch 128, 64 steps, KL coefficient 3e-3, learning rate 1e-7), and
NeMo-Aligner's clip 0.2, lambda 0.95 and absolute KL of each token. Otherwise than the paper, which
takes the best checkpoint of the first round by MT-Bench, the last one is taken. The value model
takes 20 bytes for each of its parameters, 1.4 TB at 70B, beside what configs/reinforce.py says.
Published on Arena-Hard 58.6 (start 55.7), AlpacaEval 2 LC 43.8 (38.1), MT-Bench 8.74 (8.22).
"""

from pathlib import Path

from ml_collections import FieldReference

from hs2jax import configs, flags

ROUNDS = ("round_1", "round_2")


def get_config(policy="smollm2_135m"):
    recipe = configs.defaults("recipe")
    recipe.stages = ROUNDS
    recipe.reward_models = FieldReference("main=runs/quickstart/preference/model")
    for name in ROUNDS:
        stage = flags.load(f"{Path(__file__).with_name('reinforce.py')}:{policy}")
        with stage.unlocked():
            stage.reward_models = recipe.get_ref("reward_models")
        stage.algorithm = "ppo"
        stage.n = 1
        stage.clip = 0.2
        stage.kl.form = "absolute"
        if policy == "llama31_70b":
            stage.batch_size = 128
            stage.steps = 64
            stage.kl.coefficient = 3e-3
            stage.optimizer.learning_rate = 1e-7
        recipe[name] = stage
    recipe.round_2.model.name = "{round_1}/model"
    return recipe
