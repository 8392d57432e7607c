"""LoRA and other ways to train less than all, against full fine-tuning, on human preferences.

    hs2jax sweep --config=configs/lora.py:DATA --workdir=runs/lora

DATA is the folder with hh_rlhf/helpful_test_1850.jsonl. Scaled down to pairs that fit into 192
tokens together, so that it can be done with SmolLM2-135M on two CPU cores.
experiments/lora has what came out: accuracy, time per step and memory.
"""

from hs2jax import configs


def get_config(data="data"):
    sweep = configs.defaults("sweep")
    sweep.seeds = (0, 1, 2)
    sweep.reference = "full"
    sweep.arms = (
        ("full", {"optimizer.learning_rate": 3e-5}),
        ("LoRA", {"lora.rank": 8}),
        ("last 3 layers", {"trainable.last_layers": 3, "trainable.cache": True}),
        (
            "head",
            {
                "trainable.paths": "^head/",
                "trainable.last_layers": 0,
                "trainable.cache": True,
                "optimizer.learning_rate": 1e-3,
            },
        ),
    )

    config = configs.defaults("train_reward_model")
    config.model.remat = False
    file = f"hh_rlhf:{data}/hh_rlhf/helpful_test_1850.jsonl"
    config.data.train = f"{file}[:500]"
    config.data.validation = f"{file}[-250:]"
    config.data.on_error = "skip"  # Three of the file's rows have an empty turn.
    config.data.row_length = 192
    config.optimizer.learning_rate = 3e-4
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = 3
    config.batch_size = 8
    config.micro_batch_size = 4
    config.epochs = 1
    config.evaluate_every = 1000  # Only the last step: no choice on the test set.
    config.checkpoint_every = 1000
    sweep.base = config
    return sweep
