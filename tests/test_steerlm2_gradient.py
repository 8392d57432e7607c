"""SteerLM 2.0 where all responses can be listed: its gradient is the divergence's, and it learns.

A response is up to three of four tokens, the first of which ends it: 40 responses, whose
probabilities are exact. Groups are sampled from them; all the rest is what trains real policies.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_policies

from hs2jax import losses
from hs2jax.data import packing
from hs2jax.inference import token_log_probabilities
from hs2jax.training import step
from hs2jax.training.objectives import SteerLM2

V, END, LONGEST = 4, 0, 3
OF = tiny_policies.config(V)
PROMPTS = [[1, 2], [3, 1, 1]]
LAYOUT = {"layout": "shared", "dtype": jnp.float32}


def every_response(start=()):
    if (start and start[-1] == END) or len(start) == LONGEST:
        return [list(start)]
    return [y for token in range(V) for y in every_response((*start, token))]


RESPONSES = every_response()
# What a reward model might say of a response's length, and what is asked for.
RATED = np.asarray([1.6 + 0.4 * (len(y) - 1) for y in RESPONSES])
ASKED = [1, 3]
LOG_ATTRIBUTE = [
    np.asarray(losses.attribute_log_probability(RATED, np.full(len(RATED), level)))
    for level in ASKED
]
ALL = [tiny_policies.example(prompt, RESPONSES) for prompt in PROMPTS]
ALL_SHAPE = packing.Shape(length=128, responses=len(RESPONSES), pairs=1, attributes=3)
ALL_ROWS = packing.lay([[one] for one in ALL], ALL_SHAPE, "shared")


def log_probabilities(params):
    """log Q(y|x) of every response to each prompt, [2, 40]."""
    outputs = token_log_probabilities(params, ALL_ROWS, OF, **LAYOUT)
    return SteerLM2().response_sums(outputs, ALL_ROWS)["log_policy"]


listed = jax.jit(log_probabilities)


@jax.jit
def divergence_and_gradient(params, target):
    """The mean over prompts of KL(P(y|a,x)||Q), from all responses. target: P, [2, 40]."""

    def divergence(params):
        log_policy = log_probabilities(params)
        return jnp.sum(target * (jnp.log(target) - log_policy)) / len(target)

    return jax.value_and_grad(divergence)(params)


def parameters(seed):
    """Of a model that leaves no response without a chance."""
    params = tiny_policies.parameters(OF, seed)
    params["decoder"]["lm_head"] *= 0.5
    return params


class World:
    """What is fixed: P(y|x) of a model of its own, and so P(y|a,x); and log Q'(y|a,x)."""

    def __init__(self, proposal):
        self.log_prior = np.asarray(listed(parameters(5)), np.float64)
        self.log_proposal = np.asarray(listed(proposal), np.float64)
        self.target = tiny_policies.softmax(np.stack(LOG_ATTRIBUTE) + self.log_prior)

    def groups(self, rng, n, each):
        """`each` groups of n responses sampled from Q' for each prompt, as examples."""
        made = []
        for i, prompt in enumerate(PROMPTS):
            chances = np.exp(self.log_proposal[i])
            np.testing.assert_allclose(chances.sum(), 1, rtol=1e-5)
            known = np.stack([LOG_ATTRIBUTE[i], self.log_prior[i], self.log_proposal[i]], axis=1)
            for _ in range(each):
                drawn = rng.choice(len(RESPONSES), n, p=chances / chances.sum())
                responses = [RESPONSES[y] for y in drawn]
                made.append(tiny_policies.example(prompt, responses, known[drawn]))
        return made


TOKENS, SLOTS = 896, 256  # Of a row, for 256 responses to one prompt.


def one_batch(examples):
    """In two rows, each with the groups of one prompt, in one micro-batch."""
    half = len(examples) // 2
    shape = packing.Shape(TOKENS, SLOTS, 1, 3)
    laid = packing.lay([examples[:half], examples[half:]], shape, "shared")
    return {name: x[None] for name, x in laid.items()}


POLICY, OTHER = parameters(1), parameters(2)


@jax.jit
def estimate(params, batch):
    loss, metrics, grads = step.gradients(params, batch, SteerLM2(), tiny_policies.apply(OF))
    return loss, metrics, jax.flatten_util.ravel_pytree(grads)[0]


def test_all_responses_have_a_probability():
    assert len(RESPONSES) == 1 + 3 + 9 * 4 == len({tuple(y) for y in RESPONSES})
    np.testing.assert_allclose(np.exp(listed(POLICY)).sum(axis=1), 1, rtol=1e-5)


def far_from(exact, found):
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def exact_gradient(world):
    divergence, exact = divergence_and_gradient(POLICY, world.target)
    assert divergence > 0.5
    return jax.flatten_util.ravel_pytree(exact)[0]


def test_the_gradient_is_that_of_the_distance_with_the_target_held():
    batch = one_batch(World(OTHER).groups(np.random.default_rng(0), n=8, each=4))
    micro = {name: x[0] for name, x in batch.items()}
    ratings, group = micro["ratings"].reshape(-1, 3).T, micro["group_ids"].reshape(-1)

    def distance(params):
        outputs = token_log_probabilities(params, micro, OF, **LAYOUT)
        policy = SteerLM2().response_sums(outputs, micro)["log_policy"].reshape(-1)
        target, baseline = losses.steerlm2_weights(*ratings, policy, group)
        return losses.steerlm2_distance(target, baseline, group).sum() / 8

    expected, gradient = jax.jit(jax.value_and_grad(distance))(POLICY)
    loss, metrics, found = estimate(POLICY, batch)
    np.testing.assert_allclose([loss, metrics["distance"]], expected, rtol=1e-5)
    assert far_from(jax.flatten_util.ravel_pytree(gradient)[0], found) < 1e-5


@pytest.mark.parametrize("proposal", [POLICY, OTHER], ids=["from the policy", "from another"])
def test_the_sampled_gradient_converges_to_the_exact_one(proposal):
    world, rng = World(proposal), np.random.default_rng(0)
    exact, errors = exact_gradient(world), {}
    for n in (16, 64, 256):
        off = [
            far_from(exact, estimate(POLICY, one_batch(world.groups(rng, n, each=1)))[2])
            for _ in range(16)
        ]
        errors[n] = float(np.sqrt(np.mean(np.square(off))))
    # Four times the samples, half the error.
    fall = np.log(errors[16] / errors[256]) / np.log(256 / 16)
    assert 0.4 < fall < 0.65, errors
    assert errors[256] < 0.15, errors


def test_training_drives_the_divergence_to_zero():
    steps, rng, world = 120, np.random.default_rng(0), World(OTHER)
    tx = optax.adam(optax.linear_schedule(0.03, 0.0, steps))
    update = step.make(OF, SteerLM2(), tx, forward=token_log_probabilities, remat=False, **LAYOUT)
    state = step.init_state(jax.tree.map(jnp.copy, OTHER), tx)
    before, _ = divergence_and_gradient(OTHER, world.target)
    distances = []
    for _ in range(steps):
        state, values = update(state, {}, one_batch(world.groups(rng, n=64, each=2)))
        distances.append(float(values["distance"]))
    after, _ = divergence_and_gradient(state["params"], world.target)
    assert before > 0.5
    assert after < 0.005
    # What is watched in a real run, where the divergence is not known, tells as much.
    assert distances[0] > 0.3
    assert np.mean(distances[-10:]) < 0.005
