"""PPO in two rounds, from a reward model (HelpSteer2-Preference, section 5; HelpSteer2, 4.4).

    hs2jax run --config=configs/ppo.py:llama31_70b --distributed \\
        --config.reward_models=main=runs/preference/model --workdir=runs/ppo
    hs2jax run --config=configs/ppo.py --workdir=runs/ppo \\
        --config.reward_models=main=runs/quickstart/preference/model

Argument: the policy, as of configs/reinforce.py. The second round's policy, and its start, is what
the first has made, and its value model starts from the reward model again; llama3_70b has the one
round of HelpSteer2. Its settings where it states them (batch 128, 64 steps, evaluated every 4, KL
coefficient 3e-3, learning rate 1e-7, rewards standardised over its responses), and NeMo-Aligner's
clip 0.2, lambda 0.95, absolute KL of each token and mean over tokens. Otherwise than the papers,
which take the best checkpoint by MT-Bench, the best is the one of configs/reinforce.py. The value
model takes 20 bytes for each of its parameters, 1.4 TB at 70B, beside what configs/reinforce.py
says. Published on Arena-Hard, AlpacaEval 2 LC and MT-Bench: llama31_70b 58.6 (start 55.7), 43.8
(38.1), 8.74 (8.22); llama3_70b 39.9 (39.6), 33.2 (32.9), 8.13 (7.96).
"""

from pathlib import Path

from ml_collections import FieldReference

from hs2jax import configs, flags

ROUNDS = ("round_1", "round_2")


def get_config(policy="smollm2_135m"):
    recipe = configs.defaults("recipe")
    recipe.stages = ROUNDS[: 1 if policy == "llama3_70b" else 2]
    recipe.reward_models = FieldReference("main=runs/quickstart/preference/model")
    for name in recipe.stages:
        stage = flags.load(f"{Path(__file__).with_name('reinforce.py')}:{policy}")
        with stage.unlocked():
            stage.reward_models = recipe.get_ref("reward_models")
        stage.algorithm = "ppo"
        stage.n = 1
        stage.clip = 0.2
        stage.mean = "tokens"
        stage.kl.form = "absolute"
        if policy != "smollm2_135m":
            stage.standardize = stage.validation
            stage.batch_size = 128
            stage.steps = 64
            stage.kl.coefficient = 3e-3
            stage.optimizer.learning_rate = 1e-7
        if name == "round_2":
            stage.model.name = "{round_1}/model"
        recipe[name] = stage
    return recipe
