"""What cannot be is refused before a model is loaded, and where nothing is left, that is an error
that counts why."""

import json
import re

import pytest
import stages
from command import fail

from hs2jax import cli, configs, survey
from hs2jax.data.groups import DataError
from hs2jax.models.hf import hub

GOOD = [
    {"prompt": f"Is {i} odd?", "responses": ["Yes.", "No."], "ratings": [{"help": 3}, {"help": i}]}
    for i in range(3)
]
PAIRS = [{"prompt": f"Is {i} odd?", "chosen": "Yes.", "rejected": "No."} for i in range(3)]
LONG = [{"prompt": "why? " * 999, "response": "So. " * 999} for _ in range(2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survey")
    stages.models(folder)
    for name, rows in {"good": GOOD, "pairs": PAIRS, "long": LONG, "bad": [*GOOD, {}]}.items():
        stages.write(folder / f"{name}.jsonl", rows)
    sampled = [{"prompt": "Hi", "condition": {"verbosity": 1}, "responses": ["a", "b"]}]
    stages.write(folder / "sampled.jsonl", sampled)
    five = [{"prompt": "Is it?", "response": "Yes.", "ratings": {"helpfulness": 9}}]
    stages.write(folder / "five.jsonl", five)
    (folder / "eq.json").write_text(json.dumps({"1": {"prompt": "What?"}}))
    return folder


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    def load(*_):
        pytest.fail("a model is loaded")

    monkeypatch.setattr(hub, "open_model", load)


def made(folder, kind: str, **changes):
    """A config of a kind that could run, with changes by dotted key; "{}" is the folder."""
    config = configs.defaults(kind)
    ratings, policy = str(folder / "ratings"), str(folder / "policy")
    good, pairs = f"ratings:{folder}/good.jsonl", f"preference:{folder}/pairs.jsonl"
    usual = {
        "train_reward_model": {"model.name": policy, "data.train": pairs, "data.validation": pairs},
        "train_policy": {"model.name": policy, "data.train": good, "data.validation": good},
        "evaluate": {"model.name": ratings, "data": good, "validation": pairs},
        "expo": {"initial": ratings, "trained": ratings, "data": pairs, "test": pairs},
        "judge": {"model.name": policy, "data": good},
        "sample": {"model.name": policy, "data": good},
        "rescale": {"model.name": ratings, "data": good, "ratings": good},
        "annotate": {"model.name": ratings, "data": good},
        "weigh": {
            "reward_model": ratings,
            "prior": policy,
            "data": f"sampled:{folder}/sampled.jsonl",
        },
        "steer": {"policies": f"a={policy}", "reward_model": ratings, "data": good},
        "compare": {
            "policy": policy,
            "start": policy,
            "reward_models": f"a={ratings}",
            "data": good,
        },
        "reinforce": {
            "model.name": policy,
            "reward_models": f"a={ratings}",
            "data": good,
            "validation": good,
        },
    }
    changes = {k: x.format(folder) if isinstance(x, str) else x for k, x in changes.items()}
    config.update_from_flattened_dict(usual[kind] | changes)
    return config


def run(config, folder):
    more = (cli.function,) if config.kind == "recipe" else ()
    return cli.function(config.kind)(config, folder, *more)


DATA = {
    (kind, key)
    for kind, settings in configs.SETTINGS.items()
    for key, setting in settings.items()
    if setting.identity == "data" and (kind, key) != ("sample", "responses")
}


@pytest.mark.parametrize(("kind", "key"), sorted(DATA))
def test_data_of_which_nothing_is_left_are_refused(folder, tmp_path, nothing_is_loaded, kind, key):
    config = made(folder, kind)
    spec = getattr_of(config, key) or f"ratings:{folder}/good.jsonl"
    if kind == "weigh":  # Which takes whole files.
        (tmp_path / "none.jsonl").write_text("")
        spec = f"sampled:{tmp_path}/none.jsonl"
    else:
        spec = f"{spec}[0:0]"
    config.update_from_flattened_dict({key: spec})
    said = rf"config.{key}: nothing is left of {re.escape(spec)}: 0 rows, 0 groups"
    with pytest.raises(ValueError, match=said):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def getattr_of(config, key: str) -> str:
    for name in key.split("."):
        config = config[name]
    return config


BOTH = "ratings:{0}/good.jsonl+ratings:{0}/bad.jsonl"
MALFORMED = r"bad\.jsonl, line 4"
EARLY = {
    "second file": ("evaluate", {"data": BOTH}, MALFORMED),
    "second file to train on": ("train_policy", {"data.train": BOTH}, MALFORMED),
    "second file to judge": ("judge", {"data": BOTH}, MALFORMED),
    "second file of prompts": ("steer", {"data": BOTH}, MALFORMED),
    "misspelt derive": ("evaluate", {"derive": "halp"}, "config.derive is 'halp'.*rated: help"),
    "misspelt derive of ExPO": ("expo", {"derive": "halp"}, "config.derive is 'halp'.*: nothing"),
    "misspelt derive of a training": (
        "train_reward_model",
        {"data.derive": "halp"},
        "config.data.derive is 'halp', but nothing in config.data rates it",
    ),
    "metric that needs pairs": (
        "train_reward_model",
        {
            "select": "accuracy",
            "objective.kind": "regression",
            "model.outputs": ("help",),
            "data.train": "ratings:{}/good.jsonl",
            "data.validation": "ratings:{}/good.jsonl",
        },
        "config.data.train: .*no preference pairs, for config.select: 3 rows, 3 groups, 0 pairs",
    ),
    "rows that nobody rated": (
        "train_reward_model",
        {"objective.kind": "regression", "model.outputs": ("help",)},
        "no row that fits rates help, named in config.model.outputs",
    ),
    "conditions without ratings": (
        "train_policy",
        {"data.condition": "ratings", "data.validation": "responses:{}/long.jsonl"},
        "config.data.validation: .*no ratings, which config.data.condition asks for",
    ),
    "test without pairs": ("expo", {"test": "responses:{}/long.jsonl"}, "config.test: .*no pref"),
    "fitting without pairs": (
        "evaluate",
        {"validation": "responses:{}/long.jsonl"},
        "config.validation: .*no preference pairs",
    ),
    "judging pairs of none": ("judge", {"task": "pairs", "criteria": "helpfulness"}, "no pref"),
    "rating outside the scale, in a later set": (
        "judge",
        {"data": "ratings:{0}/good.jsonl+ratings:{0}/five.jsonl"},
        "five.jsonl:1: helpfulness is rated 9",
    ),
    "two responses to choose from": (
        "judge",
        {"task": "selection", "data": "responses:{0}/long.jsonl+ratings:{0}/good.jsonl"},
        "good.jsonl, line 1, field 'responses': expected one response",
    ),
    "no dialogues": ("judge", {"task": "emotions", "data": "{}/eq.json"}, "eq.json"),
    "ratings of another attribute": ("rescale", {"attributes": ("wit",)}, "no ratings of wit"),
    "a model that is not there": ("annotate", {"model.name": "gone"}, "no model 'gone'"),
}


@pytest.mark.parametrize("case", EARLY)
def test_what_can_be_refused_is_before_a_model_is_loaded(folder, tmp_path, nothing_is_loaded, case):
    kind, changes, said = EARLY[case]
    with pytest.raises((ValueError, FileNotFoundError, DataError), match=said):
        run(made(folder, kind, **changes), tmp_path / "run")


@pytest.mark.parametrize("case", ["second file", "misspelt derive", "a model that is not there"])
def test_a_later_stage_is_refused_before_the_first(folder, tmp_path, nothing_is_loaded, case):
    recipe, (kind, changes, said) = configs.defaults("recipe"), EARLY[case]
    recipe.stages = ("first", "second", "last")
    recipe.first = made(folder, "sample")
    recipe.second = made(folder, "annotate", data="sampled:{{first}}/samples.jsonl")
    recipe.last = made(folder, kind, **changes)
    with pytest.raises(
        (ValueError, FileNotFoundError), match=said.replace("config.", "config.last.")
    ):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["", "{}", '["a", {"b": 1}, ""]'])
def test_a_damaged_survey_is_made_again(tmp_path, monkeypatch, text):
    monkeypatch.setenv("HS2JAX_CACHE", str(tmp_path))
    monkeypatch.setattr(survey, "SLOW", 0.0)
    spec = f"preference:{stages.write(tmp_path / 'pairs.jsonl', PAIRS)}"
    first = survey.survey(spec)
    (kept,) = (tmp_path / "surveys").iterdir()
    kept.write_text(text)
    survey._survey.cache_clear()
    assert survey.survey(spec) == first


SCORED = ("score", "--model={0}/ratings", "--output={1}/scores.jsonl", "--on_error=skip")
SCORED = (*SCORED, "--data=responses:{0}/long.jsonl")
TOO_LONG = "2 rows, 2 groups, 0 pairs .too long 2"


@pytest.mark.parametrize("more", [[], ["--best={1}/best"]])
def test_scores_of_nothing_are_no_file(folder, tmp_path, more):
    said = fail(*(text.format(folder, tmp_path) for text in (*SCORED, *more)))
    assert re.search(f"nothing is left of responses:.*long.jsonl to score: {TOO_LONG}", said)
    assert not any(tmp_path.iterdir())


CUT = {
    "evaluate": ({"data": "responses:{}/long.jsonl"}, f"to score: {TOO_LONG}"),
    "annotate": ({"data": "responses:{}/long.jsonl"}, f"can be annotated: {TOO_LONG}"),
    "rescale": (
        {
            "data": "responses:{}/long.jsonl",
            "ratings": "ratings:{}/five.jsonl",
            "attributes": ("helpfulness",),
        },
        f"can be rated: {TOO_LONG}",
    ),
    "sample": ({"data": "responses:{}/long.jsonl"}, f"can be answered: {TOO_LONG}"),
}


@pytest.mark.parametrize("kind", CUT)
def test_where_everything_is_too_long_it_is_said(folder, tmp_path, kind):
    changes, said = CUT[kind]
    with pytest.raises(ValueError, match=said):
        run(made(folder, kind, on_error="skip", **changes), tmp_path / "run")


def test_an_evaluation_of_what_nobody_rated_is_an_error(folder, tmp_path):
    stages.write(tmp_path / "unrated.jsonl", [{"prompt": "Hi?", "response": "Ho."}])
    config = made(folder, "evaluate", validation="", data=f"responses:{tmp_path}/unrated.jsonl")
    with pytest.raises(ValueError, match=r"has no pairs, nor ratings of .*: 1 rows, 1 groups"):
        run(config, tmp_path / "run")
