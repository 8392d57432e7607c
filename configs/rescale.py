"""A regression model whose attribute values are spread over responses as people's ratings are.

    hs2jax rescale --config=configs/rescale.py --config.model.name=runs/regression/model \\
        --config.data=sampled:runs/samples/samples.jsonl --config.ratings=helpsteer2:FILE.jsonl \\
        --config.attributes='("complexity","verbosity")' --workdir=runs/rescaled

For a model that draws its ratings to their mean, before it annotates: without this, all answers to
a prompt may be rated alike in whole numbers.
"""

from hs2jax import configs


def get_config():
    return configs.defaults("rescale")
