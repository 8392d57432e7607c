"""A recipe of a sweep and an evaluation of what it chose, and the reports of such folders."""

import json
import re
from pathlib import Path

import pytest
import tiny
from command import fail, succeed
from ml_collections import ConfigDict
from test_expo import save_pair

from hs2jax.models import merge
from hs2jax.reward_model import RewardModel
from hs2jax.training import recipe
from hs2jax.workdir import read_rows

RECIPE = """
from hs2jax import configs

def get_config():
    expo = configs.defaults("expo")
    expo.initial, expo.trained = {initial!r}, {trained!r}
    expo.data = "preference:{data}"
    expo.factors, expo.fine_step = (1.5,), 0.0
    evaluation = configs.defaults("evaluate")
    evaluation.model.name = "{{expo}}/model"
    evaluation.data = "preference:{data}[:8]"
    recipe = configs.defaults("recipe")
    recipe.update({{"stages": ("expo", "evaluation"), "expo": expo, "evaluation": evaluation}})
    return recipe
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> tuple[Path, list[str]]:
    """The workdir of a recipe that has run once, and its command."""
    folder = tmp_path_factory.mktemp("recipe")
    save_pair(folder)
    data = folder / "pairs.jsonl"
    rows = [
        {"prompt": f"Is {i} odd?", "chosen": str(bool(i % 2)), "rejected": "I forgot" + i % 7 * "."}
        for i in range(12)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    places = {name: str(folder / name) for name in ("initial", "trained")}
    (folder / "recipe.py").write_text(RECIPE.format(data=data, **places))
    command = ["run", f"--config={folder / 'recipe.py'}", f"--workdir={folder / 'run'}"]
    assert f"model: {folder / 'run' / 'expo' / 'model'}" in succeed(*command)
    return folder / "run", command


def test_a_workdir_that_would_be_read_as_a_list_is_refused(tmp_path):
    places = {"one": tmp_path / "lr=1" / "one"}
    config = ConfigDict({"data": "a={one}/rows.jsonl,b=rows.jsonl"})
    filled = recipe.filled_in(config, places)
    assert filled.data == f"a={tmp_path}/lr=1/one/rows.jsonl,b=rows.jsonl"
    for name in ("n=2,m=3", "n[2]"):
        with pytest.raises(ValueError, match=r"/one cannot stand in .* give another --workdir"):
            recipe.filled_in(config, {"one": tmp_path / name / "one"})
    # Without a comma of the config's own, one in the folder's name is nothing special.
    config.data = "sampled:{one}/a+sampled:{two}/b"
    folder = tmp_path / "n=2,m=3"
    filled = recipe.filled_in(config, {name: folder / name for name in ("one", "two")})
    assert filled.data == f"sampled:{folder}/one/a+sampled:{folder}/two/b"


def titles(folder: Path) -> list[str]:
    text = (folder / "report.md").read_text(encoding="utf-8")
    return re.findall(r"^## (.*)$", text, re.MULTILINE)


def test_the_chosen_model_is_evaluated(ran):
    workdir, _ = ran
    assert titles(workdir)[0].startswith("expo")
    assert "evaluation: preference-pairs-8" in titles(workdir)
    result = json.loads((workdir / "evaluation" / "result.json").read_text())
    assert result["model"]["name"] == str(workdir / "expo" / "model")
    chosen = read_rows(workdir / "expo" / "items" / "chosen.jsonl")
    (file,) = (workdir / "evaluation" / "items").iterdir()
    evaluated = read_rows(file)
    assert len(evaluated) == 8
    for one, other in zip(chosen[:8], evaluated, strict=True):
        assert one["responses"] == other["responses"]
        assert one["rewards"] == pytest.approx(other["rewards"], abs=2e-5)


def test_run_again_it_computes_nothing(ran, monkeypatch):
    workdir, command = ran
    before = (workdir / "evaluation" / "items" / "preference-pairs-8.jsonl").read_bytes()
    monkeypatch.setattr(merge, "merge", lambda *_: pytest.fail("merged again"))
    predict = RewardModel.predict

    def nothing(self, examples, **options):
        assert not examples, "scored again"
        return predict(self, examples, **options)

    monkeypatch.setattr(RewardModel, "predict", nothing)
    succeed(*command)
    after = (workdir / "evaluation" / "items" / "preference-pairs-8.jsonl").read_bytes()
    assert after == before


def test_every_kind_of_folder_has_its_report_written_again(ran, tmp_path):
    workdir, _ = ran
    tiny.save(tmp_path / "other", seed=3)
    config = f"--config=configs/evaluate.py:{tmp_path / 'other'}"
    data = json.loads((workdir / "evaluation" / "config.json").read_text())["data"]
    other = tmp_path / "evaluation-of-another"
    succeed("evaluate", config, f"--workdir={other}", f"--config.data={data}")
    succeed("report", f"--workdir={workdir / 'evaluation'}", f"--against={other}")
    comparison = workdir / "evaluation" / "against-evaluation-of-another"
    compared = (comparison / "report.md").read_bytes()
    folders = [workdir, workdir / "expo", workdir / "evaluation"]
    for folder in folders[1:]:
        succeed("report", f"--workdir={folder}")
    before = [(folder / "report.md").read_bytes() for folder in folders]
    for folder in folders:
        for name in ("report.md", "report.html"):
            (folder / name).unlink()
        assert succeed("report", f"--workdir={folder}").strip() == str(folder / "report.html")
    assert [(folder / "report.md").read_bytes() for folder in folders] == before
    assert (comparison / "report.md").read_bytes() == compared
    assert "no finished run" in fail("report", f"--workdir={comparison}")


def test_the_folder_of_a_sweep_is_not_its_model(ran, tmp_path):
    workdir, _ = ran
    config = f"--config=configs/evaluate.py:{workdir / 'expo'}"
    said = fail("evaluate", config, f"--workdir={tmp_path}")
    assert f"its model is {workdir / 'expo' / 'model'}" in said
