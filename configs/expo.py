"""ExPO: how far to go beyond a trained reward model, away from the one that it was trained from.

    hs2jax expo --config=configs/expo.py --workdir=runs/expo \\
        --config.initial=runs/quickstart/regression --config.trained=runs/quickstart/preference \\
        --config.data='helpsteer2_preference:mini/preference.jsonl[val]'

HelpSteer2-Preference's best model is its scaled Bradley-Terry model, extrapolated from the
regression model that it began with: factor 1.52, and 94.1 instead of 93.7 on RewardBench. Each
factor scores the pairs once; the mini set's few say nothing, see the report for the interval.
"""

from hs2jax import configs


def get_config():
    return configs.defaults("expo")
