"""Every verb ends with a line at any write that fails, and then with the bits of an undisturbed
run; stopped once it has kept something, it does not compute that again. On each change a few points
of each kind; all of them with LONG=1 in the environment."""

import gc
import itertools
import json
import os
import random
import re
import shutil
import signal
from pathlib import Path

import judge_runs
import pytest
import stages
import tiny
from command import hs2jax, succeed
from faults_at_writes import FAULTS, Killed, faults

from hs2jax import locks, report
from hs2jax.alignment import sample as sampling
from hs2jax.alignment import weigh as weighing
from hs2jax.evaluation import scores
from hs2jax.judging import readings
from hs2jax.store import Store
from hs2jax.training import checkpoint, loop, sweep

LONG = os.environ.get("LONG")
CONFIGS = """
from hs2jax import configs

def get_config(kind):
    train = configs.defaults("train_reward_model")
    train.model.update(name={base!r}, remat=False)
    train.data.update(train={pairs!r} + "[:6]", validation={pairs!r} + "[6:]", row_length=128)
    train.update(batch_size=3, epochs=1, evaluate_every=1, checkpoint_every=1, micro_batch_size=8)
    if kind == "train":
        return train
    if kind != "recipe":
        return configs.defaults(kind)
    recipe = configs.defaults(kind)
    recipe.stages = ("first", "second")
    recipe.first = train
    recipe.second = configs.defaults("evaluate")
    recipe.second.model.name = "{{first}}/model"
    recipe.second.data = {pairs!r}
    return recipe
"""
STEERED = {"reward_model": "ratings", "reference": "prior"}
STEERING = {"attributes": "('verbosity',)", "requested": "(0,4)", "max_new_tokens": 6}
STEERING["base"] = "helpfulness=4,verbosity=0"
CLOCKS = {"seconds", "tokens_per_second", "seconds_per_step", "peak_memory_bytes", "bytes"}
CLOCKS |= {"rows_hash"}  # Of rows that say them.
APART = ("tensorboard", "report.html", "report.md", "run.lock")  # As they hold times, or go.


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with what runs need."""
    here = tmp_path_factory.mktemp("faults")
    stages.models(here)
    judge_runs.prepare(here)
    tiny.language_model(here / "base", num_layers=2)
    for seed, name in enumerate(("initial", "trained")):
        tiny.save(here / name, seed=seed)
    pairs = stages.pairs(here / "pairs.jsonl", 9)
    text = CONFIGS.format(base=str(here / "base"), pairs=pairs)
    (here / "of.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "default_folder", lambda: here / "root" / "cache")
        # Work in small pieces, each of which is kept.
        patch.setattr(sampling, "chunk", lambda config: 3)
        patch.setattr(weighing, "CHUNK", 3)
        patch.setattr(scores, "TOKENS", 60)
        patch.setattr(readings, "CHUNK", 4)
        # The faults are in this process.
        patch.setattr(sweep, "_train", lambda config, place: loop.train(config, place) and "")
        sample = command(here, "sample")
        succeed(*sample)
        shutil.move(here / "root" / "run", here / "sampled")
        succeed(*command(here, "evaluate"))
        shutil.move(here / "root" / "run", here / "evaluated")
        yield here


def command(here: Path, verb: str) -> list[str]:
    """A command whose run has the folder `run` of `root` in `here`."""
    pairs, out = f"preference:{here / 'pairs.jsonl'}", here / "root" / "run"
    sampled = f"sampled:{here / 'sampled' / 'samples.jsonl'}"
    of = lambda kind, **settings: [  # noqa: E731
        f"--config={here / 'of.py'}:{kind}",
        f"--workdir={out}",
        *(f"--config.{key.replace('__', '.')}={value}" for key, value in settings.items()),
    ]
    score = ["score", f"--model={here / 'trained'}", f"--data={pairs}", f"--output={out}/s.jsonl"]
    policy = {"model__name": here / "policy", "conditions": f"('{stages.ASKED}',)"}
    return {
        "train": ["train", *of("train")],
        "run": ["run", *of("recipe")],
        "evaluate": ["evaluate", *of("evaluate", model__name=here / "trained", data=pairs)],
        "judge": [
            "judge",
            *of("judge", weights="cross-validate", folds=2, baselines="gpt_score"),
            *(f"--config.{k}={v}" for k, v in judge_runs.settings_of(here).items()),
            f"--config.data=ratings:{here / 'rated.jsonl'}[:4]",
        ],
        "score": score,
        "best-of-n": [*score, f"--best={out}/best"],
        "sample": [
            "sample",
            *of("sample", data=stages.prompts(here), n=2, max_new_tokens=4, **policy),
        ],
        "annotate": ["annotate", *of("annotate", model__name=here / "ratings", data=pairs)],
        "weigh": [
            "weigh",
            *of("weigh", reward_model=here / "ratings", prior=here / "prior", data=sampled),
            "--config.unfinished=keep",
        ],
        "rescale": [
            "rescale",
            *of("rescale", model__name=here / "ratings", data=stages.prompts(here)),
            "--config.ratings=helpsteer2:mini/train.jsonl[10:40]",
            "--config.attributes=('verbosity',)",
        ],
        "steer": [
            "steer",
            *of("steer", policies=f"before={here / 'prior'},after={here / 'policy'}", n=2),
            *(f"--config.{key}={here / name}" for key, name in STEERED.items()),
            *(f"--config.{key}={value}" for key, value in STEERING.items()),
            f"--config.data={stages.prompts(here)}",
        ],
        "expo": [
            "expo",
            *of("expo", initial=here / "initial", trained=here / "trained", data=pairs),
            "--config.factors=(1.5,)",
            "--config.fine_step=0",
        ],
        "convert": ["convert", f"--model={here / 'trained'}", f"--output={out}"],
        "sweep": ["sweep", *of("train"), "--over=objective.preference=regular,scaled"],
        "report": ["report", f"--workdir={out}"],
    }[verb]


VERBS = ["train", "run", "evaluate", "judge", "score", "best-of-n", "sample", "annotate", "weigh"]
VERBS += ["expo", "convert", "sweep", "report"]
KEEPING = ["evaluate", "judge", "sample", "annotate", "weigh", "rescale", "steer", "expo"]
SAMPLED = ["run", "best-of-n", "sample", "convert", "report"]  # A recipe trains and evaluates.


def begin(here: Path, verb: str) -> Path:
    """An empty root, but for what the verb reads of its own folder."""
    root = here / "root"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    if verb == "report":
        without = shutil.ignore_patterns("report.*")  # One that says the same is not written again.
        shutil.copytree(here / "evaluated", root / "run", ignore=without)
    return root


def timeless(value):
    """What a JSON value says, without how long it took."""
    if isinstance(value, list):
        return [each for each in map(timeless, value) if each is not None]
    if isinstance(value, dict):
        if value.get("metric") in CLOCKS:
            return None
        return {key: timeless(x) for key, x in value.items() if key not in CLOCKS}
    return "" if value is None else value


def bits(root: Path) -> dict[str, object]:
    """What every file of a run says."""
    found = {}
    for path in sorted((root / "run").rglob("*")):
        name = str(path.relative_to(root))
        if path.is_file() and not any(each in name for each in APART):
            found[name] = path.read_bytes()
            if path.suffix in (".json", ".jsonl"):
                found[name] = [timeless(json.loads(x)) for x in texts(path)]
    return found


def assert_same(found: dict, expected: dict, where: str) -> None:
    assert found.keys() == expected.keys(), where
    for name in expected:
        assert found[name] == expected[name], (where, name)


def texts(path: Path) -> list[str]:
    text = path.read_text()
    return text.splitlines() if path.suffix == ".jsonl" else [text]


def late(*_):
    raise TimeoutError("it hangs")


def disturbed(here: Path, verb: str, fault: str, nth: int) -> str:
    """Run a verb with a fault at its nth point. Returns where that was, and what was said."""
    root, done = begin(here, verb), None
    signal.signal(signal.SIGALRM, late)
    signal.alarm(600)
    try:
        with faults(root, fault, nth) as layer:
            done = hs2jax(*command(here, verb))
    except Killed:
        assert fault in ("torn", "killed")
    finally:
        signal.alarm(0)
    unlock()
    where = f"{verb}, point {nth}, {fault} at {layer.failed}"
    if done and done.code:
        head = f"hs2jax {command(here, verb)[0]}:"
        (said,) = (line for line in done.err.splitlines() if line.startswith(head))
        assert done.code == 1, (where, done.err)
        assert str(root) in said, (where, said)
        assert "Traceback" not in done.err, (where, done.err)
        assert "a fault of hs2jax" not in said, (where, said)
    return where


def unlock() -> None:
    """Let go of all folders, as the system does it for a process that ends."""
    for file in locks._locks.values():
        file.close()
    locks._locks.clear()
    gc.collect()


@pytest.mark.parametrize("verb", VERBS if LONG else SAMPLED)
def test_after_a_fault_the_same_command_ends_with_the_same_bits(here, verb, capsys):
    root = begin(here, verb)
    with faults(root) as layer:
        said = hs2jax(*command(here, verb))
    assert said.code == 0, said.err
    expected = bits(root)
    if verb != "report":  # Whatever came to be was seen.
        assert {str(path) for path in root.rglob("*") if path.is_file()} <= layer.seen
    nths = range(1, len(layer.points) + 1)
    if len(nths) > 120:  # One of each kind: the same file is written at every step.
        kinds = {re.sub(r"\d+", "", point): nth for nth, point in enumerate(layer.points, 1)}
        nths = kinds.values()
    todo = [(fault, nth) for nth in nths for fault in FAULTS]
    if not LONG:
        todo = random.Random(verb).sample(todo, 2)
    for fault, nth in todo:
        where = disturbed(here, verb, fault, nth)
        again = hs2jax(*command(here, verb))
        assert again.code == 0, (where, again.err)
        assert_same(bits(root), expected, where)
    if verb != "report" and (root / "run" / "result.json").exists():
        with faults(root, "EROFS", 1):  # A finished run on a mount that can only be read.
            again = hs2jax(*command(here, verb))
        assert again.code == 0, again.err
        assert_same(bits(root), expected, "only to be read")
    with capsys.disabled():
        print(f"\n{verb}: {len(layer.points)} points, {len(todo)} faults at them", end="")


def test_a_mount_that_goes_while_a_run_saves_is_named_and_the_checkpoint_before_is_whole(here):
    root = begin(here, "train")
    with faults(root, "ENOTCONN", "checkpoints/2"):  # As Drive's, in a notebook.
        done = hs2jax(*command(here, "train"))
    unlock()
    assert done.code == 1
    assert f"{root / 'run'}" in done.err
    assert (
        "what was mounted there is gone; once that is mended, the same command goes on" in done.err
    )
    assert checkpoint.Checkpoints(root / "run" / "checkpoints", read_only=True).latest == 1
    again = hs2jax(*command(here, "train"))
    assert again.code == 0, again.err


def kept_by(here: Path, verb: str, stop: int = 0) -> list[list[str]]:
    """Run a verb until it has kept something `stop` times, or to its end; return the keys."""
    add, found = Store.add, []

    def adding(self, entries):
        refused = add(self, entries)
        if entries:
            found.append([*entries])
        if entries and len(found) == stop:
            raise Killed
        return refused

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "add", adding)
        patch.setattr(report, "write", lambda folder: folder / "report.html")  # It takes time.
        try:
            succeed(*command(here, verb))
        except Killed:
            unlock()
    return found


@pytest.mark.parametrize("verb", KEEPING)
def test_what_was_kept_before_a_kill_is_not_computed_again(here, verb):
    root = begin(here, verb)
    whole, expected = kept_by(here, verb), bits(root)
    keys = sorted(itertools.chain(*whole))
    assert len(keys) == len(set(keys))
    for stop in range(1, len(whole)) if LONG else {len(whole) // 3 or 1}:
        begin(here, verb)
        before = kept_by(here, verb, stop)
        assert not (root / "run" / "result.json").exists()
        after = kept_by(here, verb)
        assert sorted(itertools.chain(*before, *after)) == keys
        assert_same(bits(root), expected, f"stopped at {stop} of {len(whole)}")
    # A finished run is not made again.
    assert kept_by(here, verb) == []
    assert_same(bits(root), expected, "made again")
