"""A sweep killed with SIGKILL, each time started again, ends as one that was not."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from test_expo import command, save_pair
from test_resume import environment, finish

PACE = """
import time
from hs2jax import cli
from hs2jax.training import expo_sweep
add = expo_sweep.Sweep.add

def slowly(self, *row):
    add(self, *row)
    time.sleep({pause})

expo_sweep.Sweep.add = slowly
cli.main({arguments!r})
"""


def start(arguments: list[str], cache: Path, pause: float = 0.0) -> subprocess.Popen:
    """The command in a process of its own, which waits after each factor."""
    program = PACE.format(pause=pause, arguments=arguments)
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment(cache),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def factors(workdir: Path) -> list[float]:
    path = workdir / "sweep.jsonl"
    return [json.loads(line)["factor"] for line in path.open()] if path.exists() else []


def results(workdir: Path):
    result = json.loads((workdir / "expo.json").read_text())
    del result["seconds"]
    curve = [{k: v for k, v in row.items() if k != "seconds"} for row in result.pop("curve")]
    items = [path.read_bytes() for path in sorted((workdir / "items").iterdir())]
    return result, curve, items, (workdir / "model" / "model.safetensors").read_bytes()


def test_killed_in_the_middle_it_ends_with_the_same_bits(tmp_path):
    save_pair(tmp_path)
    models, data = (tmp_path / "initial", tmp_path / "trained"), tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"Is {i} odd?", "chosen": str(bool(i % 2)), "rejected": "I forgot" + i % 7 * "."}
        for i in range(24)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole, killed, cache = tmp_path / "whole", tmp_path / "killed", tmp_path / "cache"
    finish(start(command(models, data, whole), cache))
    for done in (1, 6):  # In the coarse part, and in the fine one.
        process = start(command(models, data, killed), cache, pause=60.0 if done == 1 else 1.0)
        end = time.time() + 120
        while len(factors(killed)) < done and process.poll() is None and time.time() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.stderr.read()
        process.stderr.close()
        assert done <= len(factors(killed)) < len(factors(whole))
        assert not (killed / "expo.json").exists()
    finish(start(command(models, data, killed), cache))
    assert factors(killed) == factors(whole)
    assert results(killed) == results(whole)
