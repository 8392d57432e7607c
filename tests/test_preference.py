"""Policies trained on pairs, by DPO and IPO: a batch's loss, a run's folder, what is left out and
what is kept of the reference."""

import functools
import itertools
import json
import logging
import math
import sqlite3

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stages
import tiny
import tiny_models
import tiny_policies
from stages import write
from test_checkpoint_shapes import adapter

from hs2jax import configs, inference
from hs2jax.data import loader, packing
from hs2jax.data.groups import Group, Pair
from hs2jax.data.record import Record
from hs2jax.language_model import LanguageModel
from hs2jax.training import loop, metrics, objectives, preference, tasks, trainable

SMALL = {"data.row_length": 192, "optimizer.learning_rate": 1e-3, "model.remat": False}
SMALL |= {"batch_size": 4, "micro_batch_size": 4, "evaluate_every": 4, "checkpoint_every": 4}
SMALL |= {"epochs": 1, "optimizer.warmup": 0}


def aim(kind="dpo", **changes):
    own = {"beta": 0.1, "preference": "regular", "label_smoothing": 0.0}
    own |= {"smoothing": "conservative", "reduction": "sum"}
    return objectives.Preference(kind, **own | changes)


# One batch ----------------------------------------------------------------------------------------


def examples(n=4, seed=0):
    """Groups of two or three responses of a few tokens, whose reference is anyone's."""
    rng, found = np.random.default_rng(seed), []
    for i in range(n):
        responses = [rng.integers(0, 20, rng.integers(1, 9)) for _ in range(2 + i % 2)]
        one = tiny_policies.example([1, 2, 3], responses, rng.normal(-9, 3, (len(responses), 1)))
        # The third response of a group of three is in no pair.
        found.append(one._replace(pairs=[Pair(i % 2, 1 - i % 2, 1.0 + i % 3)]))
    return found


def lay(rows, layout="shared", length=96, **sizes):
    shape = packing.Shape(**{"length": length, "responses": 6, "pairs": 4, "attributes": 1} | sizes)
    return packing.lay(rows, shape, layout)


def by_hand(of, batch, outputs):
    """The loss of each pair in float64, row by row and slot by slot."""
    found = []
    for b, slot in zip(*np.nonzero(batch["strength"]), strict=True):
        log_ratio, reference = [], []
        for side in ("chosen", "rejected"):
            at = batch[side][b, slot]
            end = batch["end_positions"][b, at]
            mine = (batch["segment_ids"][b] == batch["segment_ids"][b, end]) & (
                batch["branch_ids"][b] == batch["branch_ids"][b, end]
            )
            reference.append(float(batch["ratings"][b, at, 0]))
            log = outputs[b, mine].astype(np.float64)
            count = len(log) if of.reduction == "mean" else 1
            log_ratio.append((log.sum() - reference[-1]) / count)
        lead, m = log_ratio[0] - log_ratio[1], float(batch["strength"][b, slot])
        if of.kind == "ipo":
            found.append((lead - 1 / (2 * of.beta)) ** 2)
            continue
        shift = m if of.preference == "margin" else 0
        scale = m if of.preference == "scaled" else 1
        found.append(scale * np.logaddexp(0, shift - of.beta * lead))
    return np.array(found)


@pytest.mark.parametrize(
    "of",
    [
        aim(),
        aim(preference="margin"),
        aim(preference="scaled"),
        aim("ipo"),
        aim("ipo", reduction="mean"),
    ],
    ids=str,
)
def test_the_loss_is_the_mean_over_pairs_and_touches_their_tokens_alone(of):
    a, b, c, d = examples()
    batch = lay([[a, b], [c], [d], []])
    outputs = np.random.default_rng(1).normal(-2, 1, batch["tokens"].shape).astype(np.float32)
    counts = of.counts(batch)
    assert counts == 4
    expected = by_hand(of, batch, outputs)
    (loss, found), slopes = jax.value_and_grad(of.loss, has_aux=True)(
        jnp.asarray(outputs), batch, counts
    )
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)
    assert 0 <= found["accuracy"] <= 1
    slopes, in_pairs = np.asarray(slopes), np.zeros(batch["tokens"].shape, bool)
    for row, (_, at) in itertools.product(range(3), enumerate(("chosen", "rejected"))):
        for slot in np.nonzero(batch["strength"][row])[0]:
            end = batch["end_positions"][row, batch[at][row, slot]]
            in_pairs[row] |= (batch["branch_ids"][row] == batch["branch_ids"][row, end]) & (
                batch["segment_ids"][row] == batch["segment_ids"][row, end]
            )
    assert (slopes[~in_pairs] == 0).all()
    assert (slopes[in_pairs] != 0).all()
    parts = [
        of.loss(outputs[i : i + 1], {k: x[i : i + 1] for k, x in batch.items()}, counts)[0]
        for i in range(4)
    ]
    np.testing.assert_allclose(sum(parts), loss, rtol=1e-5)


OF = tiny_policies.config(20)
PLACES = {
    "1 x 4": (4, "shared", 96),
    "2 x 2": (2, "shared", 96),
    "4 x 1": (1, "shared", 96),
    "padding": (4, "shared", 288),
    "separate": (2, "separate", 96),
    "padded": (4, "padded", 96),
}


@functools.cache
def gradients(name):
    rows, layout, length = PLACES[name]
    batch = lay([[x] for x in examples()], layout, length)
    batch = {key: jnp.asarray(x.reshape(-1, rows, *x.shape[1:])) for key, x in batch.items()}
    params = tiny_policies.parameters(OF)
    return tiny_policies.gradients(OF, params, batch, aim(preference="scaled"), layout)


@pytest.mark.parametrize("name", list(PLACES)[1:])
def test_neither_micro_batches_nor_padding_nor_layout_change_loss_and_gradient(name):
    loss, _, grads = gradients(name)
    expected, _, base = gradients("1 x 4")
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(base))
    for x, y in zip(jax.tree.leaves(grads), jax.tree.leaves(base), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5 * largest)


def test_the_mean_is_over_the_steps_pairs_not_over_micro_batches_means():
    """Pair losses .1, .2, .3 and .8 in micro-batches of three pairs and of one: .35 and not .5."""
    lead = [-math.log(math.expm1(x)) / 0.1 for x in (0.1, 0.2, 0.3, 0.8)]
    none = tiny_policies.example([1], [[2], [3]], np.zeros((2, 1)))
    batch = lay(
        [[none._replace(pairs=[Pair(0, 1, 1.0)])] * 3, [none._replace(pairs=[Pair(0, 1, 1.0)])]]
    )
    of, outputs = aim(), np.zeros(batch["tokens"].shape, np.float32)
    chosen = np.take_along_axis(batch["end_positions"], batch["chosen"], axis=1)
    for (b, slot), x in zip(np.argwhere(batch["strength"]), lead, strict=True):
        outputs[b, chosen[b, slot]] = x
    loss, _ = of.loss(outputs, batch, of.counts(batch))
    np.testing.assert_allclose(loss, 0.35, rtol=1e-5)


LETTERS = tiny_models.chat_tokenizer()  # A token for each letter of a text, and none around it.
LETTERS.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def of_ids(chosen, rejected, prompt="!!!!!!", strength=-1.0):
    sides, turns = (tuple(chosen), tuple(rejected)), ({"role": "user", "content": prompt},)
    return Group(turns, ("-", "-"), strength=strength, tokens=sides)


GOOD_PAIR = of_ids([7], [8])
EXCLUDED = {
    "too long": (of_ids([9] * 5, [9]), {"too_long": 1}),  # Of 8 tokens the prompt takes 6.
    "its rejected response is too long": (of_ids([9], [9] * 5), {"too_long": 1}),
    "equal": (of_ids([9, 8], [9, 8]), {"indistinct": 1}),
    "a tie": (of_ids([9, 8], [9], strength=0.0), {"ties": 1}),
    "nobody says which is better": (of_ids([9, 8], [9], strength=None), {}),
}


def learned_of(groups, of, layout="shared"):
    """Loss, metrics and the gradient of what a policy says of tokens that gives token 7 log(p) 20
    and 9 -3, of which its reference gives every response 0; and the record."""
    record, options = Record(), {"attributes": (), "policy": True, "whole": True, "derive": None}
    sizes = {"row_length": 32, "max_tokens": 8, "layout": layout, "record": record}
    found = loader.with_pairs(loader.prepare(groups, LETTERS, **options, **sizes))
    none = np.zeros((2, 1), np.float32)
    rows = [x._replace(ratings=none, rating_mask=none > 0) for x in found.examples]
    batch = lay([[x] for x in rows], layout, 32, responses=2, pairs=1)
    outputs = jnp.select([batch["tokens"] == 7, batch["tokens"] == 9], [20.0, -3.0])
    slopes = jax.value_and_grad(of.loss, has_aux=True)
    (loss, metrics), gradient = slopes(outputs, batch, of.counts(batch))
    return float(loss), metrics, np.asarray(gradient), record


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("why", EXCLUDED)
def test_what_is_left_out_is_in_no_sum_and_counted(why, times):
    """One pair with beta times the lead 2 is 0.126928; with one left out that counts as its
    reference would be it were 0.410038, and a tie as half a win each way 1.126928."""
    group, counted = EXCLUDED[why]
    alone, metrics, slopes, record = learned_of([GOOD_PAIR], aim())
    assert alone == pytest.approx(0.126928, abs=1e-6)
    loss, beside, gradient, record = learned_of([*[group] * times, GOOD_PAIR], aim())
    assert (loss, beside) == (alone, metrics)
    np.testing.assert_array_equal(gradient, slopes)
    said = record.to_dict()
    for name in ("too_long", "indistinct", "ties"):
        assert said[name] == times * counted.get(name, 0)
    assert said["pairs"] == 1


def test_the_accuracy_is_over_pairs_that_differ():
    """Two of four are equal: of the others one is right."""
    groups = [GOOD_PAIR, of_ids([8], [7]), *[of_ids([9], [9])] * 2]
    loss, metrics, _, record = learned_of(groups, aim())
    assert loss == pytest.approx((0.126928 + 2.126928) / 2, abs=1e-6)
    assert metrics["accuracy"] == 0.5
    assert (record.to_dict()["indistinct"], record.to_dict()["pairs"]) == (2, 2)
    # So are texts that the template makes the same.
    same, words = Group(GOOD_PAIR.prompt, ("Yes.", " Yes. "), strength=1.0), tiny.bos_tokenizer()
    sizes, record = {"row_length": 64, "max_tokens": 64, "attributes": ()}, Record()
    loader.prepare([same], words, **sizes, policy=True, record=record)
    assert (record.indistinct, record.pairs) == (1, 0)


@pytest.mark.parametrize("layout", packing.LAYOUTS)
@pytest.mark.parametrize(("reduction", "expected"), [("sum", 4), ("mean", 16)])
def test_ipo_knows_nothing_of_the_prompt(layout, reduction, expected):
    """Four chosen tokens at +0.5 and two rejected ones at -0.5: (3 - 5)^2, or (1 - 5)^2."""
    of = aim("ipo", reduction=reduction)
    for shared in (1, 6):
        one = tiny_policies.example([3] * shared, [[7] * 4, [8] * 2], np.zeros((2, 1)))
        batch = lay([[one._replace(pairs=[Pair(0, 1, 1.0)])]], layout)
        outputs = jnp.select([batch["tokens"] == 7, batch["tokens"] == 8], [0.5, -0.5], -9.0)
        loss, _ = of.loss(outputs, batch, of.counts(batch))
        assert loss == pytest.approx(expected, rel=1e-5)


# A run --------------------------------------------------------------------------------------------


def pair_rows(n):
    """Which of two answers is better is seen from how it begins; strengths from 1 to 3."""
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
    before, log.level = log.level, logging.INFO
    rows = loop.train(config(data), data / "run")
    log.removeHandler(handler)
    log.level = before
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
