"""What a notebook needs: short names, presets, runs with their tables and figures, and warnings
of what would go wrong in its session."""

import logging
import sys
import types
import warnings

import numpy as np
import pytest
import stages
import tiny
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError
from matplotlib.figure import Figure

import hs2jax
from hs2jax import config_rules, configs, flags, session, workdir
from hs2jax.judging import lager
from hs2jax.judging.criteria import find
from hs2jax.judging.judge import Judge

TALK = [{"role": "user", "content": "What is the sea?"}, {"role": "assistant", "content": "Waves."}]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run from Python, on a folder with spaces: its config and what came out."""
    drive = tmp_path_factory.mktemp("content") / "My Drive"
    drive.mkdir()
    stages.pairs(drive / "a b.jsonl", 8)
    tiny.language_model(drive / "base model")
    changes = {"model.name": str(drive / "base model"), "data.row_length": 128, "epochs": 1}
    changes |= {"data.train": f"preference:{drive}/a b.jsonl[:6]", "batch_size": 3}
    changes |= {"data.validation": f"preference:{drive}/a b.jsonl[6:]"}
    config = hs2jax.config("own_data", changes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Of a head that a training makes, too.
        return config, hs2jax.run(config, drive / "run 1")


def test_a_run_is_a_table_a_page_and_figures(trained):
    _, result = trained
    pandas = pytest.importorskip("pandas")
    table = result.to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert len(table) == len(result.rows) > 5
    shown = result._repr_html_()
    assert 'srcdoc="&lt;!doctype html&gt;' in shown
    assert str(result.page) in shown
    assert "accuracy" in repr(result).lower()
    assert len(repr(result)) < 500
    assert any("Rewards" in title for title in result.figures)
    for figure in result.figures.values():
        assert isinstance(figure, Figure)
        assert figure._repr_png_().startswith(b"\x89PNG")
    model = hs2jax.RewardModel.load(result.model)
    assert model.score([TALK])[0].reward == model.score([TALK])[0].outputs["reward"]


def test_a_run_is_told_again_and_another_one_refused(trained):
    config, result = trained
    assert hs2jax.run(config, str(result.folder)).rows == result.rows
    with pytest.raises(ValueError, match="holds another run"):
        hs2jax.run(config_rules.changed(config, {"epochs": 2}), result.folder)
    with pytest.raises(ValueError, match=r"config.kind is None"):
        hs2jax.run(type(config)(), result.folder)
    with pytest.raises(ValueError, match="is an address"):
        hs2jax.run(config, "gs://bucket/run")


@pytest.mark.parametrize("kind", sorted({*configs.SETTINGS} - {"recipe", *configs.BASED}))
def test_a_mistyped_key_names_the_nearest(kind):
    config = configs.defaults(kind).copy_and_resolve_references()
    for key in config_rules.flat(config):
        *parents, name = key.split(".")
        place = config
        for each in parents:
            place = place[each]
        for wrong in (name + "s", name[1:]):
            if wrong and wrong not in place:
                with pytest.raises((AttributeError, KeyError), match="Did you mean"):
                    setattr(place, wrong, 1)


def test_settings_are_named_as_they_are_and_as_people_shorten_them():
    config = hs2jax.config("own_data")
    with pytest.raises(AttributeError, match=r"Did you mean .learning_rate"):
        config.optimizer.lr = 3e-5
    for key, near in (
        ("optimizer.lr", "optimizer.learning_rate"),
        ("lr", "optimizer.learning_rate"),
        ("batchsize", "batch_size"),
        ("model.nam", "model.name"),
        ("optimizer.clip", "optimizer.max_grad_norm"),
    ):
        with pytest.raises(ValueError, match=rf"there is no config.{key}; .* config.{near}$"):
            hs2jax.config("own_data", {key: 1})
    with pytest.raises(ValueError, match=r"config.epochs is 'x'; expected a whole number"):
        hs2jax.config("own_data", {"epochs": "x"})
    assert hs2jax.config("quickstart", {"regression.epochs": 1}).regression.epochs == 1
    with pytest.raises(ValueError, match=r"the nearest is config.regression.epochs"):
        hs2jax.config("quickstart", {"regression.epoch": 1})
    recipe = hs2jax.config("quickstart")
    recipe.seed = 3
    with pytest.raises(ValueError, match=r"there is no config.seed"):
        configs.check(recipe)
    with pytest.raises(FileNotFoundError, match="quickstart"):
        hs2jax.config("quikstart")


def test_every_preset_has_its_name():
    assert {x.stem for x in flags.PRESETS.glob("*.py")} >= {"quickstart", "judge", "sft"}
    for name in ("quickstart", "judge", "sft", "steering", "evaluate"):
        assert hs2jax.config(name).kind in configs.SETTINGS


def test_models_are_shown_in_a_line(tmp_path):
    tiny.save(tmp_path / "model", outputs=("helpfulness", "verbosity"))
    shown = repr(hs2jax.RewardModel.load(tmp_path / "model"))
    assert shown.startswith(f"RewardModel({tmp_path / 'model'}: llama, 0.0M parameters")
    assert "outputs helpfulness, verbosity, float32 on cpu" in shown
    tiny.language_model(tmp_path / "policy")
    judge = Judge.load(tmp_path / "policy")
    assert "LanguageModel(" in repr(judge)
    assert len(repr(judge)) < 250


def test_a_judge_tells_its_score_by_layer(tmp_path):
    tiny.language_model(tmp_path / "judge")
    judge = Judge.load(tmp_path / "judge")
    preset, criterion = lager.PRESETS["recommended"], find("helpfulness")
    (scores,) = judge.layers([TALK])
    assert scores.shape == (judge.model.config.num_layers + 1,)
    # The last layer alone is what weights that know only it give.
    alone = np.eye(len(scores))[-1]
    (last,) = judge.score([TALK], weights=alone)
    np.testing.assert_allclose(scores[-1], last.score, rtol=1e-5)
    assert min(criterion.scale) <= scores.min() <= scores.max() <= max(criterion.scale)
    assert len(judge.layers([TALK], preset=lager.PRESETS["repository"])[0]) == len(scores) - 1
    assert judge.layers([TALK, [{"role": "user", "content": "?"}]], skip=True)[1] is None
    assert preset.layers == "all"


def test_a_head_of_random_numbers_is_a_warning(tmp_path):
    tiny.language_model(tmp_path / "base")
    with pytest.warns(UserWarning, match=r"new one, for helpfulness, of random numbers"):
        hs2jax.RewardModel.load(tmp_path / "base", outputs=("helpfulness",))
    tiny.save(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hs2jax.RewardModel.load(tmp_path / "model")


# The session --------------------------------------------------------------------------------------


def test_a_package_replaced_under_a_running_kernel_is_told_with_both_versions(monkeypatch, caplog):
    assert session.replaced() is None
    there = np.__version__
    monkeypatch.setattr(np, "__version__", "1.2.3")
    with caplog.at_level(logging.WARNING):
        session.greet()
    (said,) = caplog.messages
    assert said.startswith(f"numpy 1.2.3 is loaded, but {there} is installed by now: restart")
    assert "\n" not in said


def test_a_notebook_is_told_at_import_of_a_device_that_is_not_used(monkeypatch, caplog):
    monkeypatch.setattr("hs2jax.accelerators.unused", lambda: "this machine has a TPU")
    session.greet()
    assert not caplog.messages
    kernel = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(kernel=1))
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    session.greet()
    assert caplog.messages == ["this machine has a TPU"]
    assert session.shows_bars()


def test_no_token_is_looked_for_where_none_is_needed():
    asked, response = [], types.SimpleNamespace(headers={}, request=None)

    def download(name, token=None, **options):
        asked.append(token)
        if name == "refused" or (name == "gated" and token is False):
            raise GatedRepoError("no\nway", response=response)
        if name == "absent":
            raise LocalEntryNotFoundError("absent")
        return name

    assert session.public_first(download, "public") == "public"
    with pytest.raises(LocalEntryNotFoundError):
        session.public_first(download, "absent")
    assert asked == [False, False]
    assert session.public_first(download, "gated") == "gated"
    assert asked == [False, False, False, None]
    with pytest.raises(PermissionError, match=r"no way .* HF_TOKEN.* Colab's secret HF_TOKEN"):
        session.public_first(download, "refused")


def test_a_folder_that_goes_with_the_session_is_told_once(tmp_path, monkeypatch, caplog):
    drive = tmp_path / "drive"
    mounts = {"/", str(drive)}
    monkeypatch.setattr(session, "COLAB", tmp_path)
    monkeypatch.setattr(session.os.path, "ismount", lambda path: str(path) in mounts)
    monkeypatch.setattr(session, "_say_once", session.functools.cache(session.log.warning))
    for place in (drive / "MyDrive" / "run 1", tmp_path.parent / "elsewhere"):
        workdir.check_place(place, "evaluate")
    assert not caplog.messages
    for place in (tmp_path / "runs" / "a", tmp_path / "runs" / "b"):
        workdir.check_place(place, "evaluate")
    (said,) = caplog.messages
    assert "is lost when the session ends" in said
    mounts.remove(str(drive))  # A folder of that name, to which nothing is mounted.
    monkeypatch.setattr(session, "_say_once", session.functools.cache(session.log.warning))
    workdir.check_place(drive / "run", "evaluate")
    assert len(caplog.messages) == 2
