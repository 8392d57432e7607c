"""Iterative DPO: sample, score, learn the best against the worst, and again (arXiv 2406.08673).

    hs2jax run --config=configs/iterative_dpo.py:PROMPTS --workdir=runs/iterative_dpo \\
        --config.policy=MODEL --config.reward_model=MODEL

Argument: a specification of prompts, the last tenth of which is held out; responses in it mean
nothing. Each round answers them with the policy of the round before, scores the answers (annotate),
and trains that policy, which is the reference of its round. HelpSteer2's, from Llama-3-70B
fine-tuned on 20,000 prompts of Daring-Anteater: 10 responses at temperature 0.7 and top-p 0.9; 3
epochs at 9e-8, beta 0.001; MT-Bench 8.09 after 8.04 of DPO on HelpSteer2 alone, from which it goes
on. Here rounds are two and small: SmolLM2, 4 responses of at most 128 tokens, learning rate and
beta ours.
"""

from ml_collections import FieldReference

from hs2jax import configs

ROUNDS = 2
PROMPTS = "responses:data/prompts.jsonl"


def get_config(prompts=PROMPTS):
    recipe = configs.defaults("recipe")
    recipe.policy = FieldReference("smollm2-135m-instruct")
    recipe.reward_model = FieldReference("runs/hh_helpful/model")
    stages, policy = [], recipe.get_ref("policy")
    for number in range(1, ROUNDS + 1):
        for part, kept in (("", "[:90%]"), ("_held_out", "[90%:]")):
            sample = configs.defaults("sample")
            sample.model.name = policy
            sample.data = f"{prompts}{kept}"
            sample.conditions = ("",)
            sample.n = 4
            sample.temperature, sample.top_p = 1.0, 1.0  # So small a model says little else anew.
            sample.max_new_tokens = 128
            sample.seed = number
            sample.on_error = "skip"
            score = configs.defaults("annotate")
            score.model.name = recipe.get_ref("reward_model")
            score.data = f"sampled:{{samples_{number}{part}}}/samples.jsonl"
            score.reward = True
            score.on_error = "skip"
            recipe[f"samples_{number}{part}"], recipe[f"scores_{number}{part}"] = sample, score
            stages += [f"samples_{number}{part}", f"scores_{number}{part}"]
        dpo = configs.defaults("train_policy")
        dpo.model.name = policy
        dpo.model.remat = False
        dpo.data.train = f"ratings:{{scores_{number}}}/annotated.jsonl"
        dpo.data.validation = f"ratings:{{scores_{number}_held_out}}/annotated.jsonl"
        dpo.data.derive, dpo.data.pairs = "reward", "extremes"
        dpo.data.row_length = 1024
        dpo.objective.kind = "dpo"
        dpo.optimizer.learning_rate = 5e-6
        dpo.batch_size, dpo.micro_batch_size, dpo.epochs = 16, 1, 1
        dpo.evaluate_every = dpo.checkpoint_every = 25
        recipe[f"dpo_{number}"], policy = dpo, f"{{dpo_{number}}}/model"
        stages.append(f"dpo_{number}")
    recipe.stages = tuple(stages)
    return recipe
