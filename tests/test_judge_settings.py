"""What `hs2jax judge` says of settings, files and models that cannot be."""

import json
import shutil
from pathlib import Path

import pytest
from command import fail
from judge_runs import CONFIGS, CRITERIA, flags, prepare, rated_rows, write


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    folder = prepare(tmp_path_factory.mktemp("here"))
    rows = rated_rows(5)
    for row in rows[2:]:
        for ratings in row["ratings"]:
            ratings["verbosity"] = None
    write(folder / "sparse.jsonl", rows)
    return folder


BAD = {
    "no data": ({"data": ""}, "config.data is not set"),
    "no model": ({"model.name": ""}, "config.model.name is not set"),
    "no such model": ({"model.name": "nowhere/at-all/x"}, "nowhere/at-all/x"),
    "a reward model": ({"model.name": "HERE/reward"}, "is a reward model"),
    "no such file": ({"data": "ratings:nowhere.jsonl"}, "nowhere.jsonl"),
    "no such format": ({"data": "guesses:x.jsonl"}, "unknown data format 'guesses'"),
    "no such validation file": ({"validation": "ratings:gone.jsonl"}, "gone.jsonl"),
    "unknown criteria": ({"criteria": "virtues"}, "config.criteria: there are no criteria"),
    "no criteria file": ({"criteria": "gone.json"}, "gone.json"),
    "criteria of two scales": (
        {"criteria": [CRITERIA[0], CRITERIA[1] | {"levels": ["x", "y"], "scale": [0, 1]}]},
        "config.criteria: criterion 'verbosity' has the scale 0..1",
    ),
    "malformed criteria": ({"criteria": [CRITERIA[0], {"name": "x"}]}, "field 'definition'"),
    "a scale of one token": (
        {"criteria": [CRITERIA[0] | {"scale": [1, 10]}]},
        "begin with the same token in this tokenizer",
    ),
    "rubrics of rows that have none": ({"criteria": "rubric"}, "rated.jsonl:1"),
    "a baseline that cannot ask by rubrics": (
        {"criteria": "rubric", "baselines": "gpt_score"},
        "config.baselines: gpt_score asks by the same criteria",
    ),
    "unknown preset": ({"preset": "best"}, "config.preset is 'best'"),
    "unknown task": ({"task": "cooking"}, "config.task is 'cooking'"),
    "unknown condition": ({"condition": "free"}, "config.condition is 'free'"),
    "a written score of another task": (
        {"task": "emotions", "condition": "direct"},
        "config.condition is for config.task scores, not for emotions",
    ),
    "a fraction of another task": (
        {"fraction": 0.5},
        "config.fraction is for config.task selection, not for scores",
    ),
    "criteria of another task": (
        {"task": "selection", "criteria": "flask"},
        "config.criteria is for config.task scores and pairs, not for selection",
    ),
    "unknown recipe": ({"recipe": "long"}, "config.recipe is 'long'"),
    "a dtype that is none": ({"model.dtype": "float99"}, "config.model.dtype is 'float99'"),
    "an unknown way of errors": ({"on_error": "hide"}, "config.on_error is 'hide'"),
    "unknown baseline": ({"baselines": "gpt_score,luck"}, "config.baselines names 'luck'"),
    "a baseline without its model": (
        {"baselines": "reward_model"},
        'config.reward_model names the model of "reward_model" in config.baselines',
    ),
    "a model without its baseline": ({"reward_model": "HERE/reward"}, "config.reward_model names"),
    "a reward model that is none": (
        {"baselines": "reward_model", "reward_model": "HERE/model"},
        "HERE/model",
    ),
    "no such weights": ({"weights": "gone.json"}, "config.weights is 'gone.json'"),
    "weights from two places": (
        {"weights": "cross-validate", "validation": "ratings:HERE/rated.jsonl"},
        "config.validation says what weights are fitted on and config.weights where",
    ),
    "weights fitted to nothing": (
        {"weights": "cross-validate", "data": "responses:HERE/own.jsonl"},
        "config.data: nobody has rated responses:",
    ),
    "validation that nobody rated": (
        {"validation": "responses:HERE/own.jsonl"},
        "config.validation: nobody has rated responses:",
    ),
    "one fold": ({"folds": 1}, "config.folds is 1; expected 2 or more"),
    "two folds of a probe": (
        {"folds": 2, "baselines": "ridge_probe"},
        "config.folds is 2; expected 3 or more",
    ),
    "a probe with few ratings by one criterion": (
        {"folds": 3, "baselines": "ridge_probe", "data": "ratings:HERE/sparse.jsonl"},
        "config.folds is 3, but only 2 prompts of ratings:HERE/sparse.jsonl have ratings by verb",
    ),
    "more folds than prompts": (
        {"folds": 4, "weights": "cross-validate", "data": "ratings:HERE/rated.jsonl[:2]"},
        "config.folds is 4, but only 2 prompts of ratings:",
    ),
    "a mesh that does not fit": ({"mesh.tensor": 3}, "config.mesh"),
    "negative length": ({"max_tokens": -1}, "config.max_tokens is -1"),
    "all and more of the rows": ({"fraction": 1.5}, "config.fraction is 1.5"),
    "baselines of another task": (
        {"task": "emotions", "baselines": "gpt_score"},
        "config.baselines is for config.task scores, not for emotions",
    ),
    "validation of another task": (
        {"task": "selection", "validation": "ratings:HERE/rated.jsonl"},
        "config.validation is for config.task",
    ),
    "a selection by ratings": (
        {"task": "selection", "weights": "cross-validate"},
        "config.weights is 'cross-validate', but selection has no ratings",
    ),
    "a selection among several responses": (
        {"task": "selection", "data": "ratings:HERE/rated.jsonl"},
        "expected one response in a row to choose, found 2",
    ),
    "no such questions": ({"task": "knowledge", "data": "gone.json"}, "gone.json"),
    "questions of another kind": (
        {"task": "emotions", "data": "HERE/criteria.json"},
        "JSON object",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_said(case, here, tmp_path):
    settings, words = BAD[case]
    settings = {
        key: value.replace("HERE", str(here)) if isinstance(value, str) else value
        for key, value in settings.items()
    }
    if isinstance(settings.get("criteria"), list):
        path = tmp_path / "criteria.json"
        path.write_text(json.dumps(settings["criteria"]))
        settings["criteria"] = path
    said = fail("judge", *flags(here, tmp_path / "run", **settings))
    print(said)
    assert words.replace("HERE", str(here)) in said
    assert not (tmp_path / "run" / "judge.json").exists()


def test_a_tokenizer_without_a_chat_template_is_told(here, tmp_path):
    shutil.copytree(here / "model", tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    settings = tmp_path / "base" / "tokenizer_config.json"
    rest = {k: v for k, v in json.loads(settings.read_text()).items() if k != "chat_template"}
    settings.write_text(json.dumps(rest))
    said = fail("judge", *flags(here, tmp_path / "run", model=tmp_path / "base"))
    assert "use an instruction-tuned model" in said
    weights = tmp_path / "weights.json"
    weights.write_text("{}")
    said = fail("judge", *flags(here, tmp_path / "run", model=tmp_path / "base", weights=weights))
    assert f"config.weights: {weights}" in said


def test_a_config_of_another_verb_is_refused(here, tmp_path):
    assert "it is one for `hs2jax judge`" in fail("evaluate", *flags(here, tmp_path))
    arguments = [f"--config={CONFIGS / 'evaluate.py'}:{here / 'reward'}", f"--workdir={tmp_path}"]
    assert "it is one for `hs2jax evaluate`" in fail("judge", *arguments)
