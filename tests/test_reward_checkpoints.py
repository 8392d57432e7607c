"""Reward checkpoints made by others are recognised, rendered and read as their makers do."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tiny
from test_chat import ask, wholes
from tiny_models import assert_same_bits

from hs2jax.data import chat
from hs2jax.models.hf import hub, reward_checkpoints
from hs2jax.models.hf.families import FAMILIES
from hs2jax.reward_model import RewardModel
from hs2jax.training.convert import convert

NEMOTRON = "Llama-3.1-Nemotron-70B-Reward-HF"
TALKS = [tiny.talk("Where?", text) for text in ("Paris.", "In Lyon, perhaps.", "Nice \n")]


def foreign(folder, make=tiny.tokenizer, *, outputs=("LABEL_0",), tied=True, **changes):
    """A reward model's folder as transformers writes it; without outputs a language model's."""
    tokenizer = make()
    config = tiny.config(vocab_size=len(tokenizer), tied=tied, num_layers=1, **changes)
    params = tiny.parameters(config)
    kernel = np.random.default_rng(1).normal(0, 0.3, (config.hidden_size, len(outputs)))
    head = {"kernel": kernel.astype(np.float32)} if outputs else None
    hub.save(folder, config=config, params=params, head=head, outputs=outputs or None)
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    settings.pop("hs2jax", None)  # It is no export of ours.
    path.write_text(json.dumps(settings))
    tokenizer.save_pretrained(folder)
    return folder


def rewards(model):
    return np.array([score.reward for score in model.score(TALKS)])


def ids_of(model, talk):
    group = ask(talk[-1]["content"], prompt=talk[0]["content"])
    return wholes(chat.encode(model.tokenizer, [group], model.read)[0])[0]


# Recognised ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [f"{folder}{NEMOTRON}" for folder in ("nvidia/", "models/")]
    + [f"models/{NEMOTRON.lower()}", f"hub/models--nvidia--{NEMOTRON}/snapshots/0123abc"],
)
def test_the_released_helpsteer2_preference_model_is_known_by_name(name):
    causal = {"architectures": ["LlamaForCausalLM"]}
    way = reward_checkpoints.find(name, causal)
    assert (way.template, way.read, way.head) == ("own", "last", "lm_head")
    other_name = name.replace("Reward-HF", "Instruct-HF").replace("reward-hf", "instruct-hf")
    for other in (f"{name}/policy", other_name):
        assert reward_checkpoints.find(other, causal).head is None


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_classifier_is_read_at_the_last_token(family):
    architectures = {"architectures": [FAMILIES[family].classifier]}
    way = reward_checkpoints.find("somebody/model", architectures)
    assert (way.template, way.read, way.head) == ("own", "last", "score")
    # A name does not outweigh what config.json says, nor does either outweigh our own record.
    assert reward_checkpoints.find(f"nvidia/{NEMOTRON}", architectures) == way
    ours = architectures | {"hs2jax": {"template_name": "extra_id", "read": "end_of_turn"}}
    way = reward_checkpoints.find(f"nvidia/{NEMOTRON}", ours)
    assert (way.template, way.read, way.head) == ("extra_id", "end_of_turn", "score")


def test_an_export_of_an_earlier_version_is_read_at_the_end_of_turn(tmp_path):
    saved = tiny.save(tmp_path / "model")
    expected = rewards(saved)
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    del config["hs2jax"]["read"], config["hs2jax"]["template_name"]
    path.write_text(json.dumps(config))
    np.testing.assert_array_equal(rewards(RewardModel.load(tmp_path / "model")), expected)
    config["hs2jax"]["read"] = "mean"
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="read is 'mean'; supported are end_of_turn, last"):
        RewardModel.load(tmp_path / "model")


# SequenceClassification ---------------------------------------------------------------------------


@pytest.mark.parametrize("make", [tiny.tokenizer, tiny.bos_tokenizer])
def test_a_classifiers_score_is_read_at_the_last_token_of_the_text(tmp_path, make):
    tokenizer = make()
    idle = tokenizer.convert_tokens_to_ids("<|endoftext|>" if make is tiny.tokenizer else "<|end|>")
    model = RewardModel.load(foreign(tmp_path / "in", make, pad_id=idle))
    assert (model.template, model.read, model.outputs) == ("own", "last", ("reward",))
    for talk in TALKS:
        text = tokenizer.apply_chat_template(talk, tokenize=False)
        # As both model cards' ways give it: one BOS, and the line break behind ChatML's end.
        assert ids_of(model, talk) == tokenizer(text, add_special_tokens=False)["input_ids"]
    if make is tiny.tokenizer:  # Not where scores of our own training are read.
        at_the_turn = dataclasses.replace(model, read="end_of_turn")
        assert np.abs(rewards(at_the_turn) - rewards(model)).min() > 1e-3


def test_pad_tokens_at_the_end_are_passed_over_as_transformers_does(tmp_path):
    # Llama 3's tokenizer, with a pad that ends each turn: the score is then read before it.
    pad = tiny.bos_tokenizer().convert_tokens_to_ids("<|eot|>")
    model = RewardModel.load(foreign(tmp_path / "in", tiny.bos_tokenizer, pad_id=pad))
    for talk in TALKS:
        whole = tiny.bos_tokenizer().apply_chat_template(talk, return_dict=False)
        assert whole[-1] == pad
        assert ids_of(model, talk) == whole[:-1]
    # Where config.json names no pad, nothing is passed over, whatever the tokenizer says.
    model = RewardModel.load(foreign(tmp_path / "none", tiny.bos_tokenizer, pad_id=None))
    assert ids_of(model, TALKS[0])[-1] == pad


def test_a_response_of_pads_alone_is_still_read_at_a_token_of_its_own():
    tokenizer = tiny.bos_tokenizer()
    tokenizer.pad_token = "<|eot|>"
    tokenizer.chat_template = tiny.LLAMA.replace(" | trim", ".split('=')[-1]")
    (encoded,) = chat.encode(tokenizer, [ask("a=", "b=")], "last")
    assert [len(response) for response in encoded.responses] == [1, 1]
    assert tokenizer.decode(wholes(encoded)[0]).endswith("assistant<|header_end|>\n\n")


@pytest.mark.parametrize(
    ("pad", "make"),
    [("<|eot|>", tiny.bos_tokenizer), ("<|end|>", tiny.bos_tokenizer), (None, tiny.tokenizer)],
)
def test_going_on_from_it_keeps_how_it_is_read(tmp_path, pad, make):
    pad_id = None if pad is None else make().convert_tokens_to_ids(pad)
    model = RewardModel.load(foreign(tmp_path / "in", make, pad_id=pad_id))
    expected = rewards(model)
    for number in range(2):
        model.save(tmp_path / str(number))
        model = RewardModel.load(tmp_path / str(number))
        assert (model.template, model.read) == ("own", "last")
        np.testing.assert_array_equal(rewards(model), expected)
        if pad:
            assert model.tokenizer.pad_token == pad
    assert json.loads((tmp_path / "0" / "config.json").read_text())["hs2jax"]["read"] == "last"
    if pad is None:  # One was chosen, and it is not the last token of a text.
        assert model.tokenizer.pad_token is not None
        assert ids_of(model, TALKS[0])[-1] != model.tokenizer.pad_token_id


def test_several_outputs_and_given_names_stay(tmp_path):
    assert hub.load(foreign(tmp_path / "one", outputs=("quality",))).outputs == ("quality",)
    two = ("LABEL_0", "LABEL_1")
    model = RewardModel.load(foreign(tmp_path / "two", outputs=two))
    assert model.outputs == two
    assert [score.reward for score in model.score(TALKS)] == [None] * 3
    assert list(model.score(TALKS)[0].outputs) == list(two)


# Row 0 of lm_head ---------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_row_0_of_lm_head_is_a_head(tmp_path, tied):
    folder = foreign(tmp_path / NEMOTRON, tiny.bos_tokenizer, outputs=(), tied=tied)
    plain = hub.load(shutil.copytree(folder, tmp_path / "plain"))
    assert plain.head is None
    row = plain.params["embed" if tied else "lm_head"][:1].T
    for name in (folder, f"{tmp_path / 'plain'}#lm_head[0]"):
        loaded = hub.load(name)
        assert_same_bits(loaded.head, {"kernel": row})
        model = RewardModel.load(name)
        assert (model.outputs, model.template, model.read) == (("reward",), "own", "last")
        assert "lm_head" not in model.params["decoder"]
    expected = rewards(model)
    assert ids_of(model, TALKS[0])[-1] == model.tokenizer.convert_tokens_to_ids("<|eot|>")

    model.save(tmp_path / "out")
    convert(name, tmp_path / "converted")
    for folder in (tmp_path / "out", tmp_path / "converted"):
        again = RewardModel.load(folder)
        assert again.read == "last"
        np.testing.assert_array_equal(rewards(again), expected)


def test_what_has_no_such_row_is_refused(tmp_path):
    classifier = foreign(tmp_path / "classifier")
    with pytest.raises(ValueError, match="has a reward head of its own"):
        hub.load(f"{classifier}#lm_head[0]")
    model, tensors = hub.open_model(foreign(tmp_path / "model", outputs=(), tied=False))
    config, size = model.config, model.config.vocab_size
    for changes, said in (
        ({"final_logit_softcap": 30.0}, "final_logit_softcapping"),
        ({"vocab_size": size + 1}, r"no tensor lm_head\.weight of shape"),
    ):
        with pytest.raises(ValueError, match=said):
            reward_checkpoints.lm_head_row("x", tensors, dataclasses.replace(config, **changes))
    (tmp_path / "x.gguf").touch()
    with pytest.raises(ValueError, match="folder of safetensors only"):
        hub.load(f"{tmp_path / 'x.gguf'}#lm_head[0]")
