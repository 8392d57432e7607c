"""Time DPO and REINFORCE steps against TRL's DPOTrainer and RLOOTrainer, in one run.

    pip install -e . "trl==1.16.*" torch && python experiments/speed/alignment.py \\
        --file=DATA/hh_rlhf/helpful_test_1850.jsonl --reward_model=runs/hh_helpful/model

SmolLM2-135M-Instruct on pairs and prompts of HH-RLHF helpful. DPO: as in `training.py`, a round is
the second of two epochs of 8 pairs a step, and tokens are those of both conversations of a pair.
REINFORCE: 8 prompts, 4 responses of at most 64 tokens, the reward model included; a round is a
step, of which the first does not count. "trl best" is bfloat16 (autocast for DPO, weights for
RLOO), without gradient checkpointing, and for DPO in order of length with the reference computed
before.
"""

import sys

import contenders

PROMPTS, RESPONSES, NEW_TOKENS = 8, 4, 64
CONTENDERS = ("hs2jax float32", "hs2jax bfloat16", "trl best", "trl default")


def main() -> None:
    flags = contenders.parser(__doc__)
    flags.add_argument("--reward_model", required=True, help="folder, for the REINFORCE step")
    flags.add_argument("--steps", type=int, default=3, help="that count")
    flags.add_argument("--batch", type=int, default=8, help="pairs of a step")
    units = {"dpo": "tokens", "reinforce": "responses"}
    contenders.race(flags, RUNS, CONTENDERS, units, prepare)


def prepare(folder, flags) -> dict:
    tokens = contenders.write_pairs(folder, flags, flags.steps * flags.batch)
    return {"dpo": tokens, "reinforce": PROMPTS * RESPONSES}


def dpo(dtype: str, folder, flags) -> contenders.Timed:
    return contenders.train("dpo:smollm2_135m", dtype, folder, flags)


def reinforce(dtype: str, folder, flags) -> contenders.Timed:
    import hs2jax

    changes = {
        "data": f"preference:{folder}/pairs.jsonl",
        "validation": f"preference:{folder}/pairs.jsonl[:1]",
        "reward_models": f"main={flags.reward_model}",
        "model.name": f"{folder}/policy",
        "model.dtype": dtype,
        "batch_size": PROMPTS,
        "n": RESPONSES,
        "max_new_tokens": NEW_TOKENS,
        "micro_batch_size": 1,
        "row_length": 1024,
        "steps": flags.steps + 1,
        "evaluate_every": 1000,
        "checkpoint_every": 1000,
    }
    work = folder / f"reinforce_{dtype}"
    hs2jax.run(hs2jax.config("reinforce", changes), work)
    parts = [
        {name: x for name, x in line.items() if name.endswith("_seconds")}
        for line in contenders.trained(work)[1:]
    ]
    mean = {name: round(sum(x[name] for x in parts) / len(parts), 1) for name in parts[0]}
    print(f"reinforce, hs2jax {dtype}: mean {mean}", file=sys.stderr)
    return contenders.Timed([sum(x.values()) for x in parts])


def dpo_of_trl(how: str, folder, flags) -> contenders.Timed:
    from trl import DPOConfig, DPOTrainer

    before = {"precompute_ref_log_probs": True}
    return contenders.train_trl_on_pairs(DPOTrainer, DPOConfig, how, folder, flags, **before)


def reinforce_of_trl(how: str, folder, flags) -> contenders.Timed:
    from trl import RLOOConfig, RLOOTrainer

    settings = {"model_init_kwargs": {"dtype": "bfloat16"}} if how == "best" else {}
    settings |= {
        "per_device_train_batch_size": PROMPTS * RESPONSES,
        "num_generations": RESPONSES,
        "max_completion_length": NEW_TOKENS,
        "max_steps": flags.steps + 1,
    }
    models = f"{folder}/policy", flags.reward_model
    seconds = contenders.train_trl(
        *(RLOOTrainer, RLOOConfig, how, models, folder),
        lambda data: data.select_columns("prompt"),
        **settings,
    )
    return contenders.Timed(seconds[1:])


RUNS = {
    ("dpo", "hs2jax"): dpo,
    ("dpo", "trl"): dpo_of_trl,
    ("reinforce", "hs2jax"): reinforce,
    ("reinforce", "trl"): reinforce_of_trl,
}

if __name__ == "__main__":
    main()
