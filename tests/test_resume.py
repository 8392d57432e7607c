"""Runs that are killed and started again end with the same bits as runs that are left alone.

The moments that matter are named; one real SIGKILL comes at random. HS2JAX_TEST_KILLS=20 makes it
as many.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny
from test_policy_training import sampled_rows, write

from hs2jax import configs, workdir
from hs2jax.reward_model import RewardModel
from hs2jax.training import loop
from hs2jax.training.checkpoint import Checkpoints

KILLS = int(os.environ.get("HS2JAX_TEST_KILLS", "1"))
EPOCHS = 2 + KILLS  # Of 17 groups, five at a time.
LAST = -(-17 * EPOCHS // 5)
SETTINGS = {
    "model.remat": False,
    "optimizer.learning_rate": 1e-3,
    "batch_size": 5,
    "micro_batch_size": 8,
    "epochs": EPOCHS,
    "evaluate_every": 4,
    "checkpoint_every": 3,
}
PART = {
    "trainable.last_layers": 1,
    "trainable.cache": True,
    "lora.rank": 2,
    "optimizer.mu_dtype": "bfloat16",
}
# Rows too short for a group's five responses, so that groups lie in several micro-batches.
SPLIT = {"objective.kind": "steerlm2", "data.row_length": 96, "lora.rank": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    tiny.language_model(folder / "base", num_layers=2)
    # 17 to train: an epoch is three batches of five and two left over.
    rows = [
        {"prompt": f"Is {i} odd?", "chosen": str(bool(i % 2)), "rejected": "I forgot."}
        for i in range(23)
    ]
    write(folder / "pairs.jsonl", rows)
    write(folder / "groups.jsonl", sampled_rows(23, samples=5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HS2JAX_CACHE", str(folder / "cache"))
        yield folder


def config(folder, kind="train_reward_model", **changes):
    data = (
        "preference:{}/pairs.jsonl" if kind == "train_reward_model" else "sampled:{}/groups.jsonl"
    )
    made = configs.defaults(kind)
    own = {
        "model.name": str(folder / "base"),
        "data.row_length": 256,
        "data.train": data.format(folder) + "[:-6]",
        "data.validation": data.format(folder) + "[-6:]",
    }
    made.update_from_flattened_dict(own | SETTINGS | changes)
    return made


@pytest.fixture(scope="module")
def undisturbed(folder):
    loop.train(config(folder), folder / "undisturbed")
    return folder / "undisturbed"


def saved(place: Path) -> dict:
    """Every array of the last checkpoint, the export, and what was measured and scored."""
    (last,) = (place / "checkpoints").iterdir()
    arrays = [ocp.StandardCheckpointer().restore((last / x).absolute()) for x in ("params", "rest")]
    rows = [json.loads(line) for line in (place / "metrics.jsonl").open()]
    clocks = ("seconds", "tokens_per_second", "seconds_per_step", "peak_memory_bytes")
    results = workdir.read_rows(place / "results.jsonl")
    return {
        "step": last.name,
        "arrays": arrays,
        "export": (place / "model" / "model.safetensors").read_bytes(),
        "metrics": [{k: v for k, v in row.items() if k not in clocks} for row in rows],
        "items": [path.read_text() for path in sorted((place / "items").iterdir())],
        "results": [row for row in results if row["metric"] not in clocks],
    }


def assert_same(place: Path, expected: Path) -> None:
    found, wanted = saved(place), saved(expected)
    ours, theirs = found.pop("arrays"), wanted.pop("arrays")
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    for name in wanted:
        assert found[name] == wanted[name], name


class Killed(BaseException):
    """Ends a run where nothing may catch it."""


@contextlib.contextmanager
def killed_at(owner, name: str, number: int = 1, *, saving: str = "", after: bool = False):
    """End a run at the number-th call of a method, before or after it has done its work.

    saving: for `Checkpoints.save`, the folder that is saved to.
    """
    method, calls = getattr(owner, name), []

    def stop(self, *args, **kwargs):
        if not saving or self.folder.name == saving:
            calls.append(name)
        if len(calls) == number and not after:
            raise Killed
        method(self, *args, **kwargs)
        if len(calls) == number:
            if saving:
                self.wait()
            raise Killed

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(owner, name, stop)
        yield
        pytest.fail(f"{name} was called {len(calls)} times")


def test_killed_at_every_point_that_matters(folder, undisturbed):
    place, of = folder / "killed", config(folder)

    def step() -> int:
        return Checkpoints(place / "checkpoints", read_only=True).latest or 0

    def train():
        loop.train(of, place)

    for at, point in (
        (0, killed_at(Checkpoints, "save", saving="checkpoints")),
        (3, killed_at(Checkpoints, "save", saving="checkpoints", after=True)),
        # The best step is there, and the checkpoint that names it is not.
        (3, killed_at(Checkpoints, "save", saving="best", after=True)),
        (LAST, killed_at(RewardModel, "save")),
    ):
        with point:
            train()
        assert step() == at
        assert not workdir.finished(place)
    train()
    assert_same(place, undisturbed)
    train()  # Which is finished.
    assert_same(place, undisturbed)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("train_reward_model", PART), ("train_policy", SPLIT)],
    ids=["LoRA on the last layers", "groups in several micro-batches"],
)
def test_whatever_is_trained_is_gone_on_with(folder, kind, changes):
    of, places = config(folder, kind, **changes), [folder / f"{kind}-{n}" for n in (0, 1)]
    loop.train(of, places[0])
    with killed_at(Checkpoints, "save", 2, saving="checkpoints"):
        loop.train(of, places[1])
    loop.train(of, places[1])
    assert_same(places[1], places[0])


CONFIG = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_resume import config

def get_config():
    return config(Path({folder!r}))
"""


def test_killed_by_sigkill_it_ends_with_the_same_bits(folder, undisturbed):
    file, place = folder / "config.py", folder / "sigkill"
    file.write_text(CONFIG.format(tests=str(Path(__file__).parent), folder=str(folder)))
    rng, command = random.Random(0), ["train", f"--config={file}", f"--workdir={place}"]
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-m", "hs2jax.cli", *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        wanted, said = rng.randint(1, 3), []
        for line in process.stderr:
            said.append(line)
            if sum("sigkill step" in each for each in said) >= wanted:
                break
        time.sleep(rng.uniform(0.0, 0.1))
        assert process.poll() in (None, 0), "".join(said)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        if workdir.finished(place):
            break
    loop.train(config(folder), place)
    assert_same(place, undisturbed)
