"""Losses of policies on pairs, DPO and IPO, over batches as they are laid."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_models
import tiny_policies

from hs2jax.data import loader, packing
from hs2jax.data.groups import Group, Pair
from hs2jax.data.record import Record
from hs2jax.training import objectives


def aim(kind="dpo", **changes):
    own = {"beta": 0.1, "preference": "regular", "label_smoothing": 0.0}
    own |= {"smoothing": "conservative", "reduction": "sum"}
    return objectives.Preference(kind, **own | changes)


# One batch ----------------------------------------------------------------------------------------


def examples(n=4, seed=0):
    """Groups of two or three responses of a few tokens, whose reference is anyone's."""
    rng, found = np.random.default_rng(seed), []
    for i in range(n):
        responses = [rng.integers(0, 20, rng.integers(1, 9)) for _ in range(2 + i % 2)]
        one = tiny_policies.example([1, 2, 3], responses, rng.normal(-9, 3, (len(responses), 1)))
        # The third response of a group of three is in no pair.
        found.append(one._replace(pairs=[Pair(i % 2, 1 - i % 2, 1.0 + i % 3)]))
    return found


def lay(rows, layout="shared", length=96, **sizes):
    shape = packing.Shape(**{"length": length, "responses": 6, "pairs": 4, "attributes": 1} | sizes)
    return packing.lay(rows, shape, layout)


def by_hand(of, batch, outputs):
    """The loss of each pair in float64, row by row and slot by slot."""
    found = []
    for b, slot in zip(*np.nonzero(batch["strength"]), strict=True):
        log_ratio, reference = [], []
        for side in ("chosen", "rejected"):
            at = batch[side][b, slot]
            end = batch["end_positions"][b, at]
            mine = (batch["segment_ids"][b] == batch["segment_ids"][b, end]) & (
                batch["branch_ids"][b] == batch["branch_ids"][b, end]
            )
            reference.append(float(batch["ratings"][b, at, 0]))
            log = outputs[b, mine].astype(np.float64)
            count = len(log) if of.reduction == "mean" else 1
            log_ratio.append((log.sum() - reference[-1]) / count)
        lead, m = log_ratio[0] - log_ratio[1], float(batch["strength"][b, slot])
        if of.kind == "ipo":
            found.append((lead - 1 / (2 * of.beta)) ** 2)
            continue
        shift = m if of.preference == "margin" else 0
        scale = m if of.preference == "scaled" else 1
        found.append(scale * np.logaddexp(0, shift - of.beta * lead))
    return np.array(found)


@pytest.mark.parametrize(
    "of",
    [
        aim(),
        aim(preference="margin"),
        aim(preference="scaled"),
        aim("ipo"),
        aim("ipo", reduction="mean"),
    ],
    ids=str,
)
def test_the_loss_is_the_mean_over_pairs_and_touches_their_tokens_alone(of):
    a, b, c, d = examples()
    batch = lay([[a, b], [c], [d], []])
    outputs = np.random.default_rng(1).normal(-2, 1, batch["tokens"].shape).astype(np.float32)
    counts = of.counts(batch)
    assert counts == 4
    expected = by_hand(of, batch, outputs)
    (loss, found), slopes = jax.value_and_grad(of.loss, has_aux=True)(
        jnp.asarray(outputs), batch, counts
    )
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)
    assert 0 <= found["accuracy"] <= 1
    slopes, in_pairs = np.asarray(slopes), np.zeros(batch["tokens"].shape, bool)
    for row, (_, at) in itertools.product(range(3), enumerate(("chosen", "rejected"))):
        for slot in np.nonzero(batch["strength"][row])[0]:
            end = batch["end_positions"][row, batch[at][row, slot]]
            in_pairs[row] |= (batch["branch_ids"][row] == batch["branch_ids"][row, end]) & (
                batch["segment_ids"][row] == batch["segment_ids"][row, end]
            )
    assert (slopes[~in_pairs] == 0).all()
    assert (slopes[in_pairs] != 0).all()
    parts = [
        of.loss(outputs[i : i + 1], {k: x[i : i + 1] for k, x in batch.items()}, counts)[0]
        for i in range(4)
    ]
    np.testing.assert_allclose(sum(parts), loss, rtol=1e-5)


OF = tiny_policies.config(20)
PLACES = {
    "1 x 4": (4, "shared", 96),
    "2 x 2": (2, "shared", 96),
    "4 x 1": (1, "shared", 96),
    "padding": (4, "shared", 288),
    "separate": (2, "separate", 96),
    "padded": (4, "padded", 96),
}


@functools.cache
def gradients(name):
    rows, layout, length = PLACES[name]
    batch = lay([[x] for x in examples()], layout, length)
    batch = {key: jnp.asarray(x.reshape(-1, rows, *x.shape[1:])) for key, x in batch.items()}
    params = tiny_policies.parameters(OF)
    return tiny_policies.gradients(OF, params, batch, aim(preference="scaled"), layout)


@pytest.mark.parametrize("name", list(PLACES)[1:])
def test_neither_micro_batches_nor_padding_nor_layout_change_loss_and_gradient(name):
    loss, _, grads = gradients(name)
    expected, _, base = gradients("1 x 4")
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(base))
    for x, y in zip(jax.tree.leaves(grads), jax.tree.leaves(base), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5 * largest)


def test_the_mean_is_over_the_steps_pairs_not_over_micro_batches_means():
    """Pair losses .1, .2, .3 and .8 in micro-batches of three pairs and of one: .35 and not .5."""
    lead = [-math.log(math.expm1(x)) / 0.1 for x in (0.1, 0.2, 0.3, 0.8)]
    none = tiny_policies.example([1], [[2], [3]], np.zeros((2, 1)))
    batch = lay(
        [[none._replace(pairs=[Pair(0, 1, 1.0)])] * 3, [none._replace(pairs=[Pair(0, 1, 1.0)])]]
    )
    of, outputs = aim(), np.zeros(batch["tokens"].shape, np.float32)
    chosen = np.take_along_axis(batch["end_positions"], batch["chosen"], axis=1)
    for (b, slot), x in zip(np.argwhere(batch["strength"]), lead, strict=True):
        outputs[b, chosen[b, slot]] = x
    loss, _ = of.loss(outputs, batch, of.counts(batch))
    np.testing.assert_allclose(loss, 0.35, rtol=1e-5)


LETTERS = tiny_models.chat_tokenizer()  # A token for each letter of a text, and none around it.
LETTERS.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def of_ids(chosen, rejected, prompt="!!!!!!", strength=-1.0):
    sides, turns = (tuple(chosen), tuple(rejected)), ({"role": "user", "content": prompt},)
    return Group(turns, ("-", "-"), strength=strength, tokens=sides)


GOOD_PAIR = of_ids([7], [8])
EXCLUDED = {
    "too long": (of_ids([9] * 5, [9]), {"too_long": 1}),  # Of 8 tokens the prompt takes 6.
    "its rejected response is too long": (of_ids([9], [9] * 5), {"too_long": 1}),
    "equal": (of_ids([9, 8], [9, 8]), {"indistinct": 1}),
    "a tie": (of_ids([9, 8], [9], strength=0.0), {"ties": 1}),
    "nobody says which is better": (of_ids([9, 8], [9], strength=None), {}),
}


def learned_of(groups, of, layout="shared"):
    """Loss, metrics and the gradient of what a policy says of tokens that gives token 7 log(p) 20
    and 9 -3, of which its reference gives every response 0; and the record."""
    record, options = Record(), {"attributes": (), "policy": True, "whole": True, "derive": None}
    sizes = {"row_length": 32, "max_tokens": 8, "layout": layout, "record": record}
    found = loader.with_pairs(loader.prepare(groups, LETTERS, **options, **sizes))
    none = np.zeros((2, 1), np.float32)
    rows = [x._replace(ratings=none, rating_mask=none > 0) for x in found.examples]
    batch = lay([[x] for x in rows], layout, 32, responses=2, pairs=1)
    outputs = jnp.select([batch["tokens"] == 7, batch["tokens"] == 9], [20.0, -3.0])
    slopes = jax.value_and_grad(of.loss, has_aux=True)
    (loss, metrics), gradient = slopes(outputs, batch, of.counts(batch))
    return float(loss), metrics, np.asarray(gradient), record


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("why", EXCLUDED)
def test_what_is_left_out_is_in_no_sum_and_counted(why, times):
    """One pair with beta times the lead 2 is 0.126928; with one left out that counts as its
    reference would be it were 0.410038, and a tie as half a win each way 1.126928."""
    group, counted = EXCLUDED[why]
    alone, metrics, slopes, record = learned_of([GOOD_PAIR], aim())
    assert alone == pytest.approx(0.126928, abs=1e-6)
    loss, beside, gradient, record = learned_of([*[group] * times, GOOD_PAIR], aim())
    assert (loss, beside) == (alone, metrics)
    np.testing.assert_array_equal(gradient, slopes)
    said = record.to_dict()
    for name in ("too_long", "indistinct", "ties"):
        assert said[name] == times * counted.get(name, 0)
    assert said["pairs"] == 1


def test_the_accuracy_is_over_pairs_that_differ():
    """Two of four are equal: of the others one is right."""
    groups = [GOOD_PAIR, of_ids([8], [7]), *[of_ids([9], [9])] * 2]
    loss, metrics, _, record = learned_of(groups, aim())
    assert loss == pytest.approx((0.126928 + 2.126928) / 2, abs=1e-6)
    assert metrics["accuracy"] == 0.5
    assert (record.to_dict()["indistinct"], record.to_dict()["pairs"]) == (2, 2)
    # So are texts that the template makes the same.
    same, words = Group(GOOD_PAIR.prompt, ("Yes.", " Yes. "), strength=1.0), tiny.bos_tokenizer()
    sizes, record = {"row_length": 64, "max_tokens": 64, "attributes": ()}, Record()
    loader.prepare([same], words, **sizes, policy=True, record=record)
    assert (record.indistinct, record.pairs) == (1, 0)


@pytest.mark.parametrize("layout", packing.LAYOUTS)
@pytest.mark.parametrize(("reduction", "expected"), [("sum", 4), ("mean", 16)])
def test_ipo_knows_nothing_of_the_prompt(layout, reduction, expected):
    """Four chosen tokens at +0.5 and two rejected ones at -0.5: (3 - 5)^2, or (1 - 5)^2."""
    of = aim("ipo", reduction=reduction)
    for shared in (1, 6):
        one = tiny_policies.example([3] * shared, [[7] * 4, [8] * 2], np.zeros((2, 1)))
        batch = lay([[one._replace(pairs=[Pair(0, 1, 1.0)])]], layout)
        outputs = jnp.select([batch["tokens"] == 7, batch["tokens"] == 8], [0.5, -0.5], -9.0)
        loss, _ = of.loss(outputs, batch, of.counts(batch))
        assert loss == pytest.approx(expected, rel=1e-5)
