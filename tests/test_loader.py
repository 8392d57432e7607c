"""Each group is seen once an epoch, the place in a run can be kept, what is lost is counted."""

import copy
import errno
import json

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from hs2jax import faults, inference
from hs2jax.data import loader, packing
from hs2jax.data.chat import Encoded
from hs2jax.data.groups import Group, Pair
from hs2jax.data.record import Record

TOKENIZER = tiny.tokenizer()
LENGTH = 40


@st.composite
def examples(draw, longest=10):
    """Prepared groups: the first id of each prompt is the group's number, from 1."""
    made = []
    for i in range(draw(st.integers(1, 12))):
        R = draw(st.integers(1, 2))
        lengths = draw(st.lists(st.integers(1, longest), min_size=R, max_size=R))
        encoded = Encoded(
            np.asarray([i + 1], np.int32), tuple(np.ones(n, np.int32) for n in lengths)
        )
        ratings = np.full((R, 1), i, np.float32)
        found = [Pair(0, 1, 1.0)] if R == 2 else []
        made.append(packing.Example(encoded, ratings, ratings > 0, found))
    return made


SETTINGS = st.fixed_dictionaries(
    {
        "layout": st.sampled_from(packing.LAYOUTS),
        "batch_size": st.integers(1, 5),
        "micro_batch_size": st.sampled_from([2, 4]),
        "epochs": st.integers(1, 3),
        "seed": st.none() | st.integers(0, 9),
    }
)


def plan(made, **changes):
    options = {"row_length": LENGTH, "layout": "shared", "batch_size": 3}
    return loader.plan(made, **(options | {"micro_batch_size": 2} | changes))


def order(batches):
    """The groups in the order in which batches take them, those of a batch in any order."""
    return [sorted(p.example for row in rows for p in row) for rows in batches.plan]


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@given(made=examples(), options=SETTINGS)
def test_each_epoch_comes_before_the_next(made, options):
    # One group a batch, so that the plan is the order.
    flat = [batch[0] for batch in order(plan(made, **(options | {"batch_size": 1})))]
    n = len(made)
    for epoch in range(options["epochs"]):
        assert sorted(flat[epoch * n : (epoch + 1) * n]) == list(range(n))
    batches = order(plan(made, **options))
    assert {len(batch) for batch in batches[:-1]} <= {options["batch_size"]}


def test_the_seed_decides_the_order_and_epochs_differ():
    encoded = Encoded(np.ones(1, np.int32), (np.ones(1, np.int32),))
    empty = np.zeros((1, 1), np.float32)
    made = [packing.Example(encoded, empty, empty > 0, [])] * 50

    def flat(seed):
        return [batch[0] for batch in order(plan(made, batch_size=1, epochs=2, seed=seed))]

    assert flat(0) == flat(0)
    assert flat(0) != flat(1)
    assert flat(0)[:50] != flat(0)[50:]
    assert flat(0)[:50] != list(range(50))
    assert flat(None) == 2 * list(range(50))


@given(made=examples(), options=SETTINGS)
def test_rows_are_fixed_shapes_whose_tokens_and_padding_add_up(made, options):
    record = Record()
    batches = plan(made, **options, record=record)
    M, B = batches.micro_batches, options["micro_batch_size"]
    tokens = places = 0
    for i in range(len(batches)):
        batch = batches[i]
        assert batch["tokens"].shape == (M, B, batches.shape.length)
        assert batch["end_positions"].shape == (M, B, batches.shape.responses)
        assert batch["chosen"].shape == (M, B, batches.shape.pairs)
        assert batches.shape.length <= LENGTH
        # Micro-batches that are all padding come last.
        used = batch["segment_ids"].any(axis=(1, 2))
        assert (np.diff(used.astype(int)) <= 0).all()
        tokens += (batch["segment_ids"] > 0).sum()
        places += used.sum() * B * batches.shape.length  # Others are not computed.
        if options["layout"] == "padded":
            end = LENGTH // batches.shape.responses * (1 + np.arange(batches.shape.responses))
            assert (batch["end_positions"] < end).all()
    assert (record.tokens, record.tokens + record.padding) == (tokens, places)
    assert record.padding_fraction == record.padding / places


@settings(max_examples=20)
@given(made=examples(), options=SETTINGS, data=st.data())
def test_a_restored_state_goes_on_with_the_same_batches(made, options, data):
    batches = plan(made, **options)
    stop = data.draw(st.integers(0, len(batches)))
    undisturbed = loader.iterate(batches)
    for _ in range(stop):
        next(undisturbed)
    # As a checkpoint keeps it: through JSON, and not changed by what is read afterwards.
    state = json.loads(json.dumps(copy.deepcopy(undisturbed.get_state())))
    rest = list(undisturbed)
    assert len(rest) == len(batches) - stop

    resumed = loader.iterate(plan(made, **options))
    resumed.set_state(state)
    for batch, expected in zip(resumed, rest, strict=True):
        assert_same(batch, expected)


def ask(prompt, *responses, **known):
    return Group(({"role": "user", "content": prompt},), responses, **known)


def prepare(groups, tokenizer=TOKENIZER, **changes):
    record = Record()
    options = {
        "attributes": ("helpfulness",),
        "row_length": 200,
        "max_tokens": 10_000,
        "record": record,
    }
    return loader.prepare(groups, tokenizer, **(options | changes)), record


LONG, SHORT = ask("word " * 100, "Yes.", "No."), ask("Why?", "Because.", "So.", strength=-1.0)


@pytest.mark.parametrize("layout", packing.LAYOUTS)
def test_too_long_groups_are_skipped_and_counted(layout):
    prepared, record = prepare([LONG, SHORT, LONG], layout=layout)
    assert list(prepared.groups) == [SHORT]
    assert len(prepared.examples) == 1
    assert (record.too_long, record.truncated, record.pairs) == (2, 0, 1)


@pytest.mark.parametrize("layout", packing.LAYOUTS)
def test_prompts_are_cut_to_fit_just_so_and_counted(layout):
    whole_is_too_long = ask("Why?", "word " * 100)  # Responses are never cut.
    groups = [LONG, whole_is_too_long, SHORT]
    prepared, record = prepare(groups, layout=layout, too_long="truncate")
    whole, _ = prepare([LONG, SHORT], layout=layout, row_length=10_000)
    assert list(prepared.groups) == [LONG, SHORT]
    assert (record.too_long, record.truncated) == (1, 1)
    cut, full = prepared.examples[0].encoded, whole.examples[0].encoded
    for a, b in zip(cut.responses, full.responses, strict=True):
        assert a.tolist() == b.tolist()
    # <|im_start|> is this tokenizer's BOS; it stays, and the rest goes from the left.
    assert cut.prompt[0] == full.prompt[0] == TOKENIZER.bos_token_id
    assert cut.prompt[1:].tolist() == full.prompt[1 - len(cut.prompt) :].tolist()
    limit = 100 if layout == "padded" else 200
    assert limit - 1 <= packing.cost(cut, layout) <= limit
    assert plan(prepared.examples, layout=layout, row_length=200)[0]["tokens"].any()


def test_a_refused_group_stops_the_run_or_is_left_out_and_counted(monkeypatch):
    refusing = "{% if 'no' in messages[0].content %}{{ raise_exception('not this') }}{% endif %}"
    monkeypatch.setattr(TOKENIZER, "chat_template", refusing + TOKENIZER.chat_template)
    refused = ask("Why not?", "Because.", "So.", strength=1.0, source="rows.jsonl:3")
    with pytest.raises(ValueError, match=r"rows\.jsonl:3: .* refuses this: not this"):
        prepare([SHORT, refused])
    prepared, record = prepare([refused, SHORT], on_error="skip")
    assert list(prepared.groups) == [SHORT]
    ids = [response.tolist() for response in prepared.examples[0].encoded.responses]
    alone = prepare([SHORT])[0].examples[0].encoded
    assert ids == [response.tolist() for response in alone.responses]
    assert (record.refused, record.pairs, record.too_long) == (1, 1, 0)
    assert "rows.jsonl:3" in record.skipped_examples[0]


def test_pairs_and_ties_are_counted():
    rated = tuple({"helpfulness": h} for h in (1.0, 1.0, 4.0))
    groups = [
        ask("a", "x", "y", strength=0.0),
        ask("b", "x", "y", strength=2.0),
        ask("c", "x", "y", "z", ratings=rated),
    ]
    prepared, record = prepare(groups)
    assert [e.pairs for e in prepared.examples] == [[], [Pair(1, 0, 2.0)], []]
    assert [e.ties for e in prepared.examples] == [1, 0, 0]
    assert (record.pairs, record.ties) == (1, 1)
    prepared, record = prepare(groups, derive="helpfulness")
    assert prepared.examples[2].pairs == [Pair(2, 0, 3.0), Pair(2, 1, 3.0)]
    assert prepared.examples[2].ties == 1
    assert (record.pairs, record.ties) == (3, 2)


def test_what_goes_wrong_in_the_threads_that_make_batches_is_raised(monkeypatch):
    """At the batch that it is of."""

    def get(self, number, get=loader.Batches.__getitem__):
        if number == 2:
            raise OSError(errno.EIO, "Input/output error", "/data/pairs")
        return get(self, number)

    monkeypatch.setattr(loader.Batches, "__getitem__", get)
    prepared, _ = prepare([ask(f"{i}", "x", "y", strength=1.0) for i in range(9)])
    batches = loader.iterate(plan(prepared.examples, batch_size=2))
    assert [next(batches)["tokens"].shape for _ in range(2)]
    with pytest.raises(OSError, match="/data/pairs") as raised:
        next(batches)
    assert faults.told(raised.value).startswith("/data/pairs: the disk has failed")


TRIMMING, LAST = tiny.bos_tokenizer(), tiny.tokenizer()
LAST.chat_template = tiny.CHATML.replace("message['content']", "message['content'].split('=')[-1]")
FOLDING = tiny.tokenizer()
FOLDING.backend_tokenizer.normalizer = normalizers.Sequence(
    [normalizers.NFKC(), normalizers.Lowercase()]
)


@pytest.mark.parametrize(
    ("tokenizer", "first", "second", "alike"),
    [
        (TOKENIZER, "Paris.", "Paris.", True),
        (TOKENIZER, "Paris.", "Paris. ", False),
        (TOKENIZER, "caf\u00e9", "cafe\u0301", False),
        (TRIMMING, "Paris.", "Paris.\n ", True),
        (TRIMMING, "\n\nParis.", " Paris.", True),
        (TRIMMING, "Pa ris.", "Pa\nris.", False),
        (LAST, "6 * 7 = 42", "40 + 2 = 42", True),
        (LAST, "= 42", "= 43", False),
        (FOLDING, "Paris.", "PARIS.", True),
        (FOLDING, "caf\u00e9", "cafe\u0301", True),
        (FOLDING, "\uff30aris", "paris", True),
        (FOLDING, "Paris", "Pari", False),
    ],
)
def test_two_texts_that_are_the_same_to_the_model_are_no_pair(tokenizer, first, second, alike):
    rated = tuple({"helpfulness": h} for h in (1.0, 2.0, 3.0))
    groups = [
        ask("a", first, second, strength=2.0),
        ask("b", second, first, strength=0.0),  # A tie is one.
        ask("c", first, second, "Rome", ratings=rated),
    ]
    prepared, record = prepare(groups, tokenizer, derive="helpfulness")
    own = [] if alike else [Pair(1, 0, 2.0)], [] if alike else [Pair(1, 0, 1.0)]
    others = [Pair(2, 0, 2.0), Pair(2, 1, 1.0)]
    assert [e.pairs for e in prepared.examples] == [own[0], [], [*own[1], *others]]
    assert (record.pairs, record.ties, record.indistinct) == (4 - 2 * alike, 1, 2 * alike)
    assert len(loader.with_pairs(prepared).examples) == 2 - alike
    assert ("indistinct pairs 2" in str(record)) == alike


@given(made=examples(), most=st.integers(1, 9), layout=st.sampled_from(packing.LAYOUTS))
def test_no_row_is_computed_that_could_be_left_out(made, most, layout):
    batches = inference.plan_rows(made, layout=layout, rows=most)
    rows, (batch,) = batches.micro_batch_size, batches.plan
    parts = -(-len(batch) // rows)
    assert rows <= most
    assert parts == -(-len(batch) // most), "more rows at a time would not be fewer times"
    assert parts * rows - len(batch) < parts


def test_ratings_become_columns_and_missing_ones_stay_missing():
    group = ask("a", "x", "y", ratings=({"verbosity": 2.0}, {"helpfulness": 0.0, "humour": 1.0}))
    prepared, _ = prepare([group], attributes=("helpfulness", "verbosity"))
    example = prepared.examples[0]
    assert example.ratings.tolist() == [[0.0, 2.0], [0.0, 0.0]]
    assert example.rating_mask.tolist() == [[False, True], [True, False]]
