"""Conversations rated by a regression model in whole numbers, for SteerLM (arXiv 2310.05344).

    hs2jax annotate --config=configs/annotate.py --config.model.name=runs/regression/model \\
        --config.data=conversations:FILE.jsonl --workdir=runs/annotation

Then train on them, each asked for its own ratings: --config.data.condition=ratings with
--config.data.train=ratings:runs/annotation/annotated.jsonl.
"""

from hs2jax import configs


def get_config():
    return configs.defaults("annotate")
