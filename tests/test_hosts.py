"""Hosts that disagree are told at the start; one that is stopped or dies takes the others along."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import stages
import tiny
from test_processes import CONFIG, SETTINGS

from hs2jax.training import metrics


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts")
    tiny.language_model(folder / "base", num_layers=3)
    stages.pairs(folder / "pairs.jsonl", 23)
    stages.pairs(folder / "others.jsonl", 24)
    for name in ("pairs", "others"):
        data = f"preference:{folder}/{name}.jsonl"
        own = {"data.train": f"{data}[:-6]", "data.validation": f"{data}[-6:]"}
        own |= {"model.name": str(folder / "base"), "epochs": 300}
        (folder / f"{name}.py").write_text(CONFIG.format(SETTINGS | own))
    return folder


def start(workdirs, configs):
    """Start `hs2jax train` in two processes of one run."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "PYTHONUNBUFFERED": "1"}
    joining = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    return [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "hs2jax.cli", "train", "--distributed"),
                *(f"--config={configs[i]}", f"--workdir={workdirs[i]}"),
            ],
            env={**os.environ, **flags, **joining, "JAX_PROCESS_ID": str(i)},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for i in (0, 1)
    ]


def ended(running, seconds: float):
    """Wait for both; return codes and what they said."""
    end = time.time() + seconds
    try:
        said = [each.communicate(timeout=max(1.0, end - time.time()))[1] for each in running]
    finally:
        for each in running:
            each.kill()
    return [each.returncode for each in running], said


def wait_for_step(place, step: int, running) -> None:
    while len(metrics.read(place / "metrics.jsonl", "train")) < step:
        if any(each.poll() is not None for each in running):
            pytest.fail(str(ended(running, 20)))
        time.sleep(0.05)


def test_hosts_with_other_data_or_another_folder_are_told(folder):
    places, configs = [folder / "a", folder / "b"], [folder / "pairs.py", folder / "others.py"]
    codes, said = ended(start(places, configs), 120)
    assert codes == [1, 1], said
    for each in said:
        assert "process 1 (--workdir: process 0's -> another folder; config: " in each
        assert "data.train (set 1): 17 groups" in each
    assert not (folder / "b").exists()


def test_one_that_is_stopped_stops_all_and_one_that_dies_ends_all(folder):
    place, config = folder / "run", [folder / "pairs.py"] * 2
    running = start([place] * 2, config)
    wait_for_step(place, 2, running)
    running[1].send_signal(signal.SIGTERM)
    codes, said = ended(running, 60)
    assert codes == [75, 75], said
    steps = {text.partition("saved at step ")[2].split(";")[0] for text in said}
    assert len(steps) == 1
    running = start([place] * 2, config)
    wait_for_step(place, int(steps.pop()) + 1, running)
    running[1].kill()
    began = time.time()
    codes, said = ended(running, 60)
    assert time.time() - began < 30
    assert codes[0] not in (0, 75)
    assert "process 1 on" in said[0]
