"""Plans: work is shared as its sharding says, and the programs are those that run."""

import dataclasses
import math
import os
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from tiny_models import TINY, random_params, save

from hs2jax import compiled, configs, locks, plan, plan_rows, planned, roofline, workdir
from hs2jax.models import sharding
from hs2jax.models.hf import hub, weights


def config_of(folder, kind="train_reward_model", **changes):
    """A plan of a kind; changes: of keys of it, or of its base."""
    config, base = configs.defaults("plan"), configs.defaults(kind)
    base.model.update(name=str(folder), dtype="float32")
    if kind.startswith("train_"):
        base.data.row_length, base.batch_size = 64, 20
    if kind == "reinforce":
        base.reward_models = f"one={folder}"
    own = {"topology": "v5e:2x2", "group_tokens": 20, "base": base}
    config.update(own | {key: x for key, x in changes.items() if key in config})
    base.update_from_flattened_dict({key: x for key, x in changes.items() if key not in config})
    return config


MODEL = dataclasses.replace(TINY, num_heads=8, num_kv_heads=8, hidden_size=32, intermediate_size=64)


@pytest.mark.parametrize(
    "axis", ["fsdp", *(pytest.param(axis, marks=pytest.mark.long) for axis in ("tensor", "data"))]
)
def test_devices_share_the_work_of_a_step_as_its_sharding_says(tmp_path, axis):
    """A row of each device's own, or of tensor's together: operations and bytes of one device."""
    save(tmp_path / "model", MODEL)
    tokens, losses, flops = 64, [], []
    sizes = {"/".join(map(str, k)): x.size for k, x in flatten_dict(random_params(MODEL)).items()}
    products = sum(n for name, n in sizes.items() if "layers" in name and "norm" not in name)
    for devices in (1, 2, 4, 8) if os.environ.get("LONG") else (1, 8):
        of = {"data": 1, "fsdp": 1, "tensor": 1} | {axis: devices}
        rows = 1 if axis == "tensor" else devices
        changes = {"group_tokens": tokens, "batch_size": rows, "micro_batch_size": rows}
        changes |= {"objective.kind": "regression", "model.remat": False}
        changes |= {f"mesh.{name}": size for name, size in of.items()}
        config = config_of(tmp_path / "model", **changes)
        mesh = sharding.make_mesh(**of, of=jax.devices()[:devices])
        made = planned.training(config, mesh)
        traced = plan.trace(made, mesh)
        program = traced.lower().compile()
        flops.append(compiled.traced_flops(traced.jaxpr.jaxpr) / rows)
        sent = Counter()
        for each in compiled.collectives(program.as_text(), devices):
            if each.dtype == "f32":
                sent[each.kind] += each.bytes * each.times
        others = (devices - 1) / devices
        reduced = {
            "data": sum(sizes.values()) - sizes.get("lm_head", 0),
            "fsdp": products,
            "tensor": tokens
            * MODEL.hidden_size
            # Two forward; backward of each projection that takes what is whole; the embedding.
            * (7 * MODEL.num_layers + (MODEL.vocab_size % devices == 0)),
        }
        sums = sent["all-reduce"] + 2 * sent["reduce-scatter"]
        assert sums == pytest.approx(2 * others * 4 * reduced[axis], rel=0.02)
        gathered = 2 * others * 4 * products if axis == "fsdp" else 0
        assert sent["all-gather"] == gathered
        normal = np.random.default_rng(0).normal
        state = jax.tree.map(
            lambda x, normal=normal: jax.device_put(
                normal(size=x.shape).astype(x.dtype), x.sharding
            ),
            made.given[0],
        )
        batch = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype, device=x.sharding), made.given[2])
        losses.append(float(program(state, {}, batch)[1]["loss"]))
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)
    assert len(set(flops)) == 1


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("meta-llama/Meta-Llama-3-70B", 70_553_706_496), ("models/nemotron-4-340b-base", 341e9)],
)
def test_published_models_have_their_shapes_without_a_network(name, parameters):
    shapes = jax.tree.leaves(weights.shapes(hub.config_of(name)))
    assert sum(math.prod(x.shape) for x in shapes) == pytest.approx(parameters, rel=1e-3)


KINDS = {
    "train_reward_model": {"objective.kind": "regression"},
    "train_policy": {"objective.kind": "dpo"},
    "judge": {},
    # Its steps are also those of scoring and of sampling.
    "reinforce": {"n": 2, "max_new_tokens": 70, "row_length": 64, "batch_size": 6},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_programs_that_are_planned_run(tmp_path, kind):
    save(tmp_path / "model")
    config = config_of(tmp_path / "model", kind, **KINDS[kind])
    mesh, found = sharding.make_mesh(), {}
    for step in planned.steps(config, mesh):
        traced = plan.trace(step, mesh)
        program = traced.lower().compile()
        found[step.name] = one = plan.measured(step, traced, program, "v5e:2x4")
        given = jax.tree.map(
            lambda x: jnp.ones(x.shape, x.dtype, device=x.sharding) if hasattr(x, "dtype") else x,
            step.given,
        )
        of_a_chip = sum(
            x.addressable_shards[0].data.nbytes
            for x in jax.tree.leaves(given)
            if hasattr(x, "dtype")
        )
        out = program(*given)  # Raises where a program takes other shapes or other places.
        analysis = program.memory_analysis()
        assert plan.bytes_on_a_chip(step.given) == of_a_chip
        # What it takes is among what is there, but for what it does not look at.
        assert analysis.argument_size_in_bytes <= of_a_chip * 1.01 <= one.memory["memory"]
        made = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(out))
        assert made <= one.memory["temporaries"] + analysis.alias_size_in_bytes
        # Masks and padding take the rest, and what is computed again.
        assert step.useful / step.times <= one.flops <= 120 * step.useful / step.times
        if step.name == "update":
            assert analysis.argument_size_in_bytes == pytest.approx(of_a_chip, rel=0.02)
            assert np.isfinite(out[1]["loss"])
            assert out[1]["tokens"] == math.prod(step.given[2]["tokens"].shape)
    if kind == "reinforce":
        sampled = ["prompts", "growing cache", "tokens"]
        assert [*found] == [*sampled, "rewards of one", "start", "update"]
        largest = max(found.values(), key=lambda each: each.memory["memory"])
        held = ("policy", "optimizer", "start", "reward models", "parameters", "temporaries")
        assert largest.memory["memory"] >= sum(largest.memory.get(name, 0) for name in held)
        (part, *_) = plan_rows.rows_of(config, [*found.values()])
        assert (part["metric"], part["value"]) == ("memory", largest.memory["memory"])


def test_plans_that_cannot_be_are_refused(tmp_path):
    save(tmp_path / "model")
    config = config_of(tmp_path / "model", topology="v7:2x2")
    with pytest.raises(ValueError, match=r"config\.topology is .v7:2x2.; expected a TPU slice"):
        plan.plan(config, tmp_path / "run")
    for changes, said in (
        ({"group_tokens": 65}, r"config\.group_tokens is 65; a row has 64"),
        ({"prompt_tokens": 20}, r"leaves nothing for 2 responses behind a prompt of 20 tokens"),
    ):
        with pytest.raises(ValueError, match=said):
            planned.training(config_of(tmp_path / "model", **changes), sharding.make_mesh())


def program_of(name, memory, seconds):
    step = planned.Step(name, None, (), {}, {}, 64, 1e15, (49_280, 65_536), (13, 16))
    times = seconds and roofline.Times(0.1, 0.9 * seconds, 0.2, 0.1 * seconds, seconds)
    return plan_rows.Program(step, {"memory": int(memory * 2**30)}, 0, [], times)


def test_a_search_finds_the_fastest_that_fits(tmp_path, monkeypatch):
    save(tmp_path / "model")  # With two heads of keys and values.
    config, tried = config_of(tmp_path / "model", search=True), []

    def compile_all(config, chips):
        base, tensor = config.base, config.base.mesh.tensor
        kept = len(base.model.keeps.split(",")) if base.model.remat else 12
        tried.append((tensor, base.micro_batch_size, kept))
        memory = 10 + base.micro_batch_size + kept / 2 - 4 * tensor
        seconds = 1 / base.micro_batch_size + 0.1 * (12 - kept) if memory <= 16 else None
        return [program_of("score", memory, seconds)]

    monkeypatch.setattr(plan, "compile_all", compile_all)
    monkeypatch.setattr(plan, "devices", lambda topology: jax.devices()[:4])
    rows = plan.plan(config, tmp_path / "run")
    # A batch has 7 rows; what is larger than what does not fit is not tried.
    every = [(2, rows, kept) for rows in (2, 4, 8) for kept in (1, 2, 7, 12)]
    assert tried == [
        (1, 4, 1),
        (1, 4, 2),
        (1, 4, 7),
        (1, 4, 12),
        (1, 8, 1),
        (1, 8, 2),
        (1, 8, 7),
        *every,
    ]
    assert len({row["part"] for row in rows if "mesh.tensor" in row["part"]}) == len(tried)
    said = workdir.read_json(tmp_path / "run" / "result.json")["said"]
    best = "--config.mesh.tensor=2 --config.micro_batch_size=8 --config.model.remat=False"
    assert said[-1]["sentence"].endswith(f"This is of {best} --config.model.keeps=.")


def test_what_does_not_fit_is_said_with_what_would(tmp_path):
    save(tmp_path / "model")
    config = config_of(tmp_path / "model", micro_batch_size=8)
    large = program_of("update", 20, None)
    large.memory.update(parameters=12 * 2**30, temporaries=8 * 2**30)
    said = plan_rows.words(config, [large], {})
    assert [each["label"] for each in said] == ["It does not fit", "Rows are empty"]
    assert "has 16 GiB and needs 20.0 GiB, 4.0 GiB too much" in said[0]["sentence"]
    assert "6 chips would hold it" in said[0]["sentence"]
    assert "--config.micro_batch_size=4 has one row" in said[0]["sentence"]
    assert "64 groups fill 13 of the 16 rows" in said[1]["sentence"]
    assert "25% is padding. --config.batch_size=78 would fill them." in said[1]["sentence"]


def test_a_slice_is_planned_without_one(tmp_path, monkeypatch):
    """And its step gathers weights in bfloat16 and scatters their gradients in float32, both while
    it computes something else; attention's kernel is run forward, again in the backward pass, and
    backward in two."""
    pytest.importorskip("libtpu", reason='the TPU compiler: pip install "hs2jax[tpu]"')
    model = dataclasses.replace(TINY, hidden_size=256, intermediate_size=512, num_layers=2)
    save(tmp_path / "model", model)
    config = config_of(tmp_path / "model", topology="v5p:2x2x1")
    config.base.model.dtype = "bfloat16"
    texts, needs, measured = [], [], plan.measured

    def noted(one, traced, program, *rest):
        texts.append(program.as_text())
        needs.append(rest[-1])  # All of it, arguments too, as the compiler wrote.
        return measured(one, traced, program, *rest)

    monkeypatch.setattr(plan, "measured", noted)
    rows = plan.plan(config, tmp_path / "run")
    assert [text.count('"tpu_custom_call"') for text in texts] == [4]
    found = {(row["part"], row["metric"]): row for row in rows}
    assert found["memory", "memory"]["value"] == pytest.approx(needs[0], rel=0.05)  # Tiles.
    assert 0 < found["memory", "memory"]["value"] < found["memory", "memory_left"]["value"]
    assert 0 < found["time", "predicted_mfu"]["value"] < 1
    peak, takes = (found["work", name]["value"] for name in ("peak_seconds", "compute_seconds"))
    assert peak < takes
    layers = weights.shapes(hub.config_of(config.base.model.name))["layers"]
    numbers = sum(x.size for x in jax.tree.leaves(layers) if x.ndim > 2)
    for kind, times, size in (("all-gather bf16", 2, 2), ("reduce-scatter f32", 1, 4)):
        whole = found[f"collective/{kind}", "sent_bytes"]
        assert whole["n"] == times * 7 * model.num_layers
        assert whole["value"] == times * size * numbers * 3 / 4
        assert found[f"collective/{kind}", "overlapping"]["value"] == 1
    assert ("collective/all-reduce bf16", "sent_bytes") not in found
    # Of norms, the head and numbers.
    assert found["collective/all-reduce f32", "sent_bytes"]["value"] < 0.01 * whole["value"]
    assert plan.plan(config, tmp_path / "run") == rows

    # So does a program that only looks.
    config = config_of(tmp_path / "model", "evaluate", topology="v5p:2x2x1")
    config.base.model.dtype = "bfloat16"
    found = {(row["part"], row["metric"]): row for row in plan.plan(config, tmp_path / "scored")}
    assert found["collective/all-gather bf16", "overlapping"]["value"] == 1
    assert ("collective/all-reduce bf16", "sent_bytes") not in found


def test_a_folder_holds_one_plan(tmp_path):
    save(tmp_path / "model")
    config = config_of(tmp_path / "model")
    assert workdir.claim(tmp_path / "run", config) is None
    locks.release(tmp_path / "run")
    assert workdir.finish(tmp_path / "run", config, {}, []) == []
    assert plan.plan(config, tmp_path / "run") == []  # Nothing is compiled again.
    config.base.batch_size = 40
    with pytest.raises(ValueError, match=r"different: base\.batch_size: 20 -> 40"):
        plan.plan(config, tmp_path / "run")
    config.base.batch_size = 20
    save(tmp_path / "model", dataclasses.replace(TINY, num_layers=2))
    with pytest.raises(ValueError, match=r"different: base.model.name \(config\)"):
        plan.plan(config, tmp_path / "run")
