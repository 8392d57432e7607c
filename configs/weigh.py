"""Sampled responses weighed for SteerLM 2.0 (HelpSteer2, section 4.5).

    hs2jax weigh --config=configs/weigh.py --config.data=sampled:runs/samples/samples.jsonl \\
        --config.reward_model=runs/regression/model --config.prior=runs/sft/model \\
        --workdir=runs/groups

Then train on sampled:runs/groups/groups.jsonl with --config.objective.kind=steerlm2, from the model
that sampled. configs/steerlm2.py does all of it.
"""

from hs2jax import configs


def get_config():
    return configs.defaults("weigh")
