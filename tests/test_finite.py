"""Numbers that are not finite: named where they appear first, never kept, and no neighbour's."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax.traverse_util import flatten_dict, unflatten_dict

from hs2jax.data import loader, packing
from hs2jax.data.conversations import group_conversations
from hs2jax.data.groups import Group
from hs2jax.judging import criteria
from hs2jax.judging.judge import Judge, requests_of
from hs2jax.judging.prompts import Request
from hs2jax.language_model import LanguageModel
from hs2jax.models import sharding
from hs2jax.models.hf import hub
from hs2jax.reward_model import RewardModel

BAD = "~"  # Of one token, which no other text here has.
TALKS = [
    tiny.talk("Is bread good?", "Yes."),
    tiny.talk("Is bread good?", f"No {BAD} it is not."),
    tiny.talk("Is bread good?", "Nobody knows."),
    tiny.talk(f"What is {BAD}?", "A wave."),
    tiny.talk("Who are you?", "One who answers."),
]
HEALTHY = [0, 2, 4]


def poisoned(params, how: str):
    """Parameters of a decoder that make `BAD`, or what is no text at all, not finite."""
    if how == "embedding":
        (bad,) = tiny.tokenizer()(BAD)["input_ids"]
        return params | {"embed": params["embed"].at[bad].set(np.nan)}
    if how == "padding":
        return params | {"embed": params["embed"].at[0].set(np.inf)}
    return tiny.overflowing(params, BAD, 3e38 if how == "values" else 0)


REWARD = tiny.reward_model(max_seq_len=2048)


def model(how: str, kind=RewardModel, **changes):
    """A model of a kind with something wrong, and the same one with nothing wrong."""
    both = []
    for each in (how, "nothing"):
        decoder = REWARD.params["decoder"]
        if each != "nothing" or how == "values":
            decoder = poisoned(decoder, each)
        if kind is LanguageModel:
            # Output weights of its own, since a bad one is part of every probability.
            params = {**decoder, "lm_head": REWARD.params["decoder"]["embed"]}
            config = dataclasses.replace(REWARD.config, tied=False)
            both.append(LanguageModel(config, params, REWARD.tokenizer, **changes))
        else:
            params = REWARD.params | {"decoder": decoder}
            both.append(dataclasses.replace(REWARD, params=params, **changes))
    return both


def assert_no_neighbour_changed(found, expected, how: str) -> None:
    """By conversation: `HEALTHY` ones are equal to the bit, the others are not finite."""
    for i, (one, other) in enumerate(zip(found, expected, strict=True)):
        if i in HEALTHY or how == "padding":
            np.testing.assert_array_equal(one, other)
        assert np.isfinite(other).all()
        assert np.isfinite(one).all() == (i in HEALTHY or how == "padding")


# Neighbours ---------------------------------------------------------------------------------------

HOW = pytest.mark.parametrize("how", ["embedding", "values", "padding"])


@HOW
@pytest.mark.parametrize(
    ("layout", "dtype"),
    [*((layout, jnp.float32) for layout in packing.LAYOUTS), ("shared", jnp.bfloat16)],
)
def test_scores_of_neighbours_in_a_row_are_equal_to_the_bit(layout, dtype, how):
    groups = group_conversations(TALKS)
    found, expected = (
        np.concatenate(each.score_groups(groups, layout=layout, rows=2))
        for each in model(how, dtype=dtype)
    )
    assert_no_neighbour_changed(found, expected, how)


@HOW
def test_likelihoods_readings_and_samples_of_neighbours_are_too(how):
    both = model(how, LanguageModel)
    found, expected = ([one.tokens for one in each.log_probability(TALKS)] for each in both)
    assert_no_neighbour_changed(found, expected, how)
    (criterion,) = criteria.load("helpsteer")[:1]
    requests = [r for g in group_conversations(TALKS) for r in requests_of(g, [criterion])]
    found, expected = ([one.logits for one in Judge(each).ask(requests)] for each in both)
    assert_no_neighbour_changed(found, expected, how)
    # One row, in which what is sampled later lies over what was sampled before.
    prompts = [talk[:1] for talk in (TALKS[3], TALKS[4], TALKS[0])]
    found, expected = (each.sample(prompts, rows=1, max_new_tokens=9) for each in both)
    for one, other in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_array_equal(one[0].tokens, other[0].tokens)
        np.testing.assert_array_equal(one[0].log_probabilities, other[0].log_probabilities)
    assert np.isfinite(found[0][0].log_probabilities).all() == (how == "padding")


# Loading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "place", "name"),
    [
        ("decoder/embed", (5, 3), "model.embed_tokens.weight"),
        ("decoder/layers/mlp/down", (2, 0, 0), "model.layers.2.mlp.down_proj.weight"),
        ("decoder/norm", (0,), "model.norm.weight"),
        ("head/kernel", (1, 0), "score.weight"),
    ],
)
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_tensor_that_is_not_finite_is_named_as_it_is_loaded(tmp_path, path, place, name, value):
    flat = flatten_dict(REWARD.params, sep="/")
    flat[path] = flat[path].at[place].set(value)
    dataclasses.replace(REWARD, params=unflatten_dict(flat, sep="/")).save(tmp_path)
    for load in (RewardModel.load, lambda name: hub.load(name, sharding.make_mesh())):
        with pytest.raises(ValueError, match=rf"model\.safetensors: tensor {name} has 1 number"):
            load(tmp_path)


# Tokens without an embedding ----------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["score", "log_probability", "sample", "judge", "train"])
def test_a_token_outside_the_embedding_is_refused_at_its_row(verb):
    words, config = tiny.tokenizer(), REWARD.config
    words.add_tokens(["Paris"])
    likely = LanguageModel(config, REWARD.params["decoder"], words)

    def do(*questions):
        groups = [
            Group(tuple(tiny.talk(text, "1.")[:1]), ("1.",), source=f"file:{i}")
            for i, text in enumerate(questions, 1)
        ]
        match verb:
            case "score":
                dataclasses.replace(REWARD, tokenizer=words).score_groups(groups)
            case "log_probability":
                likely.log_probability_groups(groups)
            case "sample":
                likely.sample_groups(groups, max_new_tokens=2)
            case "judge":
                asked = [(g.prompt[0]["content"], ("?",), "", ("1", "2"), g.source) for g in groups]
                Judge(likely).ask([Request(*each) for each in asked])
            case "train":
                sizes = {"row_length": 99, "max_tokens": 99, "vocab_size": config.vocab_size}
                loader.prepare(groups, words, attributes=(), **sizes)

    do("Where is it?")
    said = r"file:2: token 320, 'Paris', .* has 320 rows, while the tokenizer has 321 tokens"
    with pytest.raises(ValueError, match=said):
        do("Where is it?", "Where is Paris?")
