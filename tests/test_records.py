"""Tokens kept on disk are those of the small path, made once, whatever ends a preparation."""

import collections
import itertools
import resource

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict
from test_loader import ask, assert_same

from hs2jax import faults, survey
from hs2jax.data import loader, packing, records
from hs2jax.data.groups import Group
from hs2jax.data.record import Record
from hs2jax.training import tokenised

TOKENIZER = tiny.tokenizer()
BOS = tiny.bos_tokenizer()
SIZES = {"attributes": ("helpfulness", "verbosity"), "row_length": 90, "max_tokens": 80}


@pytest.fixture(scope="module", autouse=True)
def few_in_a_file():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "SHARD", 6)
        patch.setattr(records, "PART", 4)
        yield


@st.composite
def groups(draw):
    """Groups of which some are too long, tie, say the same twice, or are refused."""
    made = []
    for i in range(draw(st.integers(0, 20))):
        texts = draw(
            st.lists(st.sampled_from(["Paris.", "Rome", "é " * 20]), min_size=1, max_size=3)
        )
        turns = [{"role": "user", "content": draw(st.sampled_from(["Where?", "why " * 12]))}]
        if draw(st.booleans()):
            turns += [{"role": "assistant", "content": "I."}, {"role": "user", "content": "So?"}]
        ratings = tuple({"helpfulness": float(draw(st.integers(0, 2)))} for _ in texts)
        strength = draw(st.sampled_from([None, 0.0, -1.5])) if len(texts) == 2 else None
        known = {"ratings": ratings} if draw(st.booleans()) else {}
        known |= {"source": f"file:{i}", "strength": strength, "about": {"id": i}}
        made.append(Group(tuple(turns), tuple(texts), **known))
    return made


SETTINGS = st.fixed_dictionaries(
    {
        "layout": st.sampled_from(packing.LAYOUTS),
        "too_long": st.sampled_from(loader.TOO_LONG),
        "derive": st.sampled_from([None, "helpfulness"]),
        "policy": st.booleans(),
    }
)


def stopping_after(given, n):
    yield from itertools.islice(given, n)
    raise KeyboardInterrupt


@given(
    made=groups(),
    settings=SETTINGS,
    stops=st.lists(st.integers(0, 20), max_size=2),
    bos=st.booleans(),
)
def test_killed_and_resumed_the_same_arrays_come_from_disk(
    tmp_path_factory, made, settings, stops, bos
):
    folder, tokenizer = tmp_path_factory.mktemp("tokens"), BOS if bos else TOKENIZER
    settings = settings | SIZES
    small_record, record = Record(), Record()
    small = loader.prepare(made, tokenizer, **settings, record=small_record)
    for stop in stops:
        if stop < len(made):
            with pytest.raises(KeyboardInterrupt):
                loader.prepare(stopping_after(made, stop), tokenizer, **settings, folder=folder)
    for stream in (made, None):  # The second time nothing is read.
        record = Record()
        kept = loader.prepare(stream, tokenizer, **settings, record=record, folder=folder)
        assert record == small_record
        assert list(kept.groups) == list(small.groups)
        assert [e.cut for e in kept.examples] == [e.cut for e in small.examples]
    how = {"row_length": 90, "layout": settings["layout"], "batch_size": 5, "micro_batch_size": 2}
    batches = [loader.plan(of.examples, **how, epochs=2) for of in (small, kept)]
    # As they are where they are in memory at once, as a list.
    batches.append(loader.plan(list(small.examples), **how, epochs=2))
    assert len({each.shape for each in batches}) == 1 or not small.examples
    for i in range(len(batches[0])):
        for other in batches[1:]:
            assert_same(batches[0][i], other[i])
    assert not list(folder.glob(".*"))


def some(n=20):
    return [
        ask(f"Question {i}?", "Paris.", "Rome", strength=1.0, source=f"f:{i}") for i in range(n)
    ]


def prepare(made, folder, **changes):
    return loader.prepare(made, TOKENIZER, **(SIZES | {"folder": folder} | changes))


@pytest.mark.parametrize("file", ["000001.array_record", "000001.npz", "000003.array_record"])
@pytest.mark.parametrize("left", [0, 100, None])
def test_a_torn_file_is_made_again(tmp_path, file, left):
    whole = [e.encoded.responses for e in prepare(some(), tmp_path).examples]
    path = tmp_path / file
    if left is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:left])
    seen = collections.Counter()
    read = (seen.update([group.source]) or group for group in some())
    found = [e.encoded.responses for e in prepare(read, tmp_path).examples]
    assert len(seen) == 20  # Read again, and tokenised from the torn one on.
    np.testing.assert_equal(found, whole)


def test_a_full_disk_is_told_in_one_line(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
    try:
        with pytest.raises(OSError, match="too large") as raised:
            prepare(some(), tmp_path / "tokens")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = faults.told(raised.value)
    assert str(tmp_path / "tokens") in said
    assert "larger than is allowed" in said
    assert len(prepare(some(), tmp_path / "tokens").examples) == 20


def test_a_process_reads_the_rows_of_its_devices_alone(tmp_path):
    """Together, processes have what one has."""
    prepared = prepare(some(), tmp_path, policy=True)
    how = {"row_length": 90, "layout": "shared", "batch_size": 8, "micro_batch_size": 4}
    one = loader.plan(prepared.examples, **how)
    halves = [np.arange(4) < 2, np.arange(4) >= 2]
    read = [[], []]
    for i in range(len(one)):
        whole, parts = one[i], []
        for here, seen in zip(halves, read, strict=True):
            own = records.Rows(
                prepared.examples.table,
                lambda e, seen=seen: seen.append(e) or prepared.examples[e],
            )
            parts.append(loader.plan(own, **how, here=here)[i])
        for name, x in whole.items():
            for here, part in zip(halves, parts, strict=True):
                np.testing.assert_array_equal(part[name][:, here], x[:, here], err_msg=name)
    assert sorted(read[0] + read[1]) == list(range(20))
    assert min(map(len, read)) > 4


def test_tokens_are_found_by_all_that_they_follow_from(tmp_path, monkeypatch):
    monkeypatch.setenv("HS2JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(survey, "SLOW", -1.0)
    file, copy = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    row = '{"prompt": "Hi", "chosen": "Yes", "rejected": "No"}\n'
    file.write_text(2 * row)
    copy.write_text(2 * row)
    data = ConfigDict({"on_error": "raise", "derive": "", "condition": ""})

    def folder(of=file, tokenizer=TOKENIZER, data=data, **settings):
        survey._survey.cache_clear()
        return tokenised.folder(data, f"preference:{of}", tokenizer, settings)

    first = folder()
    assert folder() == first
    other = ConfigDict(data.to_dict() | {"condition": "ratings"})
    changed = [folder(copy), folder(tokenizer=BOS), folder(data=other), folder(policy=True)]
    file.write_text(row + "\n" + row)  # The second is in another line.
    changed.append(folder())
    file.write_text(row)
    changed.append(folder())
    assert len({first, *changed}) == 7
    # What a slow survey has found, no process reads again.
    monkeypatch.setattr(survey, "_read", None)
    assert folder() == changed[-1]
    (tmp_path / "cache" / "tokens").rename(tmp_path / "cache" / "gone")
    (tmp_path / "cache" / "tokens").touch()
    assert folder() is None
