"""Hosts that disagree are told at the start; one that is stopped or dies takes the others along."""

import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import command
import pytest
import stages
import tiny
from test_processes import CONFIG, SETTINGS

import hs2jax
from hs2jax.training import metrics

RECIPE = """
import runpy
from hs2jax import configs

def get_config():
    config = configs.defaults("recipe")
    config.stages, config.only = ("only",), runpy.run_path({!r})["get_config"]()
    return config
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts")
    for name, seed in (("pairs", 0), ("others", 1)):
        tiny.language_model(folder / f"{name} base", num_layers=3, seed=seed)
    stages.pairs(folder / "pairs.jsonl", 23)
    stages.pairs(folder / "others.jsonl", 24)
    for name in ("pairs", "others"):
        data = f"preference:{folder}/{name}.jsonl"
        own = {"data.train": f"{data}[:-6]", "data.validation": f"{data}[-6:]"}
        own |= {"model.name": str(folder / f"{name} base"), "epochs": 1000}
        # The head alone, and nothing between two steps: the least to compile and to wait for.
        own |= {"trainable.last_layers": 0, "trainable.paths": "^head/", "lora.rank": 0}
        own |= {"evaluate_every": 10_000, "checkpoint_every": 10_000}
        (folder / f"{name}.py").write_text(CONFIG.format(SETTINGS | own))
    (folder / "recipe.py").write_text(RECIPE.format(str(folder / "pairs.py")))
    return folder


def start(workdirs, configs, code=None):
    """Start a training, or a recipe, in processes of one run; code: a folder with the last one's
    package."""
    address = command.free_address()
    flags = command.devices(2) | {"PYTHONUNBUFFERED": "1"}
    joining = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(len(workdirs))}
    running = []
    for i, (workdir, config) in enumerate(zip(workdirs, configs, strict=True)):
        verb = "run" if config.stem == "recipe" else "train"
        running.append(
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "hs2jax.cli", verb, "--distributed"),
                    *(f"--config={config}", f"--workdir={workdir}"),
                ],
                env={**os.environ, **flags, **joining, "JAX_PROCESS_ID": str(i)},
                cwd=code if i == len(workdirs) - 1 else None,
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
            )
        )
    return running


def ended(running, seconds: float = 300):
    """Wait for all; return codes and what they said."""
    end = time.monotonic() + seconds
    try:
        said = [each.communicate(timeout=max(1.0, end - time.monotonic()))[1] for each in running]
    finally:
        for each in running:
            each.kill()
    return [each.returncode for each in running], said


def wait_for_step(place, step: int, running) -> None:
    while len(metrics.read(place / "metrics.jsonl", "train")) < step:
        if any(each.poll() is not None for each in running):
            pytest.fail(str(ended(running, 20)))
        time.sleep(0.05)


def test_hosts_that_disagree_are_told_in_what(folder, tmp_path):
    """In folder, data, weights and code."""
    shutil.copytree(Path(hs2jax.__file__).parent, tmp_path / "hs2jax")
    with (tmp_path / "hs2jax" / "faults.py").open("a") as code:
        code.write("# Another version.\n")
    configs = [folder / "pairs.py", folder / "others.py"]
    codes, said = ended(start([tmp_path / "a", tmp_path / "b"], configs, code=tmp_path))
    assert codes == [1, 1], said
    for each in said:
        assert "process 1 (--workdir: process 0's -> another folder; config: " in each
        assert "data.train (set 1): 17 groups" in each
        assert "hs2jax's code: " in each
        assert "model.name (weights" in each
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("config", "count", "stopped", "killed"),
    [
        *(("pairs", *numbers) for numbers in ((2, 1, 0), (2, 0, 1), (4, 0, 2), (4, 3, 0))),
        ("recipe", 2, 1, 0),
    ],
)
@pytest.mark.long
def test_one_that_is_stopped_stops_all_and_one_that_dies_ends_all(
    config, count, stopped, killed, folder, tmp_path
):
    places, configs = [tmp_path / "run"] * count, [folder / f"{config}.py"] * count
    trained = places[0] / "only" if config == "recipe" else places[0]
    running = start(places, configs)
    wait_for_step(trained, 2, running)
    running[stopped].send_signal(signal.SIGTERM)
    codes, said = ended(running)
    assert codes == [75] * count, said
    steps = {text.partition("saved at step ")[2].split(";")[0] for text in said}
    assert len(steps) == 1
    running = start(places, configs)
    wait_for_step(trained, int(steps.pop()) + 1, running)
    running[killed].kill()
    codes, said = ended(running, seconds=90)
    for number, (code, text) in enumerate(zip(codes, said, strict=True)):
        if number != killed:
            assert code == 1
            assert f"process {killed} on {platform.node()}: its connection" in text
            assert "Traceback" not in text
            assert "Check failure" not in text
