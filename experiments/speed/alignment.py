"""Time DPO and REINFORCE steps against TRL's DPOTrainer and RLOOTrainer, in one run.

    pip install -e . "trl==1.16.*" torch && python experiments/speed/alignment.py \\
        --file=DATA/hh_rlhf/helpful_test_1850.jsonl --reward_model=runs/hh_helpful/model

SmolLM2-135M-Instruct on pairs and prompts of HH-RLHF helpful. Each contender is a process of its
own, one after the other. DPO: two epochs of 8 pairs a step, of which the second counts; tokens are
those of both conversations of a pair, without padding, also where their prompt is computed once.
REINFORCE: 8 prompts, 4 responses of at most 64 tokens, the reward model included; the first step
does not count. "best" is TRL in bfloat16 (autocast for DPO, weights for RLOO), without gradient
checkpointing, and for DPO in order of length with the reference computed before.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODEL = "smollm2-135m-instruct"
PAIRS, PROMPTS, RESPONSES, NEW_TOKENS, LONGEST = 8, 8, 4, 64, 768
CONTENDERS = ("hs2jax float32", "hs2jax bfloat16", "trl best", "trl default")


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--file", required=True, help="HH-RLHF pairs, as JSON lines")
    flags.add_argument("--reward_model", required=True, help="folder, for the REINFORCE step")
    flags.add_argument("--steps", type=int, default=3, help="that count")
    flags.add_argument("--work", default="dpo,reinforce")
    flags.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    flags = flags.parse_args()
    if flags.one:
        work, who, folder = flags.one
        whose, how = who.split()
        seconds = RUNS[work, whose](how, Path(folder), flags.steps, flags.reward_model)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return print(json.dumps([seconds, peak]))
    with tempfile.TemporaryDirectory() as folder:
        tokens = prepare(Path(folder), flags.file, flags.steps)
        os.environ["HS2JAX_CACHE"] = f"{folder}/cache"  # Nothing that was kept before counts.
        for work in flags.work.split(","):
            for who in CONTENDERS:
                command = [sys.executable, *sys.argv, "--one", work, who, folder]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                seconds, peak = json.loads(done.stdout.splitlines()[-1])
                said = f"{statistics.median(seconds):.1f} s a step, {peak / 2**30:.1f} GiB"
                said += f", {tokens / sum(seconds):.0f} tokens/s" if work == "dpo" else ""
                print(f"{work}, {who}: {said}", flush=True)


def prepare(folder: Path, file: str, steps: int) -> int:
    """Write the policy as transformers reads it, and pairs; return the tokens of all pairs."""
    from hs2jax import LanguageModel
    from hs2jax.data import corpora
    from hs2jax.data.record import Record

    model = LanguageModel.load(MODEL)
    model.save(folder / "policy")
    found = []
    for group in corpora.read(f"hh_rlhf:{file}", on_error="skip", record=Record()):
        sides = group.responses if group.strength < 0 else group.responses[::-1]
        talks = [[*group.prompt, {"role": "assistant", "content": text}] for text in sides]
        each = model.tokenizer.apply_chat_template(talks, tokenize=True, return_dict=False)
        if max(map(len, each)) <= LONGEST and sides[0] != sides[1]:
            row = {"prompt": group.prompt, "chosen": sides[0], "rejected": sides[1]}
            found.append((sum(map(len, each)), row))
        if len(found) == PAIRS * steps:
            break
    for name, rows in (("pairs", found), ("sorted", sorted(found, key=lambda x: x[0]))):
        text = "".join(json.dumps(row) + "\n" for _, row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return sum(count for count, _ in found)


def of_metrics(folder: Path) -> list[dict]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == "train"]


def dpo(dtype: str, folder: Path, steps: int, _) -> list[float]:
    import hs2jax

    changes = {
        "data.train": f"preference:{folder}/pairs.jsonl",
        "data.validation": f"preference:{folder}/pairs.jsonl[:1]",
        "data.row_length": 1024,
        "model.name": f"{folder}/policy",
        "model.dtype": dtype,
        "model.remat": False,
        "batch_size": PAIRS,
        "micro_batch_size": 1,
        "epochs": 2,
        "evaluate_every": 1000,
    }
    work = folder / f"dpo_{dtype}"
    hs2jax.run(hs2jax.config("dpo:smollm2_135m", changes), work)
    return [line["seconds"] for line in of_metrics(work)][steps:]


def reinforce(dtype: str, folder: Path, steps: int, reward_model: str) -> list[float]:
    import hs2jax

    changes = {
        "data": f"preference:{folder}/pairs.jsonl",
        "validation": f"preference:{folder}/pairs.jsonl[:1]",
        "reward_models": f"main={reward_model}",
        "model.name": f"{folder}/policy",
        "model.dtype": dtype,
        "batch_size": PROMPTS,
        "n": RESPONSES,
        "max_new_tokens": NEW_TOKENS,
        "row_length": 1024,
        "steps": steps + 1,
        "evaluate_every": 1000,
        "checkpoint_every": 1000,
    }
    work = folder / f"reinforce_{dtype}"
    hs2jax.run(hs2jax.config("reinforce", changes), work)
    parts = [
        {name: x for name, x in line.items() if name.endswith("_seconds")}
        for line in of_metrics(work)[1:]
    ]
    mean = {name: round(sum(x[name] for x in parts) / steps, 1) for name in parts[0]}
    print(f"reinforce, hs2jax {dtype}: mean {mean}", file=sys.stderr)
    return [sum(x.values()) for x in parts]


def trained(make, folder: Path, name: str) -> list[float]:
    """Seconds of each step of a TRL trainer, made by make(data, callbacks)."""
    import datasets
    import transformers

    ends = []

    class Clock(transformers.TrainerCallback):
        def on_step_begin(self, *_, **__):
            ends.append(-time.perf_counter())

        def on_step_end(self, *_, **__):
            ends[-1] += time.perf_counter()

    data = datasets.load_dataset("json", data_files=f"{folder}/{name}.jsonl", split="train")
    make(data, [Clock()]).train()
    return ends


def of_trl(kind, how: str, folder: Path, **more):
    best = {"gradient_checkpointing": False} if how == "best" else {}
    return kind(
        output_dir=f"{folder}/trl",
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        **best,
        **more,
    )


def as_messages(row: dict) -> dict:
    """TRL takes a text and a list of turns for two kinds of data."""
    return {x: [{"role": "assistant", "content": row[x]}] for x in ("chosen", "rejected")}


def dpo_of_trl(how: str, folder: Path, steps: int, _) -> list[float]:
    from torch.utils.data import SequentialSampler
    from trl import DPOConfig, DPOTrainer

    best = {"precompute_ref_log_probs": True, "bf16": True} if how == "best" else {}
    args = of_trl(
        DPOConfig, how, folder, per_device_train_batch_size=PAIRS, num_train_epochs=2, **best
    )

    def make(data, callbacks):
        data = data.map(
            lambda row: {
                side: [{"role": "assistant", "content": row[side]}]
                for side in ("chosen", "rejected")
            }
        )
        trainer = DPOTrainer(f"{folder}/policy", args=args, train_dataset=data, callbacks=callbacks)
        if how == "best":
            trainer._get_train_sampler = lambda rows=None: SequentialSampler(data)
        return trainer

    return trained(make, folder, "sorted" if how == "best" else "pairs")[steps:]


def reinforce_of_trl(how: str, folder: Path, steps: int, reward_model: str) -> list[float]:
    from trl import RLOOConfig, RLOOTrainer

    best = {"model_init_kwargs": {"dtype": "bfloat16"}} if how == "best" else {}
    args = of_trl(
        RLOOConfig,
        how,
        folder,
        per_device_train_batch_size=PROMPTS * RESPONSES,
        num_generations=RESPONSES,
        max_completion_length=NEW_TOKENS,
        max_steps=steps + 1,
        **best,
    )

    def make(data, callbacks):
        data = data.select_columns("prompt")
        model = f"{folder}/policy"
        return RLOOTrainer(model, reward_model, args, train_dataset=data, callbacks=callbacks)

    return trained(make, folder, "pairs")[1:]


RUNS = {
    ("dpo", "hs2jax"): dpo,
    ("dpo", "trl"): dpo_of_trl,
    ("reinforce", "hs2jax"): reinforce,
    ("reinforce", "trl"): reinforce_of_trl,
}

if __name__ == "__main__":
    main()
