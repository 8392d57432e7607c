"""Learning from a reward of sampled responses: REINFORCE with a baseline from the group, and PPO.

Sources: leave-one-out baseline, Ahmadian et al. (arXiv 2402.14740), as HelpSteer2-Preference has
it; the group's normalisation, GRPO (arXiv 2402.03300); PPO (arXiv 1707.06347) and generalized
advantages (arXiv 1506.02438); estimators k1 to k3 of the KL divergence, Schulman (2020,
"Approximating KL divergence"). Of NeMo-Aligner's recipe its baseline is not here, which leaves out
samples that did not end and divides by one too few for them: whose samples count is decided before.

All compute in float32. Axis letters: R responses, of several groups in any order; B rows, T tokens.
"""

import jax
import jax.numpy as jnp

from hs2jax.losses.shapes import positive, same_shape
from hs2jax.losses.steerlm import max_of_group, sum_of_group

BASELINES = ("leave_one_out", "grpo")
KLS = ("k1", "k2", "k3", "absolute")
LEAST_DEVIATION = 1e-4  # Added to GRPO's standard deviation, as in TRL.


def leave_one_out(rewards, group_ids):
    """The mean reward [R] of the others of each response's group; its own where it is alone.

    rewards: [R], of what is maximised, so less the KL penalty. group_ids: int32 [R], -1 in an empty
    slot, which gives 0. Equal rewards are their own baseline to the last bit.
    """
    rewards, size, most = _group(rewards, group_ids)
    below = rewards - most  # Exactly 0 where all are equal.
    others = (sum_of_group(below, group_ids) - below) / jnp.maximum(size - 1, 1)
    return jnp.where(size > 1, most + others, rewards)


def group_advantage(rewards, group_ids, *, kind="leave_one_out"):
    """How much better each response is than its group [R]; 0 where it is alone, and in an empty
    slot. rewards, group_ids: as for `leave_one_out`.

        leave_one_out   r - mean of the others
        grpo            (r - mean) / (standard deviation + 1e-4), with k - 1 degrees of freedom
    """
    if kind not in BASELINES:
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(BASELINES)}")
    filled = jnp.asarray(group_ids) >= 0
    if kind == "leave_one_out":
        difference = jnp.asarray(rewards, jnp.float32) - leave_one_out(rewards, group_ids)
        return jnp.where(filled, difference, 0.0)
    rewards, size, most = _group(rewards, group_ids)
    below = rewards - most
    centred = below - sum_of_group(below, group_ids) / jnp.maximum(size, 1)
    squares = sum_of_group(jnp.square(centred), group_ids)
    deviation = jnp.sqrt(squares / jnp.maximum(size - 1, 1))
    return jnp.where(filled, centred / (deviation + LEAST_DEVIATION), 0.0)


def _group(rewards, group_ids):
    """Rewards with 0 in empty slots, and of each slot's group the size and the largest, [R]."""
    same_shape(axes="[R]", rewards=rewards, group_ids=group_ids)
    filled = jnp.asarray(group_ids) >= 0
    rewards = jnp.where(filled, jnp.asarray(rewards, jnp.float32), 0.0)
    size = sum_of_group(filled.astype(jnp.float32), group_ids)
    return rewards, size, max_of_group(rewards, group_ids)


def kl(log_policy, log_reference, *, kind="k1"):
    """An estimate of KL(policy || reference) from each token that the policy sampled, in nats, of
    any shape. With d = log_policy - log_reference:

        k1         d, whose sum over a response is the log-ratio of the whole: unbiased
        k2         d^2 / 2
        k3         exp(-d) - 1 + d, unbiased and never negative
        absolute   |d|, as NeMo-Aligner has it
    """
    if kind not in KLS:
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(KLS)}")
    same_shape(log_policy=log_policy, log_reference=log_reference)
    d = jnp.asarray(log_policy, jnp.float32) - jnp.asarray(log_reference, jnp.float32)
    forms = {"k1": lambda: d, "k2": lambda: jnp.square(d) / 2, "absolute": lambda: jnp.abs(d)}
    return forms.get(kind, lambda: jnp.expm1(-d) + d)()


def clipped_surrogate(log_ratio, advantage, *, clip=None):
    """-min(r A, clip(r, 1 - clip, 1 + clip) A), to be minimised, with the importance ratio
    r = exp(log_ratio) and the advantage A, of one shape; None: -r A. At log_ratio 0 its gradient is
    that of -A log_policy, whatever the clip."""
    same_shape(log_ratio=log_ratio, advantage=advantage)
    positive(clip=clip)
    ratio = jnp.exp(jnp.asarray(log_ratio, jnp.float32))
    advantage = jnp.asarray(advantage, jnp.float32)
    if clip is None:
        return -ratio * advantage
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)


def clipped_value(values, old_values, returns, *, clip=None):
    """Half the squared error of values against returns, of one shape: the larger of the values' and
    of those that are held within `clip` of the old ones; None: the values'."""
    same_shape(values=values, old_values=old_values, returns=returns)
    positive(clip=clip)
    values, old, returns = (jnp.asarray(x, jnp.float32) for x in (values, old_values, returns))
    error = jnp.square(values - returns)
    if clip is not None:
        held = old + jnp.clip(values - old, -clip, clip)
        error = jnp.maximum(error, jnp.square(held - returns))
    return error / 2


def generalized_advantage(rewards, values, mask, *, discount, decay):
    """(advantages, returns) [B, T] of the tokens in the mask, 0 elsewhere.

    rewards [B, T]: of each token. values [B, T]: expected before it. mask bool [B, T]; what stands
    outside of it may be anything. A token's successor is the next one in the mask of its row, and
    behind the last one nothing is expected.
    """
    same_shape(rewards=rewards, values=values, mask=mask)
    rewards, values = (jnp.where(mask, jnp.asarray(x, jnp.float32), 0.0) for x in (rewards, values))

    def one(after, token):
        next_value, next_advantage = after
        reward, value, inside = token
        advantage = reward + discount * next_value - value + discount * decay * next_advantage
        after = jnp.where(inside, value, next_value), jnp.where(inside, advantage, next_advantage)
        return after, jnp.where(inside, advantage, 0.0)

    start = jnp.zeros(rewards.shape[:1]), jnp.zeros(rewards.shape[:1])
    tokens = rewards.T, values.T, jnp.asarray(mask).T
    advantages = jax.lax.scan(one, start, tokens, reverse=True)[1].T
    return advantages, jnp.where(mask, advantages + values, 0.0)


def whiten(values, mask):
    """Values of any shape with mean 0 and standard deviation 1 over the mask, 0 outside of it; one
    value, or equal ones, give 0."""
    same_shape(values=values, mask=mask)
    count = jnp.maximum(jnp.sum(mask), 1)
    values = jnp.where(mask, jnp.asarray(values, jnp.float32), 0.0)
    centred = jnp.where(mask, values - jnp.sum(values) / count, 0.0)
    deviation = jnp.sqrt(jnp.sum(jnp.square(centred)) / count)
    return jnp.where(deviation > 0, centred / jnp.where(deviation > 0, deviation, 1.0), 0.0)
