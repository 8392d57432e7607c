"""Groups that are too long for a row: nothing is lost, and nothing changes by the split."""

from collections import Counter

import jax
import numpy as np
import pytest
import tiny_policies
from hypothesis import given
from hypothesis import strategies as st
from test_training import assert_close, relative_errors

from hs2jax.data import loader, packing
from hs2jax.data.chat import Encoded
from hs2jax.models import sharding
from hs2jax.training.objectives import Likelihood, SteerLM2

LENGTH = 24
OF = tiny_policies.config(vocabulary=20)


@st.composite
def examples(draw):
    """Prompts of 4 tokens, the first of which is the group's number from 1, all to be learned;
    ratings that say which response of which group each is."""
    made = []
    for i in range(draw(st.integers(1, 6))):
        lengths = draw(st.lists(st.integers(1, LENGTH - 4), min_size=1, max_size=6))
        prompt = np.asarray([i + 1, 0, 0, 0], np.int32)
        responses = tuple(np.ones(n, np.int32) for n in lengths)
        ratings = np.asarray([[i, r] for r in range(len(lengths))], np.float32)
        encoded = Encoded(prompt, responses, np.ones(4, bool))
        made.append(packing.Example(encoded, ratings, ratings >= 0, []))
    return made


@given(
    made=examples(),
    layout=st.sampled_from(packing.LAYOUTS),
    batch_size=st.integers(1, 5),
    micro_batch_size=st.sampled_from([1, 3]),
    epochs=st.integers(1, 3),
    seed=st.none() | st.integers(0, 9),
)
def test_every_response_is_there_once_with_its_group(made, layout, epochs, **options):
    padded = layout == "padded"  # There, a group has as many slots as any has responses.
    row_length = LENGTH * 6 if padded else LENGTH
    batches = loader.plan(made, row_length=row_length, layout=layout, epochs=epochs, **options)
    split = not padded and any(packing.cost(e.encoded, layout) > LENGTH for e in made)
    seen, groups = Counter(), 0
    for i in range(len(batches)):
        batch = batches[i]
        assert ("parts" in batch) == split
        flat = {name: x.reshape(-1, *x.shape[2:]) for name, x in batch.items()}
        filled, members, rows = flat["group_ids"] >= 0, {}, {}
        assert len(batches.slots(i)) == filled.sum()
        for row, slot, e, r in batches.slots(i):
            assert flat["ratings"][row, slot].tolist() == [e, r]
            length = len(made[e].encoded.responses[r])
            last, segment = flat["end_positions"][row, slot], flat["segment_ids"][row]
            assert flat["positions"][row, last] == 4 + length - 1
            start = np.flatnonzero((segment == segment[last]) & (flat["branch_ids"][row] == 0))[0]
            assert flat["tokens"][row, start] == e + 1
            members.setdefault(int(flat["group_ids"][row, slot]), []).append((e, r))
            rows.setdefault(int(flat["group_ids"][row, slot]), set()).add(row)
            seen[e, r] += 1
        assert sorted(members) == list(range(len(members)))
        for number, found in members.items():
            # The whole of one group, and of one occurrence of it.
            (e,) = {e for e, _ in found}
            assert sorted(r for _, r in found) == list(range(len(made[e].encoded.responses)))
            if split:
                (parts,) = set(flat["parts"][flat["group_ids"] == number].tolist())
                assert parts >= len(rows[number])
                assert (parts > 1) == (packing.cost(made[e].encoded, layout) > LENGTH)
        if split:
            assert (flat["parts"][~filled] == 0).all()
        # A prompt is learned once; its first token has nothing before it.
        assert (flat["loss_mask"] & (flat["branch_ids"] == 0)).sum() == 3 * len(members)
        assert (flat["loss_mask"] & (flat["branch_ids"] > 0)).sum() == sum(
            len(made[e].encoded.responses[r]) for found in members.values() for e, r in found
        )
        groups += len(members)
    assert groups == epochs * len(made)
    assert seen == {
        (e, r): epochs for e in range(len(made)) for r in range(len(made[e].encoded.responses))
    }


def test_a_response_that_fits_no_row_is_an_error():
    made = [tiny_policies.example([1, 2], [[1], [2] * LENGTH])]
    with pytest.raises(ValueError, match=f"response of {LENGTH + 2} tokens .* a row of {LENGTH}"):
        loader.plan(made, row_length=LENGTH, layout="shared", batch_size=1, micro_batch_size=1)


def unequal():
    """Groups of one to seven responses, the longest of 65 tokens."""
    rng = np.random.default_rng(0)
    made = []
    for n in (3, 7, 1, 5, 2, 6):
        responses = [rng.integers(0, 20, rng.integers(1, 14)) for _ in range(n)]
        made.append(
            tiny_policies.example(rng.integers(0, 20, 5), responses, rng.normal(size=(n, 3)))
        )
    return made


def one_batch(row_length, micro_batch_size, layout="shared"):
    made = unequal()
    batches = loader.plan(
        made,
        row_length=row_length,
        layout=layout,
        batch_size=len(made),
        micro_batch_size=micro_batch_size,
    )
    assert len(batches) == 1
    return batches[0]


AIM = SteerLM2(normalize_tokens=True)
PARAMS = tiny_policies.parameters(OF)


@pytest.fixture(scope="module")
def expected():
    """Loss, metrics and gradients with each group in one row, all in one micro-batch."""
    whole = one_batch(row_length=256, micro_batch_size=8)
    assert "parts" not in whole
    assert (whole["segment_ids"] > 0).any(axis=(1, 2)).tolist() == [True]
    return tiny_policies.gradients(OF, PARAMS, whole, AIM)


def assert_same(found, expected, message=""):
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, err_msg=message)
    assert_close(found[1], expected[1], 1e-5)
    for name, error in relative_errors(found[2], expected[2]).items():
        assert error < 1e-5, f"{message}, {name}: {error}"


@pytest.mark.parametrize(
    ("how", "most"),
    [
        ({"row_length": 80, "micro_batch_size": 1}, 1),
        ({"row_length": 24, "micro_batch_size": 1}, 4),
        ({"row_length": 24, "micro_batch_size": 3, "layout": "separate"}, 5),
    ],
    ids=["accumulated", "in micro-batches", "separate"],
)
def test_split_groups_give_the_gradient_of_whole_ones(how, most, expected):
    assert float(np.linalg.norm(expected[2]["decoder"]["lm_head"])) > 0.01
    batch = one_batch(**how)
    assert batch.get("parts", np.ones(1)).max() >= most
    found = tiny_policies.gradients(OF, PARAMS, batch, AIM, how.get("layout", "shared"))
    assert_same(found, expected, str(how))


def test_split_groups_give_the_likelihood_of_whole_ones():
    whole, split = (
        one_batch(row_length=256, micro_batch_size=8),
        one_batch(row_length=24, micro_batch_size=3),
    )
    found, expected = (
        tiny_policies.gradients(OF, PARAMS, batch, Likelihood()) for batch in (split, whole)
    )
    assert float(expected[0]) > 1
    assert_same(found, expected)


def test_eight_devices_do_what_one_does(expected):
    batch = one_batch(row_length=40, micro_batch_size=4)
    assert batch["parts"].max() > 1
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    with jax.set_mesh(mesh):
        placed = jax.device_put(PARAMS, sharding.shardings(PARAMS, mesh))
        batch = sharding.place_rows(batch, mesh, axis=1)
        found = tiny_policies.gradients(OF, placed, batch, AIM)
    assert_same(jax.tree.map(np.asarray, found), expected)
