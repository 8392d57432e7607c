"""Samples of a language model: the same however they are computed, and as likely as it says."""

import functools

import numpy as np
import pytest
import tiny_models
from test_language_model import next_tokens, tiny_model

from hs2jax.data import chat
from hs2jax.data.groups import Group
from hs2jax.language_model import LanguageModel
from hs2jax.models import sampler, sharding
from hs2jax.models.config import FULL, SLIDING

MODEL = tiny_model()
QUESTIONS = ("Where is Paris?", "How do I bake bread, and how long does it take?", "Hi", "Why?")
PROMPTS = [[{"role": "user", "content": question}] for question in QUESTIONS]
N = 3
LONGEST = 90  # More than the loop takes without a look of the host.
ASKED = {"helpfulness": 4, "verbosity": 1}


def sampled(model=MODEL, prompts=PROMPTS, n=N, condition=ASKED, max_new_tokens=LONGEST, **settings):
    return model.sample(prompts, n, condition=condition, max_new_tokens=max_new_tokens, **settings)


@functools.cache
def plain():
    found = sampled()
    lengths = [len(one.tokens) for of in found for one in of]
    # So that rows are left by some and kept by others.
    assert LONGEST > sampler.STEPS > min(lengths)
    assert max(lengths) == LONGEST
    return found


def pairs(found, others):
    """What stands at the same place of two lists of lists."""
    for of, those in zip(found, others, strict=True):
        yield from zip(of, those, strict=True)


def same(found, expected):
    for one, other in pairs(found, expected):
        assert one.text == other.text
        assert one.tokens.tolist() == other.tokens.tolist()
        assert one.finished == other.finished
        np.testing.assert_allclose(one.log_probabilities, other.log_probabilities, atol=1e-4)


def as_groups(found: list[list[sampler.Completion]], condition=ASKED) -> list[Group]:
    groups = []
    for prompt, of in zip(PROMPTS, found, strict=True):
        texts = tuple(one.text.strip() or "-" for one in of)
        tokens = tuple(tuple(one.tokens.tolist()) for one in of)
        groups.append(Group(tuple(prompt), texts, condition=condition, tokens=tokens))
    return groups


def test_samples_depend_on_seed_and_number_only():
    assert MODEL.sample([]) == []
    same(sampled(rows=5), plain())
    # In parts, in another order, and fewer of each: five rows again, so that nothing is compiled.
    second = sampled(prompts=PROMPTS[2:], n=1, first=2, rows=5)
    same(second, [of[:1] for of in plain()[2:]])
    other = sampled(seed=1, rows=5)
    texts = [one.text for found in (other, plain()) for of in found for one in of]
    texts = [text for text in texts if len(text) > 5]
    assert len(set(texts)) == len(texts) > N * len(PROMPTS)


def test_log_probabilities_are_those_of_the_scorer():
    # Of the sampled tokens, that is, which are not those of their texts read again.
    again = chat.encode(MODEL.tokenizer, as_groups(plain()), policy=True)
    scored = MODEL.log_probability_groups(as_groups(plain()))
    for one, ids in pairs(plain(), [one.responses for one in again]):
        assert one.tokens.tolist() == ids.tolist()
    for one, table in pairs(plain(), scored):
        assert table.shape == one.tokens.shape
        np.testing.assert_allclose(one.log_probabilities, table, atol=1e-4)
    # And the condition is part of what they are given.
    without = MODEL.log_probability_groups(as_groups(plain(), {}))
    assert np.abs(without[0][0] - scored[0][0]).max() > 1e-2


@pytest.mark.parametrize(
    ("types", "changes"),
    [
        ((SLIDING, FULL, SLIDING), {"attn_logit_softcap": 5.0, "final_logit_softcap": 3.0}),
        ((SLIDING, SLIDING, FULL), {"rope_local_base": 100.0, "tied": False}),
    ],
    ids=["windows, caps", "two ropes, untied"],
)
def test_the_cache_sees_what_the_scorer_sees(types, changes):
    model = tiny_model(sliding_window=8, layer_types=types, **changes)
    found = sampled(model, max_new_tokens=30, n=2, temperature=0.7)
    scored = model.log_probability_groups(as_groups(found))
    for one, table in pairs(found, scored):
        np.testing.assert_allclose(one.log_probabilities, table, atol=1e-4)


def test_at_temperature_0_each_token_is_the_likeliest():
    found = sampled(max_new_tokens=20, temperature=0, n=2)
    (of, *_) = found
    assert of[0].tokens.tolist() == of[1].tokens.tolist()
    group = Group(tuple(PROMPTS[0]), ("-",), condition=ASKED)
    ids = [*chat.prompt_ids(MODEL.tokenizer, [group])[0], *of[0].tokens]
    table = next_tokens(MODEL, ids)
    before = np.arange(len(ids) - len(of[0].tokens) - 1, len(ids) - 1)
    assert of[0].tokens.tolist() == table[before].argmax(axis=1).tolist()
    np.testing.assert_allclose(of[0].log_probabilities, table[before].max(axis=1), atol=1e-4)


def test_an_end_of_turn_ends_a_sample_and_is_no_text():
    every = [one for of in plain() for one in of]
    assert {one.finished for one in every} == {True, False}
    for one in every:
        said = one.tokens[:-1] if one.finished else one.tokens
        ids = [*said, MODEL.tokenizer.eos_token_id] if one.finished else said
        assert one.tokens.tolist() == list(ids)
        assert one.finished or len(said) == LONGEST
        assert MODEL.tokenizer.eos_token_id not in said
        assert one.text == MODEL.tokenizer.decode(said)


def test_an_end_of_several_tokens_ends_a_sample():
    # Such as NeMo's marker of the next turn, where the tokenizer has no token for it.
    prompt = chat.prompt_ids(MODEL.tokenizer, as_groups(plain())[:1])
    job = sampler.SampleRequest(0, sampler.keys(0, [0], [0])[0], LONGEST)
    free = plain()[0][0].tokens
    end = tuple(free[4:7].tolist())
    drawing = sampler.Drawing((end,))
    (found,) = sampler.sample(MODEL.params, MODEL.config, prompt, [job], drawing)
    assert found.finished
    assert found.tokens.tolist() == free[:7].tolist()


def test_samples_do_not_depend_on_the_devices():
    settings = {"top_p": 0.9, "max_new_tokens": 20}
    expected = sampled(**settings)
    for axes in ({"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}):
        same(sampled(tiny_model(sharding.make_mesh(**axes)), **settings), expected)


def test_a_saved_model_samples_the_same_in_its_template(tmp_path):
    bytes_only = tiny_models.chat_tokenizer()
    tiny_model(tokenizer=lambda: bytes_only).save(tmp_path / "model")
    model = LanguageModel.load(tmp_path / "model", template="steerlm")
    model.save(tmp_path / "again")
    again = LanguageModel.load(tmp_path / "again")
    assert {(of.template, of.read) for of in (model, again)} == {("steerlm", "last")}
    found, expected = (sampled(of, max_new_tokens=8, n=2) for of in (again, model))
    same(found, expected)
    own = LanguageModel.load(tmp_path / "model")
    assert (own.template, own.read) == ("own", "end_of_turn")
    assert sampled(own, max_new_tokens=8, n=2)[0][0].text != found[0][0].text


def test_where_positions_end_samples_do():
    ids = chat.prompt_ids(MODEL.tokenizer, [Group(tuple(PROMPTS[0]), ("-",))])[0]
    few = tiny_model(max_seq_len=len(ids) + 5)
    (found,) = sampled(few, PROMPTS[:1], condition=None)
    assert {len(one.tokens) for one in found if not one.finished} == {5}
    full = tiny_model(max_seq_len=len(ids))
    with pytest.raises(ValueError, match=rf"prompt 0: the prompt has {len(ids)} tokens and the"):
        sampled(full, PROMPTS[:1], condition=None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "n is 0; expected 1 or more"),
        ({"temperature": -0.1}, "temperature is -0.1; expected 0 or more"),
        ({"top_p": 0.0}, "top_p is 0.0; expected more than 0 and at most 1"),
        ({"seed": 2**31}, "seed is 2147483648; expected a whole number from 0"),
        ({"condition": {"helpfulness": 7}}, "condition.helpfulness: .*from 0 to 4, found 7"),
        ({"prompts": ["Hi"]}, "prompt 0: .*a list of messages"),
        ({"prompts": [[{"role": "assistant", "content": "Hi"}]]}, "prompt 0: .*by 'user'"),
    ],
    ids=str,
)
def test_what_cannot_be_is_said(settings, message):
    with pytest.raises(ValueError, match=message):
        sampled(**settings)
