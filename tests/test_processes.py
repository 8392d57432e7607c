"""Two processes that share a mesh do what one process with as many devices does."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import command
import numpy as np
import pytest
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


def start_two(program: str, said, count: int = 2, **environment) -> list[subprocess.Popen]:
    """Two processes, or so many, that have joined each other, with four devices in all."""
    address = command.free_address()
    join = f"import jax; jax.distributed.initialize({address!r}, {count}, {{}})\n"
    devices, each = 4 // count, [join.format(i) + program for i in range(count)]
    return [start(x, devices, said[i], **environment) for i, x in enumerate(each)]


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


@pytest.mark.parametrize(
    ("verb", "count"),
    [
        ("train", 2),
        pytest.param("train", 4, marks=pytest.mark.long),
        pytest.param("sweep", 2, marks=pytest.mark.long),
    ],
)
def test_several_processes_train_what_one_trains(verb, count, tmp_path):
    tiny.language_model(tmp_path / "base")
    data, config = stages.pairs(tmp_path / "pairs.jsonl", 20), tmp_path / "config.py"
    own = {"data.train": f"{data}[:-6]", "data.validation": f"{data}[-6:]"}
    own["model.name"] = str(tmp_path / "base")
    config.write_text(CONFIG.format(SETTINGS | own))
    said = [tmp_path / f"{name}.log" for name in range(count + 1)]
    more = ["--over=objective.preference=regular,scaled"] if verb == "sweep" else []
    words = [verb, "--config={}", "--workdir={}", *more]
    program = f"from hs2jax.cli import main\nif __name__ == '__main__':\n    main({words})"
    alone = start(program.format(config, tmp_path / "one"), 4, said[-1])
    finish([*start_two(program.format(config, tmp_path / "two"), said, count), alone], said)

    of = "preference=scaled/seed-0" if verb == "sweep" else "."
    one, two = (
        load_file(tmp_path / run / of / "model" / "model.safetensors") for run in ("one", "two")
    )
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_allclose(two[name], one[name], atol=2e-6, err_msg=name)
    if verb == "sweep":
        rows = [
            (tmp_path / run / "results.jsonl").read_text().count("\n") for run in ("one", "two")
        ]
        assert rows[0] == rows[1] > 2
        return
    results = [json.loads((tmp_path / r / "result.json").read_text()) for r in ("one", "two")]
    assert results[0]["step"] == results[1]["step"]
    np.testing.assert_allclose(results[0]["values"]["loss"], results[1]["values"]["loss"], 1e-5)
