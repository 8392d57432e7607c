"""REINFORCE with a leave-one-out baseline, from a reward model (HelpSteer2-Preference, section 5).

    hs2jax reinforce --config=configs/reinforce.py:llama31_70b --distributed \\
        --config.reward_models=main=runs/preference/model --workdir=runs/reinforce
    hs2jax reinforce --config=configs/reinforce.py:smollm2_135m \\
        --config.reward_models=main=runs/quickstart/preference/model --workdir=runs/reinforce

Argument: the policy. llama31_70b is the paper's, Llama-3.1-70B-Instruct with its reward model
(scaled Bradley-Terry, then ExPO) and prompts of HelpSteer2-Preference; llama3_70b is the policy of
configs/sft.py on the same. Of its settings the paper states k = 4; learning rate, batch, KL
coefficient, lengths and when it is evaluated are NeMo-Aligner's recipe's, by the same authors.
Otherwise than there: the KL is the log-ratio of the whole response (`kl.form` "absolute" is
NeMo's), each step makes one update (NeMo: 4, without a ratio; `updates`), and responses that were
cut keep their reward (`truncated`). Hardware, by arithmetic and not by a run: 20 bytes for each of
the policy's parameters (1.4 TB; 12 while it samples, 0.9 TB), 2 for each of its start's and of the
reward model's (0.3 TB), and while it samples 2 for the sampler's copy (0.14 TB) and 0.33 MB for
each token in the cache (0.1 TB), spread over all devices: 32 chips of 95 GB; by its plan
(experiments/plan) 31 GiB of each of 64. Published on Arena-Hard 85.0 (start 55.7), AlpacaEval 2 LC
57.6 (38.1), MT-Bench 8.98 (8.22).

smollm2_135m is for two CPU cores: prompts of the mini set, responses of 64 tokens, about 20 seconds
a step. A second reward model that only watches: --config.reward_models=main=A,watch=B
--config.reward_weights=main=1. PPO: configs/ppo.py.

The policy that is exported is that of the best step: of those that config.evaluate_every names, and
the last, the one with the highest reward less KL penalty on the held-out prompts.

--config.standardize=DATA gives rewards mean 0 and spread 1 over the responses of DATA, so that the
KL coefficient means the same for every reward model.
"""

from hs2jax import configs, sizes


def get_config(policy="smollm2_135m"):
    config = configs.defaults("reinforce")
    models = {"llama31_70b": sizes.SIZES["llama31_70b"].model, "llama3_70b": "runs/sft/model"}
    if policy in models:
        config.model.name = models[policy]
        config.data = "tfds:helpsteer2/preference[train]"
        config.validation = "tfds:helpsteer2/preference[val]"
        config.optimizer.learning_rate = 1e-6
        config.optimizer.weight_decay = 0.01
        config.evaluate_every = 4
        config.on_error = "skip"
    elif policy == "smollm2_135m":
        config.data = "helpsteer2:mini/train.jsonl"
        config.validation = "helpsteer2:mini/validation.jsonl"
        config.batch_size = 8
        config.steps = 40
        config.max_new_tokens = 64
        config.row_length = 640  # Two prompts with four responses each, and little padding.
        config.micro_batch_size = 2
        config.model.remat = False
        config.optimizer.learning_rate = 5e-6
        config.optimizer.weight_decay = 0.01
        config.optimizer.warmup = 4
        config.kl.coefficient = 0.05
        config.kl.ceiling = 50.0
        config.evaluate_every = 20
        config.checkpoint_every = 10
        config.on_error = "skip"
    else:
        raise ValueError(f"there is no policy {policy!r}: {', '.join(models)} or smollm2_135m")
    return config
