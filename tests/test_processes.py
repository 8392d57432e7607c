"""Two processes that share a mesh do what one process with as many devices does."""

import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import stages
import tiny
from safetensors.numpy import load_file

CONFIG = """
from hs2jax import configs

def get_config():
    config = configs.defaults("train_reward_model")
    config.model.name = {base!r}
    config.data.train = "{data}[:-6]"
    config.data.validation = "{data}[-6:]"
    config.data.row_length = 256
    config.optimizer.learning_rate = 1e-3
    config.batch_size = 6
    config.micro_batch_size = 4
    config.evaluate_every = 2
    config.checkpoint_every = 2
    config.mesh.data = 2
    # All of the last layers, with LoRA beside them.
    config.trainable.last_layers = 2
    config.trainable.paths = "."
    config.lora.rank = 2
    return config
"""


def start(config, workdir, devices, said, join=""):
    """`hs2jax train` in a process of its own, after it has joined the others; `said` is a file."""
    arguments = ["train", f"--config={config}", f"--workdir={workdir}"]
    program = f"{join}\nfrom hs2jax.cli import main\nmain({arguments!r})"
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "XLA_FLAGS": flags},
        stdout=said.open("w"),
        stderr=subprocess.STDOUT,
    )


def finish(running, said):
    """Waits for all. Where one fails the others would wait for it: all are ended, and told."""
    end = time.time() + 600
    while any(process.poll() is None for process in running) and time.time() < end:
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
    config.write_text(CONFIG.format(base=str(tmp_path / "base"), data=data))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    join = "import jax; jax.distributed.initialize({!r}, 2, {})"
    said = [tmp_path / name for name in ("first", "second", "alone")]
    running = [
        start(config, tmp_path / "two", 2, said[i], join.format(address, i)) for i in range(2)
    ]
    running.append(start(config, tmp_path / "one", 4, said[2]))
    finish(running, said)

    one, two = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_allclose(two[name], one[name], atol=2e-6, err_msg=name)
    results = [json.loads((tmp_path / r / "result.json").read_text()) for r in ("one", "two")]
    assert results[0]["step"] == results[1]["step"]
    np.testing.assert_allclose(results[0]["values"]["loss"], results[1]["values"]["loss"], 1e-5)
