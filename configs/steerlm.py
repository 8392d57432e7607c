"""SteerLM: a policy that is asked for attribute values (arXiv 2310.05344, as in HelpSteer).

    hs2jax train --config=configs/steerlm.py:llama3_70b --workdir=runs/steerlm \
        --config.data.train='ratings:FILE[:98%]' --config.data.validation='ratings:FILE[98%:]'

FILE is the annotated.jsonl of `hs2jax annotate`: conversations whose answers a reward model has
rated. configs/steerlm2.py has that stage before this one, and the rounds that follow it.

Argument: nemotron4_340b, llama3_70b (HelpSteer2's), llama31_70b, llama31_8b, llama32_1b,
smollm2_135m, or runlocal (SmolLM2 on people's ratings of the mini set, minutes on a laptop). Base
models get NeMo-Aligner's template, with its own place for the line of values; in others the line
stands at the answer's start. Where a prompt has several rated answers, up to eight of them are one
of a batch's groups: divide config.batch_size by their number to have the papers' 128 answers.

Published: HelpSteer (arXiv 2311.09528), Llama-2-70B, 800 steps of 128, about two epochs, constant
5e-6: MT-Bench 7.54, against 6.29 without attributes. HelpSteer2, Llama-3-70B on Daring-Anteater,
"following HelpSteer", learning rate not stated: 8.17, against 7.96. Ours: held-out rows, learning
rates below 70B. Hardware: as configs/sft.py.
"""

from hs2jax import configs, sizes

ANNOTATED = "ratings:runs/annotation/annotated.jsonl"


def get_config(arg=None):
    config = configs.defaults("train_policy")
    config.data.train = f"{ANNOTATED}[:98%]"
    config.data.validation = f"{ANNOTATED}[98%:]"
    config.data.condition = "ratings"
    sizes.apply(config, arg, default="llama3_70b")
    return config
