"""The Pairwise Justifier of HelpSteer2-Preference (arXiv 2410.01257): a language model that is
fine-tuned to say why, and then which of two responses is better.

    hs2jax train --config=configs/justifier.py:llama31_70b --workdir=runs/justifier
    hs2jax evaluate --config=configs/evaluate.py:runs/justifier/model --workdir=runs/justified \\
        --config.model.justifier=written --config.data=tfds:reward_bench

Argument: llama31_70b (the paper's, Llama-3.1-70B-Instruct), llama3_70b, llama31_8b, llama32_1b,
smollm2_135m, or runlocal (SmolLM2 on the mini set). Published: at most 90.0 on RewardBench, against
94.1 of the best Bradley-Terry model (from regression, scaled, with ExPO); its hyper-parameters are
not known, and here they are those of configs/sft.py. Each pair is learned in both orders; ties, and
rows whose statement does not name the better response, are left out and counted.
`config.model.justifier=statements` asks without a word being written, one forward pass a question.
It is the surer where statements alone were learned too: join
helpsteer2_justification{-preference_elaboration}:FILE[train] to the data.
Hardware: 20 bytes for each parameter in float32 with Adam, 1.4 TB at 70B, 160 GB at 8B, 3 GB at
135M. A row holds both responses and the justification; 4096 tokens leave few out.
"""

from hs2jax import configs, sizes

FILE = "hf://datasets/nvidia/HelpSteer2/preference/preference.jsonl.gz"
TRAIN = "helpsteer2_justification:{0}[train]+helpsteer2_justification_swapped:{0}[train]"


def get_config(arg=None):
    config = configs.defaults("train_policy")
    config.optimizer.learning_rate = 2e-6
    sizes.apply(config, arg, default="llama31_70b")
    file = "mini/preference.jsonl" if arg == "runlocal" else FILE
    config.data.train = TRAIN.format(file)
    config.data.validation = f"helpsteer2_justification:{file}[val]"
    config.data.on_error = "skip"
    if arg == "runlocal":
        config.data.row_length = 1024
    return config
