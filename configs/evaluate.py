"""How good a reward model is: benchmarks, calibration, length, ratings, in one page.

    hs2jax evaluate --config=configs/evaluate.py:MODEL --workdir=runs/evaluation
    hs2jax evaluate --config=configs/evaluate.py:MODEL --workdir=runs/benchmarks \\
        --config.data='tfds:reward_bench+tfds:judge_bench'

The argument is a reward model, by default the quick start's. Without data of your own it is
evaluated on the bundled mini set, which takes a minute on two CPU cores. Scores are kept, so the
same model never scores a response twice; killed, it goes on where it was.
"""

from hs2jax import configs


def get_config(model: str = "runs/quickstart/preference/model"):
    config = configs.defaults("evaluate")
    config.model.name = model
    config.data = (
        "helpsteer2_preference:mini/preference.jsonl[val]+helpsteer2:mini/validation.jsonl"
    )
    return config
