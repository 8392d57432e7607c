"""A run's folder: a settled one takes no other config, one process at a time works in it, and what
is wrong with it is told."""

import errno
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import stages

from hs2jax import configs, disk, locks, survey, workdir
from hs2jax.training import metrics


def config(**settings):
    made = configs.defaults("evaluate")
    made.update({"data": "ratings:a", **settings})
    return made


def training(**settings):
    made = configs.defaults("train_reward_model")
    made.update({"model": {"dtype": "float32"}, **settings})
    return made


@pytest.fixture(autouse=True)
def _nothing_is_read(monkeypatch):
    monkeypatch.setattr(survey, "survey", lambda spec, **_: survey.Survey(f"rows of {spec}", None))
    monkeypatch.setattr("hs2jax.identity.fingerprint", lambda name: {"weights": name})


def test_a_folder_takes_another_config_until_something_is_made(tmp_path):
    assert workdir.claim(tmp_path, config()) is None
    others, torn = tmp_path / ".mine.tmp", tmp_path / "items" / ".hs2jax-host-1.tmp"
    for path in (others, torn):
        workdir.write_text(path, "")
    assert workdir.claim(tmp_path, config(data="ratings:b")) is None
    assert (others.exists(), torn.exists()) == (True, False)
    workdir.settle(tmp_path)
    (tmp_path / "config.json").write_text('{"ki')  # What it said is known otherwise.
    assert workdir.claim(tmp_path, config(data="ratings:b")) is None
    what = r"another run \(different: data \(set 1\): rows of ratings:b -> rows of ratings:c\)"
    with pytest.raises(ValueError, match=what):
        workdir.claim(tmp_path, config(data="ratings:c"))


def test_what_makes_no_other_run_is_said_with_what_it_does(tmp_path, caplog, monkeypatch):
    def said(**changes) -> str:
        caplog.clear()
        with caplog.at_level("INFO"):
            workdir.claim(tmp_path, training(**changes))
        return caplog.text

    said()
    workdir.settle(tmp_path)
    assert "the same run" not in said()
    to_the_bit, sums = {"checkpoint_every": 7}, {"mesh": {"data": 2}}
    text = said(**to_the_bit, **sums)
    assert "not a bit of the result changes by checkpoint_every: 50 -> 7\n" in text
    assert "last bits may differ, by mesh.data: 1 -> 2\n" in text
    with monkeypatch.context() as patch:
        elsewhere = workdir.environment() | {"device": "1 x TPU v6e (tpu)"}
        patch.setattr(workdir, "environment", lambda: elsewhere)
        assert "last bits may differ, by device: 8 x cpu (cpu) -> 1 x TPU" in said()
    workdir.finish(tmp_path, training(), {}, [])
    text = said(**sums)
    assert "its result stands, and was made without mesh.data: 1 -> 2\n" in text
    assert "last bits" not in text
    assert workdir.read_json(tmp_path / "config.json")["mesh"]["data"] == 1
    with pytest.raises(
        ValueError, match=r"epochs: 2 -> 3\).* finished: to train .*name=.*/model'?\."
    ):
        workdir.claim(tmp_path, training(epochs=3))


FOREIGN = (
    ("evaluate", {"thesis.tex": "{}"}, "not a run's folder: there is thesis.tex in it"),
    ("evaluate", {"config.json": '{"model_type": "llama"}'}, "is a model's folder"),
    ("judge", {"config.json": '{"kind": "evaluate"}', "result.json": "{}"}, "'evaluate', not 'j"),
    ("judge", {"config.json": '{"kind": "judge"}', "result.json": "{}"}, "an earlier version"),
    ("judge", {"config.json": '{"kind": "judge"}', "run.json": "{}"}, "an earlier version"),
    ("judge", {"config.json": '{"kind": "judge"}', "run.json": "[]"}, r"run.json: damaged, a list"),
    ("judge", {"config.json": "[]"}, r"config.json: damaged, a list"),
    ("judge", {"run.json": '{"sett'}, r"run.json: damaged"),
    ("judge", {"run.json": '{"kind": "judge", "identity": 7}'}, "an earlier version"),
    # A recipe and a sweep that have begun.
    ("judge", {"config.json": '{"kind": "recipe"}', "one/run.json": "{}"}, "of kind 'recipe'"),
    ("judge", {"config.json": '{"kind": "sweep"}', "a/seed-0/run.json": "{}"}, "kind 'sweep'"),
)


@pytest.mark.parametrize(("kind", "files", "words"), FOREIGN)
def test_a_folder_that_is_no_run_s_is_left_as_it_is(tmp_path, kind, files, words):
    for name, text in files.items():
        workdir.write_text(tmp_path / name, text)
    with pytest.raises(ValueError, match=words):
        workdir.check(tmp_path, configs.defaults(kind), {})
    there = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {str(path.relative_to(tmp_path)): path.read_text() for path in there} == files


HOLDER = """
import pathlib, sys, time
from hs2jax import locks
locks.hold(pathlib.Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_two_processes_do_not_share_a_folder_and_a_dead_one_holds_nothing(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf"in use by process {holder.pid} on .* since 20"):
            workdir.claim(tmp_path, config())
    finally:
        holder.kill()
        holder.wait()
    assert workdir.claim(tmp_path, config()) is None
    assert f"process {os.getpid()} " in (tmp_path / "run.lock").read_text()


@pytest.mark.parametrize("locks_there", [True, False])
@pytest.mark.parametrize("alive", [True, False])
def test_a_holder_that_the_system_does_not_know_of_is_held_for_dead_without_signs_of_life(
    tmp_path, alive, locks_there, monkeypatch
):
    """As of another machine, where the file system keeps no common locks or none at all."""
    path = tmp_path / "run.lock"
    path.write_text(f"process 1 on elsewhere since then\n{'another' if locks_there else ''}\n")
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        if alive and len(waited) == 2:
            os.utime(path, (1, 1))

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "no locks")

    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", sleep)
        if not locks_there:
            patch.setattr(locks.fcntl, "lockf", no_locks)
        if alive:
            with pytest.raises(ValueError, match="in use by process 1 on elsewhere since then; "):
                locks.hold(tmp_path)
        else:
            locks.hold(tmp_path)
    assert alive == (len(waited) == 2)
    assert alive == ("process 1 " in path.read_text())
    locks.release(tmp_path)


def test_a_holder_gives_signs_of_life_until_its_verb_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.01)

    @locks.released
    def verb(config, folder):
        locks.hold(folder)
        os.utime(folder / "run.lock", (1, 1))
        while (folder / "run.lock").stat().st_mtime == 1:
            time.sleep(0.01)
        raise KeyError(config)

    with pytest.raises(KeyError):
        verb("a", tmp_path)
    assert not (tmp_path / "run.lock").exists()


def test_a_folder_that_is_lost_under_a_run_is_told(tmp_path):
    workdir.claim(tmp_path / "run", config())
    shutil.rmtree(tmp_path / "run")
    for write in (
        lambda folder: workdir.finish(folder, config(), {}, []),
        lambda folder: workdir.write_text(folder / "items" / "a.jsonl", ""),
    ):
        with pytest.raises(FileNotFoundError, match=r"run: the folder of this run is gone.*bring"):
            write(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_does_not_fit_is_refused(tmp_path, monkeypatch, caplog):
    with caplog.at_level("INFO"):
        disk.check_room(tmp_path, 3_000_000, 1_000_000)
    assert f"{tmp_path}: up to 3.0 MB of disk, 1.0 MB when finished" in caplog.text
    (tmp_path / "checkpoint").write_bytes(bytes(2_000_000))  # Which will make room.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 1_500_000))
    disk.check_room(tmp_path, 3_500_000, 1_000_000)
    with pytest.raises(ValueError, match=r"needs 3\.6 MB of disk, and 1\.5 MB are free"):
        disk.check_room(tmp_path, 3_600_000, 1_000_000)


@pytest.mark.parametrize("name", ["config.json", "results.jsonl", "metrics.jsonl"])
def test_a_damaged_file_is_named(tmp_path, name):
    read = {"config.json": workdir.read_json, "metrics.jsonl": metrics.read}
    read = read.get(name, workdir.read_rows)
    (tmp_path / name).write_bytes(b'{"a": "\xff\n')
    with pytest.raises(ValueError, match=rf"{name}.*damaged, not JSON"):
        read(tmp_path / name)


def test_a_text_goes_through_links_and_to_devices(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "place")
    workdir.write_text(tmp_path / "link", "text")
    assert (tmp_path / "place").read_text() == "text"
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as error:
        workdir.write_text(tmp_path / "full", "text")
    assert error.value.filename == str(tmp_path / "full")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("loop", "x" * 250 + ".json"):
        workdir.write_text(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"
    for name in ("x" * 300, "."):
        with pytest.raises(OSError, match=re.escape(str(tmp_path))):
            workdir.write_text(tmp_path / name, "text")
    assert not list(tmp_path.glob(".*"))


def test_a_finished_run_gives_its_result_again(tmp_path):
    workdir.claim(tmp_path, config())
    rows = [workdir.row("mini", "", "accuracy", 0.75, (0.5, 0.875), 8, reference=0.5)]
    model, card = tmp_path / "model" / "a.safetensors", tmp_path / "model" / "README.md"
    for path in (model, card):
        workdir.write_text(path, "made")
    made = workdir.finish(tmp_path, config(), {"seconds": 1.0}, rows)
    assert made == workdir.read_rows(tmp_path / "results.jsonl")
    assert made[0]["kind"] == "evaluate"
    assert (made[0]["low"], made[0]["high"], made[0]["n"]) == (0.5, 0.875, 8)
    assert workdir.claim(tmp_path, config()) == made
    found = stages.result(tmp_path)
    assert found["seconds"] == 1.0
    assert found["config"] == config().to_dict()
    with pytest.raises(ValueError, match="different: data"):
        workdir.claim(tmp_path, config(data="ratings:b"))
    for text in ("", made[0]["metric"], '{"a": 1}\n'):  # Cut off, damaged, edited.
        (tmp_path / "results.jsonl").write_text(text)
        with pytest.raises(ValueError, match=r"results.jsonl is not as .* it back, or remove"):
            workdir.claim(tmp_path, config())
    workdir.write_rows(tmp_path / "results.jsonl", made)
    card.unlink()  # It is for people.
    assert workdir.claim(tmp_path, config()) == made
    model.write_text("cut")
    for change in (model.unlink, model.parent.rmdir):
        with pytest.raises(ValueError, match=r"a.safetensors is not as the run left it; bring it"):
            workdir.claim(tmp_path, config())
        change()


def test_a_value_that_is_not_finite_becomes_null_in_every_file(tmp_path):
    nan, inf = float("nan"), np.float64("inf")
    assert workdir.row("", "", "loss", nan)["value"] is None
    values = {"a": nan, "b": (1.5, [-inf]), "c": {"d": inf, "e": "NaN"}}
    wanted = {"a": None, "b": [1.5, [None]], "c": {"d": None, "e": "NaN"}}
    workdir.write_json(tmp_path / "value.json", values)
    workdir.write_rows(tmp_path / "rows.jsonl", [values])
    out = metrics.Metrics(tmp_path, start=0, total=1)
    out.write("train", 1, {"loss": nan})
    out.close()
    assert workdir.read_json(tmp_path / "value.json") == wanted
    assert stages.read(tmp_path / "rows.jsonl") == [wanted]
    assert stages.read(tmp_path / "metrics.jsonl") == [{"kind": "train", "step": 1, "loss": None}]


def test_a_printed_command_can_be_run_where_a_folder_has_spaces(tmp_path, caplog):
    folder = tmp_path / "My Drive" / "run 1"
    folder.mkdir(parents=True)
    with caplog.at_level(logging.INFO):
        metrics.Metrics(folder, start=0, total=1).close()
    (said,) = (x for x in caplog.messages if x.startswith("curves"))
    assert shlex.split(said.partition("hs2jax report ")[2]) == [f"--workdir={folder}"]


def test_weights_and_biases_gets_the_numbers_by_the_same_names_and_goes_on(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    ids = []
    for start in (0, 1):
        out = metrics.Metrics(tmp_path, start=start, total=2, project="p", config={"seed": 7})
        out.write("train", start + 1, {"loss": 0.25})
        out.write("validation", start + 1, {"loss": 0.5})
        ids.append(out._wandb.id)
        out.close()
    assert ids[0] == ids[1]
    (first, _) = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert all(name in first.read_bytes() for name in (b"train/loss", b"validation/loss"))
    assert [row["kind"] for row in metrics.read(tmp_path / "metrics.jsonl")] == [
        *("train", "validation") * 2
    ]
