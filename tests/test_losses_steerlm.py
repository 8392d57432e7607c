"""P(a|x,y) against SciPy in double precision; the weights of SteerLM 2.0 against the formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tiny_policies import softmax

from hs2jax import losses

EDGES = np.asarray([0, 1, 3, 5, 7, 8]) / 8
LEVELS = np.arange(5.0)
R = 12  # One size, so that each function is compiled once.
attribute_log_probability = jax.jit(losses.attribute_log_probability)
weights, distance = jax.jit(losses.steerlm2_weights), jax.jit(losses.steerlm2_distance)
effective = jax.jit(losses.effective_sample_size)


def reference_attribute(predicted, level):
    """From whichever tail holds less, so that nothing cancels."""
    p = np.clip(predicted / 4, 1e-3, 1 - 1e-3)
    beta, cell = stats.beta(24 * p, 24 * (1 - p)), level.astype(int)
    low, high = EDGES[cell], EDGES[cell + 1]
    below, above = beta.cdf(high) - beta.cdf(low), beta.sf(low) - beta.sf(high)
    return np.log(np.maximum(np.where(p < (low + high) / 2, above, below), 1e-12))


@given(st.lists(st.floats(-1, 5, width=32), min_size=40, max_size=40))
def test_levels_have_what_the_beta_distribution_gives_their_cells(ratings):
    predicted = np.repeat(np.asarray(ratings)[:, None], 5, axis=1)
    levels = np.broadcast_to(LEVELS, predicted.shape)
    got = np.asarray(attribute_log_probability(predicted, levels))
    # A probability next to the floor is on either side of it.
    np.testing.assert_allclose(
        got, reference_attribute(predicted, levels), rtol=0, atol=1e-4, err_msg=str(ratings)
    )
    np.testing.assert_allclose(np.exp(got).sum(axis=-1), 1, rtol=1e-5)
    mirrored = attribute_log_probability(4 - predicted, 4 - levels)
    np.testing.assert_allclose(got, mirrored, rtol=0, atol=2e-4)


def test_what_is_no_rating_or_no_level_gives_nan_and_nothing_is_impossible():
    predicted = np.asarray([np.nan, 3.0, 3.0, 3.0, np.inf, -7.0])
    levels = np.asarray([3.0, 2.5, -1.0, 5.0, 4.0, 4.0])
    got = np.asarray(attribute_log_probability(predicted, levels))
    assert np.isnan(got).tolist() == [True] * 4 + [False] * 2
    # What is past the ends counts as the ends.
    np.testing.assert_allclose(got[4:], [0, np.log(1e-12)], rtol=1e-5, atol=0.01)


NATS = st.floats(-200, 0, width=32)
SLOTS = st.fixed_dictionaries(
    {
        "terms": st.lists(st.tuples(NATS, NATS, NATS, NATS), min_size=R, max_size=R),
        # Numbers of the batch's groups, of which these slots hold a few, in any order.
        "group_ids": st.lists(st.sampled_from([-1, 0, 3, 40]), min_size=R, max_size=R),
    }
)


def arrays(slots):
    terms = np.asarray(slots["terms"], np.float64).T
    group = np.asarray(slots["group_ids"], np.int32)
    # What stands in empty slots means nothing.
    return [np.where(group < 0, np.nan, term) for term in terms], group


def members(group):
    return [np.flatnonzero(group == number) for number in set(group.tolist()) - {-1}]


@given(SLOTS)
def test_weights_are_the_formula_s_in_each_group(slots):
    (attribute, prior, proposal, policy), group = arrays(slots)
    target, baseline = map(np.asarray, weights(attribute, prior, proposal, policy, group))
    far, size = np.asarray(distance(target, baseline, group)), np.asarray(effective(target, group))
    for found in (target, baseline, far, size):
        assert (found[group < 0] == 0).all()
    for some in members(group):
        expected = softmax((attribute + prior - proposal)[some])
        np.testing.assert_allclose(target[some], expected, rtol=1e-4, atol=1e-7)
        now = softmax((policy - proposal)[some])
        np.testing.assert_allclose(baseline[some], now, rtol=1e-4, atol=1e-7)
        likely = expected > 1e-30
        logs = np.log(expected[likely]) - np.maximum(np.log(now[likely]), np.log(2.0**-126))
        np.testing.assert_allclose(far[some].sum(), expected[likely] @ logs, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(size[some], 1 / np.square(expected).sum(), rtol=1e-4)
        assert 1 - 1e-4 <= size[some][0] <= len(some) * (1 + 1e-4)


@given(slots=SLOTS, change=st.lists(NATS, min_size=4, max_size=4), seed=st.integers(0, 99))
def test_weights_know_neither_levels_nor_order(slots, change, seed):
    terms, group = arrays(slots)
    shifted = [np.where(group == 3, term + c, term) for term, c in zip(terms, change, strict=True)]
    order = np.random.default_rng(seed).permutation(R)
    for expected, level, moved in zip(
        weights(*terms, group),
        weights(*shifted, group),
        weights(*(term[order] for term in terms), group[order]),
        strict=True,
    ):
        np.testing.assert_allclose(level, expected, rtol=2e-4, atol=1e-7)
        np.testing.assert_allclose(moved, expected[order], rtol=1e-5, atol=1e-7)


@given(SLOTS)
def test_the_gradient_of_the_distance_is_the_difference_of_the_weights(slots):
    """d KL(w'||b') / d log Q(y_i) = -(w'_i - b'_i), which is all that SteerLM 2.0 needs."""
    terms, group = arrays(slots)
    # Within 20 nats, where b' is a normal number.
    terms = [jnp.asarray(np.nan_to_num(term) / 10, jnp.float32) for term in terms]
    target, baseline = weights(*terms, group)
    np.testing.assert_allclose(gradient_of_distance(terms, group), baseline - target, atol=1e-5)


@jax.jit
def gradient_of_distance(terms, group):
    def far(policy):
        target, baseline = losses.steerlm2_weights(*terms[:3], policy, group)
        return losses.steerlm2_distance(jax.lax.stop_gradient(target), baseline, group).sum()

    return jax.grad(far)(terms[3])


def test_shapes_are_not_broadcast():
    flat, column, group = np.zeros(3), np.zeros((3, 1)), np.zeros(3, np.int32)
    with pytest.raises(ValueError, match="shapes must be equal"):
        losses.attribute_log_probability(column, flat)
    with pytest.raises(ValueError, match=r"shapes must be equal.*'log_prior': \(3, 1\)"):
        losses.steerlm2_weights(flat, column, flat, flat, group)
    with pytest.raises(ValueError, match="one axis"):
        losses.sum_of_group(column, column)


@pytest.mark.parametrize(
    ("best", "samples", "warned"), [(30.0, 4, True), (0.0, 4, False), (4.0, 16, True)]
)
def test_collapsed_weights_are_warned_of(best, samples, warned):
    """One response that is better than all the others by so many nats."""
    columns = np.zeros((samples, 3), np.float32)
    columns[0, 0] = best
    said = losses.steerlm.collapse([columns] * 3)
    assert bool(said) == warned
    assert not said or "collapsed" in said[0]
