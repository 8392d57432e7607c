"""`hs2jax score`, what is said of bad input, and runs whose numbers are not finite."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import stages
import tiny
from command import fail, hs2jax, succeed

from hs2jax import cli, configs, flags
from hs2jax.data import corpora
from hs2jax.models.hf import hub
from hs2jax.reward_model import RewardModel

OUTPUTS = ("helpfulness", "verbosity")
VALIDATION = "helpsteer2:mini/validation.jsonl"
CONFIG = """
from hs2jax import configs

def get_config():
    config = configs.defaults("train_reward_model")
    config.model.update(name={base!r}, remat=False, outputs=("helpfulness",))
    config.data.update(train="helpsteer2:mini/train.jsonl[:6]", row_length=512)
    config.data.validation = "helpsteer2:mini/train.jsonl[6:8]"
    config.objective.kind = "regression"
    config.update(batch_size=2, epochs=1)
    return config
"""
NOTHING = "import ml_collections\nget_config = ml_collections.ConfigDict"
RECIPE = "import ml_collections\n"
RECIPE += "get_config = lambda: ml_collections.ConfigDict({'kind': 'recipe', 'stages': ('first',)})"
CONFIG_FILES = {
    "raises.py": b"def get_config():\n    return {}['luck']",
    "syntax.py": b"def get_config(:",
    "without.py": b"config = 1",
    "ends.py": b"raise SystemExit(0)",
    "dict.py": b"get_config = dict",
    "list.py": NOTHING.encode() + b"({'kind': [1]})\nget_config = lambda c=get_config: c",
    "words.txt": b"\xff",
    "lr.py": b"from hs2jax import configs\nconfigs.defaults('train_policy').lr = 1",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A language model `base`, a reward model `reward`, a config `train.py`, a recipe that
    lacks its stage, a run's folder as far as one can tell, and files of rows."""
    folder = tmp_path_factory.mktemp("errors")
    tiny.language_model(folder / "base", max_seq_len=4096)
    tiny.save(folder / "reward", outputs=OUTPUTS, bias=True, max_seq_len=2048)
    config = CONFIG.format(base=str(folder / "base"))
    old = config.replace("    return", "    config.micro_rows = 2\n    return")
    files = {"train": config, "old": old, "recipe": RECIPE, "empty": NOTHING}
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    rows = [{"prompt": "One?", "response": "1."}, {"prompt": "Two?", "responses": ["2.", 2]}, {}]
    stages.write(folder / "broken.jsonl", rows)
    for name, body in CONFIG_FILES.items():
        (folder / name).write_bytes(body)
    (folder / "nowhere").symlink_to(folder / "gone")
    os.mkfifo(folder / "pipe.jsonl")
    (folder / "run").mkdir()
    (folder / "run" / "run.json").touch()
    (folder / "other").mkdir()
    (folder / "other" / "config.json").write_text('{"kind": "evaluate"}')
    stages.write(folder / "long.jsonl", [{"prompt": "why? " * 3000, "response": "So."}])
    return folder


# Score --------------------------------------------------------------------------------------------


def test_scores_are_the_models_in_every_form(folder, tmp_path):
    question, answers = "Is 7 odd?", ["Yes.", "Not at all, it is even."]
    system = {"role": "system", "content": "Answer in one word."}
    plain = tiny.talk(question, answers[0])
    talks = [[system, *tiny.talk(question, answer)] for answer in answers]
    rows = [
        {"messages": talks[0]},
        {"prompt": talks[0][:2], "responses": answers},
        {"prompt": question, "response": answers[0]},
    ]
    data = stages.write(tmp_path / "responses.jsonl", rows)
    weights = {"helpfulness": 0.65, "verbosity": -0.4}
    model = RewardModel.load(folder / "reward")
    first, second, third = model.score([*talks, plain], weights=weights)
    ratings = next(corpora.read(VALIDATION))
    both = model.score_groups([ratings])[0]

    option = "--weights=" + ",".join(f"{name}={w}" for name, w in weights.items())
    data = f"--data=responses:{data}+{VALIDATION}[:1]"
    flags = [f"--model={folder / 'reward'}", data, f"--output={tmp_path / 'scores.jsonl'}"]
    succeed("score", *flags, option)
    *rows, last = stages.read(tmp_path / "scores.jsonl")
    for row, expected in zip(rows, [[first], [first, second], [third]], strict=True):
        for outputs, reward, of in zip(row["outputs"], row["rewards"], expected, strict=True):
            assert outputs == pytest.approx(of.outputs, abs=1e-5)
            assert reward == pytest.approx(of.reward, abs=1e-5)
    assert rows[0]["rewards"][0] != pytest.approx(rows[2]["rewards"][0], abs=1e-3)
    assert last["source"] == "mini/validation.jsonl:1"
    assert (last["prompt"], last["responses"]) == (list(ratings.prompt), list(ratings.responses))
    found = [list(outputs.values()) for outputs in last["outputs"]]
    np.testing.assert_allclose(found, both, atol=1e-5)
    succeed("score", *flags)
    assert stages.read(tmp_path / "scores.jsonl")[0]["rewards"] is None  # Two are no reward.


def scoring(folder, tmp_path, name) -> tuple[list[str], Path, Path]:
    """A command that scores a file, the file, and what it writes."""
    data, output = folder / name, tmp_path / "scores.jsonl"
    command = ["score", f"--model={folder / 'reward'}", f"--data=responses:{data}"]
    return [*command, f"--output={output}"], data, output


def test_ids_and_other_fields_of_rows_pass_through(folder, tmp_path):
    ratings = dict.fromkeys(("helpfulness", "correctness", "coherence", "complexity"), 3)
    both = [{"prompt": "One?", "id": i, "verbosity": i, **ratings} for i in range(2)]
    rows = {
        "responses": [{"prompt": "One?", "response": "1.", "id": 7, "source": "x", "note": None}],
        "preference": [{"prompt": "One?", "chosen": "1.", "rejected": "2.", "meta": {"a": [1]}}],
        "helpsteer2": [row | {"response": f"{row['id']}."} for row in both],
        "ratings{prompt=q,response=a,tact=t}": [{"q": "One?", "a": "1.", "t": 2, "id": "é"}],
    }
    files = {
        name: stages.write(tmp_path / f"{name[:5]}.jsonl", some) for name, some in rows.items()
    }
    data = "--data=" + "+".join(f"{name}:{path}" for name, path in files.items())
    done = hs2jax("score", f"--model={folder / 'reward'}", data, "--output=-")
    assert done.code == 0, done.err
    assert "-: 5 rows, 4 groups" in done.err
    found = [json.loads(line) for line in done.out.splitlines()]
    ours = {"source", "prompt", "responses", "outputs", "rewards"}
    assert all(ours <= row.keys() for row in found)
    others = [{name: x for name, x in row.items() if name not in ours} for row in found]
    assert others[:2] == [{"id": 7, "note": None}, {"meta": {"a": [1]}}]
    assert others[2] == {"id": [0, 1], "verbosity": [0, 1]} | {x: [3, 3] for x in ratings}
    assert others[3] == {"t": 2, "id": "é"}


def test_malformed_rows_end_scoring_or_are_counted(folder, tmp_path):
    command, data, output = scoring(folder, tmp_path, "broken.jsonl")
    assert f"{data}, line 2, field 'responses[1]'" in fail(*command)
    assert not output.exists(), "what is there should be whole"
    printed = succeed(*command, "--on_error=skip")
    assert f"{output}: 3 rows, 1 groups, 1 wrong type, 1 missing field" in printed
    assert [row["source"] for row in stages.read(output)] == [f"{data}:1"]


def test_too_long_is_refused_or_truncated(folder, tmp_path):
    command, data, output = scoring(folder, tmp_path, "long.jsonl")
    said = fail(*command)
    assert f"{data}:1" in said
    assert "2048" in said
    succeed(*command, "--truncate")
    (row,) = stages.read(output)
    assert np.isfinite(list(row["outputs"][0].values())).all()
    assert "too long 1" in fail(*command, "--on_error=skip")


# Bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["frobnicate"], ["help", "frobnicate"]])
def test_without_a_known_verb_the_verbs_are_listed(arguments):
    said = fail(*arguments)
    assert all(word in said for word in ("run", "train", "score", "report", *arguments))


def test_help_is_no_failure():
    said = succeed("train", "--help")
    assert "hs2jax train    --config" in said
    assert "hs2jax judge" not in said
    assert "hs2jax convert" in succeed("help")
    assert "--on_error" in succeed("help", "score")
    assert all(f"    hs2jax {verb} " in cli.__doc__ for verb in flags.VERBS)


@pytest.mark.parametrize("kind", [kind for kind in configs.SETTINGS if kind != "recipe"])
def test_help_tells_each_setting_with_its_value_and_what_it_is(tmp_path, kind):
    text = f"from hs2jax import configs\nget_config = lambda: configs.defaults({kind!r})"
    (tmp_path / "config.py").write_text(text)
    said = succeed("help", flags.KINDS[kind][0], f"--config={tmp_path / 'config.py'}")
    _, *said = said.split("\n  --config.")
    for each in said:
        (key, value), text = each.partition("\n")[0].split("=", 1), each.partition("\n")[2]
        assert value == repr(configs.SETTINGS[kind][key].default)
        assert text.strip(), key
    assert len(said) == len(configs.SETTINGS[kind])


# Refusals of the checker are in test_config_checks; these are of flags, verbs, data and models.
# A command and what is said of it, parted by "|". Of a flag that stands twice the later one counts.
TRAIN = "train --config={folder}/train.py --workdir={out} "
PAIRS = "--config.data.train=helpsteer2_preference:mini/preference.jsonl[:6]"
OF = "train --config={{folder}}/{}.py --workdir={{out}} "
SCORE = f"score --model={{folder}}/reward --data={VALIDATION}[:1] --output={{out}}/scores.jsonl "
REFUSED = {
    "unknown flag": (TRAIN + "--colour=red", "colour"),
    "stray word": (TRAIN + "fast", "fast"),
    "unknown key": (TRAIN + "--config.epoch=1", "no config.epoch; the nearest is config.epochs"),
    "key of another place": (
        TRAIN + "--config.optimizer.lr=1",
        "is config.optimizer.learning_rate",
    ),
    "key of a stage": (
        "run --config=quickstart --workdir={out} --config.learning_rate=1",
        "the nearest is config.preference.optimizer.learning_rate",
    ),
    "unknown key in a file": (OF.format("lr"), "lr.py, line 2: there is no config.lr; the nearest"),
    "text for an integer": (TRAIN + "--config.epochs=many", "config.epochs|many"),
    "a value of the checker": (TRAIN + "--config.select=luck", "config.select|luck|accuracy"),
    "other outputs": (TRAIN + "--config.model.name={folder}/reward", "helpfulness|verbosity"),
    "no model": (TRAIN + "--config.model.name=gone", "gone"),
    "folder mistyped": (SCORE + "--model={folder}/rewrd/model", "; is {folder}/reward meant?"),
    "rows too short": (TRAIN + "--config.data.row_length=16", "mini/train.jsonl|too long 6"),
    "no pairs": (TRAIN + "--config.objective.kind=bradley_terry", "mini/train.jsonl|0 pairs"),
    "no ratings": (TRAIN + PAIRS, "mini/preference.jsonl|helpfulness"),
    "accuracy without pairs": (TRAIN + "--config.select=accuracy", "config.select|pairs"),
    "devices": (TRAIN + "--config.mesh.data=5", "config.mesh|data=5"),
    "workdir an address": (TRAIN + "--workdir=gs://a/b", "--workdir=gs://a/b is an address"),
    "output an address": (SCORE + "--output=s3://a/b.jsonl", "b.jsonl is an address"),
    "home of nobody": (
        TRAIN + "--workdir=~nobody-here/run",
        "a home folder that is not known",
    ),
    "output a device": ("convert --model=x --output=/dev/full", "--output=/dev/full is a file"),
    "scores to a device": (SCORE + "--output=/dev/null", 'is a pipe or device; "-" is the stand'),
    "scores to a pipe": (SCORE + "--output={folder}/pipe.jsonl", "is a pipe or device"),
    "scores to a folder": (SCORE + "--output={folder}/reward", "is a folder; expected a file"),
    "a long name": (SCORE + "--output={folder}/" + 300 * "x", "File name too long"),
    "no config": ("train --workdir={out}", "--config"),
    "no workdir": ("train --config={folder}/train.py", "--workdir"),
    "workdir a file": (TRAIN + "--workdir={folder}/train.py", "--workdir|is a file"),
    "no config file": ("train --config=gone.py --workdir={out}", "gone.py|: annotate"),
    "a config's name": ("train --config=configs/quikstart.py --workdir={out}", "path: quickstart"),
    "config of a run": ("run --config={folder}/train.py --workdir={out}", "`hs2jax train`"),
    "recipe for train": (OF.format("recipe"), "`hs2jax run`"),
    "old key": (TRAIN + "--config.micro_rows=1", "it is now config.micro_batch_size"),
    "old key in a file": (OF.format("old"), "micro_rows|is now config.micro_batch_size"),
    "key of nothing": (OF.format("empty") + "--config.a=1", "config.a"),
    "config of nothing": (OF.format("empty"), "kind"),
    "config that fails": (OF.format("raises"), "raises.py, line 2: KeyError: 'luck'"),
    "config that is no Python": (OF.format("syntax"), "syntax.py, line 1: SyntaxError: invalid"),
    "config without get_config": (OF.format("without"), "without.py: KeyError: 'get_config'"),
    "config that ends": (OF.format("ends"), "ends.py, line 1: SystemExit: 0"),
    "config of a dict": (OF.format("dict"), "get_config gives dict|configs.defaults"),
    "config of no text kind": (OF.format("list"), "config.kind is [1]|train_policy"),
    "config that is no text": ("train --config={folder}/words.txt --workdir={out}", "words.txt"),
    "config that is a folder": ("train --config={folder} --workdir={out}", "no file {folder}"),
    "argument that none wants": (TRAIN + "--config={folder}/train.py:x", "get_config() takes 0"),
    "config without a value": ("train --workdir={out} --config", "needs --config"),
    "fraction for an integer": (TRAIN + "--config.epochs=1.5", "'1.5'; expected a whole number"),
    "not a number": (TRAIN + "--config.batch_size=nan", "'nan'; expected a whole number"),
    "text for a number": (TRAIN + "--config.optimizer.b1=low", "'low'; expected a number"),
    "text for a switch": (TRAIN + "--config.model.remat=some", "'some'; expected True or False"),
    "value for several": (TRAIN + "--config.optimizer=adam", "--config.optimizer.NAME=VALUE"),
    "empty workdir": (TRAIN + "--workdir=", "--workdir"),
    "a name of other letters": (TRAIN + "--workdir={folder}/\udcff", "is not UTF-8"),
    "link to nowhere": (TRAIN + "--workdir={folder}/nowhere", "nowhere is a link that leads"),
    "page of a file": ("report --workdir={folder}/train.py", "train.py is a file"),
    "report of nothing": ("report", "--workdir"),
    "report of what is gone": ("report --workdir=gone --output={out}", "gone"),
    "convert into a run": (
        "convert --model={folder}/reward --output={folder}/other",
        "other is a run's folder|no model's",
    ),
    "convert nothing": ("convert --model=gone --output={folder}/none", "gone"),
    "convert to int8": ("convert --model=x --output={out} --dtype=int8", "dtype|int8|bfloat16"),
    "no output": (f"score --model={{folder}}/reward --data={VALIDATION}", "--output"),
    "no reward model": (SCORE + "--model={folder}/base", "base|no reward head"),
    "folder of a run": (SCORE + "--model={folder}/run", "folder of a run|run/model"),
    "no data file": (SCORE + "--data=responses:gone.jsonl", "gone.jsonl"),
    "data of the web": (SCORE + "--data=responses:https://a/b.jsonl", "https://|fetch the file"),
    "data of a pipe": (SCORE + "--data=responses:{folder}/pipe.jsonl", "pipe.jsonl is a pipe"),
    "data of a folder": (SCORE + "--data=responses:{folder}", "is a folder|*.jsonl"),
    "data as output": (
        SCORE + "--data=responses:{folder}/words.txt --output={folder}/./words.txt",
        "words.txt is a file of --data: give another",
    ),
    "data of a link": (SCORE + "--data=responses:{folder}/nowhere", "no file {folder}/nowhere"),
    "model of the web": (SCORE + "--model=http://localhost/x", "no model 'http://localhost/x'"),
    "model that is a file": (SCORE + "--model={folder}/train.py", "is a file: give the folder"),
    "model in a file": ("convert --model=x --output={folder}/train.py", "is a file; expected a f"),
    "output in a file": (SCORE + "--output={folder}/train.py/scores.jsonl", "train.py"),
    "weights without numbers": (SCORE + "--weights=helpfulness", "weights|name=number"),
    "weight of no output": (SCORE + "--weights=wit=1", "wit|helpfulness"),
    "unknown way of errors": (SCORE + "--on_error=hide", "on_error|hide|skip"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_named_and_claims_no_folder(folder, case):
    """All in one folder, as it is where a mistyped setting is corrected."""
    out = folder / "out"
    command, words = (text.format(folder=folder, out=out) for text in REFUSED[case])
    done = hs2jax(*command.split())
    said = done.err
    assert done.code == 1
    assert said.count("\n") == 1, "one line"
    assert "a fault of hs2jax" not in said
    for word in words.split("|"):
        assert word in said
    assert "another run" not in said
    assert not {"metrics.jsonl", "scores.jsonl"} & {each.name for each in out.glob("*")}


# What is done to a file of a model's folder, by what is said beside the folder's name.
MODEL = {
    "cut short": ("model.safetensors", lambda old: old[: len(old) // 2]),
    "not a safetensors file": ("model.safetensors", lambda old: b"<html>404</html>"),
    "git lfs pull": (
        "model.safetensors",
        lambda old: b"version https://git-lfs.github.com/spec/v1",
    ),
    "names 3, which is not there": ("model.safetensors.index.json", b'{"weight_map": {"a": 3}}'),
    "not an index": ("model.safetensors.index.json", b"[]"),
    "config.json: not JSON": ("config.json", b"{"),
    "config.json: not JSON ('utf-8'": ("config.json", b"\xff"),
    "this is a list": ("config.json", b"[]"),
    "model_type is None": ("config.json", b"{}"),
    "id2label is ['a']": ("config.json", lambda old: old[:-3] + b', "id2label": ["a"]}'),
    "hs2jax is 'x'": ("config.json", lambda old: old[:-3] + b', "hs2jax": "x"}'),
    "malformed (KeyError": ("tokenizer.json", b'{"a": 1}'),
    "Expecting property name": ("tokenizer.json", lambda old: old[:4777]),
    "can't decode": ("chat_template.jinja", b"\xff"),
}


@pytest.mark.parametrize("words", MODEL)
def test_a_damaged_or_foreign_model_is_named(folder, tmp_path, words):
    shutil.copytree(folder / "reward", tmp_path / "model")
    file, change = MODEL[words]
    path = tmp_path / "model" / file
    path.write_bytes(change(path.read_bytes()) if callable(change) else change)
    out = f"--output={tmp_path / 'scores.jsonl'}"
    done = hs2jax("score", f"--model={path.parent}", f"--data={VALIDATION}[:1]", out)
    assert done.code == 1
    assert done.err.startswith(f"hs2jax score: {path.parent}")
    assert words in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "scores.jsonl").exists()


# Not finite ---------------------------------------------------------------------------------------


@pytest.fixture
def one_bad_row(folder, tmp_path) -> list[str]:
    """A command to train on six rows, the fourth with a token that overflows in a frozen layer.

    Ratings cannot do it: those that are too large to be squared are refused as malformed.
    """
    config = tiny.config()
    params = tiny.overflowing(tiny.parameters(config), "~")
    hub.save(tmp_path / "base", config=config, params=params, tokenizer=tiny.tokenizer())
    rows = [
        {"prompt": f"{i}?" if i != 3 else "~", "response": "Yes.", "ratings": {"helpfulness": i}}
        for i in range(6)
    ]
    data = stages.write(tmp_path / "ratings.jsonl", rows)
    of = {"model.name": tmp_path / "base", "data.row_length": 128, "trainable.last_layers": 1}
    of |= {"data.train": f"ratings:{data}", "data.validation": f"ratings:{data}[:2]"}
    settings = [f"--config.{key}={value}" for key, value in of.items()]
    return ["train", f"--config={folder / 'train.py'}", f"--workdir={tmp_path / 'run'}", *settings]


def test_steps_that_are_not_finite_are_passed_over_and_noted(one_bad_row, tmp_path):
    succeed(*one_bad_row, "--config.epochs=2")
    metrics = stages.read(tmp_path / "run" / "metrics.jsonl")
    noted = stages.read(tmp_path / "run" / "not_finite.jsonl")
    bad = [row["step"] for row in metrics if row["loss"] is None]
    assert [row["step"] for row in noted] == bad
    assert len(bad) == 2  # One in each epoch.
    bad_row = f"{tmp_path / 'ratings.jsonl'}:4"
    assert all(bad_row in row["rows"] and len(row["rows"]) == 2 for row in noted)
    assert all(row["first"].keys() == {bad_row} for row in noted)
    assert all(re.match(r"in layer 0 at token \d+", row["first"][bad_row]) for row in noted)
    results = stages.read(tmp_path / "run" / "results.jsonl")
    assert stages.value(results, "skipped_steps") == 2
    model = RewardModel.load(tmp_path / "run" / "model")
    assert np.isfinite(model.params["head"]["kernel"]).all()


def test_many_in_a_row_stop_the_run(one_bad_row, tmp_path):
    settings = ("--config.epochs=6", "--config.batch_size=6", "--config.not_finite_limit=2")
    said = fail(*one_bad_row, *settings)
    assert "2 steps in a row, up to step 2" in said
    run = tmp_path / "run"
    assert str(run / "not_finite.jsonl") in said
    noted = stages.read(run / "not_finite.jsonl")
    assert [row["step"] for row in noted] == [1, 2, 3]  # One was under way.
    every_row = {f"{tmp_path / 'ratings.jsonl'}:{line}" for line in range(1, 7)}
    assert all(set(row["rows"]) == every_row for row in noted)
    assert not (run / "result.json").exists()
    assert "no finished run" in fail("report", f"--workdir={tmp_path}")
    assert str(run) in fail("convert", f"--model={run}", f"--output={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()
