"""Tokens are drawn as often as the model, temperature, top-k and top-p say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from hs2jax.models import cache, next_token, sampler
from hs2jax.models.next_token import Choice, among_highest, draw

DRAWS = 20_000
VOCABULARY = 300  # More than one row of the table that sums run over, and no whole one.
TEMPERATURE = 0.7


def random_logits(seed=0, vocabulary=VOCABULARY):
    return np.random.default_rng(seed).normal(0, 2, vocabulary).astype(np.float32)


def expected(logits, choice: Choice, temperature, top_p) -> np.ndarray:
    """Probabilities by sorting, as the definitions say."""
    logits = logits / temperature
    if choice.top_k:
        logits = np.where(logits >= np.sort(logits)[-choice.top_k], logits, -np.inf)
    probabilities = scipy.special.softmax(logits.astype(np.float64))
    if choice.nucleus:
        order = np.lexsort([-np.arange(len(logits)), -probabilities])  # Ties: higher ids first.
        before = np.cumsum(probabilities[order]) - probabilities[order]
        probabilities[order[before >= top_p]] = 0
    return probabilities / probabilities.sum()


def assert_drawn_from(tokens, probabilities):
    """A chi-square test, of tokens that are expected at least five times, and the others as one."""
    counts = np.bincount(tokens, minlength=len(probabilities))
    assert counts[probabilities == 0].sum() == 0
    wanted = probabilities * len(tokens)
    often = wanted >= 5
    assert often.sum() >= 5
    found = [*counts[often], counts[~often].sum()]
    wanted = [*wanted[often], wanted[~often].sum()]
    if wanted[-1] == 0:
        found, wanted = found[:-1], wanted[:-1]
    assert scipy.stats.chisquare(found, wanted).pvalue > 1e-3


CHOICES = {
    "plain": (Choice(), 1.0),
    "top-p": (Choice(nucleus=True), 0.8),
    "top-k": (Choice(top_k=20), 1.0),
    "top-k, then top-p": (Choice(top_k=20, nucleus=True), 0.8),
}


@pytest.mark.parametrize("name", CHOICES)
def test_frequencies_are_the_probabilities(name):
    choice, top_p = CHOICES[name]
    logits = random_logits()
    keys = jax.random.split(jax.random.key(1), DRAWS)
    rows = jnp.broadcast_to(logits, (DRAWS, VOCABULARY))
    run = jax.jit(draw, static_argnums=2)
    tokens, found = run(keys, rows, choice, TEMPERATURE, top_p)
    assert_drawn_from(np.asarray(tokens), expected(logits, choice, TEMPERATURE, top_p))
    # Of the model itself, at temperature 1 and with nothing cut off.
    np.testing.assert_allclose(found, scipy.special.log_softmax(logits)[tokens], atol=1e-5)
    # A row's token is its own: of those with these keys only, the same are drawn.
    few, _ = run(keys[7:10], rows[7:10], choice, TEMPERATURE, top_p)
    assert few.tolist() == tokens[7:10].tolist()
    with pytest.raises(AssertionError):  # Else the test above would pass with anything.
        assert_drawn_from(np.asarray(tokens), expected(logits, choice, 0.8, top_p))


def test_the_likeliest_is_kept_however_little_is_asked_for():
    logits = np.stack([random_logits(seed) for seed in range(50)])
    keys = jax.random.split(jax.random.key(0), 50)
    best = logits.argmax(axis=1)
    for choice, top_p in (
        (Choice(nucleus=True), 1e-6),
        (Choice(top_k=1), 1.0),
        (Choice(greedy=True), 1.0),
    ):
        tokens, found = draw(keys, jnp.asarray(logits), choice, TEMPERATURE, top_p)
        assert tokens.tolist() == best.tolist()
        np.testing.assert_allclose(
            found, scipy.special.log_softmax(logits, axis=1).max(axis=1), atol=1e-5
        )


def test_of_equally_likely_tokens_as_many_stay_as_top_p_asks_for():
    keys = jax.random.split(jax.random.key(0), 1000)
    logits = jnp.zeros((1000, 4))
    tokens, _ = draw(keys, logits, Choice(nucleus=True), 1.0, 0.5)
    assert set(tokens.tolist()) == {2, 3}
    tokens, _ = draw(keys, logits, Choice(top_k=2), 1.0, 1.0)
    assert set(tokens.tolist()) == {0, 1, 2, 3}  # All are as likely as the second.
    assert draw(keys[:1], logits[:1], Choice(greedy=True), 1.0, 1.0)[0].tolist() == [0]


@settings(max_examples=30)
@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=6, max_size=6), min_size=2, max_size=2),
    st.integers(1, 8),
    st.sampled_from([1.0, 1e-30, 1e30]),
)
def test_the_highest_are_those_not_below_the_last_of_them(rows, count, scale):
    rows = np.asarray(rows, np.float32) * np.float32(scale)
    rows[rows == 0] = 0  # There is no minus zero among them.
    least = np.sort(rows, axis=1)[:, -min(count, 6)]
    found = among_highest(jnp.asarray(rows), count)
    assert found.tolist() == (rows >= least[:, None]).tolist()


def test_what_weighs_nothing_is_never_drawn():
    # Where one token's part of the whole ends and another's begins, sums are rounded either way.
    generator = np.random.default_rng(0)
    weights = np.zeros((5, next_token.COLUMNS), np.float32)
    there = generator.choice(weights.size, 40, replace=False)
    weights.flat[there] = generator.uniform(1e-6, 1, len(there))
    sums = np.cumsum(weights.T.astype(np.float64))
    ends = np.float32(sums[weights.T.ravel() > 0][:-1] / sums[-1])
    near = [(ends.view(np.int32) + np.int32(step)).view(np.float32) for step in range(-3, 4)]
    chance = np.concatenate(near)
    table = jnp.broadcast_to(weights, (len(chance), *weights.shape))
    drawn = np.asarray(next_token._by_weight(jnp.asarray(chance), table))
    assert (weights.flat[drawn] > 0).all()


def test_a_row_that_is_no_number_holds_up_none():
    logits = np.stack([random_logits(), np.full(VOCABULARY, np.nan, np.float32)])
    keys = jax.random.split(jax.random.key(0), 2)
    alone, both = (
        draw(keys[:rows], jnp.asarray(logits[:rows]), Choice(nucleus=True), TEMPERATURE, 0.9)
        for rows in (1, 2)
    )
    assert int(both[0][0]) == int(alone[0][0])
    assert np.isnan(both[1][1])


def test_keys_differ_by_seed_prompt_and_sample_only():
    keys = sampler.keys(3, [0, 0, 1, 1], [0, 1, 0, 1])
    assert len({tuple(key) for key in keys}) == 4
    assert sampler.keys(3, [1], [0]).tolist() == [keys[2].tolist()]
    assert sampler.keys(4, [1], [0]).tolist() != [keys[2].tolist()]


def test_a_prompt_lies_once_where_all_its_samples_are_in_the_rows():
    uses = {0: 4, 7: 4}
    assert sampler.together(uses, 8, None) == 4
    assert sampler.together(uses, 6, None) == sampler.together({0: 4, 7: 3}, 7, None) == 1


def test_lengths_come_in_few_sizes():
    lengths = [cache.bucket(length) for length in range(1, 3000)]
    assert all(of >= length for length, of in enumerate(lengths, start=1))
    assert all(of <= max(64, length * 3 / 2) for length, of in enumerate(lengths, start=1))
    assert sorted(set(lengths)) == [64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072]
