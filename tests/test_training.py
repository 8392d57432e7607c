"""One step and one run: accumulated = full batch, sharded = unsharded, and a guard that holds."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import stages
import tiny
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hs2jax import compiled, configs
from hs2jax.data import corpora, loader
from hs2jax.inference import forward
from hs2jax.models import decoder, sharding
from hs2jax.training import objectives, optimizer, step

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


MODEL = tiny.reward_model(ATTRIBUTES)


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    """Groups with one to four rated responses, so with none to six derived pairs."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "prompt": f"Question {i}: " + "why? " * int(rng.integers(1, 6)),
            "responses": [f"Answer {j}. " + "so " * int(rng.integers(1, 9)) for j in range(n)],
            "ratings": [
                {a: int(rng.integers(0, 5)) for a in ATTRIBUTES if rng.random() > 0.2}
                for _ in range(n)
            ],
        }
        for i, n in zip(range(14), itertools.cycle([1, 2, 3, 4]), strict=False)
    ]
    path = stages.write(tmp_path_factory.mktemp("training") / "unequal.jsonl", rows)
    return list(corpora.read(f"ratings:{path}"))


def examples(groups, layout="shared", row_length=512):
    settings = {"attributes": ATTRIBUTES, "row_length": row_length, "max_tokens": 512}
    settings |= {"layout": layout, "derive": "helpfulness"}
    return loader.prepare(groups, MODEL.tokenizer, **settings).examples


def one_batch(groups, micro_batch_size, layout="shared", row_length=512):
    (batch,) = loader.plan(
        examples(groups, layout, row_length),
        row_length=row_length,
        layout=layout,
        batch_size=100,
        micro_batch_size=micro_batch_size,
    )
    return batch


def objective(kind, **changes):
    config = configs.defaults("train_reward_model").objective.to_dict() | {"kind": kind} | changes
    return objectives.make(config, ATTRIBUTES)


def gradients(batch, aim, layout="shared"):
    def apply(params, micro):
        return forward(params, micro, MODEL.config, layout=layout, dtype=jnp.float32)

    return jax.jit(lambda p, b: step.gradients(p, b, aim, apply))(MODEL.params, batch)


def assert_close(a, b, tolerance):
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        scale = max(1.0, float(np.max(np.abs(x))))
        np.testing.assert_allclose(
            x, y, rtol=0, atol=tolerance * scale, err_msg=sharding.path_name(path)
        )


def relative_errors(a, b):
    """The size of each leaf's difference, as a fraction of the leaf's size."""
    return {
        sharding.path_name(path): float(np.linalg.norm(x - y) / np.linalg.norm(y))
        for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True)
    }


@pytest.mark.parametrize(
    "aim",
    [
        objective("regression"),
        objective("bradley_terry", preference="scaled", label_smoothing=0.1, centering=0.01),
        objective("joint", preference="margin", preference_weight=0.5),
    ],
    ids=lambda aim: aim.kind,
)
def test_accumulated_gradients_equal_the_full_batch(groups, aim):
    used = []
    for micro_batch_size in (16, 8, 3):
        batch = one_batch(groups, micro_batch_size, row_length=128)
        parts = (batch["segment_ids"] > 0).any(axis=(1, 2))
        pairs = (batch["strength"] > 0).sum(axis=(1, 2))[parts]
        used.append(len(pairs))
        loss, values, grads = gradients(batch, aim)
        if len(used) == 1:
            expected = loss, values, grads
            continue
        assert len(set(pairs.tolist())) > 1, "the parts should have unequal numbers of pairs"
        np.testing.assert_allclose(loss, expected[0], rtol=1e-6)
        assert_close(values, expected[1], 1e-6)
        for name, error in relative_errors(grads, expected[2]).items():
            assert error < 1e-6, f"{name}: {error}"
    assert used == [1, 2, 4]


def test_loss_of_a_batch_is_the_loss_of_its_examples(groups):
    """The training step and the evaluation on the host agree on what the objective is."""
    outputs = MODEL.predict(examples(groups))
    for aim in (objective("regression"), objective("joint", preference="scaled")):
        loss, _, _ = gradients(one_batch(groups, 16), aim)
        on_host = objectives.loss_of_examples(aim, examples(groups), outputs)
        np.testing.assert_allclose(loss, on_host, rtol=1e-5)


def test_layouts_give_one_gradient(groups):
    aim = objective("joint", preference="scaled")
    expected_loss, _, expected = gradients(one_batch(groups, 16), aim)
    for layout in ("separate", "padded"):
        # A padded row of 512 tokens holds four slots of 128.
        loss, _, grads = gradients(one_batch(groups, 16, layout), aim, layout)
        np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
        assert_close(grads, expected, 2e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_eight_devices_do_what_one_does(groups, dtype):
    aim = objective("joint", preference="scaled")
    tx = optax.chain(optax.trace(0.0), optax.scale(-1e-3))  # Its state is the gradient.

    def one_step(mesh):
        state = step.init_state(jax.tree.map(jnp.copy, MODEL.params), tx)
        places = None
        if mesh is not None:
            places = sharding.shardings(state, mesh)
            state = jax.device_put(state, places)
        how = {"layout": "shared", "dtype": dtype, "remat": True}
        update = step.make(MODEL.config, aim, tx, **how, shardings=places)
        batch = sharding.place_rows(one_batch(groups, 8), mesh, axis=1)
        state, values = update(state, {}, batch)
        return state["optimizer"][0].trace, values

    alone, alone_values = one_step(None)
    close = 5e-6 if dtype == jnp.float32 else 2e-2  # XLA rounds to bfloat16 where it likes to.
    for mesh in ({"fsdp": 8}, {"data": 4, "tensor": 2}, {"data": 2, "fsdp": 2, "tensor": 2}):
        devices = sharding.make_mesh(**mesh)
        with jax.set_mesh(devices):
            together, values = one_step(devices)
        assert_close(values, alone_values, close)
        for name, error in relative_errors(together, alone).items():
            assert error < close, f"{mesh}, {name}: {error}"


def test_what_is_kept_of_a_layer_is_not_computed_again(groups):
    batch = {name: x[0] for name, x in one_batch(groups, 8).items()}
    c, many = MODEL.config, batch["tokens"].size
    how = {"layout": "shared", "dtype": jnp.float32}

    def gradient(remat):
        made = jax.grad(lambda params: jnp.sum(forward(params, batch, c, remat=remat, **how)))
        traced = jax.jit(made).trace(MODEL.params)
        return traced.lower().compile()(MODEL.params), compiled.traced_flops(traced.jaxpr.jaxpr)

    (again, all), (kept, fewer) = gradient(True), gradient("q,k,v,gate,up")
    heads = c.head_dim * (c.num_heads + 2 * c.num_kv_heads)
    numbers = c.num_layers * c.hidden_size * (heads + 2 * c.intermediate_size)
    assert all - fewer == 2 * many * numbers
    assert max(relative_errors(kept, again).values()) < 1e-5


def test_gradients_of_weights_are_summed_over_devices_in_float32():
    rng = np.random.default_rng(0)
    x, w, g = (
        rng.normal(size=size).astype(jnp.bfloat16)
        for size in ((64, 32, 16), (16, 24), (64, 32, 24))
    )

    def gradient(x, w, g):
        place = sharding.layer_spec("up", w.shape)
        return jax.vjp(lambda w: decoder.project("BTD,DF->BTF", place, x, w), w)[1](g)[0]

    mesh = sharding.make_mesh()
    with jax.set_mesh(mesh):
        x, g = (sharding.place_rows(each, mesh) for each in (x, g))
        w = jax.device_put(w.astype(np.float32), NamedSharding(mesh, P("fsdp", "tensor")))
        found = jax.jit(gradient)(x, w, g)
    assert found.sharding.is_equivalent_to(w.sharding, 2)
    exact = np.einsum("BTD,BTF->DF", np.float64(x), np.float64(g))
    # Where each device rounds its own sum to bfloat16 it is 0.002.
    assert np.linalg.norm(found - exact) / np.linalg.norm(exact) < 1e-6


@pytest.mark.parametrize("poisoned", ["loss", "gradient"])
def test_nothing_changes_where_the_gradient_is_not_finite(groups, poisoned):
    tx, _ = optimizer.make(configs.defaults("train_reward_model").optimizer, 10)
    state = step.init_state(jax.tree.map(jnp.copy, MODEL.params), tx)
    how = {"layout": "shared", "dtype": jnp.float32, "remat": False}
    update = step.make(MODEL.config, objective("regression"), tx, **how)
    batch = one_batch(groups, 16)
    before = jax.tree.map(np.array, state)
    bad = {**batch, "ratings": np.where(batch["rating_mask"], np.inf, 0.0).astype(np.float32)}
    if poisoned == "gradient":
        bad, kinked = batch, Kinked(objective("regression"))
        state, values = step.make(MODEL.config, kinked, tx, **how)(state, {}, bad)
        assert np.isfinite(values["loss"])
    else:
        state, values = update(state, {}, bad)
    assert values["bad_gradients"].all()
    assert int(values["not_finite"]) == 1
    for name in ("params", "optimizer"):
        jax.tree.map(np.testing.assert_array_equal, state[name], before[name])
    state, values = update(state, {}, batch)
    assert int(values["not_finite"]) == 0
    assert not np.array_equal(state["params"]["head"]["kernel"], before["params"]["head"]["kernel"])


class Kinked(NamedTuple):
    """An objective with a finite loss and no finite gradient."""

    of: objectives.Objective

    def counts(self, batch):
        return self.of.counts(batch)

    def loss(self, outputs, batch, counts):
        loss, metrics = self.of.loss(outputs, batch, counts)
        return loss + jnp.sqrt(0 * jnp.sum(jnp.square(outputs))), metrics


def test_schedules():
    settings = configs.defaults("train_reward_model").optimizer
    rate = optimizer.schedule(settings, 100)
    rates = [float(rate(i)) for i in range(100)]
    np.testing.assert_allclose(rates[:10], 2e-6 * np.arange(1, 11) / 10, rtol=1e-5)
    np.testing.assert_allclose(rates[10:], 2e-6, rtol=1e-6)
    settings.schedule = "cosine"
    rate = optimizer.schedule(settings, 100)
    np.testing.assert_allclose(float(rate(9)), 2e-6, rtol=1e-5)
    np.testing.assert_allclose(float(rate(55)), 2e-6 * (0.1 + 0.9 / 2), rtol=1e-5)
    np.testing.assert_allclose(float(rate(100)), 2e-7, rtol=1e-5)
