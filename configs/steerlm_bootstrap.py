"""SteerLM's bootstrapping: a policy learns from its own best answers (arXiv 2310.05344, section 3).

    hs2jax run --config=configs/steerlm_bootstrap.py --workdir=runs/bootstrap \\
        --config.policy=runs/steerlm/model --config.reward_model=runs/regression/model \\
        --config.data=conversations:FILE.jsonl

The policy that SteerLM trained answers the prompts, asked for the highest quality; the reward model
says what the answers are really like; and SteerLM goes on with them, from that policy. HelpSteer
and HelpSteer2 leave this out. Top-k 50 is the paper's, which also draws the highest values from
those seen in training; here they are the scale's.
"""

from ml_collections import FieldReference

from hs2jax import configs


def get_config():
    recipe = configs.defaults("recipe")
    recipe.stages = ("samples", "annotation", "steerlm")
    recipe.policy = FieldReference("runs/steerlm/model")
    recipe.reward_model = FieldReference("runs/regression/model")
    recipe.data = FieldReference("helpsteer2:mini/train.jsonl")

    samples = configs.defaults("sample")
    samples.model.name = recipe.get_ref("policy")
    samples.data = recipe.get_ref("data")
    samples.n = 1
    samples.temperature, samples.top_p, samples.top_k = 1.0, 1.0, 50
    samples.on_error = "skip"
    recipe.samples = samples

    annotation = configs.defaults("annotate")
    annotation.model.name = recipe.get_ref("reward_model")
    annotation.data = "sampled:{samples}/samples.jsonl"
    annotation.on_error = "skip"
    recipe.annotation = annotation

    steerlm = configs.defaults("train_policy")
    steerlm.model.name = recipe.get_ref("policy")
    steerlm.data.train = "ratings:{annotation}/annotated.jsonl[:98%]"
    steerlm.data.validation = "ratings:{annotation}/annotated.jsonl[98%:]"
    steerlm.data.condition = "ratings"
    recipe.steerlm = steerlm
    return recipe
