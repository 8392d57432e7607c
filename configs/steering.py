"""Do policies follow the attribute values they are asked for? (HelpSteer2, section 4.5; SteerLM)

    hs2jax steer --config=configs/steering.py --workdir=runs/steering \\
        --config.policies=before=runs/sft/model,steerlm=runs/steerlm/model \\
        --config.reward_model=runs/regression/model --config.reference=runs/sft/model

Policies are compared in this order, each with the one before it, on the same prompts. The reward
model has an output for each attribute; it should not be the one that a policy was trained by, where
there is another. Without data of your own the prompts are the bundled mini set's. Each attribute is
asked for its five values while the others stay at the paper's (4, 4, 4, 2, 2): nine settings of 4
responses for each prompt, which is most of the time. They are sampled from the policy as it is, so
that the KL divergence from the reference is known; the paper samples with --config.temperature=0.7
--config.top_p=0.9. Killed, it goes on where it was.
"""

from hs2jax import configs


def get_config():
    config = configs.defaults("steer")
    config.data = "helpsteer2:mini/validation.jsonl"
    return config
