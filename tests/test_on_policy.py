"""What the sampler says of a token and what training says of it are the same number."""

import families
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
import tiny_policies
from families import ONE_OF_EACH, VARIANTS
from test_rollouts import ONE, rollout, settings

from hs2jax.alignment import rollouts
from hs2jax.data.chat import Encoded, prompt_ids
from hs2jax.data.conversations import group_conversations
from hs2jax.inference import response_log_probabilities
from hs2jax.language_model import LanguageModel
from hs2jax.models.next_token import Choice, draw
from hs2jax.models.sampler import Drawing, SampleRequest, keys, sample

PROMPTS = [[{"role": "user", "content": text}] for text in ("Hi", "Where do the birds go?")]


ALWAYS = ("Gemma 2", "Qwen2, window")  # Caps and windows; the others with LONG=1.


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=() if x in ALWAYS else pytest.mark.long) for x in ONE_OF_EACH]
)
def test_of_every_family_at_temperature_and_without(tmp_path, name):
    families.save(VARIANTS[name], families.build(VARIANTS[name]), tmp_path)
    tiny_models.chat_tokenizer().save_pretrained(tmp_path)
    model = LanguageModel.load(tmp_path)
    settings = {"temperature": 0.7, "max_new_tokens": 24}
    found = model.sample(PROMPTS, 3, tempered=True, **settings)
    prompts = prompt_ids(model.tokenizer, group_conversations(PROMPTS, prompts=True))
    encoded = [
        Encoded(ids, (one.tokens,), np.zeros(len(ids), bool))
        for ids, of in zip(prompts, found, strict=True)
        for one in of
    ]
    where = {"layout": "shared", "rows": None, "mesh": None, "dtype": model.dtype}
    same, own = (
        response_log_probabilities(
            model.params, encoded, model.config, temperature=temperature, **where
        )
        for temperature in (0.7, 1.0)
    )
    sampled = [one.log_probabilities for of in found for one in of]
    np.testing.assert_allclose(np.concatenate(sampled), np.concatenate(same), atol=2e-4)
    # The model's own are others, and what is said without `tempered`.
    assert np.abs(np.concatenate(sampled) - np.concatenate(own)).max() > 0.1
    again = model.sample(PROMPTS, 3, **settings)
    for one, x in zip([one for of in again for one in of], own, strict=True):
        np.testing.assert_allclose(one.log_probabilities, x, atol=2e-4)


@pytest.mark.parametrize(("temperature", "first"), [(0.5, -0.018150), (1.0, -0.126928)])
def test_by_hand(temperature, first):
    expected = np.array([first, first - 2 / temperature])
    choice, logits = Choice(tempered=True), jnp.asarray([[2.0, 0.0]] * 64)
    tokens, found = draw(keys(0, [0] * 64, range(64)), logits, choice, temperature, 1.0)
    assert set(np.asarray(tokens).tolist()) == {0, 1}
    np.testing.assert_allclose(found, expected[np.asarray(tokens)], atol=1e-6)


def test_a_sample_has_ended_where_any_end_stands_in_it_and_not_in_the_prompt():
    of, ends = tiny_policies.config(12), (3, 5)
    prompt, longest = np.array([3, 5, 3], np.int32), 8
    requests = [SampleRequest(0, key, longest) for key in keys(0, [0] * 96, range(96))]
    drawing = Drawing(tuple((end,) for end in ends), temperature=2.0)
    params = tiny_policies.parameters(of)["decoder"]
    found = sample(params, of, [prompt], requests, drawing)
    last = [one.tokens[-1] if one.finished else None for one in found]
    assert {3, 5, None} == set(last)
    for one in found:
        assert not set(one.tokens[:-1].tolist()) & set(ends)
        assert one.finished == (one.tokens[-1] in ends)
        assert one.finished or len(one.tokens) == longest  # And no end is added.
    # Ended by the one, by the other, cut and cut: a half is cut.
    four = [found[last.index(end)] for end in (*ends, None, None)]
    row = rollout([1.0] * 4, finished=[one.finished for one in four])
    assert rollouts.numbers([row], rollouts.weigh([row], ONE, settings()))["cut"] == 0.5
