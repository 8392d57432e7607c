"""What cannot be is refused, naming the key and what is expected, before anything is loaded."""

import importlib.util
import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict, FieldReference

from hs2jax import cli, config_rules, configs
from hs2jax.evaluation import attribute_weights
from hs2jax.judging import lager, layer_weights, prompts

MINI = "helpsteer2:mini/validation.jsonl"

# A config of each kind that can be, by what it needs beside its defaults.
SET = {
    "train_reward_model": {"data.train": MINI, "data.validation": MINI},
    "train_policy": {"data.train": MINI, "data.validation": MINI},
    "evaluate": {"model.name": "m", "data": MINI},
    "expo": {"initial": "a", "trained": "b", "data": MINI},
    "judge": {"model.name": "m", "data": MINI},
    "sample": {"model.name": "m", "data": MINI},
    "rescale": {"model.name": "m", "data": MINI, "ratings": MINI},
    "annotate": {"model.name": "m", "data": MINI},
    "weigh": {"data": "sampled:HERE/rows.jsonl", "reward_model": "r", "prior": "p"},
    "steer": {"policies": "a=A,b=B", "reward_model": "r", "data": MINI},
    "sweep": {"arms": (("one", {"epochs": 1}),)},
}
# (key, value, what is said); None as a value takes the key away. Each rule once, and each key that
# a kind cannot do without.
BAD = {
    "train_reward_model": (
        ("data.train", "", "data.train is not set; expected data as in"),
        ("data.train", "csv:a.csv", "unknown data format 'csv'"),
        ("data.validation", "helpsteer2:gone.jsonl", "gone.jsonl"),
        ("data.layout", "diagonal", "expected one of 'shared', 'separate', 'padded'"),
        ("data.too_long", "cut", "expected one of 'skip', 'truncate'"),
        ("model.dtype", "float99", "expected one of '', 'float32', 'bfloat16'"),
        ("model.template", "chatty", "'extra_id'"),
        ("model.keeps", "attention,tea", "expected some of"),
        ("model.remat model.keeps", (False, "attention"), "effect, as config.model.remat is False"),
        ("lora.targets", "attention", "targets is without effect, as config.lora.rank is 0"),
        ("lora.alpha", 8.0, "alpha is without effect, as config.lora.rank is 0"),
        ("optimizer.final", 0.2, "without effect, as config.optimizer.schedule is constant"),
        ("objective.preference_weight", 2.0, "is for config.objective.kind joint, not for bradley"),
        *(
            (f"objective.kind objective.{key}", ("regression", x), "joint, not for regression")
            for key, x in (("preference", "scaled"), ("label_smoothing", 0.1), ("centering", 0.1))
        ),
        ("optimizer.schedule", "linear", "expected one of 'constant', 'cosine'"),
        ("optimizer.learning_rate", 0.0, "expected more than 0"),
        ("optimizer.learning_rate", float("nan"), "expected more than 0"),
        ("optimizer.b2", 1.0, "optimizer.b2 is 1.0; expected 0 or more and less than 1"),
        ("batch_size", 0, "batch_size is 0; expected 1 or more"),
        ("seed", -1, "expected a whole number from 0"),
        ("trainable.paths", "(", "expected a regular expression"),
        ("trainable.cache", True, "it needs config.trainable.last_layers"),
        ("select", "luck", "expected one of 'loss', 'accuracy'"),
        ("objective.kind", "guess", "expected one of 'regression', 'bradley_terry', 'joint'"),
        ("objective.preference", "strong", "'scaled'"),
        ("objective.output", "wit", "output is 'wit'; the model's outputs are ('reward',)"),
        ("objective.label_smoothing", 0.5, "less than 0.5"),
        ("model.outputs", ("a,b",), "written as \"('helpfulness', 'verbosity')\""),
        ("model.weights", "helpfulness", "name=number,name=number"),
        ("optimizer.rate", 1.0, "there is no config.optimizer.rate; the nearest is config.optim"),
        ("epochs", None, "config.epochs is missing"),
        ("kind", "train", "config.kind is 'train'; expected one of train_reward_model, train_pol"),
    ),
    "train_policy": (
        ("data.train", "", "data.train is not set"),
        ("select", "accuracy", "select is for config.objective.kind dpo and ipo, not for likelih"),
        ("objective.kind", "regression", "expected one of 'likelihood', 'steerlm2', 'dpo', 'ipo'"),
        ("objective.beta", 0.0, "expected more than 0"),
        ("objective.beta", 0.2, "objective.beta is for config.objective.kind dpo and ipo, not"),
        ("objective.max_drift", 9.0, "max_drift is for config.objective.kind dpo and ipo, not"),
        ("data.derive", "helpfulness", "data.derive is for config.objective.kind dpo and ipo, not"),
        ("objective.kind objective.label_smoothing", ("ipo", 0.1), "kind dpo, not for ipo"),
        ("objective.kind objective.preference", "ipo scaled", "preference is for config.objectiv"),
        ("objective.kind objective.reduction", "dpo mean", "config.objective.kind ipo, not for dp"),
        ("objective.kind objective.smoothing", "dpo unbiased", "objective.label_smoothing is 0.0"),
        ("objective.kind objective.normalize_tokens", ("dpo", True), "kind steerlm2, not for dpo"),
        ("objective.kind data.condition", "dpo ratings", "which has no pairs"),
        ("objective.kind data.pairs", "dpo extremes", "name in config.data.derive of what"),
        ("data.condition", "ranks", "expected one of '', 'ratings'"),
        ("objective.kind data.condition", "steerlm2 ratings", "is 'ratings'; sampled groups have"),
        ("objective.kind data.too_long", "steerlm2 truncate", "is 'truncate'; the log-prob"),
    ),
    "evaluate": (
        ("model.name", "", "model.name is not set"),
        ("data", "", "config.data is not set"),
        ("model.weights", "search", "name the pairs to search on in config.validation"),
        ("max_tokens", -1, "max_tokens is -1; expected 0 or more"),
    ),
    "expo": (
        ("initial", "", "initial is not set"),
        ("trained", "", "trained is not set"),
        ("factors", (1.5, -1.0), "expected numbers, 0 or more"),
        ("fine_step", float("inf"), "expected 0 or more"),
    ),
    "judge": (
        ("data", "", "config.data is not set"),
        ("weights", "gone.json", "there is no such file"),
        ("fraction", 1.5, "more than 0 and at most 1"),
        ("baselines", "gpt_score,luck", "'gpt_score,luck'; expected some of gpt_score"),
        ("baselines", "reward_model", 'names the model of "reward_model" in config.baselines'),
        ("reward_model", "r", 'names the model of "reward_model" in config.baselines'),
        ("criteria baselines", "rubric gpt_score", "gpt_score asks by the same criteria"),
        ("baselines folds", "ridge_probe 2", "folds is 2; expected 3 or more for ridge_probe"),
        ("weights validation", f"cross-validate {MINI}", "config.weights both say where"),
        ("task condition", "emotions direct", "condition is for config.task scores, not for emo"),
        ("task criteria", "selection flask", "criteria is for config.task scores and pairs, not"),
        ("task weights", "pairs cross-validate", "pairs has no ratings"),
        ("task data", "knowledge gone.json", "there is no file gone.json"),
    ),
    "sample": (
        ("model.name", "", "model.name is not set"),
        ("conditions", (), "conditions is not set"),
        ("conditions", ("helpfulness=5",), "expected name=value,name=value with whole numbers"),
        ("conditions", ("a=1,a=2",), "each once, not 'a=2'"),
        ("responses server", f"{MINI} http://x", "both say who answers"),
        ("responses instruction", f"{MINI} Hurry.", "are written already"),
    ),
    "rescale": (("ratings", "", "config.ratings is not set"),),
    "annotate": (
        ("on_error", "hide", "'raise', 'skip'"),
        ("attributes", (1,), "attributes is (1,); expected different names"),
        ("reward attributes", (True, ("a",)), "not written where config.reward is"),
    ),
    "weigh": (
        ("prior", "", "config.prior is not set"),
        ("data", MINI, "expected whole files of sampled responses"),
        ("data", "sampled:HERE/rows.jsonl[:2]", "expected whole files of sampled responses"),
        ("data", "sampled:gone.jsonl", "gone.jsonl"),
    ),
    "steer": (
        ("policies", "", "expected name=MODEL,name=MODEL"),
        ("policies", "a=A,a=B", "each once, not 'a=B'"),
        ("policies", "a=A,b=B,c=C,d=D,e=E", "one to 4"),
        ("requested", (1, 1), "each once"),
        ("requested", (1, 7), "from 0 to 4"),
        ("attributes", (), "attributes is not set"),
    ),
    "sweep": (
        ("arms", (), "arms is not set"),
        ("seeds", (0, 0), "different whole numbers"),
        ("base", None, "base: expected a config of kind train_reward_model"),
        ("seed", 1, "there is no config.seed; the nearest is config.seeds"),
    ),
}
CASES = [(kind, *case) for kind, cases in BAD.items() for case in cases]


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("here")
    row = {"prompt": "One?", "condition": {"verbosity": 1}, "responses": ["1."], "tokens": [[1]]}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    return folder


def made(kind: str, here: Path) -> ConfigDict:
    config = configs.defaults(kind).unlock()
    if kind == "sweep":
        config.base = configs.defaults("train_reward_model")
    for key, value in SET[kind].items():
        put(config, key, value, here)
    return config


def put(config: ConfigDict, key: str, value, here: Path) -> None:
    *parents, name = key.split(".")
    for parent in parents:
        config = config[parent]
    value = value.replace("HERE", str(here)) if isinstance(value, str) else value
    with config.ignore_type():
        config[name] = value
    if value is None:
        del config[name]


@pytest.mark.parametrize("kind", SET)
def test_a_config_that_can_be_passes(kind, here):
    configs.check(made(kind, here))


@pytest.mark.parametrize(("kind", "key", "value", "said"), CASES)
def test_a_config_that_cannot_be_is_refused(kind, key, value, said, here):
    config = made(kind, here)
    values = [value]
    if " " in key:  # Settings that do not go with each other.
        values = value.split(" ") if isinstance(value, str) else value
    for name, each in zip(key.split(), values, strict=True):
        put(config, name, int(each) if each == "2" else each, here)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        configs.check(config)
    assert said in str(error.value)
    assert str(error.value).startswith(("config.", "there is no config."))


def test_a_recipe_is_checked_as_a_whole(here):
    recipe = configs.defaults("recipe")
    with pytest.raises(ValueError, match=r"config\.stages is not set"):
        configs.check(recipe)
    recipe.stages = ("first", "second")
    recipe.first = made("train_policy", here)
    with pytest.raises(ValueError, match=r"config\.second: a stage is a config with a kind"):
        configs.check(recipe)
    recipe.second = made("evaluate", here)
    recipe.second.data = "ratings:{first}/rows.jsonl[:90%]"  # Not there yet.
    configs.check(recipe)
    recipe.model = FieldReference("m")  # Shared by stages.
    recipe.second.model.name = recipe.get_ref("model")
    configs.check(recipe)
    recipe.epochs = 1
    with pytest.raises(ValueError, match=r"no config\.epochs; a recipe has stages, and their"):
        configs.check(recipe)
    del recipe.epochs
    recipe.second.data = "ratings:{third}/rows.jsonl"
    with pytest.raises(ValueError, match=r"config\.second\.data is .* no earlier stage of first"):
        configs.check(recipe)
    recipe.second.data = "ratings:{first}/rows.jsonl"
    recipe.second.unlock().micro_rows = 2
    with pytest.raises(ValueError, match=r"no config\.second\.micro_rows; it is now"):
        configs.check(recipe)


def test_choices_are_what_their_rooms_know():
    for kind, key, known in (
        ("evaluate", "model.weights", ("search", *attribute_weights.PUBLISHED)),
        ("judge", "preset", lager.PRESETS),
        ("judge", "condition", prompts.FORMS),
        ("judge", "recipe", layer_weights.RECIPES),
    ):
        rule = configs.SETTINGS[kind][key][1]
        assert all(rule(each) is None for each in known)
    assert set(configs.SETTINGS) == set(cli.KINDS)


def test_weights_and_biases_is_asked_for_only_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install wandb" in config_rules.wandb("project")
    assert config_rules.wandb("") is None
