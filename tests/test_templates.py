"""The extra_id template: its text, where its score is read, and that it stays with a model."""

import json

import numpy as np
import pytest
import tiny
import tiny_models
from hypothesis import given
from hypothesis import strategies as st
from test_chat import TEXTS, ask, wholes
from transformers import AutoTokenizer

from hs2jax import configs
from hs2jax.data import chat, rows, templates
from hs2jax.data.groups import Group
from hs2jax.models.hf import hub
from hs2jax.reward_model import RewardModel
from hs2jax.training import tasks


def with_template(tokenizer):
    tokenizer.chat_template = templates.EXTRA_ID
    return tokenizer


CHATML = with_template(tiny.tokenizer())


def render(messages, **options) -> str:
    return CHATML.apply_chat_template(messages, tokenize=False, **options)


def test_the_text_is_nemos():
    talk = [*ask("x", prompt="Hi\n").prompt, {"role": "assistant", "content": " Yes. "}]
    system = "<extra_id_0>System\n" + templates.SYSTEM + "\n"
    assert render(talk) == (
        system + "<extra_id_1>User\nHi\n\n<extra_id_1>Assistant\n Yes. \n<extra_id_2>"
    )
    header = "<extra_id_1>User\nHi\n\n<extra_id_1>Assistant\n"
    assert render(talk[:1], add_generation_prompt=True) == system + header
    own = [{"role": "system", "content": "Be brief."}, *talk]
    assert render(own).startswith("<extra_id_0>System\nBe brief.\n<extra_id_1>User\nHi\n\n<")
    assert render(own).count("System") == 1


@given(st.lists(TEXTS, min_size=1, max_size=5).filter(lambda turns: len(turns) % 2))
def test_a_flat_helpsteer_prompt_is_its_turns(contents):
    flat = contents[0]
    for i, content in enumerate(contents[1:]):
        flat += f"\n<extra_id_1>{('Assistant', 'User')[i % 2]}\n{content}"
    turns = rows.marked_turns({"prompt": flat}, "prompt")
    assert [turn["content"] for turn in turns] == contents
    answer = {"role": "assistant", "content": "Yes."}
    assert render([*turns, answer]) == render([{"role": "user", "content": flat}, answer])


def test_a_turn_by_somebody_else_is_refused():
    talk = ({"role": "user", "content": "Hi"}, {"role": "tool", "content": "42"})
    with pytest.raises(Exception, match="turns are by user or assistant, not tool"):
        render(list(talk))


def test_an_unknown_place_to_read_is_refused():
    with pytest.raises(ValueError, match="'first'; it must be one of end_of_turn, last"):
        chat.encode(CHATML, [ask("Paris.")], "first")


# With a model -------------------------------------------------------------------------------------


def base_model(folder, tokenizer):
    """A language model whose tokenizer has no chat template."""
    tokenizer.chat_template = None
    sizes = {"max_seq_len": 4096, "vocab_size": len(tokenizer), "num_layers": 1}
    config = tiny.config(**sizes, tied=False)
    hub.save(folder, config=config, params=tiny.parameters(config), tokenizer=tokenizer)


TALKS = [
    [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": text}]
    for text in ("Paris.", "In Lyon, perhaps.", "Nice")
]


def numbers(scores):
    return np.array([list(score.outputs.values()) for score in scores])


def with_markers():
    """A tokenizer that has the markers, as Nemotron's has."""
    return tiny_models.chat_tokenizer(("<unk>", "<s>", "</s>", *templates.MARKERS))


# The others cut them into pieces, one behind a BOS.
@pytest.mark.parametrize("make", [tiny.tokenizer, tiny.bos_tokenizer, with_markers])
def test_a_base_model_is_used_with_extra_id_and_stays_so(tmp_path, make):
    base_model(tmp_path / "base", make())
    new = {"outputs": ("a", "b")}
    with pytest.raises(ValueError, match=r'no chat template.*"extra_id"'):
        RewardModel.load(tmp_path / "base", **new).score(TALKS)
    model = RewardModel.load(tmp_path / "base", **new, template="extra_id")
    assert "lm_head" not in model.params["decoder"]  # Which no reward needs.
    expected = numbers(model.score(TALKS))
    model.save(tmp_path / "reward")
    record = json.loads((tmp_path / "reward" / "config.json").read_text())["hs2jax"]
    assert (record["template_name"], record["read"]) == ("extra_id", "last")
    assert record["template"] == templates.EXTRA_ID
    again = RewardModel.load(tmp_path / "reward")
    assert (again.template, again.read) == ("extra_id", "last")
    assert again.tokenizer.chat_template == templates.EXTRA_ID
    np.testing.assert_array_equal(numbers(again.score(TALKS)), expected)

    exported = AutoTokenizer.from_pretrained(tmp_path / "reward")
    for talk, whole in zip(TALKS, conversations(model), strict=True):
        ids = exported.apply_chat_template(talk, return_dict=False)
        assert ids == whole
        assert ids[-1] != exported.pad_token_id
        assert exported.decode(ids).endswith(f"{talk[-1]['content']}\n<extra_id_2>")


def conversations(model):
    """The ids of TALKS as the model encodes them."""
    made = [Group(tuple(talk[:-1]), (talk[-1]["content"],)) for talk in TALKS]
    return [wholes(e)[0] for e in chat.encode(model.tokenizer, made, model.read)]


def test_another_template_than_the_recorded_one_can_be_asked_for(tmp_path):
    tiny.save(tmp_path / "reward")
    assert RewardModel.load(tmp_path / "reward").template == "own"
    model = RewardModel.load(tmp_path / "reward", template="extra_id")
    assert (model.template, model.read) == ("extra_id", "last")
    with pytest.raises(ValueError, match="no template 'chatml'; there are extra_id"):
        RewardModel.load(tmp_path / "reward", template="chatml")


def test_training_takes_it_from_its_config(tmp_path):
    base_model(tmp_path / "base", tiny.tokenizer())
    config = configs.defaults("train_reward_model")
    config.model.update(name=str(tmp_path / "base"), template="extra_id")
    config.data.train = "helpsteer2_preference:mini/preference.jsonl[:2]"
    model = tasks.make(config, None).model
    assert (model.template, model.read) == ("extra_id", "last")
