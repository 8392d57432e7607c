"""`hs2jax sweep`: killed and gone on with, arms that fail, and plans that are refused."""

import csv
import fcntl
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
from command import fail, hs2jax
from ml_collections import ConfigDict

from hs2jax.training import defaults, sweep, sweep_plan

CONFIG = """
from ml_collections import ConfigDict
from hs2jax.training import defaults

MARGIN = {{"objective.preference": "margin"}}

def get_config(what="sweep"):
    base = defaults.reward_model()
    base.model.name = {base!r}
    base.model.remat = False
    base.data.train = "preference:{data}[:-6]"
    base.data.validation = "preference:{data}[-6:]"
    base.data.row_length = 256
    base.optimizer.learning_rate = 1e-3
    base.batch_size = 5
    base.micro_batch_size = 2
    base.epochs = 4
    base.evaluate_every = 100
    base.checkpoint_every = 1
    if what == "base":
        return base
    sweep = ConfigDict()
    sweep.base = base
    sweep.seeds = (0, 1)
    sweep.arms = (
        ("regular", {{}}),
        ("margin, from it", {{"model.name": "{{regular}}/model", **MARGIN}}),
        ("broken", {{"model.outputs": ("a", "b"), "objective.output": "c"}}),
        ("after it", {{"model.name": "{{broken}}/model"}}),
    )
    sweep.arms = sweep.arms[:2] if what == "good" else sweep.arms
    return sweep
"""
# The command line, and proof that it has not begun to use a device itself: this setting is refused
# once JAX has.
COMMAND = """
import sys
import jax
from hs2jax import cli
try:
    cli.main(sys.argv[1:])
finally:
    jax.config.update("jax_num_cpu_devices", 3)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny model `base`, pairs, and `sweep.py`, whose last two arms of four cannot be."""
    folder = tmp_path_factory.mktemp("sweep")
    tiny.language_model(folder / "base")
    with (folder / "pairs.jsonl").open("w") as file:
        for i in range(23):
            row = {"prompt": f"Is {i} odd?", "chosen": str(bool(i % 2)), "rejected": "I forgot."}
            file.write(json.dumps(row) + "\n")
    text = CONFIG.format(base=str(folder / "base"), data=folder / "pairs.jsonl")
    (folder / "sweep.py").write_text(text)
    return folder


@pytest.fixture
def base(folder) -> ConfigDict:
    config = defaults.reward_model()
    config.data.train = config.data.validation = f"preference:{folder / 'pairs.jsonl'}"
    return config.lock()


def start(folder: Path, *options: str) -> subprocess.Popen:
    environment = {
        **os.environ,
        "XLA_FLAGS": "",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = ["sweep", f"--config={folder / 'sweep.py'}", f"--workdir={folder / 'out'}", *options]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_json(path: Path):
    return json.loads(path.read_text())


def train_rows(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "train"]


@pytest.fixture(scope="module")
def swept(folder) -> dict:
    """A sweep of one seed, killed in its second run; the same command again; then all seeds."""
    first = folder / "out" / "regular" / "seed-0"
    second = folder / "out" / "margin-from-it" / "seed-0"
    process = start(folder, "--seeds=0")
    for line in process.stderr:
        if "seed-0 step 3 of" in line and (first / "result.json").exists():
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    # Its run ends with it, and lets go of the folder.
    with (second / "lock").open() as lock:
        deadline = time.time() + 20
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.time() < deadline, "the run outlived its sweep"
                time.sleep(0.1)
    killed = {
        "finished": (first / "result.json").stat().st_mtime_ns,
        "unfinished": not (second / "result.json").exists(),
        "rows": train_rows(second),
    }
    process = start(folder)
    out, err = process.communicate(timeout=300)
    return {"killed": killed, "code": process.returncode, "out": out, "err": err}


def test_a_killed_sweep_goes_on_where_it_was(folder, swept):
    first, second = (folder / "out" / name / "seed-0" for name in ("regular", "margin-from-it"))
    assert swept["killed"]["unfinished"]
    assert (first / "result.json").stat().st_mtime_ns == swept["killed"]["finished"]
    assert f"{first} is finished" in swept["err"]
    assert "going on from step" in swept["err"]
    # The steps before the last checkpoint were not made again.
    kept = swept["killed"]["rows"]
    assert len(kept) >= 2
    assert train_rows(second)[: len(kept) - 2] == kept[:-2]


def test_a_run_starts_from_the_run_of_its_seed(folder, swept):
    for seed in (0, 1):
        config = read_json(folder / "out" / "margin-from-it" / f"seed-{seed}" / "config.json")
        assert config["seed"] == seed
        assert config["model"]["name"] == f"{folder}/out/regular/seed-{seed}/model"
        assert config["objective"]["preference"] == "margin"


def test_what_fails_is_told_and_the_others_go_on(folder, swept):
    assert swept["code"] == 1, swept["err"]
    assert "Traceback" not in swept["err"]
    assert "4 of 8 runs failed" in swept["err"]
    text = (folder / "out" / "sweep.md").read_text()
    assert text in swept["out"]
    for seed in (0, 1):
        assert f"{folder / 'out' / 'broken' / f'seed-{seed}'} failed: config.obj" in swept["err"]
        assert f"Missing: broken, seed {seed}: config.objective.output is 'c'" in text
        assert f"Missing: after it, seed {seed}: it starts from broken, which failed" in text
    assert not list((folder / "out").glob("*.tmp"))


def test_the_table_has_each_arm_and_its_accuracy(folder, swept):
    with (folder / "out" / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["arm"] for row in rows] == ["regular", "margin, from it", "broken", "after it"]
    assert [row["seeds"] for row in rows] == ["0 1", "0 1", "", ""]
    assert rows[1]["model.name"] == "{regular}/model"
    assert [row["objective.preference"] for row in rows] == ["regular", "margin", *["regular"] * 2]
    for row, slug in zip(rows, ("regular", "margin-from-it"), strict=False):
        results = [
            read_json(folder / "out" / slug / f"seed-{seed}" / "result.json") for seed in (0, 1)
        ]
        for name in ("accuracy", "margin"):
            expected = np.mean([r["values"][name] for r in results])
            np.testing.assert_allclose(float(row[name]), expected, rtol=1e-6)


def test_a_finished_sweep_starts_no_process_and_counts_other_seeds(folder, swept, caplog):
    caplog.set_level(logging.INFO, "hs2jax")
    config = f"--config={folder / 'sweep.py'}:good"
    done = hs2jax("sweep", config, f"--workdir={folder / 'out'}", "--seeds=1")
    assert (done.code, done.err) == (0, "")
    assert caplog.text.count("is finished") == 2
    assert "run 1 of" not in caplog.text
    assert len(re.findall(r"^\| (?:regular|margin, from it) .*\| 0, 1 ", done.out, re.M)) == 2


def test_a_folder_keeps_its_config(folder, swept):
    said = fail(
        "sweep",
        f"--config={folder / 'sweep.py'}:good",
        f"--workdir={folder / 'out'}",
        "--config.base.epochs=3",
    )
    assert "arm 'regular'" in said
    assert "different: epochs" in said


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_run_that_is_killed_ends_only_itself(base, tmp_path):
    plan = sweep_plan.make(base, tmp_path, over=["epochs=1"])
    table, failed = sweep.run(plan, tmp_path, die)
    assert failed == 1
    why = "its process was ended by SIGKILL (out of memory?)"
    assert f"Missing: epochs=1, seed 0: {why}." in table
    assert (tmp_path / "sweep.md").read_text() == table


# Plans --------------------------------------------------------------------------------------------


def test_a_grid_is_every_choice_with_values_of_the_keys_kind(base, tmp_path):
    plan = sweep_plan.make(
        base,
        tmp_path,
        over=[
            "objective.preference=regular, scaled",
            "optimizer.learning_rate=1e-5,3",
            "model.remat=false",
            'model.outputs=("a", "b"),("c",)',
        ],
        seeds=(4, 2),
    )
    assert len(plan.arms) == 8
    assert plan.seeds == (4, 2)
    assert plan.reference == plan.arms[0].name
    first, last = plan.arms[0], plan.arms[-1]
    assert first.name == 'preference=regular, learning_rate=1e-5, remat=false, outputs=("a", "b")'
    assert first.folder.parent == tmp_path
    config = plan.run_config(last, 2)
    assert config.seed == 2
    assert config.objective.preference == "scaled"
    assert config.optimizer.learning_rate == 3.0
    assert isinstance(config.optimizer.learning_rate, float)
    assert config.model.remat is False
    assert config.model.outputs == ("c",)
    assert list(last.settings) == [
        "model.outputs",
        "objective.preference",
        "optimizer.learning_rate",
    ], "only what differs"
    assert base.objective.preference == "regular"


def test_quoted_values_may_have_commas(base):
    ((name, changes), (_, empty)) = sweep_plan.grid(base, ["model.weights='a=1,b=2',''"])
    assert changes == {"model.weights": "a=1,b=2"}
    assert empty == {"model.weights": ""}
    assert name == "weights='a=1,b=2'"


def test_one_train_config_has_its_own_seed(base, tmp_path):
    plan = sweep_plan.make(base, tmp_path, over=["epochs=1,2"])
    assert plan.seeds == (base.seed,)


def test_counts_of_regular_expressions_name_no_arm(base, tmp_path):
    plan = sweep_plan.make(base, tmp_path, over=["trainable.paths=hea{1}d,[a-z]{3}"])
    assert plan.arms[0].needs == ()


GRIDS = {
    "nothing": ([], ["--over"]),
    "unknown key": (["objective.colour=red,blue"], ["--over=objective.colour", "no config"]),
    "group": (["objective=a,b"], ["config.objective is a group"]),
    "text for a number": (["epochs=1,many"], ["epochs=1,many", "'many'"]),
    "fraction for a whole number": (["epochs=1.5"], ["'1.5'"]),
    "no truth": (["model.remat=yes"], ["'yes'", "True"]),
    "no tuple": (["model.outputs=a"], ["'a'", "reward"]),
    "open quote": (["model.weights='a=1"], ["model.weights"]),
    "twice": (["epochs=1", "epochs=2"], ["epochs twice"]),
    "same value": (["epochs=1,1"], ["'epochs=1'", "share a folder"]),
    "seed": (["seed=1,2"], ["config.seed", "seeds"]),
    "refused by training": (["objective.preference=regular,best"], ["preference=best", "'best'"]),
    "no arm": (["model.name={regular}/model"], ["{regular}/model", "no earlier arm"]),
}


@pytest.mark.parametrize("case", GRIDS)
def test_grids_that_cannot_be_are_refused(base, tmp_path, case):
    over, words = GRIDS[case]
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the words are checked below)
        sweep_plan.make(base, tmp_path / "out", over=over)
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "out").exists()


CONFIGS = {
    "unknown key": ({"armes": ()}, ["config.armes", "reference"]),
    "dict": ({"arms": {"a": {}}}, ["config.arms", "order"]),
    "no arms": ({"arms": ()}, ["config.arms is empty"]),
    "no pair": ({"arms": ("a", "b")}, ["config.arms has 'a'", '("scaled", {']),
    "no changes": ({"arms": (("a", "b"),)}, ["config.arms has ('a', 'b')"]),
    "unknown setting": ({"arms": (("a", {"optimizer.rate": 1.0}),)}, ["'a'", "optimizer.rate"]),
    "wrong kind": ({"arms": (("a", {"epochs": "2"}),)}, ["'a'", "config.epochs is '2'"]),
    "truth for a number": ({"arms": (("a", {"epochs": True}),)}, ["'a'", "config.epochs"]),
    "later arm": (
        {"arms": (("a", {"model.name": "{b}/model"}), ("b", {}))},
        ["'a'", "{b}/model", "none"],
    ),
    "same name": ({"arms": (("a", {}), ("a", {"epochs": 1}))}, ["'a'", "share a folder"]),
    "same folder": ({"arms": (("a b", {}), ("A, b", {}))}, ["'a b'", "'A, b'"]),
    "no name": ({"arms": (("..", {}),)}, ["'..'"]),
    "no such reference": ({"reference": "z"}, ["config.reference", "'z'"]),
    "same seeds": ({"seeds": (1, 1)}, ["(1, 1)"]),
    "no base": ({"base": 1}, ["config.base"]),
    "no data": ({"arms": (("a", {"data.train": ""}),)}, ["'a'", "config.data.train"]),
    "grid as well": ({}, ["--over"]),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configs_that_cannot_be_are_refused(base, tmp_path, case):
    changes, words = CONFIGS[case]
    config = {"base": base, "seeds": (0,), "arms": (("a", {}),)} | changes
    over = () if changes else ("epochs=1",)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        sweep_plan.make(ConfigDict(config), tmp_path / "out", over=over)
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "out").exists()


def test_configs_of_other_verbs_are_sent_there(folder, tmp_path):
    for verb in ("train", "run"):
        said = fail(verb, f"--config={folder / 'sweep.py'}", f"--workdir={tmp_path}")
        assert "hs2jax sweep" in said
    said = fail("sweep", f"--config={folder / 'sweep.py'}:base", f"--workdir={tmp_path}")
    assert "--over" in said
    said = fail("sweep", f"--config={folder / 'sweep.py'}", f"--workdir={tmp_path}", "--seeds=a")
    assert "--seeds=0,1,2" in said
