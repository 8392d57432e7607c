"""What is trained and what is kept: last layers, paths, LoRA; and that no head is lost."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stages
import tiny

from hs2jax import configs
from hs2jax.inference import forward
from hs2jax.models import bits, sharding
from hs2jax.models.checksum import checksum
from hs2jax.models.decoder import hold
from hs2jax.models.sharding import path_name
from hs2jax.reward_model import RewardModel
from hs2jax.training import loop, trainable
from hs2jax.training.convert import convert

TALKS = [tiny.talk("Hi", text) for text in ("Yes.", "No, not at all.")]
TOKENS = np.random.default_rng(0).integers(0, 300, (2, 16)).astype(np.int32)
BATCH = {
    "tokens": TOKENS,
    "segment_ids": np.ones_like(TOKENS),
    "branch_ids": np.zeros_like(TOKENS),
    "positions": np.broadcast_to(np.arange(16, dtype=np.int32), (2, 16)),
    "end_positions": np.array([[15], [9]], np.int32),
}


def config(**changes):
    made = configs.defaults("train_reward_model")
    made.update_from_flattened_dict(changes)
    return made


def names(tree):
    return {path_name(path) for path, _ in jax.tree.leaves_with_path(tree)}


def assert_same(a, b):
    assert names(a) == names(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "decoder|head"),
        ({"trainable.paths": "^head/"}, "head"),
        ({"trainable.paths": "layers/mlp|^decoder/norm"}, "decoder/(layers/mlp|norm)|head"),
        ({"trainable.last_layers": 1}, r"decoder/(layers|norm)|head"),
        ({"trainable.last_layers": 0}, r"decoder/norm|head"),
        ({"lora.rank": 2}, r"lora/|head"),
        ({"lora.rank": 2, "lora.targets": "attention/(q|v)$"}, r"lora/layers/attention/(q|v)|head"),
        ({"lora.rank": 2, "trainable.paths": "norm$"}, r"lora/|head|.*norm$"),
        ({"lora.rank": 2, "trainable.last_layers": 2}, r"lora/|head"),
    ],
)
def test_what_is_trained_and_that_parameters_come_back_as_they_were(changes, expected):
    settings, params = config(**changes), tiny.reward_model(bias=True).params
    trained, frozen = trainable.split(trainable.begin(params, settings), settings)
    assert_same(trainable.finish(trainable.join(trained, frozen)), params)
    assert not names(trained) & names(frozen)
    assert {"head/kernel", "head/bias"} <= names(trained)
    assert all(re.match(expected, name) for name in names(trained))
    assert not any(re.match(expected, name) for name in names(frozen) - {"lora_scale"})
    # As it lies where products are in bfloat16: what is trained in float32 all the same.
    half = {**params, "decoder": hold(params["decoder"], jnp.bfloat16)}
    trained, frozen = trainable.split(trainable.begin(half, settings), settings, jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(trained)} == {jnp.dtype(jnp.float32)}
    for path, x in jax.tree.leaves_with_path(frozen):
        in_float32 = re.search("norm|lora_scale", path_name(path[-1:]))
        assert x.dtype == (jnp.float32 if in_float32 else jnp.bfloat16)


def test_a_frozen_stack_gives_the_same_scores_and_no_gradient():
    model = tiny.reward_model()
    settings = config(**{"trainable.last_layers": 1})
    begun = trainable.begin(model.params, settings)

    def scores(params):
        return forward(params, BATCH, model.config, layout="shared", dtype=jnp.float32)

    np.testing.assert_array_equal(scores(begun), scores(model.params))
    whole = jax.grad(lambda p: jnp.sum(scores(p)))(model.params)
    part = jax.grad(lambda p: jnp.sum(scores(p)))(begun)
    top = jax.tree.map(lambda x: x[2:], whole["decoder"]["layers"])
    assert_close(part["decoder"]["layers"], top, rtol=1e-5, atol=1e-5)
    assert all(not np.any(x) for x in jax.tree.leaves(part["decoder"]["frozen"]))


@pytest.mark.parametrize("changes", [{}, {"trainable.last_layers": 1}, {"lora.rank": 2}])
def test_what_layers_keep_as_bits_gives_the_same_gradient(changes, monkeypatch):
    model, settings = tiny.reward_model(), config(**changes)
    begun = trainable.begin(model.params, settings)
    begun = jax.tree.map(lambda x: x + 0.1, begun)  # LoRA's b too.
    trained, frozen = trainable.split(begun, settings)

    def loss(trained):
        params = trainable.join(trained, frozen)
        return forward(params, BATCH, model.config, layout="shared", dtype=jnp.bfloat16).sum()

    assert "u16[" in str(jax.make_jaxpr(jax.grad(loss))(trained))
    with sharding.within(sharding.make_mesh(1, 1, 1, of=jax.devices()[:1])):  # As runs have it.
        gradient = jax.jit(jax.grad(loss))(trained)
        # Another function, or what was traced before would serve.
        assert "u16[" in str(jax.make_jaxpr(jax.grad(lambda x: loss(x)))(trained))
    monkeypatch.setattr(bits, "run", bits.call)
    assert "u16[" not in str(jax.make_jaxpr(jax.grad(lambda x: loss(x)))(trained))
    expected = jax.jit(jax.grad(lambda x: loss(x)))(trained)
    for name in ("lora", "decoder", "head"):
        if name in trained:
            assert any(np.any(x) for x in jax.tree.leaves(expected[name]))
    assert_close(gradient, expected, rtol=1e-3, atol=1e-4)


def test_lora_in_the_decoder_equals_merged_weights():
    model = tiny.reward_model()
    begun = trainable.begin(model.params, config(**{"lora.rank": 3, "lora.alpha": 6.0}))
    rng = np.random.default_rng(0)
    begun["lora"] = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 0.2, x.shape), x.dtype), begun["lora"]
    )
    low = begun["lora"]["layers"]
    assert set(low["attention"]) == {"q", "k", "v", "o"}
    assert set(low["mlp"]) == {"gate", "up", "down"}
    merged = trainable.finish(begun)
    before, after = (of["decoder"]["layers"]["attention"] for of in (model.params, merged))
    # By hand, for one leaf with one and one with two input axes.
    for name, axes in (("q", "LDr,LrNH->LDNH"), ("o", "LNHr,LrD->LNHD")):
        product = jnp.einsum(axes, low["attention"][name]["a"], low["attention"][name]["b"])
        expected = before[name] + 2.0 * product
        np.testing.assert_allclose(after[name], expected, rtol=1e-5, atol=1e-6)
    model.params = begun
    branched = model.score(TALKS)
    model.params = merged
    for a, b in zip(branched, model.score(TALKS), strict=True):
        assert a.reward == pytest.approx(b.reward, abs=1e-4)
    model.params = tiny.reward_model().params
    assert abs(model.score(TALKS)[0].reward - branched[0].reward) > 1e-2


def test_every_trained_parameter_has_a_place_on_the_mesh():
    mesh = sharding.make_mesh(fsdp=4, tensor=2)
    settings = config(**{"lora.rank": 2, "trainable.last_layers": 2})
    begun = trainable.begin(tiny.reward_model(mesh=mesh).params, settings, mesh)
    places = sharding.shardings(begun, mesh)
    for x, place in zip(jax.tree.leaves(begun), jax.tree.leaves(places), strict=True):
        assert not x.shape or x.sharding.is_equivalent_to(place, x.ndim)
    frozen, layers = (places["decoder"][name]["attention"]["q"] for name in ("frozen", "layers"))
    assert frozen == layers
    assert places["lora"]["layers"]["attention"]["q"]["a"].is_fully_replicated


def test_the_checksum_sees_one_bit_and_no_sharding():
    params = tiny.reward_model().params
    mesh = sharding.make_mesh(fsdp=4, tensor=2)
    placed = jax.device_put(params, sharding.shardings(params, mesh))
    assert checksum(params) == checksum(placed)
    other = {**params, "head": {"kernel": params["head"]["kernel"].at[0, 0].multiply(1.0000002)}}
    assert checksum(params) != checksum(other)
    # Nor does it take layers in another order for the same, or weights of few bits.
    coarse = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), params)
    layers = jax.tree.map(lambda x: x[::-1], coarse["decoder"]["layers"])
    turned = {**coarse, "decoder": {**coarse["decoder"], "layers": layers}}
    pairs = zip(*(checksum(tree).split("-") for tree in (coarse, turned)), strict=True)
    assert sum(a != b for a, b in pairs) == len(jax.tree.leaves(layers))


# Whole runs -----------------------------------------------------------------------------------

SMALL = {
    "data.train": "helpsteer2:mini/train.jsonl[:12]",
    "data.validation": "helpsteer2:mini/validation.jsonl[:4]",
}
SMALL |= {"data.derive": "helpfulness", "data.row_length": 512, "optimizer.learning_rate": 1e-2}
SMALL |= {"optimizer.warmup": 1, "batch_size": 4, "micro_batch_size": 8, "epochs": 2}
SMALL |= {"evaluate_every": 3, "checkpoint_every": 2, "model.remat": False}


def run(folder, source, **changes):
    settings = config(**(SMALL | {"model.name": str(source)} | changes))
    return loop.train(settings, folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trainable") / "language-model"
    tiny.language_model(folder)
    return folder


RUNS = {
    "last layer": {"trainable.last_layers": 1},
    "LoRA": {"lora.rank": 2},
    "head": {"trainable.paths": "^head/", "optimizer.mu_dtype": "bfloat16"},
}


@pytest.fixture(scope="module")
def plain(source):
    """The folder of a run of the last layer."""
    run(source.parent / "plain", source, **RUNS["last layer"])
    return source.parent / "plain"


@pytest.mark.parametrize("what", RUNS)
def test_a_run_changes_what_is_trained_and_exports_it_all(tmp_path, source, plain, what):
    folder = plain if what == "last layer" else tmp_path / "run"
    rows = run(folder, source, **RUNS[what])
    begun = RewardModel.load(source, outputs=("reward",))
    ended = RewardModel.load(folder / "model")
    assert names(ended.params) == names(begun.params)
    changed = stages.changed(begun.params, ended.params)
    assert "head/kernel" in changed
    assert "decoder/embed" not in changed
    if what == "last layer":
        q, before = (m.params["decoder"]["layers"]["attention"]["q"] for m in (ended, begun))
        np.testing.assert_array_equal(q[:2], before[:2])
        assert not np.array_equal(q[2:], before[2:])
    if what == "head":
        assert changed == {"head/kernel"}
    if what == "LoRA":
        assert {"decoder/layers/attention/q", "decoder/layers/mlp/down"} <= changed
        assert not any(name.endswith("norm") for name in changed)
    costs = {row["metric"]: row["value"] for row in rows if row["set"] == ""}
    assert 0 < costs["trained_parameters"] < trainable.count(begun.params)
    assert costs["peak_memory_bytes"] > 10_000_000
    # The run's own checkpoint gives the same model as its export.
    convert(str(folder), tmp_path / "again")
    again = RewardModel.load(tmp_path / "again").params
    assert_close(again, ended.params, atol=1e-6)


def test_states_computed_once_train_the_same_model(tmp_path, source, plain, monkeypatch, caplog):
    caplog.set_level("INFO", "hs2jax")
    monkeypatch.setenv("HS2JAX_CACHE", str(tmp_path / "cache"))
    cached = RUNS["last layer"] | {"trainable.cache": True}
    rows = run(plain, source, **RUNS["last layer"]) + run(tmp_path / "cached", source, **cached)
    files = list((tmp_path / "cache" / "states").glob("*.sqlite"))
    assert len(files) == 2
    for path in files:  # What it takes is said before.
        (said,) = re.findall(rf"{path}, ([\d.]+) MB; [\d.,]+ MB are free\n", caplog.text)
        assert float(said) == pytest.approx(path.stat().st_size / 1e6, rel=0.5, abs=0.1)
    times = {path: path.stat().st_mtime_ns for path in files}
    # Also for what was trained from it: the layers below are the same, its vocabulary is not.
    run(tmp_path / "later", plain / "model", **cached, **{"model.outputs": (), "seed": 1})
    assert {path: path.stat().st_mtime_ns for path in files} == times, "they were computed again"
    assert len(list((tmp_path / "cache" / "states").glob("*.sqlite"))) == 2
    margins = [r["value"] for r in rows if (r["part"], r["metric"]) == ("", "margin")]
    assert margins[0] == pytest.approx(margins[1], abs=1e-4)
    a, b = (RewardModel.load(f / "model").params for f in (plain, tmp_path / "cached"))
    assert_close(a, b, atol=2e-3)


def test_a_run_with_another_base_model_does_not_go_on(tmp_path, source):
    settings = {"lora.rank": 2, "model.name": str(tmp_path / "base"), "epochs": 1}
    tiny.language_model(tmp_path / "base")
    run(tmp_path / "run", source, **settings)
    (tmp_path / "run" / "result.json").unlink()
    tiny.language_model(tmp_path / "base", seed=5)
    with pytest.raises(ValueError, match=r"different: model\.name \(weights\)"):
        run(tmp_path / "run", source, **settings)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"trainable.last_layers": 3}, r"config\.trainable\.last_layers is 3;.*or -1 for all"),
        ({"trainable.last_layers": 0, "lora.rank": 2}, r"config\.lora\.rank: no layer is left"),
        ({"trainable.paths": "nothing"}, r"config\.trainable\.paths is 'nothing'"),
        ({"lora.rank": 2, "lora.targets": "query"}, r"lora\.targets is 'query'.*attention/q"),
    ],
)
def test_settings_that_do_not_suit_the_model_are_told(changes, told):
    settings = config(**changes)
    with pytest.raises(ValueError, match=told):
        trainable.split(trainable.begin(tiny.reward_model().params, settings), settings)
