"""Bradley-Terry steps here and in torch, from the same weights on the same batch: equal losses."""

import families
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hs2jax import configs
from hs2jax.data import packing
from hs2jax.data.chat import Encoded
from hs2jax.data.groups import Pair
from hs2jax.models.hf import hub
from hs2jax.training import objectives, optimizer, step

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

STEPS = 5
CLOSE = 1e-4
SETTINGS = {"learning_rate": 6e-4, "warmup": 3, "weight_decay": 2.0, "b1": 0.9, "b2": 0.98}
SETTINGS |= {"max_grad_norm": 2.5}


def pairs():
    """Six prompts with two responses each, in token ids; the chosen one comes first or second."""
    rng = np.random.default_rng(5)
    draw = lambda: rng.integers(0, families.PAD, rng.integers(2, 20))  # noqa: E731
    unrated = np.zeros((2, len(families.OUTPUTS)), np.float32)
    return [
        packing.Example(
            Encoded(draw(), (draw(), draw())), unrated, unrated, [Pair(i % 2, 1 - i % 2, 1.0)]
        )
        for i in range(6)
    ]


def our_steps(ours, examples):
    """(losses, gradient norms) of the steps of a run; two micro-batches of two rows."""
    a, b, c, d, e, f = examples
    shape = packing.Shape(length=128, responses=4, pairs=2, attributes=len(families.OUTPUTS))
    batch = packing.lay([[a, b], [c], [d, e], [f]], shape, "shared")
    batch = {name: jnp.asarray(x.reshape(2, 2, *x.shape[1:])) for name, x in batch.items()}
    settings = configs.defaults("train_reward_model")
    settings.optimizer.update(SETTINGS)
    tx, _ = optimizer.make(settings.optimizer, STEPS)
    aim = objectives.make(settings.objective, ours.outputs)
    update = step.make(ours.config, aim, tx, layout="shared", dtype=jnp.float32, remat=True)
    state = step.init_state({"decoder": ours.params, "head": ours.head}, tx)
    found = []
    for _ in range(STEPS):
        state, metrics = update(state, {}, batch)
        found.append((metrics["loss"], metrics["gradient_norm"]))
    return np.asarray(jax.device_get(found)).T


def their_steps(model, examples, settings=SETTINGS, spare=True):
    """The same in torch: one batch padded on the right, autograd, and torch's AdamW.

    spare: whether weight decay leaves out norms and biases.
    """
    conversations = [
        np.concatenate([x.encoded.prompt, x.encoded.responses[which]])
        for x in examples
        for which in x.pairs[0][:2]
    ]
    ids = torch.full((len(conversations), max(map(len, conversations))), families.PAD)
    for row, conversation in zip(ids, conversations, strict=True):
        row[: len(conversation)] = torch.tensor(conversation)
    parameters = list(model.parameters())
    decayed = [x for x in parameters if x.ndim > 1 or not spare]
    spared = [x for x in parameters if x.ndim == 1 and spare]
    kinds = [{"params": decayed, "weight_decay": settings["weight_decay"]}]
    kinds.append({"params": spared, "weight_decay": 0.0})
    betas = (settings["b1"], settings["b2"])
    adamw = torch.optim.AdamW(kinds, lr=settings["learning_rate"], betas=betas, eps=1e-8)
    rise = torch.optim.lr_scheduler.LambdaLR(
        adamw, lambda i: min(1.0, (i + 1) / settings["warmup"])
    )
    found = []
    for _ in range(STEPS):
        scores = model(ids, attention_mask=(ids != families.PAD).long()).logits[:, 0]
        loss = -torch.nn.functional.logsigmoid(scores[0::2] - scores[1::2]).mean()
        adamw.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, settings["max_grad_norm"])
        adamw.step()
        rise.step()
        found.append((loss.item(), norm.item()))
    return np.asarray(found).T


@pytest.mark.parametrize("name", families.ONE_OF_EACH)
def test_five_steps_of_bradley_terry_have_equal_losses(tmp_path, name):
    theirs = families.build(families.VARIANTS[name], head=True)
    ours = hub.load(families.save(families.VARIANTS[name], theirs, tmp_path))
    examples = pairs()
    losses, norms = our_steps(ours, examples)
    their_losses, their_norms = their_steps(theirs, examples)
    worst = np.max(np.abs(losses - their_losses))
    print(f"{name}: losses {[f'{x:.4f}' for x in losses]}, largest difference {worst:.1e}")
    assert worst < CLOSE
    np.testing.assert_allclose(norms, their_norms, rtol=1e-3)
    # Something was learnt at every step, and gradients were clipped.
    assert np.min(np.abs(np.diff(losses))) > 10 * CLOSE, losses
    assert norms[0] > SETTINGS["max_grad_norm"]


OTHERS = {"learning_rate": 6.1e-4, "warmup": 4, "weight_decay": 1.6, "b1": 0.89, "b2": 0.95}
OTHERS |= {"max_grad_norm": 2.2}


@pytest.mark.parametrize("what", [*OTHERS, "decay of norms and biases too"])
def test_a_little_of_another_optimizer_would_be_seen(what):
    plain, other = (
        families.build(families.VARIANTS["InternLM3, biases"], head=True) for _ in range(2)
    )
    changed = {name: OTHERS.get(name, x) if name == what else x for name, x in SETTINGS.items()}
    plain, _ = their_steps(plain, pairs())
    other, _ = their_steps(other, pairs(), changed, spare=what in OTHERS)
    assert np.max(np.abs(plain - other)) > CLOSE, (plain, other)
