"""Two processes that share a mesh do what one process with as many devices does."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import command
import numpy as np
import stages
import tiny
from safetensors.numpy import load_file

# All of the last layers are trained, with LoRA beside them.
SETTINGS = {"data.row_length": 256, "optimizer.learning_rate": 1e-3, "batch_size": 6}
SETTINGS |= {"micro_batch_size": 4, "evaluate_every": 2, "checkpoint_every": 2, "mesh.data": 2}
SETTINGS |= {"trainable.last_layers": 2, "trainable.paths": ".", "lora.rank": 2}
SETTINGS |= {"model.remat": False}
CONFIG = """
from hs2jax import configs

def get_config():
    config = configs.defaults("train_reward_model")
    config.update_from_flattened_dict({!r})
    return config
"""


def start(program: str, devices: int, said, **environment) -> subprocess.Popen:
    """Python in a process of its own with so many devices; `said` is a file."""
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, **command.devices(devices), **environment},
        cwd=Path(__file__).parent,
        stdout=said.open("w"),
        stderr=subprocess.STDOUT,
    )


def start_two(program: str, said, **environment) -> list[subprocess.Popen]:
    """Two processes that have joined each other, with two devices each."""
    address = command.free_address()
    join = "import jax; jax.distributed.initialize({!r}, 2, {})\n"
    return [start(join.format(address, i) + program, 2, said[i], **environment) for i in range(2)]


def finish(running, said):
    """Waits for all. Where one fails the others would wait for it: all are ended, and told."""
    end = time.monotonic() + 600
    while any(process.poll() is None for process in running) and time.monotonic() < end:
        if any(process.poll() for process in running):
            break
        time.sleep(0.1)
    codes = [process.poll() for process in running]
    for process in running:
        process.kill()
    assert codes == [0] * len(running), "\n".join(
        f"== {file.name} ended with {code}\n{file.read_text()}"
        for file, code in zip(said, codes, strict=True)
    )


def test_two_processes_train_what_one_trains(tmp_path):
    tiny.language_model(tmp_path / "base")
    data, config = stages.pairs(tmp_path / "pairs.jsonl", 20), tmp_path / "config.py"
    own = {"data.train": f"{data}[:-6]", "data.validation": f"{data}[-6:]"}
    own["model.name"] = str(tmp_path / "base")
    config.write_text(CONFIG.format(SETTINGS | own))
    said = [tmp_path / name for name in ("first", "second", "alone")]
    program = "from hs2jax.cli import main\nmain(['train', '--config={}', '--workdir={}'])"
    alone = start(program.format(config, tmp_path / "one"), 4, said[2])
    finish([*start_two(program.format(config, tmp_path / "two"), said), alone], said)

    one, two = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_allclose(two[name], one[name], atol=2e-6, err_msg=name)
    results = [json.loads((tmp_path / r / "result.json").read_text()) for r in ("one", "two")]
    assert results[0]["step"] == results[1]["step"]
    np.testing.assert_allclose(results[0]["values"]["loss"], results[1]["values"]["loss"], 1e-5)
