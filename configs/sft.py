"""Supervised fine-tuning on conversations: HelpSteer2's, which gives P(y|x) (arXiv 2406.08673).

    hs2jax train --config=configs/sft.py:llama3_70b --workdir=runs/sft

Argument: nemotron4_340b, llama3_70b (the paper's), llama31_70b, llama31_8b, llama32_1b,
smollm2_135m, or runlocal (SmolLM2 on the mini set's responses, minutes on a laptop). Base models
get NeMo-Aligner's template, the others keep their own.

Published, Llama-3-70B on Daring-Anteater: learning rate 2e-6, constant, of 1e-6 to 5e-6 that were
tried; 1600 steps of 384 conversations, about two epochs; MT-Bench 7.96 with 1514 characters; 128
node-hours of 8 H100. Ours: weight decay (NeMo-Aligner's recipe), held-out conversations (2 %), and
learning rates below 70B. Hardware: 20 bytes for each parameter in float32 with Adam, so 1.4 TB at
70B, 160 GB at 8B, 3 GB at 135M; activations come on top.
"""

from hs2jax import configs, sizes

CONVERSATIONS = "conversations:hf://datasets/nvidia/Daring-Anteater/train.jsonl"


def get_config(arg=None):
    config = configs.defaults("train_policy")
    config.data.train = f"{CONVERSATIONS}[:98%]"
    config.data.validation = f"{CONVERSATIONS}[98%:]"
    config.optimizer.learning_rate = 2e-6
    config.batch_size = 384
    sizes.apply(config, arg, default="llama3_70b")
    return config
