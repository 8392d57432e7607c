"""HelpSteer2's reward model: regression of five attributes (arXiv 2406.08673, section 3).

    python -m hs2jax.data.tfds helpsteer2/ratings
    hs2jax train --config=configs/helpsteer2_regression.py:llama3_70b --workdir=runs/helpsteer2

Argument: nemotron4_340b, llama3_70b (the papers' two), llama31_8b, llama32_1b, smollm2_135m, or
runlocal (SmolLM2 on the mini set, minutes on a laptop). Nemotron-4-340B is published in NeMo's
format: convert it to transformers' (model_type nemotron) and give its folder as
--config.model.name.

Hardware, by arithmetic and not by a run: weights, Adam's moments and two gradients in float32 are
20 bytes for each parameter, spread over all devices: 6.8 TB at 340B, 1.4 TB at 70B, 160 GB at 8B,
25 GB at 1B, 3 GB at 135M; activations come on top. A batch of one micro-batch has one gradient.

Published on RewardBench (overall, chat, chat-hard, safety, reasoning), with attribute weights that
were searched for, likely on RewardBench itself: 340B 92.0, 95.8, 87.1, 91.5, 93.7; 70B 88.8, 91.3,
80.3, 92.8, 90.7. Published batch size 128 responses, 2 epochs, learning rate 2e-6 (340B: 7e-7).
"""

from hs2jax import configs, sizes

# The paper's appendix H.
WEIGHTS = "helpfulness=0.65,correctness=0.8,coherence=0.45,complexity=0.55,verbosity=-0.4"
WEIGHTS_340B = "helpfulness=0.3,correctness=0.74,coherence=0.46,complexity=0.47,verbosity=-0.33"


def get_config(arg=None):
    config = configs.defaults("train_reward_model")
    config.model.outputs = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    config.model.weights = WEIGHTS_340B if arg == "nemotron4_340b" else WEIGHTS
    config.data.train = "tfds:helpsteer2/ratings[train]"
    config.data.validation = "tfds:helpsteer2/ratings[validation]"
    config.data.derive = "helpfulness"  # For accuracy beside the errors; no loss uses it.
    config.objective.kind = "regression"
    sizes.apply(config, arg, default="llama3_70b")
    return config
