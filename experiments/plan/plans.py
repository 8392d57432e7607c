"""Make the plans of `README.md`, one after another, and print its tables.

    python experiments/plan/plans.py runs/plans [NAME ...]

What is finished is not compiled again; a whole model takes minutes. Names choose among PLANS.
"""

import json
import subprocess
import sys
from pathlib import Path

# Plain causal language modelling: one sequence a row, of which all is learned.
LANGUAGE = "--prompt_tokens=1 --responses=1"
PREFERENCE = "--config=helpsteer2_preference_bradley_terry"
PLANS = {
    # MaxText's runs. Rows of 256 chips together; measured: tokens a second and chip.
    "language 8B, v6e": (
        f"--config=sft:llama31_8b --topology=v6e:16x16 {LANGUAGE} --group_tokens=8192 "
        "--config.data.row_length=8192 --config.batch_size=1024 --config.micro_batch_size=1024"
    ),
    "language 70B, v6e": (
        f"--config=sft:llama31_70b --topology=v6e:16x16 {LANGUAGE} --group_tokens=8192 "
        "--config.data.row_length=8192 --config.batch_size=256 --config.micro_batch_size=256"
    ),
    "language 70B, v5p": (
        f"--config=sft:llama3_70b --topology=v5p:4x8x8 {LANGUAGE} --group_tokens=4096 "
        "--config.data.row_length=4096 --config.batch_size=1024 --config.micro_batch_size=1024"
    ),
    "regression 8B, v5e": "--config=helpsteer2_regression:llama31_8b --topology=v5e:4x4",
    "regression 8B, v6e": "--config=helpsteer2_regression:llama31_8b --topology=v6e:4x4",
    "regression 70B, v5p": "--config=helpsteer2_regression:llama3_70b --topology=v5p:4x4x4",
    "regression 70B, v6e": "--config=helpsteer2_regression:llama3_70b --topology=v6e:8x8",
    # With all rows filled, and what fits kept for the backward pass.
    "full regression 70B, v5p": (
        "--config=helpsteer2_regression:llama3_70b --topology=v5p:4x4x4 --config.batch_size=315 "
        "--config.model.keeps=q,k,v,attention,o,gate,up"
    ),
    "full regression 70B, v6e": (
        "--config=helpsteer2_regression:llama3_70b --topology=v6e:8x8 --config.batch_size=315 "
        "--config.model.keeps=k,v"
    ),
    "scaled Bradley-Terry 70B, v5p": f"{PREFERENCE}:llama31_70b --topology=v5p:4x4x4 "
    "--config.objective.preference=scaled",
    "scaled Bradley-Terry 70B, v6e": f"{PREFERENCE}:llama31_70b --topology=v6e:8x8 "
    "--config.objective.preference=scaled",
    "regression 340B, v5p": "--config=helpsteer2_regression:nemotron4_340b --topology=v5p:8x8x8",
    "LoRA 8B, v5e": "--config=helpsteer2_regression:llama31_8b --topology=v5e:2x4 "
    "--config.lora.rank=16",
    "scoring 70B, v5p": "--config=evaluate:meta-llama/Meta-Llama-3-70B --topology=v5p:4x4x4",
    "scoring 70B, v5e": "--config=evaluate:meta-llama/Meta-Llama-3-70B --topology=v5e:4x4",
    "judging 8B, v5e": "--config=judge:meta-llama/Llama-3.1-8B-Instruct --topology=v5e:2x4",
    "DPO 70B, v5p": "--config=dpo:llama31_70b --topology=v5p:4x4x4",
    "REINFORCE 70B, v5p": "--config=reinforce:llama31_70b --topology=v5p:4x4x4 --responses=4 "
    "--config.reward_models=main=meta-llama/Llama-3.1-70B-Instruct",
    # A row of 128k tokens, on eight chips by its heads.
    "long row 8B, v5p": (
        f"--config=sft:llama31_8b --topology=v5p:4x4x4 {LANGUAGE} --group_tokens=131072 "
        "--config.data.row_length=131072 --config.mesh.tensor=8 --config.batch_size=8 "
        "--config.micro_batch_size=8"
    ),
}
COLUMNS = ("slice", "GiB of", "seconds", "MFU", "groups a second", "padding", "what it says")


def main(folder: Path, names: list[str]) -> None:
    print("| |", *(f" {name} |" for name in COLUMNS))
    print("|---" * (len(COLUMNS) + 1) + "|")
    for name, flags in PLANS.items():
        if names and not any(each in name for each in names):
            continue
        where = folder / name.replace(", ", "-").replace(" ", "-")
        command = [sys.executable, "-m", "hs2jax.cli", "plan", *flags.split(), f"--workdir={where}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"| {name} | {done.stderr.splitlines()[-1]} |", flush=True)
            continue
        rows = [json.loads(line) for line in (where / "results.jsonl").open()]
        found = {(x["part"], x["metric"]): x["value"] for x in reversed(rows)}
        said = json.loads((where / "result.json").read_text())["said"]
        memory, left = found["memory", "memory"], found["memory", "memory_left"]
        cells = [
            flags.split("--topology=")[1].split()[0],
            f"{memory / 2**30:.1f} of {(memory + left) / 2**30:g}",
            *(
                format(found[part, metric], form) if (part, metric) in found else ""
                for part, metric, form in (
                    ("time", "predicted_seconds", ".3g"),
                    ("time", "predicted_mfu", ".1%"),
                    ("time", "groups_per_second", ".3g"),
                    ("work", "padding", ".0%"),
                )
            ),
            "; ".join(each["label"] for each in said),
        ]
        print(f"| {name} |", *(f" {cell} |" for cell in cells), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
