"""Runs that are killed and started again end with the same bits as runs that are left alone.

The moments that matter are named; with LONG=1 in the environment twenty real SIGKILLs come at
random besides.
"""

import contextlib
import gzip
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
import stages
import tiny
from test_policy_training import sampled_rows

from hs2jax import configs, stopping, workdir
from hs2jax.models.hf import hub
from hs2jax.reward_model import RewardModel
from hs2jax.training import loop, metrics
from hs2jax.training.checkpoint import Checkpoints, RunState

KILLS = 20 if os.environ.get("LONG") else 0
EPOCHS = 2 + KILLS  # Of 17 groups, five at a time.
LAST = -(-17 * EPOCHS // 5)
SETTINGS = {"model.remat": False, "optimizer.learning_rate": 1e-3, "batch_size": 5}
SETTINGS |= {
    "keep_checkpoints": True,
    "micro_batch_size": 8,
    "epochs": EPOCHS,
    "evaluate_every": 4,
    "checkpoint_every": 3,
}
PART = {"trainable.last_layers": 1, "trainable.cache": True, "lora.rank": 2}
PART |= {"optimizer.mu_dtype": "bfloat16"}
PAIRED = {"objective.kind": "dpo", "objective.preference": "scaled", "lora.rank": 2}
# Rows too short for a group's five responses, so that groups lie in several micro-batches; and a
# step of each epoch is skipped, as one prompt overflows in the model.
SPLIT = {"model.name": "bad"}
SPLIT |= {"objective.kind": "steerlm2", "data.row_length": 96, "lora.rank": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    tiny.language_model(folder / "base", num_layers=2)
    own = tiny.config(num_layers=2)
    bad = tiny.overflowing(tiny.parameters(own), "~")
    hub.save(folder / "bad", config=own, params=bad, tokenizer=tiny.tokenizer())
    # 17 to train: an epoch is three batches of five and two left over.
    stages.pairs(folder / "pairs.jsonl", 23)
    groups = sampled_rows(23, samples=5)
    groups[3]["prompt"][0]["content"] += "~"
    stages.write(folder / "groups.jsonl", groups)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HS2JAX_CACHE", str(folder / "cache"))
        yield folder


def config(folder, kind="train_reward_model", **changes):
    pairs = kind == "train_reward_model" or changes.get("objective.kind") == "dpo"
    data = f"preference:{folder}/pairs.jsonl" if pairs else f"sampled:{folder}/groups.jsonl"
    made = configs.defaults(kind)
    own = {
        "model.name": str(folder / changes.pop("model.name", "base")),
        "data.row_length": 256,
        "data.train": f"{data}[:-6]",
        "data.validation": f"{data}[-6:]",
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
    clocks = ("seconds", "tokens_per_second", "seconds_per_step", "peak_memory_bytes")
    rows, results = (workdir.read_rows(place / f"{x}.jsonl") for x in ("metrics", "results"))
    return {
        "step": last.name,
        "arrays": ocp.StandardCheckpointer().restore((last / "state").absolute()),
        "export": (place / "model" / "model.safetensors").read_bytes(),
        "metrics": [{k: v for k, v in row.items() if k not in clocks} for row in rows],
        "items": [path.read_text() for path in sorted((place / "items").iterdir())],
        "skipped": workdir.read_rows(place / "not_finite.jsonl"),
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


@contextlib.contextmanager
def signalled_at(step: int, number: int):
    """Send this process a signal while a step's numbers are written."""
    write = metrics.Metrics.write

    def signalling(self, kind, now, values):
        if (kind, now) == ("train", step):
            os.kill(os.getpid(), number)
        write(self, kind, now, values)

    handler = signal.signal(number, signal.SIG_DFL)  # It may have been ignored.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics.Metrics, "write", signalling)
        patch.setattr(stopping, "_asked", "")
        stopping.install()
        try:
            yield
        finally:
            signal.signal(number, handler)


def test_stopped_by_a_signal_it_saves_and_goes_on(folder, undisturbed):
    place, of = folder / "signal", config(folder)
    for step, number, saved in (
        (1, signal.SIGTERM, 2),
        (4, signal.SIGTERM, 4),  # Within an evaluation, which is begun anew.
        (5, signal.SIGHUP, 6),
        (LAST, signal.SIGTERM, LAST),
    ):
        with signalled_at(step, number), pytest.raises(stopping.Stopped) as stopped:
            loop.train(of, place)
        latest = Checkpoints(place / "checkpoints", read_only=True)
        assert latest.latest == saved
        assert latest.read_meta(saved)["evaluated"] == (saved not in (4, LAST))
        assert f"saved at step {saved}" in stopped.value.why
    loop.train(of, place)
    assert_same(place, undisturbed)


# Other values of all settings that are declared to change not a bit, and of those that change the
# order of sums.
TO_THE_BIT = {"checkpoint_every": 2, "keep_checkpoints": False, "not_finite_limit": 9}
TO_THE_BIT |= {"profile": 1}
SUMS = {"model.remat": True, "model.keeps": "attention,up", "micro_batch_size": 16}
SUMS |= {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2}


@pytest.mark.parametrize(("identity", "changes"), [("free", TO_THE_BIT), ("sums", SUMS)])
def test_what_makes_no_other_run_gives_its_result(
    folder, undisturbed, identity, changes, monkeypatch
):
    """It goes on with other settings in a folder that was moved, with a copy of its model, and with
    compressed and linked data, without a folder for temporaries, and ends as the undisturbed one.
    """
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "pairs.jsonl" / "none"))
    for kind in ("train_reward_model", "train_policy"):
        declared = configs.SETTINGS[kind].items()
        named = {key for key, each in declared if each.identity == identity}
        # Of a policy that diverges, and of who is told of numbers.
        assert changes.keys() == named - {"objective.max_drift", "wandb_project"}
    place, moved = folder / identity, folder / "moved" / identity
    with killed_at(Checkpoints, "save", 2, saving="checkpoints"):
        loop.train(config(folder), place)
    moved.parent.mkdir(exist_ok=True)
    place.rename(moved)
    shutil.copytree(folder / "base", moved.parent / f"base of {identity}")
    rows, link = moved.parent / f"{identity}.jsonl.gz", moved.parent / f"{identity}.jsonl"
    rows.write_bytes(gzip.compress((folder / "pairs.jsonl").read_bytes()))
    link.symlink_to(folder / "pairs.jsonl")
    changes |= {"model.name": str(moved.parent / f"base of {identity}")}
    changes |= {"data.train": f"preference:{rows}[:-6]"}
    loop.train(config(folder, **changes, **{"data.validation": f"preference:{link}[-6:]"}), moved)
    found, wanted = (metrics.read(each / "metrics.jsonl") for each in (moved, undisturbed))
    ours, theirs = ([row["loss"] for row in rows] for rows in (found, wanted))
    files = [each / "model" / "model.safetensors" for each in (moved, undisturbed)]
    if identity == "free":
        assert ours == theirs
        assert files[0].read_bytes() == files[1].read_bytes()
        assert not (moved / "checkpoints").exists()
        (trace,) = moved.glob("profile/**/*.xplane.pb")
        named = trace.read_bytes()
        for part in (b"embed", b"/layers/", b"/head/", b"loss", b"/update/"):
            assert part in named, part
    else:
        assert ours != theirs
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
        a, b = map(safetensors.numpy.load_file, files)
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=0, atol=1e-5, err_msg=name)


def test_a_checkpoint_copied_by_hand_is_gone_on_from_or_refused_and_stays(
    folder, undisturbed, tmp_path
):
    """It is never taken for another one, and never deleted."""
    last, place = undisturbed / "checkpoints" / str(LAST), tmp_path / "run"
    other = tmp_path / "other"
    for each in (place, other):
        shutil.copytree(undisturbed, each)
    replaced = Checkpoints(place / "checkpoints", read_only=True).read_meta(LAST)["replaces"]
    for halves in (f"checkpoints/{replaced}", f"best/{LAST + 1}"):  # Killed as it deleted them.
        (place / halves / "state").mkdir(parents=True)
    assert RunState(place, {}, started=0.0).step == LAST  # A copy of all goes on.
    assert not (place / "best" / str(LAST + 1)).exists()
    record = workdir.read_json(other / "run.json")
    record["identity"] |= {"seed": "7"}
    workdir.write_json(other / "run.json", record)
    with pytest.raises(
        ValueError, match=r"checkpoints/\d+ is of another run .different: seed: 0 -> 7"
    ):
        RunState(other, {}, started=0.0)
    best = workdir.read_json(undisturbed / "result.json")["step"]
    for folder_name, name, why in (
        ("checkpoints", "99", f"is a checkpoint of step {LAST}"),
        ("checkpoints", "1", f"is a checkpoint of step {LAST}"),
        ("checkpoints", f"{LAST}.bak", "is not named by a step"),
        ("checkpoints", f"copy of {LAST}", "is not named by a step"),
        ("best", "98", f"is a checkpoint of step {LAST}"),
    ):
        copied = place / folder_name / name
        shutil.copytree(last, copied)
        for _ in range(2):
            with pytest.raises(ValueError, match=f"{re.escape(name)} {why}.*move it elsewhere"):
                RunState(place, {}, started=0.0)
        assert sorted(x.name for x in copied.iterdir()) == sorted(x.name for x in last.iterdir())
        shutil.rmtree(copied)
    shutil.copytree(
        last / "state", place / "checkpoints" / "50" / "state"
    )  # A copy that broke off.
    with pytest.raises(ValueError, match=r"checkpoints/50 cannot be read"):
        RunState(place, {}, started=0.0)
    assert (place / "checkpoints" / "50" / "state").exists()
    shutil.rmtree(place / "checkpoints" / "50")
    meta = other / "checkpoints" / str(LAST) / "meta" / "metadata"
    meta.write_text(json.dumps({"frozen": "", "best": None}))
    with pytest.raises(ValueError, match=f"checkpoints/{LAST} was saved by an earlier version"):
        RunState(other, {}, started=0.0)
    shutil.rmtree(place / "checkpoints" / str(LAST) / "state")
    with pytest.raises(ValueError, match=rf"checkpoints/{LAST} cannot be read \(.* begins anew"):
        RunState(place, {}, started=0.0).restore({})
    for name in ("items/start.jsonl", f"best/{best}"):
        (place / name).rename(tmp_path / name.replace("/", "-"))
        with pytest.raises(FileNotFoundError, match=f"{name}.* is not there.*copy it too"):
            RunState(place, {}, started=0.0).need("items/start.jsonl")
        if "items" in name:
            (tmp_path / "items-start.jsonl").rename(place / name)


LONGER = pytest.param("train_policy", PAIRED, marks=pytest.mark.long)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("train_reward_model", PART), ("train_policy", SPLIT), LONGER],
    ids=["LoRA on the last layers", "groups in several micro-batches, some skipped", "pairs"],
)
def test_whatever_is_trained_is_gone_on_with(folder, kind, changes, request):
    name = request.node.callspec.id
    of, places = config(folder, kind, **changes), [folder / f"{name}-{n}" for n in (0, 1)]
    loop.train(of, places[0])
    with killed_at(Checkpoints, "save", 2, saving="checkpoints"):
        loop.train(of, places[1])
    loop.train(of, places[1])
    assert_same(places[1], places[0])
    if "model.name" in changes:
        noted = workdir.read_rows(places[0] / "not_finite.jsonl")
        assert len(noted) == EPOCHS
        assert all([*row["first"]] == [f"{folder}/groups.jsonl:4"] for row in noted)


def test_a_run_that_skipped_too_many_steps_goes_on_where_it_may_skip_more(folder):
    rows = [row | {"prompt": f"{row['prompt']}~"} for row in stages.read(folder / "pairs.jsonl")]
    bad = f"preference:{stages.write(folder / 'bad.jsonl', rows)}[:-6]"
    of = config(folder, **{"model.name": "bad", "data.train": bad, "not_finite_limit": 2})
    places = [folder / f"limit-{n}" for n in (0, 1)]
    said = r"2 steps in a row, up to step 2, .*bad.jsonl:\d+ .in layer 0 at token"
    for _ in range(2):  # The second time at once.
        with pytest.raises(ValueError, match=said):
            loop.train(of, places[0])
    assert Checkpoints(places[0] / "checkpoints", read_only=True).latest == 3
    of.not_finite_limit = 9
    for place in places:
        loop.train(of, place)
    assert_same(*places)


@pytest.mark.long
def test_killed_by_sigkill_it_ends_with_the_same_bits(folder, undisturbed):
    rng, of, place = random.Random(0), config(folder), folder / "sigkill"
    for _ in range(KILLS):
        process = multiprocessing.get_context("spawn").Process(target=loop.train, args=(of, place))
        process.start()
        wanted = len(metrics.read(place / "metrics.jsonl")) + rng.randint(1, 4)
        while process.is_alive() and len(metrics.read(place / "metrics.jsonl")) < wanted:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
    loop.train(of, place)
    assert_same(place, undisturbed)
