"""Kept scores: each computed once, never another model's or template's, whole after a kill."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from hs2jax.data.groups import Group
from hs2jax.data.record import Record
from hs2jax.evaluation import scores
from hs2jax.evaluation.scores import Cache, model_key, stream

MODEL = tiny.reward_model(("helpfulness", "verbosity"))
GROUPS = [
    Group(
        ({"role": "user", "content": f"How much is {i} and {i}? " * (1 + i % 5)},),
        tuple(f"{i * r}." for r in range(1, 2 + i % 3)),
        source=f"test:{i}",
    )
    for i in range(40)
]


class KilledError(Exception):
    """What ends an evaluation half-way."""


def outputs(model, cache, groups=GROUPS, **options):
    return [each.outputs for each in stream(model, groups, cache, **options)]


def counted(model, allowed: int = 10**6):
    """A model that counts the conversations it computes, and is killed after so many."""
    seen = []

    class Counting(type(model)):
        def predict(self, examples, **options):
            if len(seen) >= allowed:
                raise KilledError
            seen.extend(r for e in examples for r in e.encoded.responses)
            return super().predict(examples, **options)

    parts = {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}
    return Counting(**parts), seen


def test_streamed_scores_are_the_models(tmp_path, monkeypatch):
    monkeypatch.setattr(scores, "WINDOW", 16)
    monkeypatch.setattr(scores, "TOKENS", 500)
    found = list(stream(MODEL, GROUPS, Cache("a", tmp_path)))
    assert [each.group for each in found] == GROUPS
    for each, table in zip(found, MODEL.score_groups(GROUPS), strict=True):
        np.testing.assert_allclose(each.outputs, table, atol=1e-5)
        assert len(each.tokens) == len(each.group.responses)
        assert each.cut == 0


def test_what_is_kept_is_not_computed_again(tmp_path):
    model, seen = counted(MODEL)
    first = outputs(model, Cache("a", tmp_path))
    assert len(seen) == sum(len(group.responses) for group in GROUPS)
    again = outputs(model, Cache("a", tmp_path))
    assert len(seen) == sum(len(group.responses) for group in GROUPS)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_killed_half_way_it_goes_on_with_what_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(scores, "TOKENS", 500)
    undisturbed = outputs(MODEL, Cache("a", tmp_path / "undisturbed"))
    killed, before = counted(MODEL, allowed=30)
    with pytest.raises(KilledError):
        outputs(killed, Cache("a", tmp_path))
    path = Cache("a", tmp_path).path
    path.write_bytes(path.read_bytes()[:-7])  # Killed while the last line was written.
    model, after = counted(MODEL)
    found = outputs(model, Cache("a", tmp_path))
    everything = sum(len(group.responses) for group in GROUPS)
    assert 30 <= len(before) < everything
    # The response whose line was cut, with those of its group.
    assert everything - len(before) < len(after) <= everything - len(before) + 3
    for one, other in zip(found, undisturbed, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    model, after = counted(MODEL)
    outputs(model, Cache("a", tmp_path))
    assert not after


def changed_parameter():
    kernel = MODEL.params["head"]["kernel"]
    other = kernel.at[0, 0].set(np.nextafter(kernel[0, 0], np.float32(1)))
    return dataclasses.replace(MODEL, params={**MODEL.params, "head": {"kernel": other}})


def changed_template():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n", "assistant \n")
    return dataclasses.replace(MODEL, tokenizer=tokenizer)


OTHERS = {
    "one bit of one parameter": changed_parameter,
    "template": changed_template,
    "place of reading": lambda: dataclasses.replace(MODEL, read="last"),
    "dtype": lambda: dataclasses.replace(MODEL, dtype=jax.numpy.bfloat16),
    "names of outputs": lambda: dataclasses.replace(MODEL, outputs=("verbosity", "helpfulness")),
    "config": lambda: dataclasses.replace(
        MODEL, config=dataclasses.replace(MODEL.config, norm_epsilon=1e-3)
    ),
}


@pytest.mark.parametrize("change", OTHERS)
def test_another_model_never_meets_a_kept_score(change, tmp_path):
    other = OTHERS[change]()
    assert model_key(other) != model_key(MODEL)
    assert model_key(other) == model_key(OTHERS[change]())
    outputs(MODEL, Cache(model_key(MODEL), tmp_path))
    model, seen = counted(other)
    outputs(model, Cache(model_key(other), tmp_path))
    assert len(seen) == sum(len(group.responses) for group in GROUPS)


def test_cut_prompts_have_scores_of_their_own(tmp_path):
    cache, record = Cache("a", tmp_path), Record()
    whole = list(stream(MODEL, GROUPS, cache))
    cut = list(stream(MODEL, GROUPS, cache, max_tokens=40, record=record))
    again = list(stream(MODEL, GROUPS, Cache("b", tmp_path), max_tokens=40))
    shortened = [i for i, each in enumerate(cut) if each.cut]
    assert 0 < len(shortened) == record.truncated < len(GROUPS)
    for i, (one, other, fresh) in enumerate(zip(whole, cut, again, strict=True)):
        assert (not np.allclose(one.outputs, other.outputs, atol=1e-4)) == (i in shortened)
        np.testing.assert_allclose(other.outputs, fresh.outputs, atol=1e-5)


def test_what_cannot_be_cut_enough_is_left_out_and_counted(tmp_path):
    long = Group(({"role": "user", "content": "Why?"},), ("So. " * 100,), source="test:long")
    with pytest.raises(ValueError, match=r"test:long: .* longer than the 40 that fit"):
        outputs(MODEL, Cache("a", tmp_path), [long], max_tokens=40)
    record = Record()
    found = outputs(
        MODEL, Cache("a", tmp_path), [long, *GROUPS], max_tokens=40, skip=True, record=record
    )
    assert found[0] is None
    assert not any(each is None for each in found[1:])
    assert record.too_long == 1


def test_two_evaluations_append_to_one_file(tmp_path):
    first, second = Cache("a", tmp_path), Cache("a", tmp_path)
    first.add({"one": [1.0], "two": [2.0]})
    first.path.write_bytes(first.path.read_bytes()[:-3])  # As if killed while "two" was written.
    second.add({"three": [3.0]})
    first.add({"four": [1 / 3]})
    found = Cache("a", tmp_path)
    names = ("one", "two", "three", "four")
    assert [found.get(name) for name in names] == [[1.0], None, [3.0], [1 / 3]]


def test_scores_that_are_not_finite_are_refused_with_their_row(tmp_path):
    kernel = MODEL.params["head"]["kernel"].at[3, 1].set(np.nan)
    broken = dataclasses.replace(MODEL, params={**MODEL.params, "head": {"kernel": kernel}})
    for _ in range(2):  # Computed, and kept.
        with pytest.raises(ValueError, match="test:0: the model's outputs are not finite"):
            outputs(broken, Cache("a", tmp_path))
