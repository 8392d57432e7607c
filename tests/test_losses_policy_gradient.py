"""REINFORCE's and PPO's parts against numpy in double precision, and against exact gradients."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_losses import check_gradient

from hs2jax import losses

R, B, T = 8, 2, 6  # One size, so that each function is compiled once.
NUMBER = st.floats(-20, 20, width=32)
GROUPS = st.lists(st.sampled_from([-1, 0, 3, 40]), min_size=R, max_size=R)
TABLE = hnp.arrays(np.float64, (B, T), elements=st.floats(-5, 5, width=32))
MASK = hnp.arrays(bool, (B, T))
FORMS = [*losses.policy_gradient.BASELINES]
advantage = jax.jit(losses.group_advantage, static_argnames="kind")
generalized = jax.jit(losses.generalized_advantage)


def reference_advantage(rewards, groups, kind):
    found = np.zeros(R)
    for i, group in enumerate(groups):
        others = [r for j, (r, g) in enumerate(zip(rewards, groups, strict=True)) if g == group]
        if group < 0 or len(others) == 1:
            continue
        if kind == "leave_one_out":
            found[i] = rewards[i] - (sum(others) - rewards[i]) / (len(others) - 1)
        else:
            found[i] = (rewards[i] - np.mean(others)) / (np.std(others, ddof=1) + 1e-4)
    return found


@pytest.mark.parametrize("kind", FORMS)
@given(hnp.arrays(np.float64, R, elements=NUMBER), GROUPS)
def test_advantages_are_of_the_group(kind, rewards, groups):
    got = np.asarray(advantage(rewards, np.asarray(groups), kind=kind))
    expected = reference_advantage(rewards, groups, kind)
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-4)
    # Whatever stands in empty slots, and however the groups are numbered and laid.
    other = np.where(np.asarray(groups) < 0, np.nan, rewards)[::-1]
    again = advantage(other, np.asarray(groups)[::-1].copy() * 2 + 1, kind=kind)
    filled = np.asarray(groups) >= 0
    np.testing.assert_allclose(np.asarray(again)[::-1][filled], got[filled], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", FORMS)
@given(NUMBER, st.integers(2, R))
def test_equal_rewards_have_no_advantage_to_the_last_bit(kind, reward, k):
    groups = np.where(np.arange(R) < k, 0, -1)
    assert not np.asarray(advantage(np.full(R, reward), groups, kind=kind)).any()


def test_kl_estimates_by_hand_and_on_average():
    policy, reference = np.log([0.5]), np.log([0.25])
    by_hand = {"k1": 0.693147, "k2": 0.240227, "k3": 0.193147, "absolute": 0.693147}
    for kind, value in by_hand.items():
        np.testing.assert_allclose(losses.kl(policy, reference, kind=kind), value, atol=1e-6)
    assert 1 - 0.1 * float(losses.kl(policy, reference)[0]) == pytest.approx(0.930685, abs=1e-6)
    # Over all tokens, with the policy's weights, k1 and k3 are the divergence, and k2 nearly.
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.4, 0.2])
    exact = (p * np.log(p / q)).sum()
    for kind, near in (("k1", 1e-6), ("k3", 1e-6), ("k2", 0.1 * exact)):
        mean = float((p * np.asarray(losses.kl(np.log(p), np.log(q), kind=kind))).sum())
        assert mean == pytest.approx(exact, abs=near)
    with pytest.raises(ValueError, match="kind is 'k4'"):
        losses.kl(policy, reference, kind="k4")


@given(TABLE, TABLE)
def test_the_surrogate_and_the_value_loss(x, y):
    near, ratio = {"rtol": 1e-4, "atol": 1e-5}, np.exp(x)
    expected = -np.minimum(ratio * y, np.clip(ratio, 0.8, 1.2) * y)
    np.testing.assert_allclose(losses.clipped_surrogate(x, y, clip=0.2), expected, **near)
    np.testing.assert_allclose(losses.clipped_surrogate(x, y), -ratio * y, **near)
    old = np.zeros_like(x)
    held = np.clip(x, -0.2, 0.2)
    squares = np.maximum((x - y) ** 2, (held - y) ** 2) / 2
    np.testing.assert_allclose(losses.clipped_value(x, old, y, clip=0.2), squares, **near)


@pytest.mark.parametrize("clip", [0, -0.2, np.nan])
def test_a_clip_that_is_no_width_is_refused(clip):
    for loss, n in ((losses.clipped_surrogate, 2), (losses.clipped_value, 3)):
        with pytest.raises(ValueError, match=r"clip is .*must be more than 0"):
            loss(*[np.ones(3)] * n, clip=clip)


def test_gradients_of_the_surrogate_and_the_value_loss():
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 0.3, (B, T)), rng.normal(0, 1, (B, T))
    clip = lambda r: -np.minimum(np.exp(r) * y, np.clip(np.exp(r), 0.8, 1.2) * y)  # noqa: E731
    check_gradient(lambda r: losses.clipped_surrogate(r, y.astype("f4"), clip=0.2), clip, x)
    held = lambda v: np.maximum((v - y) ** 2, (np.clip(v, -0.2, 0.2) - y) ** 2) / 2  # noqa: E731
    old = np.zeros((B, T), np.float32)
    check_gradient(lambda v: losses.clipped_value(v, old, y.astype("f4"), clip=0.2), held, x)


@pytest.mark.parametrize("clip", [None, 0.2, 1e-3])
def test_at_ratio_1_ppo_is_the_policy_gradient(clip):
    rng = np.random.default_rng(1)
    log_policy, advantages = rng.normal(-2, 1, (B, T)), rng.normal(0, 1, (B, T))

    def surrogate(x):
        return losses.clipped_surrogate(x - log_policy, advantages, clip=clip).sum()

    got = jax.grad(surrogate)(log_policy.astype("f4"))
    # At the kink the minimum's two sides share the gradient alike.
    np.testing.assert_allclose(got, -advantages, rtol=1e-5)


def reference_generalized(rewards, values, mask, discount, decay):
    found = np.zeros(rewards.shape)
    for b in range(len(rewards)):
        value = gain = 0.0
        for t in np.flatnonzero(mask[b])[::-1]:
            gain = rewards[b, t] + discount * value - values[b, t] + discount * decay * gain
            value, found[b, t] = values[b, t], gain
    return found, np.where(mask, found + values, 0)


@given(TABLE, TABLE, MASK, st.sampled_from([1.0, 0.9]), st.sampled_from([0.0, 0.95, 1.0]))
def test_generalized_advantages(rewards, values, mask, discount, decay):
    settings = {"discount": discount, "decay": decay}
    hidden = [np.where(mask, x, np.nan) for x in (rewards, values)]
    got = generalized(*hidden, mask, **settings)
    for one, expected in zip(
        got, reference_generalized(rewards, values, mask, **settings), strict=True
    ):
        np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padding", [0, 100])
def test_generalized_advantages_by_hand_whatever_the_padding(padding):
    pad = [(0, 0), (0, padding)]
    rewards = np.pad([[0.0, 0, 1]], pad, constant_values=9)
    values, mask = np.pad([[0.2, 0.4, 0.6]], pad), np.pad([[True] * 3], pad)
    got, returns = losses.generalized_advantage(rewards, values, mask, discount=1.0, decay=0.95)
    np.testing.assert_allclose(got[0, :3], [0.751, 0.58, 0.4], atol=1e-6)
    np.testing.assert_allclose(returns[0, :3], [0.951, 0.98, 1], atol=1e-6)
    assert not got[0, 3:].any()


def test_whitening_knows_only_what_is_in_the_mask():
    padded, mask = np.array([1.0, 3, 0, 0, 0, 0]), np.arange(6) < 2
    np.testing.assert_allclose(losses.whiten(padded, mask)[:2], [-1, 1])
    for one in (np.arange(6) < 1, np.zeros(6, bool), np.arange(6) > 1):  # One, none, equal ones.
        assert not np.asarray(losses.whiten(padded, one)).any()
    unknown = np.where(mask, padded, np.nan)
    np.testing.assert_allclose(losses.whiten(unknown, mask)[:2], [-1, 1])


# An enumerable policy: two tokens of three, the second's chances following from the first --------

SEQUENCES = list(itertools.product(range(3), repeat=2))


def log_policy(logits):
    """Log-probability of each sequence [9], of logits [4, 3]: the first token's, and the second's
    after each first one."""
    table = jax.nn.log_softmax(logits, axis=-1)
    return jnp.stack([table[0, a] + table[1 + a, b] for a, b in SEQUENCES])


def estimates(logits, rewards, k, baseline):
    """Each estimate of the gradient from k samples, [9^k, 4, 3], and its chance [9^k]."""
    samples = np.array(list(itertools.product(range(9), repeat=k)))
    chance = np.exp(np.asarray(log_policy(logits), np.float64))[samples].prod(axis=1)
    weight, groups = rewards[samples], np.repeat(np.arange(len(samples)), k)
    if baseline:
        weight = losses.group_advantage(weight.reshape(-1), groups).reshape(samples.shape)
    score = np.asarray(jax.jacobian(log_policy)(logits))  # [9, 4, 3]
    return np.einsum("sk,skij->sij", weight, score[samples]) / k, chance


@pytest.mark.parametrize("around", [0.0, 5.0])
def test_reinforce_is_on_average_the_exact_gradient_whatever_the_baseline(around):
    rng = np.random.default_rng(2)
    logits = jnp.asarray(rng.normal(0, 1, (4, 3)), jnp.float32)
    rewards = rng.normal(around, 1, 9).astype(np.float32)
    exact = jax.grad(lambda x: jnp.sum(jnp.exp(log_policy(x)) * rewards))(logits)
    variance = {}
    for baseline in (True, False):
        found, chance = estimates(logits, rewards, 3, baseline)
        mean = np.einsum("s,sij->ij", chance, found)
        np.testing.assert_allclose(mean, exact, atol=1e-5)
        variance[baseline] = float(chance @ np.square(found - mean).sum(axis=(1, 2)))
    if around:  # Rewards far from zero: the baseline takes nearly all of the variance away.
        assert variance[True] < variance[False] / 10
    else:  # About zero there is little to take, and the others' mean adds its own noise.
        assert variance[False] < variance[True] < 2 * variance[False]
