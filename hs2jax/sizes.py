"""Base models by size, as arguments of configs: `--config=FILE.py:llama31_8b`, `:runlocal`."""

from typing import NamedTuple

from ml_collections import ConfigDict


class Size(NamedTuple):
    """A base model, and the learning rate as a multiple of the papers' for 70B.

    340B's is the first paper's (7e-7 against 2e-6); those below 70B are ours. `template` is for
    base models, which have none of their own; a policy gets "steerlm" in its place. `tensor`: over
    how many devices heads are split.
    """

    model: str
    learning_rate: float
    template: str = ""
    tensor: int = 1


SIZES = {
    # Published in NeMo's format only: this is a folder with it in transformers' format.
    "nemotron4_340b": Size("models/nemotron-4-340b-base", 0.35, "extra_id", tensor=4),
    "llama3_70b": Size("meta-llama/Meta-Llama-3-70B", 1.0, "extra_id"),
    "llama31_70b": Size("meta-llama/Llama-3.1-70B-Instruct", 1.0),
    "llama31_8b": Size("meta-llama/Llama-3.1-8B-Instruct", 2.5),
    "llama32_1b": Size("meta-llama/Llama-3.2-1B-Instruct", 5.0),
    "smollm2_135m": Size("smollm2-135m-instruct", 25.0),
}
MINI = {
    "ratings": ("helpsteer2:mini/train.jsonl", "helpsteer2:mini/validation.jsonl"),
    "preferences": tuple(
        f"helpsteer2_preference:mini/preference.jsonl[{split}]" for split in ("train", "val")
    ),
}


def apply(config: ConfigDict, arg: str | None, *, default: str, local: str = "ratings") -> None:
    """Sets what a size implies in a config for `hs2jax train`.

    arg: a key of SIZES, or "runlocal", which is SmolLM2 on the bundled mini set's `local` part
    ("ratings", "preferences" or "both"), a few minutes on a laptop. None is the default size.
    Raises ValueError for another arg.
    """
    if arg == "runlocal":
        parts = MINI.values() if local == "both" else [MINI[local]]
        train, validation = ("+".join(each) for each in zip(*parts, strict=True))
        config.data.update(train=train, validation=validation, row_length=384)
        config.update(batch_size=6, micro_batch_size=1, epochs=1)
        config.update(evaluate_every=12, checkpoint_every=12)
        config.model.remat, config.optimizer.warmup = False, 3
        arg = "smollm2_135m"
    name = arg or default
    if name not in SIZES:
        raise ValueError(f"this config's argument is {arg!r}; it must be runlocal or {list(SIZES)}")
    size = SIZES[name]
    config.model.name = size.model
    rewards = config.kind == "train_reward_model"
    config.model.template = size.template if rewards or not size.template else "steerlm"
    config.optimizer.learning_rate *= size.learning_rate
    config.mesh.tensor = size.tensor
