"""Every config can be read at every size, and its runlocal trains from start to report."""

import importlib.util
from pathlib import Path

import pytest
import tiny
from command import succeed
from ml_collections import ConfigDict

from hs2jax import cli, configs, sizes
from hs2jax.training import sweep_plan

FOLDER = Path(__file__).parent.parent / "configs"
FILES = sorted(path.stem for path in FOLDER.glob("*.py"))
SIZED = [name for name in FILES if "sizes.apply" in (FOLDER / f"{name}.py").read_text()]


def read(name: str, *arg) -> ConfigDict:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*arg)


def stages(config: ConfigDict) -> list[ConfigDict]:
    """What is trained, in order."""
    every = [config[name] for name in config.stages] if "stages" in config else [config]
    return [each for each in every if each.kind in ("train_reward_model", "train_policy")]


@pytest.mark.parametrize("name", FILES)
def test_a_config_opens_with_the_command_that_runs_it(name):
    text = (FOLDER / f"{name}.py").read_text()
    assert text.startswith('"""')
    config = read(name)
    verb = cli.KINDS[config.kind][0]
    assert f"hs2jax {verb} --config=configs/{name}.py" in text.split('"""')[1]


@pytest.mark.parametrize("name", SIZED)
@pytest.mark.parametrize("size", [*sizes.SIZES, "runlocal"])
def test_a_size_sets_model_template_and_learning_rate(name, size):
    default, sized = stages(read(name)), stages(read(name, size))
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
        config = stages(read(name))[0]
        assert (config.batch_size, config.epochs, config.optimizer.learning_rate) == (64, 2, 2e-6)
        assert (config.optimizer.schedule, config.optimizer.warmup) == ("constant", 10)
    config = stages(read("helpsteer2_preference_from_regression"))[1]
    assert (config.epochs, config.optimizer.learning_rate) == (1, 1e-6)
    large = read("helpsteer2_regression", "nemotron4_340b")
    assert large.optimizer.learning_rate == pytest.approx(7e-7)


def test_another_argument_is_told():
    with pytest.raises(ValueError, match="argument is 'gpt2'; it must be runlocal or"):
        read("helpsteer2_regression", "gpt2")


def test_the_sweep_of_losses_can_be_planned(tmp_path, real_data):
    plan = sweep_plan.make(read("helpsteer2_preference_losses", str(real_data)), tmp_path)
    assert len(plan.arms) == 10
    assert len(plan.seeds) >= 3


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configs") / "model"
    tiny.language_model(folder)
    return folder


@pytest.mark.parametrize("name", SIZED)
def test_runlocal_trains_to_a_report(tmp_path, language_model, name):
    config = read(name, "runlocal")
    flags = []
    for stage in config.get("stages", [""]):
        prefix = f"--config.{stage}." if stage else "--config."
        of = stages(config)[0] if not stage else config[stage]
        if "objective" not in of:
            continue
        if "{" not in of.model.name:
            flags.append(f"{prefix}model.name={language_model}")
        flags += [
            f"{prefix}data.row_length=512",
            f"{prefix}batch_size=24",
        ]
    verb = "run" if "stages" in config else "train"
    file = f"--config=configs/{name}.py:runlocal"
    said = succeed(verb, file, f"--workdir={tmp_path}", *flags)
    assert "report:" in said
    assert (tmp_path / "report.html").exists()
