"""Two processes that share a mesh do what one process with as many devices does."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file

CONFIG = """
from hs2jax.training import defaults

def get_config():
    config = defaults.reward_model()
    config.model.name = {base!r}
    config.data.train = "preference:{data}[:-6]"
    config.data.validation = "preference:{data}[-6:]"
    config.data.row_length = 256
    config.optimizer.learning_rate = 1e-3
    config.batch_size = 6
    config.micro_rows = 4
    config.evaluate_every = 2
    config.checkpoint_every = 2
    config.mesh.data = 2
    {more}
    return config
"""
PART = """config.trainable.last_layers = 2
    config.lora.rank = 2
"""


def start(config, workdir, devices, join=""):
    """`hs2jax train` in a process of its own, after it has joined the others."""
    arguments = ["train", f"--config={config}", f"--workdir={workdir}"]
    program = f"{join}\nfrom hs2jax.cli import main\nmain({arguments!r})"
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("more", ["", PART], ids=["all", "LoRA on the last layers"])
def test_two_processes_train_what_one_trains(tmp_path, more):
    tiny.language_model(tmp_path / "base")
    data, config = tmp_path / "pairs.jsonl", tmp_path / "config.py"
    with data.open("w") as file:
        for i in range(20):
            row = {"prompt": f"Is {i} odd?", "chosen": str(bool(i % 2)), "rejected": "I forgot."}
            file.write(json.dumps(row) + "\n")
    config.write_text(CONFIG.format(base=str(tmp_path / "base"), data=data, more=more))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    join = "import jax; jax.distributed.initialize({!r}, 2, {})"
    running = [start(config, tmp_path / "two", 2, join.format(address, i)) for i in range(2)]
    running.append(start(config, tmp_path / "one", 4))
    for process in running:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said

    one, two = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_allclose(two[name], one[name], atol=2e-6, err_msg=name)
    results = [json.loads((tmp_path / r / "evaluation.json").read_text()) for r in ("one", "two")]
    assert results[0]["step"] == results[1]["step"]
    np.testing.assert_allclose(results[0]["summary"]["loss"], results[1]["summary"]["loss"], 1e-5)
