"""Time training a reward model against TRL's RewardTrainer, in one run.

    pip install -e . "trl==1.16.*" torch && python experiments/speed/training.py \\
        --file=DATA/hh_rlhf/helpful_test_1850.jsonl

Bradley-Terry on pairs of HH-RLHF helpful, 8 a step, from SmolLM2-135M-Instruct. A round is the
second of two epochs. Tokens are real ones: those of both conversations of a pair, without padding,
also where hs2jax computes their prompt once. "trl best" is bfloat16 autocast without gradient
checkpointing, in order of length; "trl default" has its own defaults, which are bfloat16 too.
"""

import contenders

CONTENDERS = ("hs2jax float32", "hs2jax bfloat16", "trl best", "trl default")


def main() -> None:
    flags = contenders.parser(__doc__)
    flags.add_argument("--steps", type=int, default=4, help="that count")
    flags.add_argument("--batch", type=int, default=8, help="pairs of a step")
    contenders.race(flags, RUNS, CONTENDERS, {"train": "tokens"}, prepare)


def prepare(folder, flags) -> dict:
    return {"train": contenders.write_pairs(folder, flags, flags.steps * flags.batch)}


def ours(dtype: str, folder, flags) -> contenders.Timed:
    plain = {"objective.centering": 0.0}  # As TRL's default is.
    return contenders.train("hh_helpful", dtype, folder, flags, **plain)


def of_trl(how: str, folder, flags) -> contenders.Timed:
    from trl import RewardConfig, RewardTrainer

    return contenders.train_trl_on_pairs(RewardTrainer, RewardConfig, how, folder, flags)


RUNS = {("train", "hs2jax"): ours, ("train", "trl"): of_trl}

if __name__ == "__main__":
    main()
