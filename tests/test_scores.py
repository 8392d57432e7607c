"""Kept scores: each computed once, and never another model's or template's."""

import dataclasses
import re
import sqlite3

import jax
import numpy as np
import pytest
import tiny

from hs2jax.data.conversations import group_conversations
from hs2jax.data.groups import Group
from hs2jax.data.record import Record
from hs2jax.evaluation import scores
from hs2jax.evaluation.scores import model_key, stream
from hs2jax.store import Store

MODEL = tiny.reward_model(("helpfulness", "verbosity"))
GROUPS = [
    Group(
        ({"role": "user", "content": f"How much is {i} and {i}? " * (1 + i % 3)},),
        tuple(f"{i * r}." for r in range(1, 2 + i % 3)),
        source=f"test:{i}",
    )
    for i in range(24)
]
EVERYTHING = sum(len(group.responses) for group in GROUPS)


def store(folder, name="a") -> Store:
    return Store(folder / f"{name}.sqlite")


def outputs(model, kept, groups=GROUPS, **options):
    return [each.outputs for each in stream(model, groups, kept, **options)]


def counted(model):
    """A model that counts the conversations it computes."""
    seen = []

    class Counting(type(model)):
        def predict(self, examples, **options):
            seen.extend(r for e in examples for r in e.encoded.responses)
            return super().predict(examples, **options)

    parts = {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}
    return Counting(**parts), seen


def test_streamed_scores_are_the_models_and_kept_ones_are_not_computed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(scores, "WINDOW", 16)
    monkeypatch.setattr(scores, "TOKENS", 500)
    model, seen = counted(MODEL)
    found = list(stream(model, GROUPS, store(tmp_path)))
    assert [each.group for each in found] == GROUPS
    for each, table in zip(found, MODEL.score_groups(GROUPS), strict=True):
        np.testing.assert_allclose(each.outputs, table, atol=1e-5)
        assert len(each.tokens) == len(each.group.responses)
        assert each.cut == 0
    assert len(seen) == EVERYTHING
    for one, other in zip(found, outputs(model, store(tmp_path)), strict=True):
        np.testing.assert_array_equal(one.outputs, other)
    assert len(seen) == EVERYTHING


KERNEL = MODEL.params["head"]["kernel"]
NEXT = {"kernel": KERNEL.at[0, 0].set(np.nextafter(KERNEL[0, 0], np.float32(1)))}
WORDS = tiny.tokenizer()
WORDS.chat_template = WORDS.chat_template.replace("assistant\n", "assistant \n")
OTHERS = {
    "params": MODEL.params | {"head": NEXT},  # One bit of one parameter.
    "tokenizer": WORDS,
    "read": "last",
    "dtype": jax.numpy.bfloat16,
    "outputs": ("verbosity", "helpfulness"),
    "config": dataclasses.replace(MODEL.config, norm_epsilon=1e-3),
}


@pytest.mark.parametrize("change", OTHERS)
def test_another_model_never_meets_a_kept_score(change, monkeypatch, tmp_path):
    monkeypatch.setattr(scores, "default_folder", lambda: tmp_path)
    other, same = (dataclasses.replace(MODEL, **{change: OTHERS[change]}) for _ in range(2))
    assert model_key(other) == model_key(same)
    assert scores.store_of(other).path != scores.store_of(MODEL).path


def test_cut_prompts_have_scores_of_their_own(tmp_path):
    kept, record = store(tmp_path), Record()
    whole = list(stream(MODEL, GROUPS, kept))
    cut = list(stream(MODEL, GROUPS, kept, max_tokens=40, record=record))
    again = list(stream(MODEL, GROUPS, store(tmp_path, "b"), max_tokens=40))
    shortened = [i for i, each in enumerate(cut) if each.cut]
    assert 0 < len(shortened) == record.truncated < len(GROUPS)
    for i, (one, other, fresh) in enumerate(zip(whole, cut, again, strict=True)):
        assert (not np.allclose(one.outputs, other.outputs, atol=1e-4)) == (i in shortened)
        np.testing.assert_allclose(other.outputs, fresh.outputs, atol=1e-5)


def test_what_cannot_be_cut_enough_is_left_out_and_counted(tmp_path):
    long = Group(({"role": "user", "content": "Why?"},), ("So. " * 100,), source="test:long")
    with pytest.raises(ValueError, match=r"test:long: .* longer than the 40 that fit"):
        outputs(MODEL, store(tmp_path), [long], max_tokens=40)
    record, groups = Record(), [long, *GROUPS[:5]]
    found = outputs(MODEL, store(tmp_path), groups, max_tokens=40, skip=True, record=record)
    assert [each is None for each in found] == [True] + [False] * 5
    assert record.too_long == 1


def test_healthy_scores_are_kept_beside_those_that_are_not_finite(tmp_path, caplog):
    decoder = tiny.overflowing(MODEL.params["decoder"], "~")
    broken = dataclasses.replace(MODEL, params={**MODEL.params, "decoder": decoder})
    talks = [tiny.talk("Why?", "So."), tiny.talk("Who ~?", "I."), tiny.talk("When?", "Now.")]
    groups, said = group_conversations(talks), r"conversation 1: .* not finite .* in layer 0 at tok"
    with pytest.raises(ValueError, match=said):
        outputs(broken, store(tmp_path), groups)
    kept = sqlite3.connect(store(tmp_path).path).execute("SELECT * FROM kept")
    assert len(kept.fetchall()) == 2
    counting, computed = counted(broken)
    record = Record()
    found = outputs(counting, store(tmp_path), groups, leave_out=True, record=record)
    assert len(computed) == 1
    assert found[1] is None
    assert record.skipped == {"not finite": 1}
    assert record.skipped_examples[0].startswith("conversation 1")
    caplog.clear()
    scored = broken.score(talks, weights=dict.fromkeys(MODEL.outputs, 1.0))
    assert re.search(said, caplog.text)
    assert np.isnan([*scored[1].outputs.values(), scored[1].reward]).all()
    for i in (0, 2):
        np.testing.assert_array_equal([*scored[i].outputs.values()], found[i][0])
