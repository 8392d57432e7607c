"""The way out: one output of several, the card of an export, the hub, and the ways in which others
load it. vLLM and OpenRLHF are not here: their arithmetic is, the last state times score.weight."""

import re
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import safetensors.numpy
import tiny
from command import fail, succeed

from hs2jax.models.hf import card
from hs2jax.models.hf.hub import read_json
from hs2jax.reward_model import RewardModel

WEIGHTS = {"helpfulness": 0.65, "verbosity": -0.4}
TALK = tiny.talk("What is 12 + 30?", "42")
TALKS = [TALK, tiny.talk("How do I bake bread?", "In an oven.\n"), TALK + tiny.talk("Two?", "2")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A reward model with two outputs in `several`, and `scalar`, what --scalar makes of it."""
    folder = tmp_path_factory.mktemp("card")
    tiny.save(folder / "several", outputs=tuple(WEIGHTS), weights=WEIGHTS)
    succeed("convert", f"--model={folder}/several", f"--output={folder}/scalar", "--scalar")
    return folder


def rewards(folder, **options) -> list[float]:
    return [score.reward for score in RewardModel.load(folder, **options).score(TALKS)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bias", [False, True])
def test_one_output_is_the_weighted_sum_of_several(tmp_path, bias, dtype):
    tiny.save(tmp_path / "several", outputs=tuple(WEIGHTS), bias=bias)
    convert = ("convert", f"--model={tmp_path}/several", f"--output={tmp_path}/out", "--scalar")
    assert "--weights=helpfulness=1,verbosity=1" in fail(*convert)
    assert "weights for ['wit']" in fail(*convert, "--weights=wit=1")
    weights = ",".join(f"{name}={x}" for name, x in WEIGHTS.items())
    succeed(*convert, f"--weights={weights}", f"--dtype={dtype}")
    model = RewardModel.load(tmp_path / "out")
    assert (model.outputs, model.weights) == (("reward",), None)
    expected = rewards(tmp_path / "several", weights=WEIGHTS)
    found = rewards(tmp_path / "out")
    np.testing.assert_allclose(found, expected, atol={"float32": 1e-5, "bfloat16": 0.05}[dtype])
    assert np.ptp(expected) > 0.1
    config = read_json(tmp_path / "out" / "config.json")
    assert config["id2label"] == {"0": "reward"}


def test_a_card_is_every_exports_and_goes_with_it(folder, tmp_path):
    text = (folder / "several" / card.NAME).read_text()
    assert "the scores helpfulness, verbosity" in text
    assert "helpfulness=0.65,verbosity=-0.4" in text
    rows = [{"set": "validation", "part": "", "metric": "accuracy", "value": 0.75, "n": 24}]
    rows = [row | {"low": 0.5, "high": 0.9} for row in rows]
    made = card.made_by({"model.name": "owner/base", "data.train": "ratings:a|b.csv"}, rows)
    card.write(folder / "several", made)
    convert = ("convert", f"--model={folder}/several", f"--output={tmp_path}/out")
    succeed(*convert)
    again = (tmp_path / "out" / card.NAME).read_text()
    assert "base_model: owner/base" in again
    assert r"| data.train | ratings:a\|b.csv |" in again
    assert "| validation | accuracy | 0.75 | 0.5 to 0.9 | 24 |" in again
    huggingface_hub.ModelCard(again).data.to_dict()  # As the hub reads it.
    (tmp_path / "out" / card.NAME).write_text("Mine.")
    succeed(*convert)
    assert (tmp_path / "out" / card.NAME).read_text() == "Mine."


@pytest.mark.parametrize(("flags", "private"), [([], True), (["--public"], False)])
def test_a_model_is_pushed_when_asked_and_is_private(folder, tmp_path, monkeypatch, flags, private):
    asked, there = [], SimpleNamespace(private=False)
    done = {"create_repo": "https://hub/o/n", "upload_folder": None, "repo_info": there}
    for name, answer in done.items():

        def call(self, *x, answer=answer, name=name, **options):
            asked.append((name, *x, options))
            return answer

        monkeypatch.setattr(huggingface_hub.HfApi, name, call)
    push = ["convert", f"--model={folder}/scalar", f"--output={tmp_path}/out", "--push=o/n", *flags]
    if private:
        assert "o/n is public on the hub; --public" in fail(*push)
        there.private = True
    asked.clear()
    assert succeed(*push).endswith("https://hub/o/n\n")
    assert asked[0] == ("create_repo", "o/n", {"private": private, "exist_ok": True})
    name, options = asked[-1]
    assert (name, options["folder_path"]) == ("upload_folder", str(tmp_path / "out"))
    kept = huggingface_hub.utils.filter_repo_objects(
        [path.name for path in (tmp_path / "out").iterdir()],
        allow_patterns=options["allow_patterns"],
    )
    assert {*kept} == {path.name for path in (tmp_path / "out").iterdir()}


# As others load it --------------------------------------------------------------------------------


@pytest.mark.parity
@pytest.mark.parametrize("name", ["several", "scalar"])
def test_the_cards_snippet_gives_the_scores(folder, monkeypatch, name):
    pytest.importorskip("torch")
    (code,) = re.findall(r"```python\n(.*?)```", (folder / name / card.NAME).read_text(), re.S)
    monkeypatch.chdir(folder / name)
    found = {}
    exec(code, found)
    (expected,) = RewardModel.load(folder / name).score([TALK])
    named = dict(zip(found["model"].config.id2label.values(), found["scores"], strict=True))
    assert named == pytest.approx(expected.outputs, abs=1e-4)


@pytest.mark.parity
def test_a_policys_card_loads_it(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    tiny.language_model(tmp_path)
    text = (tmp_path / card.NAME).read_text()
    assert "pipeline_tag: text-generation" in text
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(re.search(r"```python\n(.*?)```", text, re.S)[1], found)
    ids = found["tokenizer"].apply_chat_template(TALK, return_tensors="pt", return_dict=True)
    assert torch.isfinite(found["model"](**ids).logits).all()


@pytest.mark.parity
def test_trl_gives_the_scores_as_its_reward(folder, tmp_path):
    pytest.importorskip("torch")
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    tiny.language_model(tmp_path / "policy")
    trainer = trl.GRPOTrainer(
        model=str(tmp_path / "policy"),
        reward_funcs=str(folder / "scalar"),
        args=trl.GRPOConfig(str(tmp_path / "out"), report_to=[], use_cpu=True, bf16=False),
        train_dataset=datasets.Dataset.from_list([{"prompt": TALK[:-1]}]),
    )
    prompts, answers = [talk[:-1] for talk in TALKS], [talk[-1:] for talk in TALKS]
    found = trainer._calculate_rewards([{}] * 3, prompts, answers, [[]] * 3)
    np.testing.assert_allclose(found[:, 0], rewards(folder / "scalar"), atol=1e-4)


@pytest.mark.parity
def test_vllm_and_openrlhf_find_the_head_by_its_name_and_the_score_at_the_last_token(folder):
    pytest.importorskip("torch")
    import torch
    import transformers

    weights = safetensors.numpy.load_file(folder / "scalar" / "model.safetensors")
    assert {name.split(".")[0] for name in weights} == {"model", "score"}
    assert read_json(folder / "scalar" / "config.json")["architectures"] == [
        "LlamaForSequenceClassification"
    ]
    model = transformers.AutoModel.from_pretrained(folder / "scalar", dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "scalar")
    batch = tokenizer.apply_chat_template(
        TALKS, padding=True, return_tensors="pt", return_dict=True
    )
    mask = batch["attention_mask"]
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    values = (states @ torch.tensor(weights["score.weight"]).T)[..., 0]
    last = mask.shape[1] - 1 - mask.fliplr().argmax(dim=1)
    found = values[range(len(TALKS)), last]
    np.testing.assert_allclose(found, rewards(folder / "scalar"), atol=1e-4)
