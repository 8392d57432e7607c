"""Log-probabilities of a batch's tokens, and what policies minimise, against numpy."""

import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_policies
from tiny_policies import softmax

from hs2jax.data import chat, loader, packing
from hs2jax.data.groups import Group
from hs2jax.inference import token_log_probabilities
from hs2jax.language_model import LanguageModel
from hs2jax.training.objectives import Likelihood, SteerLM2

GROUPS = [
    Group(({"role": "user", "content": "What is the sea?"},), ("Waves.", "The waves come in.")),
    Group(
        (
            {"role": "user", "content": "Six times seven?"},
            {"role": "assistant", "content": "The answer is 42."},
            {"role": "user", "content": "Why?"},
        ),
        ("Because.",),
    ),
]


def of_responses(batch, tokens):
    """The numbers [B, T] of each response's tokens, in the order of the slots."""
    found = []
    for b, slot in zip(*np.nonzero(batch["group_ids"] >= 0), strict=True):
        ids = np.stack([batch["branch_ids"][b], batch["segment_ids"][b]])
        mine = (ids == ids[:, [batch["end_positions"][b, slot]]]).all(axis=0)
        found.append(np.asarray(tokens)[b, mine])
    return found


@pytest.mark.parametrize("layout", packing.LAYOUTS)
def test_token_log_probabilities_are_the_language_model_s(layout):
    of = tiny.config(final_logit_softcap=5.0, num_layers=2)
    model = LanguageModel(of, tiny.parameters(of), tiny.tokenizer())
    talks = [
        [*group.prompt, {"role": "assistant", "content": text}]
        for group in GROUPS
        for text in group.responses
    ]
    expected = model.log_probability(talks)
    encoded = chat.encode(model.tokenizer, GROUPS, policy=True)
    none = lambda one: np.zeros((len(one.responses), 0), np.float32)  # noqa: E731
    examples = [packing.Example(one, none(one), none(one) > 0, []) for one in encoded]
    batch = packing.lay([examples], packing.Shape(384, 3, 1, 0), layout)
    tokens = jax.jit(token_log_probabilities, static_argnames=("config", "layout", "dtype"))(
        {"decoder": model.params}, batch, config=of, layout=layout, dtype=jnp.float32
    )
    for found, one in zip(of_responses(batch, tokens), expected, strict=True):
        np.testing.assert_allclose(found, one.tokens, atol=1e-5)
    follows = batch["predictor_index"] >= 0
    assert (np.asarray(tokens)[~follows] == 0).all()
    assert (np.asarray(tokens)[follows] < 0).all()


def laid():
    """Two rows of groups of one to four responses, with rows and slots left empty, and numbers for
    each token. What stands where nothing is means nothing."""
    rng = np.random.default_rng(0)
    made = []
    for n in (3, 1, 4, 2):
        responses = [rng.integers(0, 20, rng.integers(1, 9)) for _ in range(n)]
        made.append(tiny_policies.example([1, 2, 3], responses, rng.normal(0, 2, (n, 3))))
    shape = packing.Shape(64, 8, 1, 3)
    batch = packing.lay([[made[0], made[1]], [made[2], made[3]], []], shape, "shared")
    batch["ratings"][batch["group_ids"] < 0] = np.nan
    return batch, rng.normal(-2, 1, batch["tokens"].shape).astype(np.float32)


def test_likelihood_is_the_mean_over_learned_tokens():
    batch, outputs = laid()
    batch["loss_mask"][0, 1] = True  # A token of a prompt.
    aim = Likelihood()
    outputs[~batch["loss_mask"]] = np.nan
    loss, metrics = aim.loss(outputs, batch, aim.counts(batch))
    np.testing.assert_allclose(loss, -np.mean(outputs[batch["loss_mask"]]), rtol=1e-6)
    assert metrics == {}
    # A part of a batch has its share.
    parts = [aim.loss(outputs[b : b + 1], rows(batch, b), aim.counts(batch))[0] for b in range(3)]
    np.testing.assert_allclose(sum(parts), loss, rtol=1e-6)


def rows(batch, b):
    return {name: x[b : b + 1] for name, x in batch.items()}


@pytest.mark.parametrize("normalize", [False, True])
def test_steerlm2_is_the_formula(normalize):
    batch, outputs = laid()
    aim = SteerLM2(normalize_tokens=normalize)
    counts = aim.counts(batch)
    assert counts == 4
    responses = of_responses(batch, outputs.astype(np.float64))
    places = list(zip(*np.nonzero(batch["group_ids"] >= 0), strict=True))
    terms = [batch["ratings"][place].astype(np.float64) for place in places]
    groups = [batch["group_ids"][place] for place in places]

    expected, slopes, at = collections.Counter(), {}, 0
    for _, members in itertools.groupby(groups):
        n = len(list(members))
        some = slice(at, at + n)
        at += n
        attribute, prior, proposal = np.stack(terms[some], axis=1)
        policy = np.asarray([tokens.sum() for tokens in responses[some]])
        lengths = np.asarray([len(tokens) for tokens in responses[some]])
        target, now = softmax(attribute + prior - proposal), softmax(policy - proposal)
        scale = 1 / lengths.mean() if normalize else 1.0
        distance, effective = target @ np.log(target / now), 1 / np.sum(target**2)
        for name, value in (
            ("loss", scale * distance),
            ("distance", distance),
            ("effective_sample_size", effective),
            ("effective_fraction", effective / n),
            ("weight_max", target.max()),
            ("log_likelihood", policy.sum() / lengths.sum()),
        ):
            expected[name] += value / 4
        slopes |= dict(zip(places[some], -scale * (target - now) / 4, strict=True))

    def loss_of(outputs):
        return aim.loss(outputs, batch, counts)

    (loss, metrics), gradient = jax.value_and_grad(loss_of, has_aux=True)(jnp.asarray(outputs))
    for name, value in (metrics | {"loss": loss}).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, err_msg=name)
    assert expected.keys() == metrics.keys() | {"loss"}
    # Each token of a response has its response's slope, and no other token has any.
    for place, tokens in zip(places, of_responses(batch, gradient), strict=True):
        np.testing.assert_allclose(tokens, slopes[place], rtol=1e-3, atol=1e-6)
    assert (np.asarray(gradient)[batch["branch_ids"] == 0] == 0).all()
    parts = [aim.loss(outputs[b : b + 1], rows(batch, b), counts)[0] for b in range(3)]
    np.testing.assert_allclose(sum(parts), loss, rtol=1e-5)


def test_a_policy_s_group_may_be_longer_than_a_row_but_no_response_of_it():
    def prepare(*responses, **changes):
        group = Group(({"role": "user", "content": "Why?"},), responses)
        options = {"attributes": (), "row_length": 64, "max_tokens": 500} | changes
        return len(loader.prepare([group], tiny.tokenizer(), **options).examples)

    some, long = ["The sea. " * 2] * 12, "The sea. " * 20
    assert prepare(*some) == 0
    assert prepare(*some, policy=True) == 1
    assert prepare(*some, long, policy=True) == 0
    assert prepare(*some, policy=True, row_length=500, max_tokens=20) == 0
