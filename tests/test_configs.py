"""Every published config can be read at every size; a recipe of runlocal's trains from start to
report, the others are planned."""

import importlib.util
from pathlib import Path

import jax
import pytest
import stages
import tiny
from command import fail, succeed
from ml_collections import ConfigDict

from hs2jax import cli, configs, flags, sizes
from hs2jax.data import loader
from hs2jax.training import loop, recipe

FOLDER = Path(__file__).parent.parent / "configs"
FILES = sorted(path.stem for path in FOLDER.glob("*.py"))
SIZED = [name for name in FILES if "sizes.apply" in (FOLDER / f"{name}.py").read_text()]


def read(name: str, *arg) -> ConfigDict:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*arg)


def trained(config: ConfigDict) -> list[ConfigDict]:
    """What is trained, in order."""
    every = [config[name] for name in config.stages] if config.kind == "recipe" else [config]
    return [each for each in every if each.kind.startswith("train_")]


# The published files ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_config_opens_with_the_command_that_runs_it(name):
    text = (FOLDER / f"{name}.py").read_text()
    assert text.startswith('"""')
    config = read(name)
    verb = cli.KINDS[config.kind][0]
    assert f"hs2jax {verb} --config=configs/{name}.py" in text.split('"""')[1]


@pytest.mark.parametrize("name", ["quickstart", "lora:DATA", "judge:MODEL"])
def test_a_config_is_named_without_a_path(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert flags.load(name) == read(*name.split(":"))


@pytest.mark.parametrize("name", SIZED)
@pytest.mark.parametrize("size", [*sizes.SIZES, "runlocal"])
def test_a_size_sets_model_template_and_learning_rate(name, size):
    default, sized = trained(read(name)), trained(read(name, size))
    chosen = sizes.SIZES["smollm2_135m" if size == "runlocal" else size]
    assert sized[0].model.name == chosen.model
    rewards = "outputs" in sized[0].model
    template = chosen.template if rewards else chosen.template and "steerlm"
    assert sized[0].model.template == template
    for a, b in zip(default, sized, strict=True):
        ratio = b.optimizer.learning_rate / a.optimizer.learning_rate
        assert ratio == pytest.approx(chosen.learning_rate)
    if size == "runlocal":
        for config in sized:
            configs.check(config)  # Also that its data are there.


def test_the_papers_settings_are_what_they_say():
    for name in ("helpsteer2_regression", "helpsteer2_preference_from_regression"):
        config = trained(read(name))[0]
        assert (config.batch_size, config.epochs, config.optimizer.learning_rate) == (64, 2, 2e-6)
        assert (config.optimizer.schedule, config.optimizer.warmup) == ("constant", 10)
    config = trained(read("helpsteer2_preference_from_regression"))[1]
    assert (config.epochs, config.optimizer.learning_rate) == (1, 1e-6)
    large = read("helpsteer2_regression", "nemotron4_340b")
    assert large.optimizer.learning_rate == pytest.approx(7e-7)
    for policy, rounds in (("llama31_70b", 2), ("llama3_70b", 1)):
        recipe = read("ppo", policy)
        assert len(recipe.stages) == rounds
        for of in map(recipe.get, recipe.stages):
            assert (of.batch_size, of.steps, of.evaluate_every, of.n) == (128, 64, 4, 1)
            assert (of.kl.coefficient, of.kl.form, of.mean) == (3e-3, "absolute", "tokens")
            assert (of.optimizer.learning_rate, of.standardize) == (1e-7, of.validation)
            configs.check(of, reading=False)
        of = read("reinforce", policy)
        assert (of.n, of.batch_size, of.steps, of.evaluate_every) == (4, 32, 313, 4)
        assert (of.kl.coefficient, of.optimizer.learning_rate) == (0.01, 1e-6)


def test_another_argument_is_told():
    with pytest.raises(ValueError, match="argument is 'gpt2'; it must be runlocal or"):
        read("helpsteer2_regression", "gpt2")


def test_the_sweep_of_losses_is_whole(real_data):
    config = read("helpsteer2_preference_losses", str(real_data))
    configs.check(config)
    assert len(config.arms) == 10
    assert len(config.seeds) >= 3


def test_a_folder_that_would_be_read_as_a_list_is_refused(tmp_path):
    config = ConfigDict({"data": "a={one}/rows.jsonl,b=rows.jsonl", "regex": "a{2}"})
    filled = recipe.filled_in(config, {"one": tmp_path / "lr=1"})
    assert filled.data == f"a={tmp_path}/lr=1/rows.jsonl,b=rows.jsonl"
    assert filled.regex == "a{2}"
    for name in ("n=2,m=3", "n[2]"):
        with pytest.raises(ValueError, match=r"mean something else .* give another --workdir"):
            recipe.filled_in(config, {"one": tmp_path / name / "one"})


# runlocal -----------------------------------------------------------------------------------------

TRAINED = "helpsteer2_preference_from_regression"


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configs") / "model"
    tiny.language_model(folder, num_layers=1)
    return folder


@pytest.mark.long
def test_runlocal_trains_to_a_report(tmp_path, language_model):
    config, flags = read(TRAINED, "runlocal"), []
    for stage in config.stages:
        if config[stage] in trained(config):
            prefix = f"--config.{stage}"
            flags += [f"{prefix}.data.row_length=512", f"{prefix}.batch_size=24"]
            flags.append(f"{prefix}.model.remat=False")
            if "{" not in config[stage].model.name:
                flags.append(f"{prefix}.model.name={language_model}")
    command = ("run", f"--config=configs/{TRAINED}.py:runlocal", f"--workdir={tmp_path}", *flags)
    assert f"report: {tmp_path / 'report.html'}" in succeed(*command)
    model = stages.result(tmp_path / "evaluation")["model"]["name"]
    assert model == str(tmp_path / "expo" / "model")
    config = f"--config=configs/evaluate.py:{tmp_path / 'expo'}"
    assert f"its model is {model}" in fail("evaluate", config, f"--workdir={tmp_path / 'e'}")


class PlannedError(Exception):
    """The end of a training before its first step."""


@pytest.mark.parametrize("name", sorted({*SIZED} - {TRAINED}))
def test_runlocal_can_be_trained(tmp_path, language_model, name, monkeypatch):
    """Batches are built, and the step takes them by shapes."""

    def stop(*_, **__):
        raise PlannedError

    monkeypatch.setattr(loop, "RunState", stop)
    (config,) = trained(read(name, "runlocal"))
    config.model.name = str(language_model)
    with pytest.raises(PlannedError) as stopped:
        loop.train(config, tmp_path)
    planned = stopped.traceback[-2].locals  # Of `train`, which had all but begun.
    batch, shapes = next(loader.iterate(planned["batches"])), planned["shapes"]
    state, metrics = jax.eval_shape(planned["update"], shapes, planned["frozen"], batch)
    assert metrics["loss"].shape == ()
    assert jax.tree.structure(state) == jax.tree.structure(shapes)


# SteerLM 2.0, from fine-tuning to the steering report ---------------------------------------------

STAGES = ("reward", "sft", "annotation", "steerlm", "samples_1", "groups_1", "round_1", "steering")
RATINGS = "ratings:{annotation}/annotated.jsonl"
ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


@pytest.mark.long
def test_the_small_recipe_goes_through_all_its_stages(tmp_path):
    tiny.language_model(tmp_path / "base", max_seq_len=2048, num_layers=1, intermediate_size=32)
    fast = {"model.remat": False, "data.row_length": 1024, "epochs": 1}
    few, own = "helpsteer2:mini/train.jsonl[:12]", {**fast, "model.name": tmp_path / "base"}
    own["batch_size"] = 24
    settings = {
        "reward": {**own, "data.train": few, "data.validation": few},
        "sft": {**own, "data.train": few, "data.validation": few},
        "annotation": {"data": few},
        "steerlm": {**own, "data.train": RATINGS, "data.validation": RATINGS},
        "samples_1": {"n": 3, "max_new_tokens": 8},
        "round_1": fast,
        "steering": {"max_new_tokens": 8, "requested": "(0,4)"},
    }
    flags = [
        f"--config.{stage}.{key}={value}"
        for stage, of in settings.items()
        for key, value in of.items()
    ]
    run = tmp_path / "run"
    command = ["run", "--config=configs/steerlm2.py:runlocal", f"--workdir={run}", *flags]
    said = succeed(*command)
    assert f"report: {run / 'report.html'}" in said
    assert f"model: {run / 'round_1' / 'model'}" in said
    assert {each.name for each in run.iterdir() if each.is_dir()} == set(STAGES)

    page = (run / "report.md").read_text(encoding="utf-8")
    assert all(stage in page for stage in STAGES)

    # What each stage made is what the next one learned from.
    rows = stages.read(run / "groups_1" / "groups.jsonl")
    assert 2 < len(rows) <= len(stages.read(run / "samples_1" / "samples.jsonl")) == 6
    assert stages.result(run / "round_1")["records"]["train"]["groups"] == len(rows) - 2
    start = stages.read(run / "round_1" / "metrics.jsonl")[0]
    assert (start["kind"], start["step"]) == ("validation", 0)
    annotated = stages.read(run / "annotation" / "annotated.jsonl")
    assert tuple(annotated[0]["ratings"][0]) == ATTRIBUTES
