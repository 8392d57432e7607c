"""The plan of any config's run on a TPU slice, as a config of its own, such as for a notebook.

    hs2jax plan --config=configs/plan.py:helpsteer2_regression:llama3_70b --workdir=runs/plan \\
        --config.topology=v5p:4x4x4

Argument: the config that is planned, with its own argument; its settings are `config.base`. The
same as `hs2jax plan --config=helpsteer2_regression:llama3_70b --topology=v5p:4x4x4`, which takes
any config. Hardware: none but a CPU, with `pip install "hs2jax[tpu]"`; one to six minutes.
"""

from hs2jax import configs, flags


def get_config(base="helpsteer2_regression"):
    config = configs.defaults("plan")
    config.base = flags.load(base)
    return config
