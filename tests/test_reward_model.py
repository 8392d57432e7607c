"""A response has one score, however it is computed; weights, names and errors of RewardModel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import talk

from hs2jax.data import loader, packing
from hs2jax.inference import plan_evaluation, predict, run_batches
from hs2jax.models import sharding
from hs2jax.models.checksum import checksum
from hs2jax.reward_model import RewardModel, group_conversations

MODEL = tiny.reward_model(("helpfulness", "verbosity"))
TOLERANCE = {"rtol": 0, "atol": 1e-5}

PROMPTS = ("Where is Paris?", "How do I bake bread, and how long does it take?", "Hi")
TEXTS = st.sampled_from(["Yes.", "No.", "In France.", "Mix flour and water, then wait. " * 3])
PAIRS = st.lists(st.tuples(st.sampled_from(PROMPTS), TEXTS), min_size=1, max_size=10)


@functools.cache
def alone(prompt, response):
    """The score of a conversation computed by itself."""
    return tuple(MODEL.score([talk(prompt, response)], rows=1)[0].outputs.values())


def table(scores):
    return np.asarray([list(score.outputs.values()) for score in scores])


@settings(max_examples=15)
@given(pairs=PAIRS, layout=st.sampled_from(packing.LAYOUTS), rows=st.sampled_from([1, 3, 8]))
def test_scores_depend_on_neither_layout_nor_rows_nor_order_nor_company(pairs, layout, rows):
    # The order is random: it also decides which neighbours share a prompt.
    found = table(MODEL.score([talk(*pair) for pair in pairs], layout=layout, rows=rows))
    np.testing.assert_allclose(found, [alone(*pair) for pair in pairs], **TOLERANCE)


MANY = [(p, r) for p in PROMPTS for r in ("Yes.", "No.", "Mix flour and water, then wait.")]


def test_scores_differ_visibly():
    # Without this, the tests here would hold for a model that says the same of everything.
    first = sorted(alone(*pair)[0] for pair in MANY)
    assert min(np.diff(first)) > 1e-4
    assert np.ptp(first) > 0.1


@pytest.mark.parametrize("layout", ["shared", "separate"])
def test_scores_do_not_depend_on_the_padding_side(layout):
    def run(micro):
        micro = pad_left({name: np.array(x) for name, x in micro.items()})
        return predict(MODEL.params, micro, config=MODEL.config, layout=layout, dtype=MODEL.dtype)

    groups = group_conversations([talk(*pair) for pair in MANY])
    prepared = loader.prepare(
        groups, MODEL.tokenizer, attributes=(), row_length=256, max_tokens=256, layout=layout
    )
    batches = plan_evaluation(prepared.examples, row_length=256, layout=layout, rows=3)
    assert (batches[0]["segment_ids"][..., -1] == 0).all()  # There is padding to move.
    found = np.concatenate(run_batches(run, batches, 2))
    np.testing.assert_allclose(found, [alone(*pair) for pair in MANY], **TOLERANCE)


def pad_left(batch):
    """Every row of a laid batch moved to the right, so that its padding is on the left."""
    T = batch["tokens"].shape[1]
    for b in range(len(batch["tokens"])):
        moved = T - np.count_nonzero(batch["segment_ids"][b])
        for name in ("tokens", "segment_ids", "branch_ids", "positions"):
            batch[name][b] = np.roll(batch[name][b], moved)
        batch["end_positions"][b, batch["group_ids"][b] >= 0] += moved
    return batch


@pytest.mark.parametrize("layout", packing.LAYOUTS)
@pytest.mark.parametrize("axes", [{"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}], ids=str)
def test_scores_do_not_depend_on_the_devices(axes, layout):
    mesh = sharding.make_mesh(**axes)
    spread = tiny.reward_model(MODEL.outputs, mesh=mesh)
    assert len(spread.params["decoder"]["layers"]["mlp"]["up"].sharding.device_set) == 8
    found = table(spread.score([talk(*pair) for pair in MANY], layout=layout))
    np.testing.assert_allclose(found, [alone(*pair) for pair in MANY], **TOLERANCE)


def test_outputs_have_names_and_weights_make_one_reward():
    talks = [talk(*pair) for pair in MANY]
    weighted = tiny.reward_model(MODEL.outputs, weights={"helpfulness": 2.0, "verbosity": -0.5})
    for plain, score in zip(MODEL.score(talks), weighted.score(talks), strict=True):
        assert list(score.outputs) == ["helpfulness", "verbosity"]
        assert plain.outputs == score.outputs
        assert plain.reward is None
        expected = 2.0 * score.outputs["helpfulness"] - 0.5 * score.outputs["verbosity"]
        assert score.reward == pytest.approx(expected, abs=1e-6)
    # Given weights come before the model's own; an output that they leave out counts nothing.
    for score in weighted.score(talks, weights={"verbosity": 1.0}):
        assert score.reward == score.outputs["verbosity"]


def test_a_lone_output_is_the_reward_and_a_bias_is_added():
    plain, biased = (tiny.reward_model(("a",), bias=bias) for bias in (False, True))
    first, second = (model.score([talk("Hi", "Yes.")])[0] for model in (plain, biased))
    assert first.reward == first.outputs["a"]
    assert second.reward - first.reward == pytest.approx(0.5, abs=1e-6)


def test_weights_for_no_output_and_what_is_no_conversation_are_errors():
    for weights in ({"humour": 1.0}, {}):
        with pytest.raises(ValueError, match=r"outputs are \['helpfulness', 'verbosity'\]"):
            MODEL.score([talk("Hi", "Yes.")], weights=weights)
    assert MODEL.score([]) == []
    with pytest.raises(ValueError, match="conversation 1: expected a last turn by the assistant"):
        MODEL.score([talk("Hi", "Yes."), talk("Hi", "Yes.")[:1]])
    with pytest.raises(ValueError, match="conversation 0: expected a list of at least one"):
        MODEL.score([[]])


# Longer than the positions, but not than those of four responses together.
LONG = talk("word " * 200, "Yes.")


@pytest.mark.parametrize("layout", packing.LAYOUTS)
def test_what_is_longer_than_the_positions_is_an_error_or_cut_where_asked(layout):
    company = [talk("Hi", text) for text in ("Yes.", "No.", "So.")]
    for before in ([], company):
        with pytest.raises(ValueError, match=r"conversation \d: .* longer than the 512 that fit"):
            MODEL.score([*before, LONG], layout=layout)
    settings = {"row_length": 512, "max_tokens": 512, "too_long": "truncate"}
    encoded = loader.prepare(
        group_conversations([LONG]), MODEL.tokenizer, attributes=(), **settings
    )
    found = table(MODEL.score([*company, LONG], layout=layout, truncate=True))[3:]
    np.testing.assert_allclose(found, MODEL.predict(encoded.examples)[0], **TOLERANCE)


@pytest.mark.parametrize("layout", packing.LAYOUTS)
def test_many_responses_to_one_long_prompt_fit_if_each_does(layout):
    prompt = "word " * 130
    pairs = [(prompt, text) for text in ("Yes.", "No.", "So.", "Well.")]
    found = table(MODEL.score([talk(*pair) for pair in pairs], layout=layout))
    np.testing.assert_allclose(found, [alone(*pair) for pair in pairs], **TOLERANCE)


def test_a_saved_model_loads_with_its_names_weights_and_scores(tmp_path):
    weights = {"helpfulness": 1.0, "verbosity": -0.25}
    saved = tiny.save(tmp_path, outputs=MODEL.outputs, weights=weights)
    loaded = RewardModel.load(tmp_path, outputs=MODEL.outputs)
    assert (loaded.outputs, loaded.weights) == (saved.outputs, weights)
    talks = [talk(*pair) for pair in MANY]
    assert loaded.score(talks) == saved.score(talks)
    other = {"verbosity": 1.0}
    assert RewardModel.load(tmp_path, weights=other).weights == other
    with pytest.raises(ValueError, match=r"outputs \('helpfulness', 'verbosity'\), not \('c',\)"):
        RewardModel.load(tmp_path, outputs=("c",))
    for path in tmp_path.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ValueError, match="no tokenizer beside the model"):
        RewardModel.load(tmp_path)


@pytest.mark.parametrize("mesh", [None, {"fsdp": 4, "tensor": 2}], ids=str)
def test_weights_lie_in_the_type_of_the_computation_and_score_the_same(tmp_path, mesh):
    """But where they are to be trained; norms and heads are in float32 always."""
    tiny.save(tmp_path, outputs=MODEL.outputs)
    how = {"dtype": jnp.bfloat16, "mesh": mesh and sharding.make_mesh(**mesh)}
    half, whole = (RewardModel.load(tmp_path, masters=masters, **how) for masters in (False, True))
    types = {
        sharding.path_name(path): x.dtype for path, x in jax.tree.leaves_with_path(half.params)
    }
    assert {name for name, dtype in types.items() if dtype == jnp.float32} == {
        name for name in types if "norm" in name or name.startswith("head/")
    }
    assert {x.dtype for x in jax.tree.leaves(whole.params)} == {jnp.dtype(jnp.float32)}
    talks = [talk(*pair) for pair in MANY]
    assert half.score(talks) == whole.score(talks)
    assert half.score(talks) != MODEL.score(talks)
    # A run that goes on, or weights that were fitted, elsewhere in the other type are the same.
    sums = [checksum(each.params, rounded=True) for each in (half, whole)]
    assert sums[0] == sums[1]
    assert checksum(half.params) != checksum(whole.params)


def test_a_language_model_needs_the_names_of_a_new_head(tmp_path):
    tiny.language_model(tmp_path / "model")
    with pytest.raises(ValueError, match="no reward head: it is a language model"):
        RewardModel.load(tmp_path / "model")
    model = RewardModel.load(tmp_path / "model", outputs=("a", "b"), bias=True)
    assert model.outputs == ("a", "b")
    assert model.params["head"]["kernel"].shape == (32, 2)
    assert model.params["head"]["bias"].tolist() == [0.0, 0.0]
