"""A run killed with SIGKILL at random moments, each time started again, ends with the same bits."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

CONFIG = """
from hs2jax.training import defaults

def get_config():
    config = defaults.reward_model()
    config.model.name = {base!r}
    config.model.remat = False
    config.data.train = "preference:{data}[:-6]"
    config.data.validation = "preference:{data}[-6:]"
    config.data.row_length = 256
    config.optimizer.learning_rate = 1e-3
    config.batch_size = 5
    config.micro_rows = 2
    config.epochs = 24
    config.evaluate_every = 4
    config.checkpoint_every = 1
    {more}
    return config
"""
PART = """config.trainable.last_layers = 2
    config.trainable.cache = True
    config.lora.rank = 2
    config.optimizer.first_moment = "bfloat16"
"""


def environment(cache: Path) -> dict:
    """One device, and compiled programs kept, so that a start is short."""
    return {
        **os.environ,
        "XLA_FLAGS": "",
        "HS2JAX_CACHE": str(cache),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def start(config: Path, workdir: Path, cache: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "hs2jax.cli", "train", f"--config={config}", f"--workdir={workdir}"],
        env=environment(cache),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def saved_state(workdir: Path):
    """Every array of the last checkpoint and of the exported model, and what was evaluated."""
    import orbax.checkpoint as ocp

    (last,) = (workdir / "checkpoints").iterdir()
    arrays = {}
    for item in ("params", "rest"):
        tree = ocp.StandardCheckpointer().restore((last / item).absolute())
        arrays[item] = tree
    weights = (workdir / "model" / "model.safetensors").read_bytes()
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    numbers = [
        {k: v for k, v in row.items() if k not in ("seconds", "tokens_per_second")} for row in rows
    ]
    items = (workdir / "items.jsonl").read_text()
    return last.name, arrays, weights, numbers, items


@pytest.mark.parametrize(
    ("kills", "more"), [(20, ""), (6, PART)], ids=["all", "LoRA on the last layers"]
)
def test_killed_many_times_ends_with_the_same_bits(tmp_path, kills, more):
    tiny.language_model(tmp_path / "base")
    data, config, cache = tmp_path / "pairs.jsonl", tmp_path / "config.py", tmp_path / "cache"
    with data.open("w") as file:
        for i in range(23):  # 17 to train: an epoch is three batches of five and two left over.
            row = {"prompt": f"Is {i} odd?", "chosen": str(bool(i % 2)), "rejected": "I forgot."}
            file.write(json.dumps(row) + "\n")
    config.write_text(CONFIG.format(base=str(tmp_path / "base"), data=data, more=more))

    finish(start(config, tmp_path / "undisturbed", cache))
    rng = random.Random(0)
    killed, workdir = 0, tmp_path / "killed"
    seen = set()
    while killed < kills:
        process = start(config, workdir, cache)
        if killed % 5:
            # Most kills fall into the steps and the savings, a step or so after the start.
            steps = 0
            wanted = rng.randint(0, 3)
            for line in process.stderr:
                steps += "killed step" in line
                if steps > wanted:
                    break
            time.sleep(rng.uniform(0.0, 0.1))
        else:
            time.sleep(rng.uniform(0.5, 6.0))
        if process.poll() is not None:
            finish(process)
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        killed += 1
        seen.add(latest(workdir))
    assert killed == kills, f"the run was over after {killed} kills; make it longer"
    assert len(seen) > kills // 6, f"the kills hit only the steps {seen}"
    finish(start(config, workdir, cache))

    undisturbed, disturbed = saved_state(tmp_path / "undisturbed"), saved_state(workdir)
    assert disturbed[0] == undisturbed[0]
    compare(disturbed[1], undisturbed[1])
    assert disturbed[2] == undisturbed[2], "the exported weights differ"
    assert disturbed[3] == undisturbed[3], "the metrics differ"
    assert disturbed[4] == undisturbed[4], "the scored items differ"


def latest(workdir: Path) -> int:
    steps = [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]
    return max(steps, default=0)


def compare(a, b):
    import jax
    import numpy as np

    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)
