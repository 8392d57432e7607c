"""SteerLM 2.0: how likely attributes are given a rating, and the weights of sampled responses.

Source: HelpSteer2 (arXiv 2406.08673), section 4.5. Of a prompt x and wanted attributes a, responses
y_1 .. y_n are sampled from a proposal Q'; what is learned is P(y|a,x), which goes with
P(a|x,y) P(y|x). All functions compute in float32.

Axis letters: A attributes, behind any leading axes; R response slots, of several groups in any
order, where a group is the responses to one prompt and one setting of attributes.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betainc, xlogy

from hs2jax.losses.shapes import same_shape

HIGHEST = 4  # Ratings are the whole numbers from 0 to this.
CONCENTRATION = 24.0  # alpha + beta, chosen by the paper to match the ratings people give.
# The paper does not give these three. A level's cell is what rounds to it; a mean at the very end
# would leave every other cell empty; and no level is impossible.
EDGES = np.asarray([0, 1 / 8, 3 / 8, 5 / 8, 7 / 8, 1], np.float32)
NEAREST_END = 1e-3
LEAST = 1e-12
# Below either, few of the samples carry what is learned: the weights have collapsed. Ours.
LEAST_EFFECTIVE, LEAST_FRACTION = 1.5, 0.15


def rounded(outputs) -> np.ndarray:
    """Attribute values, whole numbers from 0 to 4, of a reward model's outputs of any shape; halves
    become even, as in NeMo-Aligner."""
    return np.rint(np.clip(outputs, 0, HIGHEST)).astype(int)


def attribute_log_probability(predicted, attributes):
    """log P(a|x,y) [..., A] in nats, of each attribute: sum over the last axis for all of them.

    predicted: [..., A], a reward model's outputs for y, on the scale from 0 to 4. attributes:
    [..., A], the levels a, whole numbers from 0 to 4; anything else gives NaN.

    The level n has what Beta(24 p, 24 (1 - p)) with p = predicted / 4 gives to the n-th cell
    between `EDGES`, and at least 1e-12.
    """
    same_shape(predicted=predicted, attributes=attributes)
    mean = jnp.asarray(predicted, jnp.float32) / HIGHEST
    # NaN stays NaN, which a clip would not promise.
    mean = jnp.where(jnp.isnan(mean), mean, jnp.clip(mean, NEAREST_END, 1 - NEAREST_END))
    levels = jnp.asarray(attributes, jnp.float32)
    known = (levels == jnp.round(levels)) & (levels >= 0) & (levels <= HIGHEST)
    level = jnp.where(known, levels, 0).astype(jnp.int32)
    low, high = jnp.asarray(EDGES)[level], jnp.asarray(EDGES)[level + 1]
    # A cell above the mean is looked at in the mirror: then both cumulative probabilities are small
    # where the cell's is, and their difference loses no digits.
    above = mean < (low + high) / 2
    low, high = jnp.where(above, 1 - high, low), jnp.where(above, 1 - low, high)
    alpha = CONCENTRATION * jnp.where(above, 1 - mean, mean)
    beta = CONCENTRATION * jnp.where(above, mean, 1 - mean)
    cell = betainc(alpha, beta, high) - betainc(alpha, beta, low)
    return jnp.where(known, jnp.log(jnp.maximum(cell, LEAST)), jnp.nan)


def steerlm2_weights(log_attribute, log_prior, log_proposal, log_policy, group_ids):
    """(w', b'): what each response should weigh in its group and what it weighs, each [R].

        w' = softmax(log P(a|x,y) + log P(y|x) - log Q'(y|a,x))
        b' = softmax(log Q(y|a,x) - log Q'(y|a,x))

    over the responses of a group. All four: [R] in nats, of whole responses; log_policy is of the
    policy Q that is trained. group_ids: int32 [R], the number of each slot's group, -1 in an empty
    slot, which weighs 0 and may hold anything.
    """
    terms = {
        "log_attribute": log_attribute,
        "log_prior": log_prior,
        "log_proposal": log_proposal,
        "log_policy": log_policy,
    }
    same_shape(axes="[R]", **terms, group_ids=group_ids)
    attribute, prior, proposal, policy = (jnp.asarray(x, jnp.float32) for x in terms.values())
    return (
        _softmax(attribute + prior - proposal, group_ids),
        _softmax(policy - proposal, group_ids),
    )


def steerlm2_distance(target, baseline, group_ids):
    """Each response's part [R] of its group's KL(w'||b') in nats: their sum is the distance.

    target, baseline: w' and b' of `steerlm2_weights`. A b' that float32 holds as 0 counts as the
    smallest normal number, so that the distance stays finite.
    """
    same_shape(axes="[R]", target=target, baseline=baseline, group_ids=group_ids)
    target, baseline = (jnp.asarray(x, jnp.float32) for x in (target, baseline))
    least = jnp.finfo(jnp.float32).tiny
    share = xlogy(target, target) - xlogy(target, jnp.maximum(baseline, least))
    return jnp.where(group_ids >= 0, share, 0.0)


def effective_sample_size(weights, group_ids):
    """1 / sum of squared weights of each slot's group, [R]; 0 in an empty slot.

    Between 1, where one response has all the weight, and the group's number of responses.
    weights: [R], summing to 1 in each group.
    """
    same_shape(axes="[R]", weights=weights, group_ids=group_ids)
    squares = sum_of_group(jnp.square(jnp.asarray(weights, jnp.float32)), group_ids)
    return jnp.where(group_ids >= 0, 1.0 / squares, 0.0)


def weigh_groups(
    columns: Sequence[np.ndarray], log_policy: Sequence[Sequence[float]]
) -> list[dict[str, np.ndarray]]:
    """Weigh whole groups: of each its responses' "target", "baseline", "distance" and "effective",
    see `steerlm2_weights`, `steerlm2_distance` and `effective_sample_size`.

    columns: of each group [responses, 3]: log P(a|x,y), log P(y|x) and log Q'(y|a,x). log_policy:
    log Q(y|a,x) of each of its responses.
    """
    sizes = [len(each) for each in log_policy]
    group_ids = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    policy = np.concatenate([np.asarray(each, np.float32) for each in log_policy])
    found = _weigh(*np.float32(np.concatenate(columns)).T, policy, group_ids)
    stops = np.cumsum(sizes)[:-1]
    parts = {name: np.split(np.asarray(x), stops) for name, x in found.items()}
    return [dict(zip(parts, of, strict=True)) for of in zip(*parts.values(), strict=True)]


@jax.jit
def _weigh(*terms):
    """What `weigh_groups` gives, flat: terms as for `steerlm2_weights`."""
    (target, baseline), group_ids = steerlm2_weights(*terms), terms[-1]
    return {
        "target": target,
        "baseline": baseline,
        "distance": steerlm2_distance(target, baseline, group_ids),
        "effective": effective_sample_size(target, group_ids),
    }


def mean_effective(groups: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
    """Average over groups that `weigh_groups` gave: the effective sample size of the target's
    weights, and what part of the group's size that is."""
    sizes = [float(of["effective"][0]) for of in groups]
    parts = [size / len(of["effective"]) for size, of in zip(sizes, groups, strict=True)]
    return {
        "effective_sample_size": float(np.mean(sizes)),
        "effective_fraction": float(np.mean(parts)),
    }


def collapse(columns: Sequence[np.ndarray]) -> list[str]:
    """Warn, in a list of one text or none, if nearly all of the target's weight lies on one
    response of each group. columns: as for `weigh_groups`."""
    # The target needs no policy.
    found = mean_effective(weigh_groups(columns, [each[:, 0] for each in columns]))
    size, fraction = found["effective_sample_size"], found["effective_fraction"]
    if size >= LEAST_EFFECTIVE and fraction >= LEAST_FRACTION:
        return []
    return [
        f"the weights have collapsed: the effective sample size of the training groups is "
        f"{size:.2f} ({fraction:.0%} of their responses), so nearly all of the gradient is from "
        "one response of each group. More samples for each prompt, a proposal closer to the "
        "target, or fewer attributes in the condition help"
    ]


def sum_of_group(values, group_ids):
    """The sum [R] over each slot's group of `values` [R]; 0 in an empty slot."""
    return _over_groups(jax.ops.segment_sum, values, group_ids)


def max_of_group(values, group_ids):
    """The largest [R] of each slot's group of `values` [R]; 0 in an empty slot."""
    return _over_groups(jax.ops.segment_max, values, group_ids)


def _over_groups(reduce, values, group_ids):
    same_shape(axes="[R]", values=values, group_ids=group_ids)
    # Groups renumbered from 0, so that there are no more than slots: a part of a batch has a few of
    # the batch's groups, with the batch's numbers. Empty slots are a group of their own.
    number = jnp.unique(group_ids, return_inverse=True, size=len(group_ids))[1]
    values = jnp.where(jnp.asarray(group_ids) >= 0, values, 0.0)
    return reduce(values, number, len(values))[number]


def _softmax(scores, group_ids):
    filled = jnp.asarray(group_ids) >= 0
    scores = jnp.where(filled, scores, 0.0)
    most = jax.lax.stop_gradient(max_of_group(scores, group_ids))
    powers = jnp.where(filled, jnp.exp(scores - most), 0.0)
    return powers / jnp.where(filled, sum_of_group(powers, group_ids), 1.0)
