"""The benchmarks of experiments/speed run; whole races, with the peers, with LONG=1."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from hs2jax import planned

SPEED = Path(__file__).parent.parent / "experiments" / "speed"


@pytest.fixture
def given(tmp_path, monkeypatch):
    """A tiny policy and a file of pairs, as flags; the scripts can be imported."""
    monkeypatch.syspath_prepend(SPEED)
    tiny.language_model(tmp_path / "tiny", max_seq_len=4096)
    asked, right, wrong = "\n\nHuman: Say {}.\n\nAssistant:", " One is {}.", " Two, three."
    lines = [
        {"chosen": (asked + right).format(i, i), "rejected": asked.format(i) + wrong}
        for i in range(8)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return [f"--file={tmp_path}/pairs.jsonl", f"--model={tmp_path}/tiny"]


def test_gradients_of_shared_prompts(given):
    import shared_prompts

    sizes = ["--responses", "4", "--prompt_tokens=24", "--response_tokens=8", "--rounds=1"]
    alone = ["--dtypes", "float32", "--kinds", "reward model"]
    (row,) = shared_prompts.main([*given, *sizes, *alone])
    assert row["tokens saved"] == 1 - (24 + 4 * 8) / (4 * (24 + 8))
    assert 0 < row["gradients apart"] < 1e-5


def test_accelerator(given, tmp_path, monkeypatch):
    import accelerator

    seen, plan = [], planned.training
    monkeypatch.setattr(planned, "training", lambda *x: seen.append(plan(*x)) or seen[-1])
    flags = {"tokens": 32, "prompt_tokens": 16, "pairs": 8, "rounds": 1, "remat": 0}
    flags = argparse.Namespace(**flags, teraflops=1e-3, toy=True)
    assert accelerator.prepare(tmp_path, flags)["8B LoRA"] == 2 * 8 * 32
    timed = accelerator.ours("8B LoRA", "shared", tmp_path, flags)
    assert len(timed.seconds) == 1
    assert re.fullmatch(r"MFU [\d.]+% of 0.001 TFLOP/s", timed.note)
    assert accelerator.useful("8B LoRA", tmp_path, flags, shared=True) == seen[0].useful


RACES = {
    "training": (["--steps=1", "--batch=2"], 4),
    "alignment": (["--work=dpo", "--reward_model=none", "--steps=1", "--batch=2"], 4),
    "inference": (["--pairs=8", "--rounds=1"], 12),
    "accelerator": (["--toy", "--tokens=32", "--prompt_tokens=16", "--rounds=1"], 6),
}


@pytest.mark.long
@pytest.mark.parametrize("name", RACES)
def test_a_whole_race(name, given, tmp_path):
    pytest.importorskip("trl")
    flags, rows = RACES[name]
    if name == "accelerator":
        flags = [*flags, "--who=hs2jax shared,hs2jax unshared,torch flash"]
    else:
        flags = [*flags, *given]
    command = [sys.executable, SPEED / f"{name}.py", *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert len(table) == rows
    apart = [x[-1] for x in table if x[1] == "transformers float32" and "apart" in x[-1]]
    assert all(float(x.split()[0]) < 1e-4 for x in apart)
    assert len(apart) == (2 if name == "inference" else 0)
