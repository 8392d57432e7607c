"""Losses that fit a policy to preferences without a reward model: DPO and IPO.

Not here: DPO's first stage, supervised fine-tuning on the chosen responses, which is a training of
its own (objective "likelihood"), and NeMo-Aligner's sum of the two losses, which neither HelpSteer2
paper uses; NeMo's RPO kinds, likewise; a reference that moves with the policy, since it is computed
once. HelpSteer2-Preference tells margin and scaled DPO by the table of its results alone: they are
Bradley-Terry's of the same name, of implicit rewards, and beta and learning rate are not stated.

Sources: Rafailov et al. (arXiv 2305.18290) for DPO; Mitchell's note on noisy preferences and
Chowdhury et al. (arXiv 2403.00409) for the two smoothings; Azar et al. (arXiv 2310.12036) for IPO.

P pairs. Log-probabilities, in nats, are sums over a response's tokens, its end among them.
"""

import jax.numpy as jnp

from hs2jax.losses.reward import bradley_terry
from hs2jax.losses.shapes import positive, same_shape

SMOOTHINGS = ("conservative", "unbiased")
REDUCTIONS = ("sum", "mean")


def dpo(
    policy_chosen,
    policy_rejected,
    reference_chosen,
    reference_rejected,
    strength=None,
    *,
    beta,
    kind="regular",
    label_smoothing=0.0,
    smoothing="conservative",
):
    """Negative log-likelihood [P] that the chosen response is preferred, whose reward is implicit:
    beta (log policy - log reference).

    All four: log-probabilities [P]. strength, kind: as of `bradley_terry`, of these rewards.
    label_smoothing e in [0, 0.5): how often labels are the wrong way round. With L the loss, and L'
    that with the responses exchanged, smoothing "conservative" is (1 - e) L + e L', and "unbiased"
    ((1 - e) L - e L') / (1 - 2 e), whose mean over such labels is L under true ones, and which has
    no lower bound.
    """
    if smoothing not in SMOOTHINGS:
        raise ValueError(f"smoothing is {smoothing!r}; it must be one of {', '.join(SMOOTHINGS)}")
    if smoothing == "unbiased" and not label_smoothing:
        raise ValueError('smoothing "unbiased" has no effect without a label_smoothing')
    positive(beta=beta)
    chosen = beta * _log_ratio(policy_chosen, reference_chosen)
    rejected = beta * _log_ratio(policy_rejected, reference_rejected)
    e, ways = label_smoothing, {"strength": strength, "kind": kind}
    smoothed = bradley_terry(chosen, rejected, **ways, label_smoothing=e)
    if smoothing == "conservative":
        return smoothed
    return (smoothed - 2 * e * bradley_terry(rejected, chosen, **ways)) / (1 - 2 * e)


def ipo(
    policy_chosen,
    policy_rejected,
    reference_chosen,
    reference_rejected,
    chosen_tokens=None,
    rejected_tokens=None,
    *,
    beta,
    reduction="sum",
):
    """Squared distance [P] of the chosen response's lead, the difference of the two log-ratios
    log policy - log reference, from 1 / (2 beta).

    All four: log-probabilities [P]. reduction: "sum" takes the log-ratios as they are, as the paper
    does; "mean" divides each by its response's number of tokens [P], as TRL does, and alone needs
    those.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}; it must be one of {', '.join(REDUCTIONS)}")
    positive(beta=beta)
    counts = {"chosen_tokens": chosen_tokens, "rejected_tokens": rejected_tokens}
    if any((x is None) != (reduction == "sum") for x in counts.values()):
        raise ValueError('reduction "mean" needs both responses\' numbers of tokens, "sum" neither')
    chosen = _log_ratio(policy_chosen, reference_chosen)
    rejected = _log_ratio(policy_rejected, reference_rejected)
    same_shape(axes="[P]", chosen=chosen, rejected=rejected, **counts)
    if reduction == "mean":
        chosen, rejected = chosen / chosen_tokens, rejected / rejected_tokens
    return jnp.square(chosen - rejected - 1 / (2 * beta))


def _log_ratio(policy, reference):
    same_shape(axes="[P]", policy=policy, reference=reference)
    return jnp.asarray(policy, jnp.float32) - jnp.asarray(reference, jnp.float32)
