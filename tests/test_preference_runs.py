"""Runs of policies trained on pairs, by DPO and IPO: where they start, what is left out, what is
kept of the reference."""

import json
import logging
import math
import sqlite3

import jax
import numpy as np
import pytest
import stages
import tiny
from stages import write
from test_checkpoint_shapes import adapter

from hs2jax import configs, inference
from hs2jax.data import packing
from hs2jax.language_model import LanguageModel
from hs2jax.training import loop, metrics, preference, tasks, trainable

SMALL = {"data.row_length": 192, "optimizer.learning_rate": 1e-3, "model.remat": False}
SMALL |= {"batch_size": 4, "micro_batch_size": 4, "evaluate_every": 4, "checkpoint_every": 4}
SMALL |= {"epochs": 1, "optimizer.warmup": 0}


def pair_rows(n):
    """Pairs whose better answer is seen from how it begins; strengths from 1 to 3."""
    return [
        {
            "prompt": [{"role": "user", "content": f"Is {i} odd, and is {i + 1}?"}],
            "responses": ["Yes, I think so.", "No" + " so" * (i % 5)][:: 1 if i % 2 else -1],
            "ratings": [{}, {}],
            "strength": (-1 if i % 2 else 1) * (1 + i % 3),
        }
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preference")
    tiny.language_model(folder / "base", max_seq_len=2048)
    said = json.loads((folder / "base" / "config.json").read_text())
    said |= {"attention_dropout": 0.1}  # Of a training elsewhere; nothing is dropped out here.
    (folder / "base" / "config.json").write_text(json.dumps(said))
    write(folder / "pairs.jsonl", pair_rows(16))
    return folder


def config(data, kind="dpo", **changes):
    made = configs.defaults("train_policy")
    spec = f"ratings:{data}/pairs.jsonl"
    own = {"objective.kind": kind, "model.name": str(data / "base")}
    own |= {"data.train": f"{spec}[:-4]", "data.validation": f"{spec}[-4:]"}
    made.update_from_flattened_dict(SMALL | own | changes)
    return made


def evaluations(folder):
    return metrics.read(folder / "metrics.jsonl", "validation")


@pytest.fixture(scope="module")
def run(data):
    """A run, and what it said."""
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    log = logging.getLogger("hs2jax")
    log.addHandler(handler)
    before = log.level
    log.setLevel(logging.INFO)  # Unlike `level`, also where it was asked for before.
    rows = loop.train(config(data), data / "run")
    log.removeHandler(handler)
    log.setLevel(before)
    return rows, data / "run", said


def sums(model, data):
    """Of each held-out pair, the log-probabilities of the chosen and of the rejected response."""
    found = []
    for row in pair_rows(16)[-4:]:
        better = row["strength"] > 0
        talks = [
            [*row["prompt"], {"role": "assistant", "content": row["responses"][i]}]
            for i in (better, not better)
        ]
        found.append([one.total for one in LanguageModel.load(model).log_probability(talks)])
    return np.array(found)


def test_a_policy_starts_at_ln_2_and_its_gain_is_that_of_its_export(data, run):
    rows, folder, said = run
    first = metrics.read(folder / "metrics.jsonl", "train")[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert any("first batch's loss is 0.6931" in x and "it is 0.693147" in x for x in said), said
    start = evaluations(folder)[0]
    assert (start["margin"], start["drift"]) == (pytest.approx(0, abs=1e-6),) * 2
    best = stages.result(folder)["values"]
    log_ratio = sums(folder / "model", data) - sums(data / "base", data)
    margin = 0.1 * (log_ratio[:, 0] - log_ratio[:, 1])
    assert best["margin"] == pytest.approx(margin.mean(), abs=1e-5) != 0
    assert best["loss"] == pytest.approx(np.logaddexp(0, -margin).mean(), rel=1e-4)
    assert best["accuracy"] == (margin > 0).mean()
    assert best["log_chosen"] == pytest.approx(sums(folder / "model", data)[:, 0].mean(), rel=1e-4)
    assert best["loss"] < start["loss"] - 0.01
    assert stages.value(rows, "accuracy", set="validation") == best["accuracy"]
    change = stages.value(rows, "change of log chosen")
    assert change == pytest.approx(log_ratio[:, 0].mean(), rel=1e-3)


@pytest.mark.long
def test_on_any_number_of_devices_a_run_learns_the_same(data, run):
    mesh = {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2, "micro_batch_size": 2}
    loop.train(config(data, **mesh), data / "meshes")
    ours, theirs = (metrics.read(x / "metrics.jsonl") for x in (data / "meshes", run[1]))
    for a, b in zip(ours, theirs, strict=True):
        for name in ("loss", "log_chosen", "log_rejected", "loss_at_reference"):
            assert a[name] == pytest.approx(b[name], rel=2e-4), (a["step"], name)


def test_a_policy_that_leaves_its_reference_stops_with_the_reason(data):
    """At once where it is started again, unless it may go further."""
    of, place = config(data, **{"optimizer.learning_rate": 1.0}), data / "diverged"
    for _ in range(2):
        with pytest.raises(ValueError, match=r"step 2: the policy has left its ref.*max_drift"):
            loop.train(of, place)
    of.objective.max_drift = 1e9
    loop.train(of, place)
    assert len(metrics.read(place / "metrics.jsonl", "train")) == 3


# What is left out, and what is kept of the reference ----------------------------------------------


def read(data, rows, **changes):
    """What a task makes of rows: (task, groups with their reference, record)."""
    task = tasks.make(config(data, **changes), None)
    spec = f"ratings:{write(data / 'rows.jsonl', rows)}"
    return task, *task.read(spec)


def row(prompt, *responses, strength=-1):
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    ratings = [{}] * len(responses)
    return {"prompt": turns, "responses": responses, "ratings": ratings, "strength": strength}


GOOD = [row(f"Is {i} odd?", "Yes.", "No, never.") for i in range(3)]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HS2JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def test_pairs_that_cannot_be_learned_are_left_out_and_counted(data):
    """Too long for their responses, equal, tied; never a shortened response."""
    _, good, record = read(data, GOOD)
    assert (record.pairs, record.left_out()) == (3, {})
    long = row("Why? " * 40, "Yes. " * 30, "No.")
    same, tie = row("Is 9 odd?", "Yes.", "Yes."), row("Is 9 odd?", "Yes.", "No.", strength=0)
    _, found, record = read(data, [*GOOD[:1], long, same, same, tie, *GOOD[1:]])
    assert (record.too_long, record.indistinct, record.ties, record.pairs) == (1, 2, 1, 3)
    for a, b in zip(good.examples, found.examples, strict=True):
        np.testing.assert_array_equal(a.ratings, b.ratings)
        assert [x.tolist() for x in a.encoded.responses] == [
            x.tolist() for x in b.encoded.responses
        ]
    # A prompt may be cut where that is asked for, and responses stay whole.
    asked = {"data.too_long": "truncate"}
    _, found, record = read(data, [row("Why? " * 60, "Yes.", "No.")], **asked)
    assert record.truncated == 1
    assert [len(x) for x in found.examples[0].encoded.responses] == [
        len(x) for x in read(data, [row("Why?", "Yes.", "No.")])[1].examples[0].encoded.responses
    ]
    with pytest.raises(ValueError, match="no preference pairs, for config"):
        read(data, [same, tie])


def test_only_the_last_turn_is_learned(data):
    talk = [
        {"role": "user", "content": "Is 3 odd?"},
        {"role": "assistant", "content": "Yes, it is."},
        {"role": "user", "content": "And 4?"},
    ]
    task, found, _ = read(data, [row(talk, "No.", "Yes, I think so."), GOOD[0]])
    for example in found.examples:
        learned = sum(map(len, example.encoded.responses))
        assert packing.count_learned(example.encoded) == learned
    model = LanguageModel.load(data / "base")
    whole = [[*talk, {"role": "assistant", "content": x}] for x in ("No.", "Yes, I think so.")]
    expected = [[one.total] for one in model.log_probability(whole)]
    np.testing.assert_allclose(found.examples[0].ratings, expected, rtol=1e-5)
    # Sides with prompts of their own are no pair.
    sides = [
        [{"role": "system", "content": x}, *talk[:1], {"role": "assistant", "content": x}]
        for x in ("Be brief.", "Be kind.")
    ]
    spec = write(data / "sides.jsonl", [{"chosen": sides[0], "rejected": sides[1]}])
    with pytest.raises(ValueError, match=r"sides.jsonl, line 1, field 'rejected"):
        task.read(f"preference:{spec}")


def test_log_probabilities_know_neither_batch_nor_neighbours(data):
    long = row("Why? " * 200, "Yes, I think so. " * 40, "No, so so so. " * 30)
    three = row(GOOD[0]["prompt"], "Perhaps.", *GOOD[0]["responses"]) | {"strength": None}
    three["ratings"] = [{"good": 0}, {"good": 2}, {"good": 1}]
    (alone,) = read(data, GOOD[:1])[1].examples
    first, beside = read(data, [long, GOOD[0]], **{"data.row_length": 2048})[1].examples
    assert packing.cost(first.encoded, "padded") > 900
    np.testing.assert_allclose(beside.ratings, alone.ratings, rtol=1e-5)
    shared = read(data, [three], **{"data.derive": "good"})[1].examples[0]
    np.testing.assert_allclose(shared.ratings[1:], alone.ratings, rtol=1e-5)
    assert [tuple(p) for p in shared.pairs] == [(1, 0, 2.0), (2, 0, 1.0), (1, 2, 1.0)]
    ends = {"data.derive": "good", "data.pairs": "extremes"}
    _, found, _ = read(data, [three, three | {"ratings": [{}, {"good": 1}, {"good": 1}]}], **ends)
    (best,) = found.groups
    assert (best.responses, found.examples[0].pairs) == (("Yes.", "Perhaps."), [(0, 1, 2.0)])


def test_the_reference_is_kept_by_weights_and_tokens_and_computed_again_to_the_bit(
    data, monkeypatch, tmp_path
):
    monkeypatch.setenv("HS2JAX_CACHE", str(tmp_path))
    ran, run_rows = [], preference.inference.run_rows
    watched = lambda *args: ran.append(1) or run_rows(*args)  # noqa: E731
    monkeypatch.setattr(preference.inference, "run_rows", watched)
    monkeypatch.setattr(preference.inference, "BATCH", 2)
    rows = [row(f"Is {i} odd?", "Yes.", "No.") for i in range(4)]
    first = [x.ratings for x in read(data, rows)[1].examples]
    assert len(ran) == 2
    again = [x.ratings for x in read(data, rows)[1].examples]
    assert len(ran) == 2, "all is kept"
    np.testing.assert_array_equal(again, first)
    # What is missing is computed, and is never read as zero.
    (file,) = (tmp_path / "references").iterdir()
    with sqlite3.connect(file) as table:
        table.execute("DELETE FROM kept WHERE key = (SELECT min(key) FROM kept)")
    again = [x.ratings for x in read(data, rows)[1].examples]
    assert len(ran) == 3
    np.testing.assert_array_equal(again, first)
    tiny.language_model(data / "other", seed=3)
    other = read(data, rows, **{"model.name": str(data / "other")})[1].examples[0]
    assert len(ran) == 5
    assert (other.ratings != first[0]).all()


def test_the_reference_of_an_adapter_has_it_and_a_new_one_starts_as_nothing(data):
    """So does whatever is trained. Nothing is dropped out: after an update the same batch has the
    same log-probabilities twice, to the bit."""
    plain = read(data, GOOD)[1]
    folder, *_ = adapter(data / "base", data / "adapter", lora_dropout=0.1)
    task, found, _ = read(data, GOOD, **{"model.name": str(folder), "lora.rank": 2})
    assert np.abs(found.examples[0].ratings - plain.examples[0].ratings).min() > 1e-3
    _, whole, _ = read(data, GOOD, **{"model.name": str(folder)})  # Of which all is trained.
    np.testing.assert_array_equal(whole.examples[0].ratings, found.examples[0].ratings)
    batches = inference.plan_evaluation(found.examples, row_length=192, layout="shared", rows=4)
    params = trainable.begin(task.params, task.config)
    _, values = task.evaluate(params, found, batches, 0)
    assert values["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert (values["margin"], values["drift"]) == (pytest.approx(0, abs=1e-5),) * 2
    params["lora"] = jax.tree.map(lambda x: x + 0.01, params["lora"])
    once, twice = (task.evaluate(params, found, batches, 1) for _ in range(2))
    assert once == twice
    assert once[1]["margin"] != 0
