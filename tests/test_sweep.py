"""`hs2jax sweep`: killed and gone on with, arms that fail, and sweeps that are refused."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import stages
import tiny
from command import devices, die, fail, hs2jax, succeed

from hs2jax import configs, locks, workdir
from hs2jax.evaluation.measures import pairs_of
from hs2jax.report.run import Run, find
from hs2jax.training import metrics, sweep, sweep_arms, sweep_rows

CONFIG = """
from hs2jax import configs

def get_config(what="sweep"):
    base = configs.defaults("train_reward_model")
    base.update_from_flattened_dict({base})
    if what == "base":
        return base
    sweep = configs.defaults("sweep")
    sweep.base = base
    sweep.arms = (
        ("regular", {{}}),
        (
            "margin, from it",
            {{"model.name": "{{regular}}/model", "objective.preference": "margin"}},
        ),
    )
    return sweep
"""
# The command line, and proof that it has not begun to use a device before its runs are over: this
# setting is refused once JAX has.
COMMAND = """
import sys
import jax
from hs2jax import cli
from hs2jax.training import sweep
write = sweep._write
def write_without_device(*arguments):
    rows = write(*arguments)
    jax.config.update("jax_num_cpu_devices", 3)
    return rows
sweep._write = write_without_device
cli.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny model `base`, pairs, and `sweep.py`."""
    folder = tmp_path_factory.mktemp("sweep")
    tiny.language_model(folder / "base")
    data = stages.pairs(folder / "pairs.jsonl", 23)
    base = {"model.name": str(folder / "base"), "model.remat": False, "data.row_length": 256}
    base |= {"data.train": f"{data}[:-6]", "data.validation": f"{data}[-6:]", "batch_size": 5}
    base |= {"optimizer.learning_rate": 1e-3, "evaluate_every": 100, "checkpoint_every": 2}
    (folder / "sweep.py").write_text(CONFIG.format(base=base))
    return folder


@pytest.fixture
def base(folder):
    config = configs.defaults("train_reward_model")
    config.data.train = config.data.validation = f"preference:{folder / 'pairs.jsonl'}"
    return config


@pytest.fixture(scope="module")
def swept(folder) -> dict:
    """A sweep that was killed in its second run; then the same command again."""
    first, second = (folder / "out" / x / "seed-0" for x in ("regular", "margin-from-it"))
    command = ["sweep", f"--config={folder / 'sweep.py'}", f"--workdir={folder / 'out'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*devices(1).popitem())  # For each run.
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *command], stderr=subprocess.PIPE, text=True
        )
        said = []
        for line in process.stderr:
            said.append(line)
            if "seed-0 step 4 of" in line and workdir.finished(first):
                break
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "".join(said)
        # Its run ends with it, and lets go of the folder.
        with locks.locked(second.parent / f".{second.name}.lock"):
            killed = {
                "finished": (first / "result.json").stat().st_mtime_ns,
                "unfinished": not workdir.finished(second),
                "rows": metrics.read(second / "metrics.jsonl", "train"),
            }
        succeed(*command)
    return killed


def test_a_killed_sweep_goes_on_and_its_table_has_each_arm_s_accuracy(folder, swept):
    places = [folder / "out" / name / "seed-0" for name in ("regular", "margin-from-it")]
    first, second = places
    assert swept["unfinished"]
    assert (first / "result.json").stat().st_mtime_ns == swept["finished"]
    # The steps before a checkpoint were not made again.
    assert len(swept["rows"]) >= 3
    assert metrics.read(second / "metrics.jsonl", "train")[:2] == swept["rows"][:2]
    config = workdir.read_json(second / "config.json")
    assert config["model"]["name"] == f"{first}/model"
    assert config["objective"]["preference"] == "margin"
    ended = Run(folder / "out")
    arms = ended.result["arms"]
    assert list(arms) == ended.sets() == ["regular", "margin, from it"]
    assert arms["margin, from it"]["settings"]["model.name"] == "{regular}/model"
    for arm, place in zip(arms, places, strict=True):
        values = workdir.read_json(place / "result.json")["values"]
        for metric in ("accuracy", "margin"):
            row = find(ended.rows, set=arm, part="", metric=metric)
            assert row["value"] == pytest.approx(values[metric], rel=1e-6)
    assert "margin, from it" in (folder / "out" / "report.md").read_text()


def test_a_finished_sweep_starts_no_process(folder, swept, caplog):
    caplog.set_level(logging.INFO, "hs2jax")
    config = f"--config={folder / 'sweep.py'}"
    run = next((folder / "out").glob("*/seed-*/result.json")).parent
    (run / "best" / "2").mkdir(parents=True)  # As where it was killed after its last file.
    ends = [*(folder / "out").rglob("result.json")]
    for end in ends:
        os.utime(end, (1e9, 1e9))
    done = hs2jax("sweep", config, f"--workdir={folder / 'out'}")
    assert done.code == 0, done.err
    assert not (run / "best").exists()
    assert {end.stat().st_mtime for end in ends} == {1e9}, "pages say when a run ended"
    assert caplog.text.count("is finished") == 2
    assert "run 1 of" not in caplog.text
    said = fail("sweep", config, f"--workdir={folder / 'out'}", "--config.base.epochs=3")
    assert "arm 'regular'" in said
    assert "different: epochs" in said
    assert "report:" not in said


def test_a_run_that_is_killed_ends_only_itself(base, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "_work", die)
    with pytest.raises(ValueError, match="1 of 1 runs failed; the same command tries them again"):
        sweep.sweep(sweep_arms.of_grid(base, ["epochs=1"]), tmp_path)
    why = "its process ended with code -9 (out of memory?)"
    notes = workdir.read_json(tmp_path / "result.json")["notes"]
    assert notes == [f"Missing: epochs=1, seed 0: {why}."]


def test_what_fails_is_told_and_the_others_go_on(base, tmp_path, monkeypatch):
    """Without processes: what a run leaves in its folder is written by hand."""
    trained = []

    def train(config, place):
        trained.append((place.parent.name, config.seed, config.model.name))
        if place.parent.name == "broken":
            return "no\nluck"
        right = 1.0 if place.parent.name == "good" or config.seed else -1.0
        items = [item(f"f:{i}", [right if i else 1.0]) for i in range(4)]
        workdir.claim(place, config)
        workdir.write_rows(place / "items" / "validation.jsonl", items)
        rows = [workdir.row("", "", "tokens_per_second", 1000.0 + config.seed)]
        workdir.finish(place, config, {"outputs": ["help"]}, rows)

    monkeypatch.setattr(sweep, "_train", train)
    monkeypatch.setattr("hs2jax.identity.fingerprint", lambda name: {"weights": name})
    monkeypatch.setattr("hs2jax.models.hf.hub.resolve", Path)
    config = configs.defaults("sweep")
    config.base, config.seeds = base, (0,)
    config.arms = (
        ("plain", {}),
        ("good", {"model.name": "{plain}/model"}),
        ("broken", {}),
        ("after it", {"model.name": "{broken}/model"}),
    )
    for seeds, again in (((0,), []), ((1, 0), [("broken", 0, base.model.name)])):
        config.seeds = seeds
        trained.clear()
        with pytest.raises(ValueError, match=f"{2 * len(seeds)} of {4 * len(seeds)} runs failed"):
            sweep.sweep(config, tmp_path)
        model = f"{tmp_path}/plain/seed-{seeds[0]}/model"
        own = [(name, seeds[0], base.model.name) for name in ("plain", "broken")]
        assert trained == [own[0], ("good", seeds[0], model), own[1], *again], "seed by seed"
    result = workdir.read_json(tmp_path / "result.json")
    assert [arm["seeds"] for arm in result["arms"].values()] == [[0, 1], [0, 1], [], []]
    assert "Missing: broken, seed 1: no luck." in result["notes"]
    assert "Missing: after it, seed 0: it starts from broken, which failed." in result["notes"]
    rows = {(r["set"], r["metric"]): r for r in workdir.read_rows(tmp_path / "results.jsonl")}
    assert rows["plain", "accuracy"]["value"] == np.mean([0.25, 1.0])
    assert rows["good", "difference"]["value"] == 1 - np.mean([0.25, 1.0])
    assert rows["plain", "tokens_per_second"]["value"] == 1000.5


# Rows ---------------------------------------------------------------------------------------------


def item(source, margins, ratings=(), outputs=()):
    """A group of two responses per pair, the chosen with its margin and the rejected with 0."""
    n = max(2 * len(margins), len(ratings))
    rewards = [0.0] * n
    rewards[: 2 * len(margins) : 2] = margins
    return {
        "source": source,
        "responses": ["longer", "short"] * (n // 2) + ["odd"] * (n % 2),
        "rewards": rewards,
        "pairs": [[2 * i, 2 * i + 1, 1] for i in range(len(margins))],
        "ratings": [{"help": y} for y in ratings] or [{}] * n,
        "outputs": [[x] for x in outputs] or [[0.0]] * n,
    }


def run(items):
    return sweep_rows.Run(items, ["help"], {"seconds_per_step": 2.0})


def right(*groups):
    """A run whose pairs are right (1) or wrong (0), one list per group."""
    return run([item(f"f:{g}", [2.0 * r - 1 for r in pairs]) for g, pairs in enumerate(groups)])


def rows_of(runs, reference):
    rows, notes = sweep_rows.make_rows(runs, reference)
    return {(row["set"], row["part"], row["metric"]): row for row in rows}, notes


def test_rows_are_means_over_seeds_and_differences_are_paired():
    rng = np.random.default_rng(0)
    groups = rng.normal(2, 1, (30, 2, 4))  # Of two seeds.

    def one(p, seed):
        margins = rng.choice([-1.0, 1.0], (30, 2), p=[1 - p, p])
        each = enumerate(zip(margins, groups[:, seed], strict=True))
        return run([item(f"f:{g}", right, [1, 2, 3, 4], x) for g, (right, x) in each])

    runs = {arm: {s: one(p, s) for s in (0, 1)} for arm, p in (("a", 0.6), ("b", 0.9))}
    rows, notes = rows_of(runs | {"none": {}}, "a")
    assert notes == []
    accuracy = {arm: [pairs_of(r.items).right.mean() for r in runs[arm].values()] for arm in runs}
    for arm, found in accuracy.items():
        row = rows[arm, "", "accuracy"]
        assert row["value"] == pytest.approx(np.mean(found))
        assert row["deviation"] == pytest.approx(np.std(found, ddof=1))
        assert (row["n"], row["seeds"]) == (60, [0, 1])
        assert row["low"] < row["value"] < row["high"]
        assert rows[arm, "", "seconds_per_step"]["value"] == 2.0
    over = rows["b", "", "difference"]
    assert over["value"] == pytest.approx(np.mean(accuracy["b"]) - np.mean(accuracy["a"]))
    assert over["low"] < over["value"] < over["high"]
    assert ("a", "", "difference") not in rows
    assert not any(arm == "none" for arm, _, _ in rows)
    assert rows["a", "", "longer_wins"]["value"] == 1.0
    ratings = np.tile([1, 2, 3, 4], 30)
    predicted = [groups[:, seed].reshape(-1) for seed in (0, 1)]
    expected = [np.mean((x - ratings) ** 2) for x in predicted]
    assert rows["a", "attribute/help", "mse"]["value"] == pytest.approx(np.mean(expected))
    expected = [np.corrcoef(x, ratings)[0, 1] for x in predicted]
    assert rows["a", "attribute/help", "pearson"]["value"] == pytest.approx(np.mean(expected))


def test_what_arms_share_falls_out_of_their_difference():
    """Prompts differ much, arms by little: one answer in forty."""
    rng = np.random.default_rng(0)
    hard = np.repeat(rng.random((40, 1)) < 0.5, 3, axis=1).astype(int)
    arms = {"a": {seed: right(*hard) for seed in range(3)}, "b": {}}
    for seed in range(3):
        better = hard.copy()
        better[rng.integers(40)] = 1
        arms["b"][seed] = right(*better)
    rows, _ = rows_of(arms, "a")
    alone, over = rows["b", "", "accuracy"], rows["b", "", "difference"]
    assert over["high"] - over["low"] < (alone["high"] - alone["low"]) / 4


def test_differences_are_left_out_where_they_would_mislead():
    a = {0: right([1], [0]), 1: right([1], [1])}
    elsewhere, others = {0: right([1], [0], [1])}, {5: a[0]}
    rows, notes = rows_of({"a": a, "elsewhere": elsewhere, "others": others, "one": {0: a[0]}}, "a")
    assert [arm for arm, _, metric in rows if metric == "difference"] == ["one"]
    assert notes == [
        "No difference of “elsewhere” from “a”: they were judged on different pairs.",
        "No difference of “others” from “a”: they have no seed in common.",
    ]
    _, notes = rows_of({"none": {}, "a": a}, "none")
    assert notes == ["No difference of “a” from “none”: it has no finished run."]
    _, notes = rows_of({"one": {0: a[0]}, "a": a}, "one")
    assert notes == ["The difference of “a” is over seed 0."]
    with pytest.raises(ValueError, match="arm 'a': its seeds were judged on different data"):
        rows_of({"a": {0: a[0], 1: elsewhere[0]}}, "a")


def test_a_prompt_that_is_listed_twice_is_one_group():
    twice = run([item("f:1", [1.0]), item("f:1", [-1.0]), item("f:2", [1.0])])
    apart = run([item("f:1", [1.0]), item("f:3", [-1.0]), item("f:2", [1.0])])
    ends = [rows_of({"a": {0: x}}, "a")[0]["a", "", "accuracy"] for x in (twice, apart)]
    assert ends[0]["n"] == ends[1]["n"] == 3
    assert ends[0]["low"] < ends[1]["low"]


# Plans --------------------------------------------------------------------------------------------


def test_a_grid_is_every_choice_with_values_of_the_keys_kind(base, tmp_path):
    over = [
        "objective.preference=regular, scaled",
        "optimizer.learning_rate=1e-5,3",
        "model.remat=False",
        'model.outputs=("a", "b"),("c",)',
    ]
    config = sweep_arms.of_grid(base, over)
    assert tuple(config.seeds) == (base.seed,)
    config.seeds = (4, 2)
    plan = sweep_arms.plan(config, tmp_path)
    assert len(plan.arms) == 8
    assert plan.reference == plan.arms[0].name
    first, last = plan.arms[0], plan.arms[-1]
    assert first.name == "preference=regular, learning_rate=1e-05, remat=False, outputs=('a', 'b')"
    assert first.folder.parent == tmp_path
    made = plan.run_config(last, 2)
    assert (made.seed, made.objective.preference, made.model.remat) == (2, "scaled", False)
    assert made.optimizer.learning_rate == 3.0
    assert isinstance(made.optimizer.learning_rate, float)
    assert made.model.outputs == ("c",)
    differing = ["model.outputs", "objective.preference", "optimizer.learning_rate"]
    assert sorted(plan.settings()[last.name]) == differing
    assert base.objective.preference == "regular"
    # Quoted values may have commas, and regular expressions counts.
    config = sweep_arms.of_grid(base, ["model.weights='a=1,b=2',''", "trainable.paths=hea{1}d,x"])
    assert [changes["model.weights"] for _, changes in config.arms] == ["a=1,b=2"] * 2 + [""] * 2
    assert all(arm.needs == () for arm in sweep_arms.plan(config, tmp_path).arms)


GRIDS = {
    "nothing": ([], ["--over"]),
    "unknown key": (["objective.colour=red,blue"], ["'colour=red'", "no config.objective"]),
    "text for a number": (["epochs=1,many"], ["config.epochs is '1'; expected a whole number"]),
    "twice": (["epochs=1", "epochs=2"], ["epochs twice"]),
    "same value": (["epochs=1,1"], ["'epochs=1'", "share a folder"]),
    "seed": (["seed=1,2"], ["config.seed", "seeds"]),
    "refused by training": (["objective.preference=regular,best"], ["preference=best", "'best'"]),
    "no arm": (["model.name={regular}/model"], ["{regular}", "no earlier arm"]),
}
CONFIGS = {
    "no pair": ({"arms": ("a", "b")}, ["config.arms is ('a', 'b')", '("scaled", {']),
    "later arm": ({"arms": (("a", {"model.name": "{b}/x"}), ("b", {}))}, ["'a'", "{b}", "none"]),
    "same folder": ({"arms": (("a b", {}), ("A, b", {}))}, ["'a b'", "'A, b'"]),
    "no name": ({"arms": (("..", {}),)}, ["'..'"]),
    "no such reference": ({"reference": "z"}, ["config.reference", "'z'"]),
    "same seeds": ({"seeds": (1, 1)}, ["(1, 1)"]),
    "no data": ({"arms": (("a", {"data.train": ""}),)}, ["'a'", "config.data.train"]),
}


@pytest.mark.parametrize("case", [*GRIDS, *CONFIGS])
def test_sweeps_that_cannot_be_are_refused(base, tmp_path, case):
    changes, words = GRIDS.get(case) or CONFIGS[case]
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the words are checked below)
        sweep.sweep(sweep_of(base, changes), tmp_path / "out")
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "out").exists()


def sweep_of(base, changes):
    """A grid over a list of texts, or a sweep with these settings."""
    if isinstance(changes, list):
        return sweep_arms.of_grid(base, changes)
    config = configs.defaults("sweep").unlock()
    with config.ignore_type():
        config.update({"base": base, "arms": (("a", {}),), **changes})
    return config


def test_flags_that_cannot_be_are_told(folder, tmp_path):
    for verb in ("train", "run"):
        said = fail(verb, f"--config={folder / 'sweep.py'}", f"--workdir={tmp_path}")
        assert "hs2jax sweep" in said
    said = fail("sweep", f"--config={folder / 'sweep.py'}:base", f"--workdir={tmp_path}")
    assert "--over" in said
    said = fail("sweep", f"--config={folder / 'sweep.py'}", f"--workdir={tmp_path}", "--seeds=a")
    assert "--seeds=0,1,2" in said
