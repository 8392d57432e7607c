"""ExPO's arithmetic on trees and on models that are read leaf by leaf, and runs as its sources."""

import copy
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stages
import tiny
from command import succeed
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import assert_same_bits

from hs2jax.models import merge, sharding
from hs2jax.models.hf import tokenizer_files
from hs2jax.reward_model import RewardModel
from hs2jax.training.convert import open_run, open_source

NUMBERS = st.floats(-1e4, 1e4, width=32)
FACTORS = st.floats(-2, 3, width=32)


def bits(tree):
    return jax.tree.map(lambda x: np.asarray(x).view(np.uint32), tree)


def moved(model: RewardModel, seed: int = 7) -> RewardModel:
    """The model as if it had been trained."""
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda x: x + jnp.asarray(rng.normal(0, 0.03, x.shape), x.dtype), model.params
    )
    return dataclasses.replace(model, params=params)


def assert_same_places(a, b):
    assert jax.tree.map(lambda x: x.sharding, a) == jax.tree.map(lambda x: x.sharding, b)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two exports, of a model and of it after some training."""
    folder = tmp_path_factory.mktemp("merge")
    model = tiny.save(folder / "initial", outputs=("a", "b"), bias=True, tied=False)
    moved(model).save(folder / "trained")
    return folder / "initial", folder / "trained"


# Trees ------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=8))
def test_factor_0_and_1_give_the_bits_of_the_two(pairs):
    a, b = np.array(pairs, np.float32).T
    a, b = {"x": {"y": a}, "z": a[:1]}, {"x": {"y": b}, "z": b[:1]}
    for expo in (merge.expo, jax.jit(merge.expo)):
        assert_same_bits(bits(expo(a, b, 0.0)), bits(a))
        assert_same_bits(bits(expo(a, b, 1.0)), bits(b))


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=8), FACTORS, FACTORS)
def test_it_is_linear_in_the_factor(pairs, f, g):
    a, b = np.array(pairs, np.float32).T
    at = {factor: np.asarray(merge.expo(a, b, factor), float) for factor in (f, g, (f + g) / 2)}
    size = 1e-6 * (np.abs(a) + np.abs(b)) * 8
    np.testing.assert_array_less(np.abs((at[f] + at[g]) / 2 - at[(f + g) / 2]), size + 1e-30)
    exact = a.astype(float) + f * (b.astype(float) - a.astype(float))
    np.testing.assert_array_less(np.abs(at[f] - exact), size + 1e-30)


def test_it_is_computed_in_float32():
    # In bfloat16 the difference would be rounded to 8 bits, and so would the sum.
    a, b = jnp.asarray([1.0, 257.0], jnp.bfloat16), jnp.asarray([1.0078125, 258.0], jnp.bfloat16)
    merged = merge.expo(a, b, 1.5)
    assert merged.dtype == jnp.float32
    np.testing.assert_array_equal(merged, [1.01171875, 259.0])


def test_trees_that_differ_are_refused():
    a = {"x": np.zeros((3, 1), np.float32)}
    with pytest.raises(ValueError, match=r"x: shape \[3, 1\] cannot be merged with \[1\]"):
        merge.expo(a, {"x": np.zeros(1, np.float32)}, 1.5)
    with pytest.raises(ValueError, match="y"):
        merge.expo(a, {"y": a["x"]}, 1.5)


# Models that are read leaf by leaf ----------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.0, 1.0, 1.52])
def test_merged_folders_are_the_merged_parameters(folders, factor):
    initial, trained = (RewardModel.load(folder).params for folder in folders)
    merged = merge.merge(*map(merge.open_source, map(str, folders)), factor)
    if factor in (0, 1):
        assert_same_bits(merged, trained if factor else initial)
    expected = jax.jit(merge.expo)(initial, trained, factor)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7), merged, expected
    )


def test_merged_on_eight_devices_is_the_same_and_lies_as_a_loaded_model_does(folders):
    mesh = sharding.make_mesh(data=1, fsdp=4, tensor=2)
    places = RewardModel.load(folders[0], mesh=mesh).params
    one = merge.merge(*(merge.open_source(str(folder)) for folder in folders), 1.52)
    eight = merge.merge(*(merge.open_source(str(folder), mesh) for folder in folders), 1.52)
    assert_same_bits(one, eight)
    assert_same_places(eight, places)
    q = eight["decoder"]["layers"]["attention"]["q"]
    assert q.addressable_shards[0].data.size * 8 == q.size


@pytest.mark.parametrize("devices", [1, 8])
def test_of_two_models_only_one_and_a_pair_of_leaves_are_in_memory(folders, devices):
    mesh = sharding.make_mesh(data=1, fsdp=4, tensor=2) if devices == 8 else None
    opened = [merge.open_source(str(folder), mesh) for folder in folders]
    before = on_first_device()
    seen = []

    def watched(source):
        def leaf(path):
            x = jax.block_until_ready(source.leaf(path))
            seen.append(on_first_device() - before)
            return x

        return source._replace(leaf=leaf)

    merged = merge.merge(*map(watched, opened), 1.5)
    whole = on_first_device() - before
    largest = max(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(merged))
    assert len(seen) == 2 * len(jax.tree.leaves(merged))
    assert max(seen) <= whole + 2 * largest
    assert whole + 2 * largest < 1.9 * whole  # Else this would show nothing.


def on_first_device() -> int:
    """Bytes of living arrays on the first device."""
    shards = [shard for x in jax.live_arrays() for shard in x.addressable_shards]
    return sum(each.data.nbytes for each in shards if each.device == jax.devices()[0])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_layers": 2}, "num_layers: 3 and 2"),
        ({"norm_epsilon": 1e-5}, "norm_epsilon: 1e-06 and 1e-05"),
        ({"outputs": ("a", "c")}, r"outputs: \('a', 'b'\) and \('a', 'c'\)"),
        ({"bias": False}, "the head's bias: True and False"),
        ({"tied": True}, "tied: False and True"),
    ],
)
def test_models_that_differ_are_refused_by_name(folders, tmp_path, options, said):
    tiny.save(tmp_path, **({"outputs": ("a", "b"), "bias": True, "tied": False} | options))
    with pytest.raises(ValueError, match=said) as error:
        merge.check_alike(merge.open_source(str(folders[0])), merge.open_source(str(tmp_path)))
    assert str(folders[0]) in str(error.value)


def test_a_different_template_reading_or_vocabulary_is_refused(folders):
    source = merge.open_source(str(folders[0]))
    other = merge.open_source(str(folders[1]))
    merge.check_alike(source, other)

    with_template = copy.deepcopy(other.model.tokenizer)
    with_template.chat_template = tiny.LLAMA
    for changes, said in (
        ({"template": "extra_id"}, "template: 'own' and 'extra_id'"),
        ({"read": "last"}, "read: 'end_of_turn' and 'last'"),
        ({"tokenizer": with_template}, "text of the chat template"),
        ({"tokenizer": tiny.bos_tokenizer()}, "tokenizer's vocabulary"),
    ):
        changed = dataclasses.replace(other.model, **changes)
        with pytest.raises(ValueError, match=said):
            merge.check_alike(source, other._replace(model=changed))
    # The pad that an export adds makes no difference.
    assert tokenizer_files.PAD in source.model.tokenizer.get_vocab()
    assert tokenizer_files.PAD not in tiny.tokenizer().get_vocab()
    unpadded = dataclasses.replace(source.model, tokenizer=tiny.tokenizer())
    merge.check_alike(source, source._replace(model=unpadded))


def test_a_language_model_is_a_source_only_by_a_row_of_its_lm_head(tmp_path):
    tiny.language_model(tmp_path, tied=False)
    with pytest.raises(ValueError, match="no reward head"):
        merge.open_source(str(tmp_path))
    source = merge.open_source(name := f"{tmp_path}#lm_head[0]")
    assert_same_bits(merge.merge(source, source, 1.0), RewardModel.load(name).params)


# Runs ---------------------------------------------------------------------------------------------


TRAINED = {
    "all": [],
    "LoRA": ["lora.rank=2", "lora.targets=attention/(q|v)$", "trainable.last_layers=1"],
    "head": ["trainable.last_layers=0", "trainable.paths=^head/"],
}


@pytest.fixture(scope="module")
def run(folders, tmp_path_factory):
    """Train from `folders[0]` in a way of TRAINED; returns the run's folder."""
    folder = tmp_path_factory.mktemp("runs")
    data = stages.pairs(folder / "pairs.jsonl", 12)
    done = {}

    def train(way: str):
        if way not in done:
            done[way] = folder / str(len(done))
            options = [
                *(f"model.name={folders[0]}", "model.outputs=()", "model.template="),
                *(f"data.train={data}", f"data.validation={data}"),
                *("data.row_length=256", "batch_size=6", "micro_batch_size=8", "epochs=2"),
                "keep_checkpoints=True",
                *("optimizer.learning_rate=1e-3", "optimizer.warmup=1", "model.remat=False"),
                *TRAINED[way],
            ]
            file = "--config=configs/hh_bradley_terry.py"
            succeed("train", file, f"--workdir={done[way]}", *(f"--config.{o}" for o in options))
        return done[way]

    return train


PLACES = [*((way, "one device") for way in TRAINED), ("LoRA", "a mesh")]


@pytest.mark.parametrize(("way", "on"), PLACES)
def test_a_run_is_read_as_its_export_is(run, folders, way, on):
    mesh = sharding.make_mesh(fsdp=4, tensor=2) if on == "a mesh" else None
    initial = merge.open_source(str(folders[0]), mesh)
    running, exported = open_run(run(way), mesh), open_source(str(run(way)), mesh)
    merge.check_alike(initial, running)
    assert exported.name.endswith("model")
    assert running.model.weights == exported.model.weights == {"a": 1.0}
    expected = merge.merge(exported, exported, 1.0)
    found = merge.merge(initial, running, 1.0)
    same = 1e-6 if way == "LoRA" else 0.0  # A product's sum may be in another order.
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=same, atol=same), found, expected
    )
    assert_same_places(found, expected)
    start = merge.merge(initial, initial, 0.0)
    changed = jax.tree.map(lambda x, y: bool((x != y).any()), found, start)
    assert changed["head"]["kernel"]
    assert changed["decoder"]["layers"]["attention"]["q"] == (way != "head")


def test_a_run_whose_base_has_changed_or_without_a_best_step_is_refused(run, folders, tmp_path):
    config = json.loads((run("LoRA") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "best").mkdir()
    with pytest.raises(FileNotFoundError, match="no checkpoint of a best step yet"):
        open_source(str(tmp_path))
    (tmp_path / "best").rmdir()
    (tmp_path / "best").symlink_to(run("LoRA") / "best")
    config["model"]["name"] = str(folders[1])
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="is another model than the one that the run"):
        open_source(str(tmp_path))
