"""`hs2jax run`, `train`, `report` and `convert` on one small recipe of two stages, trained once."""

import os
import re
import shutil
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import stages
import tiny
from command import fail, succeed
from tensorboardX.proto import event_pb2

from hs2jax import disk, locks, workdir
from hs2jax.data import corpora
from hs2jax.data.groups import pairs
from hs2jax.models.hf import hub
from hs2jax.reward_model import RewardModel

ROW, MICRO_BATCH_SIZE, BATCH = 512, 8, 4
OUTPUTS = ("helpfulness", "verbosity")
RATINGS = {
    "train": "helpsteer2:mini/train.jsonl[:12]",
    "validation": "helpsteer2:mini/train.jsonl[12:16]",
}
PREFERENCES = {
    "train": "helpsteer2_preference:mini/preference.jsonl[:14]",
    "validation": "helpsteer2_preference:mini/preference.jsonl[14:18]",
}
ITEMS = "items/validation.jsonl"
# The stages' names are not in alphabetical order, so that the report's order is seen to be theirs.
RECIPE = f"""
from hs2jax import configs

def get_config(stage=None):
    recipe = configs.defaults("recipe")
    recipe.stages = ("ratings", "preferences")
    common = configs.defaults("train_reward_model")
    common.model.remat = False
    common.data.row_length = {ROW}
    common.optimizer.update(learning_rate=1e-3, warmup=2)
    common.update(batch_size={BATCH}, micro_batch_size={MICRO_BATCH_SIZE})
    common.update(evaluate_every=2, checkpoint_every=2)

    ratings = common.copy_and_resolve_references()
    ratings.model.update(name=BASE, outputs={OUTPUTS})
    ratings.data.update({RATINGS | {"derive": "helpfulness"}})
    ratings.objective.kind = "regression"
    ratings.epochs = 2
    ratings.keep_checkpoints = True
    recipe.ratings = ratings

    preferences = common.copy_and_resolve_references()
    preferences.model.update(name="{{ratings}}/model", outputs=())
    preferences.data.update({PREFERENCES})
    preferences.objective.preference = "scaled"
    preferences.epochs = 3
    recipe.preferences = preferences
    return recipe[stage] if stage else recipe
"""


class Trained(NamedTuple):
    """The recipe's run: where its parts are, the command that made it, and what that printed."""

    folder: Path
    workdir: Path
    command: tuple[str, ...]
    printed: str

    ratings = property(lambda self: self.workdir / "ratings")
    preferences = property(lambda self: self.workdir / "preferences")

    def killed(self, folder: Path) -> Path:
        """A copy of the first stage as a kill after the last step leaves it."""
        copy = shutil.copytree(self.ratings, folder / "killed")
        (copy / "result.json").unlink()
        shutil.rmtree(copy / "model")
        return copy


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trained:
    folder = tmp_path_factory.mktemp("cli")
    tiny.language_model(folder / "base", max_seq_len=4096)
    (folder / "recipe.py").write_text(f"BASE = {str(folder / 'base')!r}\n{RECIPE}")
    config = (f"--config={folder / 'recipe.py'}", "--config.preferences.epochs=1")
    command = ("run", *config, f"--workdir={folder / 'run'}")
    return Trained(folder, folder / "run", command, succeed(*command))


def scores(model: RewardModel, spec: str) -> list[np.ndarray]:
    """Outputs [responses, K] of each group of a data spec."""
    return model.score_groups(list(corpora.read(spec)))


def mean_margin(model: RewardModel, spec: str) -> float:
    """Mean of reward(chosen) - reward(rejected), the reward being the first output."""
    found = [
        table[pair.chosen, 0] - table[pair.rejected, 0]
        for group, table in zip(corpora.read(spec), scores(model, spec), strict=True)
        for pair in pairs(group)[0]
    ]
    return float(np.mean(found))


# Run ----------------------------------------------------------------------------------------------


def test_run_leaves_whole_stages_and_says_where(trained):
    for stage in (trained.ratings, trained.preferences):
        for name in (ITEMS, "metrics.jsonl", "model/config.json"):
            assert (stage / name).exists(), name
        # What no later step needs, but for the stage that asks for it.
        for name in ("checkpoints", "best"):
            assert (stage / name).exists() == (stage == trained.ratings), name
        noted = workdir.read_json(stage / "run.json")["bytes"]
        assert noted == pytest.approx(disk.size(stage), rel=0.1)
        assert not list(stage.glob("*.tmp"))
        records = workdir.read_json(stage / "record.json")
        assert records == stages.result(stage)["records"]
        assert all(each["tokens"] > 0 for each in records.values()), "of validation too"
    # An override counts, and other settings stay.
    assert workdir.read_json(trained.preferences / "config.json")["epochs"] == 1
    # Nine rated groups fit, twice: five batches. Ten groups that are no ties fit, once: three.
    assert stages.result(trained.ratings)["steps"] == 5
    assert stages.result(trained.preferences)["steps"] == 3
    assert f"report: {trained.workdir / 'report.html'}" in trained.printed
    assert f"model: {trained.preferences / 'model'}" in trained.printed
    card = (trained.preferences / "model" / "README.md").read_text()
    assert f"| model.name | {trained.ratings / 'model'} |" in card
    assert re.search(r"\| validation \| accuracy \| [\d.]+ \| [\d.]+ to [\d.]+ \| \d+ \|", card)


def test_second_stage_starts_from_the_first_with_its_head(trained):
    first = RewardModel.load(trained.ratings / "model")
    named = workdir.read_json(trained.preferences / "config.json")["model"]["name"]
    assert named == str(trained.ratings / "model")
    assert RewardModel.load(trained.preferences / "model").outputs == first.outputs == OUTPUTS
    before = stages.read(trained.preferences / "metrics.jsonl")[0]
    assert (before["kind"], before["step"]) == ("validation", 0)
    margin = mean_margin(first, PREFERENCES["validation"])
    assert before["margin"] == pytest.approx(margin, abs=1e-5)


def test_evaluations_are_those_of_the_exported_models(trained):
    ratings = stages.result(trained.ratings)
    tables = scores(RewardModel.load(trained.ratings / "model"), RATINGS["validation"])
    given = [group.ratings for group in corpora.read(RATINGS["validation"])]
    for name, column in zip(OUTPUTS, np.concatenate(tables).T, strict=True):
        errors = column - [rating[name] for group in given for rating in group]
        mse = pytest.approx(np.mean(np.square(errors)), rel=1e-5)
        assert ratings["values"][f"{name} mse"] == mse
    for item, table in zip(stages.read(trained.ratings / ITEMS), tables, strict=True):
        np.testing.assert_allclose(item["outputs"], table, atol=1e-5)
        np.testing.assert_allclose(item["rewards"], table[:, 0], atol=1e-5)

    preferences = stages.result(trained.preferences)
    second = RewardModel.load(trained.preferences / "model")
    margin = mean_margin(second, PREFERENCES["validation"])
    assert preferences["values"]["margin"] == pytest.approx(margin, abs=1e-5)


def test_metrics_have_every_step_and_the_best_one_is_kept(trained):
    for stage, evaluated in ((trained.ratings, [0, 2, 4, 5]), (trained.preferences, [0, 2, 3])):
        rows = stages.read(stage / "metrics.jsonl")
        steps = [row["step"] for row in rows if row["kind"] == "train"]
        assert steps == list(range(1, evaluated[-1] + 1))
        assert [row["step"] for row in rows if row["kind"] == "validation"] == evaluated
        losses = [row["loss"] for row in rows if row["kind"] == "train"]
        assert np.isfinite(losses).all()
        board = scalars(stage / "tensorboard")
        np.testing.assert_allclose(board["train/loss"], losses, rtol=1e-6)
        assert len(board["validation/loss"]) == len(evaluated)
        # The best step is the one of least loss.
        losses = {r["step"]: r["loss"] for r in rows if r["kind"] == "validation" and r["step"]}
        best = stages.result(stage)["step"]
        assert losses[best] == min(losses.values())
        kept = [int(p.name) for p in stage.glob("best/*") if p.name.isdigit()]
        assert kept == [best] * (stage == trained.ratings)


def scalars(folder: Path) -> dict[str, list[float]]:
    """The scalars of a folder's one TensorBoard file: records of a length, a checksum, an event
    and a checksum."""
    (path,) = folder.glob("events.out.tfevents.*")
    content, at, found = path.read_bytes(), 0, {}
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
        at += 12 + length + 4
        for value in event.summary.value:
            found.setdefault(value.tag, []).append(value.simple_value)
    return found


def test_second_run_loads_nothing_and_writes_the_report_again(trained, monkeypatch):
    def load(*arguments, **options):
        raise AssertionError("a finished stage was worked on")

    monkeypatch.setattr(RewardModel, "load", load)
    report = trained.workdir / "report.md"
    ends = [place / "result.json" for place in (trained.workdir, trained.ratings)]
    for end in ends:
        os.utime(end, (1e9, 1e9))
    succeed("report", f"--workdir={trained.workdir}")
    before = report.read_text()
    assert "2001-09-0" in before  # When it ended, whatever the time zone.
    assert 0 < before.index("## ratings") < before.index("## preferences")
    report.unlink()
    assert succeed(*trained.command) == trained.printed
    assert report.read_text() == before
    report.unlink()
    printed = succeed("report", f"--workdir={trained.workdir}")
    assert printed.strip() == str(trained.workdir / "report.html")
    assert report.read_text() == before
    assert [end.stat().st_mtime for end in ends] == [1e9, 1e9]
    monkeypatch.chdir(trained.folder)  # The folder may be named in another way.
    assert "report: run/report.html" in succeed(*trained.command[:-1], "--workdir=run")


# A killed run -------------------------------------------------------------------------------------


def test_a_run_killed_before_its_export_is_finished_by_the_same_command(trained, tmp_path):
    folder = trained.killed(tmp_path)
    succeed("report", f"--workdir={folder}")
    assert "**Unfinished.** At step 5;" in (folder / "report.md").read_text()
    command = ("train", f"--config={trained.folder / 'recipe.py'}:ratings", f"--workdir={folder}")
    said = fail(*command, "--config.optimizer.learning_rate=0.5")
    assert f"{folder} holds another run (different: optimizer.learning_rate:" in said
    succeed(*command)
    for name in ("model/model.safetensors", ITEMS, "metrics.jsonl"):
        assert (folder / name).read_bytes() == (trained.ratings / name).read_bytes(), name
    again, before = stages.result(folder), stages.result(trained.ratings)
    assert again | {"seconds": 0} == before | {"seconds": 0}


# Convert ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("reward", "bfloat16"),
        ("base", "float32"),
        ("run", "float32"),
        ("killed", "float32"),
        ("killed", "bfloat16"),
    ],
)
def test_converted_models_score_the_same(trained, tmp_path, kind, dtype):
    source = expected = trained.folder / kind
    if kind == "reward":  # With all that a head can have.
        weights = {"helpfulness": 0.65, "verbosity": -0.4}
        tiny.save(source, outputs=OUTPUTS, bias=True, weights=weights, max_seq_len=4096)
    elif kind != "base":
        source = trained.ratings if kind == "run" else trained.killed(tmp_path)
        expected = trained.ratings / "model"
    output = tmp_path / "converted"
    if kind == "killed":  # And goes on, so that somebody holds the folder.
        locks.hold(source)
    printed = succeed("convert", f"--model={source}", f"--output={output}", f"--dtype={dtype}")
    assert printed.strip() == str(output)
    loaded = hub.load(output)
    assert loaded.hf_config["dtype"] == dtype
    assert (loaded.head is None) == (kind == "base")

    # A new head comes from a seed, so a language model's is the same twice.
    new_head = {"outputs": ("new",)} if kind == "base" else {}
    before, after = RewardModel.load(expected, **new_head), RewardModel.load(output, **new_head)
    assert after.outputs == before.outputs
    assert after.weights == before.weights
    tables = [np.concatenate(scores(m, PREFERENCES["validation"])) for m in (before, after)]
    tolerance = {"float32": 1e-6, "bfloat16": 2e-2}[dtype]
    scale = np.abs(tables[0]).max()
    np.testing.assert_allclose(tables[1], tables[0], rtol=0, atol=tolerance * scale)
    assert np.array_equal(*tables) == (dtype == "float32")
    if kind in ("run", "killed"):  # The export holds the best step, to the bit.
        files = [folder / "model.safetensors" for folder in (output, expected)]
        assert (files[0].read_bytes() == files[1].read_bytes()) == (dtype == "float32")
