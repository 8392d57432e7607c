"""A reward model from a file of one's own.

    hs2jax train --config=configs/own_data.py --data=pairs.csv --workdir=runs/own

The file may be CSV, JSON lines, JSON, Parquet or Arrow, here or hf://datasets/OWNER/NAME/PATH. Its
format is seen from its columns; where it cannot be, say which column is which:

    --data='preference{prompt=question,chosen=good,rejected=bad}:pairs.csv'

A tenth of the prompts is held out, the same ones each time. Pairs are learned by Bradley-Terry,
scaled where they say how much better the better one is; ratings by regression. It is for some
thousand pairs on one GPU, or fewer on a CPU; the base model is --config.model.name=NAME.
"""

from hs2jax import configs
from hs2jax.data import corpora, guess
from hs2jax.data.formats import FORMATS


def get_config(data=""):
    config = configs.defaults("train_reward_model")
    config.model.remat = False
    config.data.row_length = 1024
    config.data.too_long = "truncate"
    config.objective.centering = 0.01
    config.optimizer.learning_rate = 2e-5
    config.optimizer.schedule = "cosine"
    config.batch_size = 16
    config.micro_batch_size = 1
    config.epochs = 1
    config.evaluate_every = 20
    config.checkpoint_every = 20
    if not data:
        return config

    seen = guess.look(data)
    if FORMATS[corpora.parse(seen.spec)[0].format].benchmark:
        raise ValueError(
            f"--data={data} is a benchmark, not to be trained on: hs2jax evaluate "
            f"--config=evaluate:MODEL --config.data={seen.spec!r}"
        )
    config.data.train = f"{seen.spec}[~:90%]"
    config.data.validation = f"{seen.spec}[~90%:]"
    if seen.pairs:
        config.objective.preference = "scaled" if seen.strengths else "regular"
    elif seen.attributes:
        config.model.outputs = seen.attributes
        config.objective.kind = "regression"
        config.objective.centering = 0.0
    else:
        raise ValueError(
            f"--data={data}: its rows hold neither preferences nor ratings by the names of those: "
            "say which column is which, as in ratings{helpfulness=COLUMN}:FILE or "
            "preference{chosen=COLUMN,rejected=COLUMN}:FILE"
        )
    return config
