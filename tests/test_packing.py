"""Rows hold every token once where they should, and a token sees its own conversation only."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hs2jax.data import packing
from hs2jax.data.chat import Encoded
from hs2jax.data.groups import Pair
from hs2jax.models.attention import ends, visible

LAYOUTS = pytest.mark.parametrize("layout", packing.LAYOUTS)
ATTRIBUTES = 2


@st.composite
def examples(draw):
    """A group of random ids, its prompt perhaps empty, with random ratings and pairs."""
    ids = st.integers(1, 999)
    prompt = draw(st.lists(ids, max_size=5))
    responses = draw(st.lists(st.lists(ids, min_size=1, max_size=5), min_size=1, max_size=4))
    R = len(responses)
    slot = st.integers(0, R - 1)
    pair = st.builds(Pair, slot, slot, st.sampled_from([1.0, 2.0, 3.0]))
    encoded = Encoded(
        np.asarray(prompt, np.int32), tuple(np.asarray(r, np.int32) for r in responses)
    )
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    ratings = rng.random((R, ATTRIBUTES), np.float32)
    rated = rng.random((R, ATTRIBUTES)) < 0.5
    return packing.Example(encoded, ratings, rated, draw(st.lists(pair, max_size=3)))


@st.composite
def rows_of_examples(draw):
    return draw(st.lists(st.lists(examples(), max_size=3), min_size=1, max_size=3))


def lay(rows, layout, spare=0):
    """Rows laid down as tightly as they can be, but for `spare` tokens and slots."""
    if layout == "padded":
        rows = [[example] for row in rows for example in row] or [[]]
    every = [example for row in rows for example in row]
    R = max((sum(len(e.encoded.responses) for e in row) for row in rows), default=0) or 1
    costs = [packing.cost(e.encoded, layout) for e in every]
    if layout == "padded":
        T = max([1, *costs]) * R + spare
    else:
        T = max(1, *(sum(packing.cost(e.encoded, layout) for e in row) for row in rows)) + spare
        R += spare
    P = max(1, *(sum(len(e.pairs) for e in row) for row in rows)) + spare
    return rows, packing.lay(rows, packing.Shape(T, R, P, ATTRIBUTES), layout)


def path(batch, b, t):
    """The indices of a token's conversation up to it, by following `source` back."""
    found = []
    while t >= 0:
        found.append(int(t))
        t = batch["predictor_index"][b, t]
    return found[::-1]


@LAYOUTS
@given(rows=rows_of_examples(), spare=st.integers(0, 9))
def test_every_conversation_lies_down_whole(layout, rows, spare):
    rows, batch = lay(rows, layout, spare)
    number, used = 0, np.zeros(batch["tokens"].shape, int)
    for b, row in enumerate(rows):
        slot = 0
        for example in row:
            prompt = example.encoded.prompt.tolist()
            for r, response in enumerate(example.encoded.responses):
                where = path(batch, b, batch["end_positions"][b, slot])
                assert batch["tokens"][b, where].tolist() == prompt + response.tolist()
                assert batch["positions"][b, where].tolist() == list(range(len(where)))
                assert len(set(batch["segment_ids"][b, where])) == 1
                assert batch["segment_ids"][b, where[0]] > 0
                branch = r + 1 if layout == "shared" else 1
                branches = [0] * len(prompt) + [branch] * len(response)
                assert batch["branch_ids"][b, where].tolist() == branches
                if layout == "padded":  # Slots start at equal distances.
                    assert where[0] == slot * (used.shape[1] // batch["end_positions"].shape[1])
                assert batch["group_ids"][b, slot] == number
                assert batch["ratings"][b, slot].tolist() == example.ratings[r].tolist()
                assert batch["rating_mask"][b, slot].tolist() == example.rating_mask[r].tolist()
                shares = layout == "shared" and r
                used[b, where[len(prompt) if shares else 0 :]] += 1
                slot += 1
            number += 1
        assert (batch["group_ids"][b, slot:] == -1).all()
        assert not batch["rating_mask"][b, slot:].any()
    # Every token is there once: nothing lies on anything else, and the rest is padding.
    assert used.max(initial=0) <= 1
    padding = used == 0
    assert (batch["segment_ids"][padding] == 0).all()
    assert (batch["segment_ids"][~padding] > 0).all()
    assert not any(batch[name][padding].any() for name in ("tokens", "branch_ids", "positions"))
    assert (batch["predictor_index"][padding] == -1).all()


@LAYOUTS
@given(rows=rows_of_examples(), spare=st.integers(0, 3))
def test_pairs_point_at_their_responses(layout, rows, spare):
    rows, batch = lay(rows, layout, spare)
    for b, row in enumerate(rows):
        found, expected = [], []
        for p in np.flatnonzero(batch["strength"][b]):
            ends = [batch["end_positions"][b, batch[side][b, p]] for side in ("chosen", "rejected")]
            found.append([batch["tokens"][b, path(batch, b, end)].tolist() for end in ends])
            found[-1].append(float(batch["strength"][b, p]))
        for example in row:
            texts = [
                example.encoded.prompt.tolist() + r.tolist() for r in example.encoded.responses
            ]
            expected += [[texts[c], texts[r], strength] for c, r, strength in example.pairs]
        assert found == expected


@jax.jit
def who_sees_whom(segment_ids, branch_ids):
    return visible(ends(segment_ids, branch_ids))


@LAYOUTS
@settings(max_examples=30)
@given(rows=rows_of_examples(), spare=st.integers(0, 3))
def test_a_token_sees_the_earlier_tokens_of_its_conversation_only(layout, rows, spare):
    _, batch = lay(rows, layout, spare)
    ids = (batch[name] for name in ("segment_ids", "branch_ids"))
    # Rows of few lengths, since each is compiled.
    wide = [np.pad(x, ((0, 0), (0, -x.shape[1] % 64))) for x in ids]
    sees = np.asarray(who_sees_whom(*wide))
    for b, t in zip(*np.nonzero(batch["segment_ids"]), strict=True):
        # In rising order: chunks of keys, and causality as the only mask, rely on it.
        assert np.flatnonzero(sees[b, t]).tolist() == path(batch, b, t)


@given(example=examples())
def test_cost_is_what_a_group_takes(example):
    for layout in ("shared", "separate"):
        _, batch = lay([[example]], layout)
        assert packing.cost(example.encoded, layout) == (batch["segment_ids"] > 0).sum()
    lengths = [len(example.encoded.prompt) + len(r) for r in example.encoded.responses]
    assert packing.cost(example.encoded, "padded") == max(lengths)


@given(data=st.data(), length=st.integers(1, 50))
def test_first_fit_fills_no_row_beyond_its_length(data, length):
    costs = data.draw(st.lists(st.integers(1, length), max_size=40))
    rows = packing.first_fit(costs, length)
    assert sorted(i for row in rows for i in row) == list(range(len(costs)))
    fill = [sum(costs[i] for i in row) for row in rows]
    assert max(fill, default=0) <= length
    assert all(rows)
    # No two rows could have been one: what first-fit promises.
    assert all(a + b > length for i, a in enumerate(fill) for b in fill[i + 1 :])


def test_an_unknown_layout_is_an_error():
    encoded = Encoded(np.ones(2, np.int32), (np.ones(2, np.int32),))
    with pytest.raises(ValueError, match="'paged'; it must be one of shared, separate, padded"):
        packing.cost(encoded, "paged")
