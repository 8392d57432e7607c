"""Losses for reward models: arrays in, unreduced float32 losses out.

Shapes are asserted and never broadcast: rewards [P, 1] minus margins [P] would be a [P, P] table
that mixes every pair with every margin, and would train without a word.

Sources: HelpSteer2 (arXiv 2406.08673) for the regression, HelpSteer2-Preference for the three
kinds of Bradley-Terry, Llama 2 (arXiv 2307.09288) section 3.2.2 for the margin, Eisenstein et al.
(arXiv 2312.09244) for reward centering.

Axis letters: P pairs; A attributes, behind any leading axes.
"""

import jax
import jax.numpy as jnp

from hs2jax.losses.shapes import same_shape

KINDS = ("regular", "margin", "scaled")


def regression(predictions, ratings, where=None):
    """Squared error [..., A] of raw predictions against ratings; 0 where unrated.

    predictions, ratings: [..., A]. where: bool [..., A], True where there is a rating (default:
    everywhere). What stands in `ratings` where there is none may be anything, also NaN.
    """
    same_shape(predictions=predictions, ratings=ratings, where=where)
    predictions = jnp.asarray(predictions, jnp.float32)
    ratings = jnp.asarray(ratings, jnp.float32)
    if where is not None:
        ratings = jnp.where(where, ratings, jax.lax.stop_gradient(predictions))
    return jnp.square(predictions - ratings)


def bradley_terry(chosen, rejected, strength=None, *, kind="regular", label_smoothing=0.0):
    """Negative log-likelihood [P] that the chosen response is preferred.

    chosen, rejected: rewards [P]. strength: how much better the chosen one is, [P], not negative;
    "margin" and "scaled" need it. With d = chosen - rejected and m = strength:

        regular  -log sigmoid(d)
        margin   -log sigmoid(d - m)
        scaled   -m log sigmoid(d)

    label_smoothing e in [0, 0.5): each label is taken to be the wrong way round with probability
    e, so the loss is (1 - e) times the above plus e times the same with the responses exchanged.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}")
    if kind != "regular" and strength is None:
        raise ValueError(f"kind {kind!r} needs the strength of each preference")
    if not 0.0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing is {label_smoothing}; it must be in [0, 0.5)")
    same_shape(axes="[P]", chosen=chosen, rejected=rejected, strength=strength)

    difference = jnp.asarray(chosen, jnp.float32) - jnp.asarray(rejected, jnp.float32)
    margin = jnp.asarray(strength, jnp.float32) if kind == "margin" else 0.0
    scale = jnp.asarray(strength, jnp.float32) if kind == "scaled" else 1.0
    # softplus(-x) = -log sigmoid(x), without overflow.
    loss = (1.0 - label_smoothing) * jax.nn.softplus(margin - difference)
    if label_smoothing:
        loss += label_smoothing * jax.nn.softplus(margin + difference)
    return scale * loss


def centering(chosen, rejected):
    """Squared sum of a pair's two rewards [P], which pulls rewards to a mean of zero.

    Bradley-Terry sees differences only, so the level of the rewards is free; a small multiple of
    this, such as 0.01, fixes it.
    """
    same_shape(axes="[P]", chosen=chosen, rejected=rejected)
    return jnp.square(jnp.asarray(chosen, jnp.float32) + jnp.asarray(rejected, jnp.float32))


def combined(
    regression,
    rated,
    preference,
    paired,
    *,
    preference_weight=1.0,
    rated_count=None,
    paired_count=None,
):
    """Ratings and preferences of one batch in one scalar.

    The mean of `regression` [..., A] over the entries that are `rated`, plus `preference_weight`
    times the mean of `preference` [P] over the slots that are `paired`. Either part may be empty
    and then counts nothing. A micro-batch of gradient accumulation passes the counts of its whole
    batch, so that the sum over micro-batches is the whole batch's loss.
    """
    same_shape(regression=regression, rated=rated)
    same_shape(preference=preference, paired=paired)

    def mean(values, where, count):
        count = jnp.sum(where) if count is None else count
        # Padding is left out by `where` and not by a product: 0 times infinity is not 0.
        return jnp.sum(jnp.where(where, values, 0.0)) / jnp.maximum(count, 1)

    ratings = mean(regression, rated, rated_count)
    return ratings + preference_weight * mean(preference, paired, paired_count)
