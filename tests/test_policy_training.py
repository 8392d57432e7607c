"""Policies trained from a config to a folder: by likelihood, with ratings as conditions, and by
SteerLM 2.0; what is evaluated, exported, told and refused."""

import math
import re

import jax
import numpy as np
import pytest
import stages
import tiny
from hypothesis import example, given
from hypothesis import strategies as st
from stages import write
from tiny_policies import softmax

from hs2jax import configs, workdir
from hs2jax.data import corpora, packing
from hs2jax.data.groups import Group
from hs2jax.data.record import Record
from hs2jax.inference import plan_evaluation
from hs2jax.language_model import LanguageModel
from hs2jax.training import loop, metrics, tasks, tokenised
from hs2jax.training.convert import convert

QUESTION = ({"role": "user", "content": "How many?"},)
SMALL = {"data.row_length": 192, "optimizer.learning_rate": 3e-3, "model.remat": False}
SMALL |= {"batch_size": 4, "micro_batch_size": 8, "evaluate_every": 4, "checkpoint_every": 4}


def rated_rows(n):
    """Answers whose rated verbosity is how often they say so; some are not rated at all."""
    return [
        {
            "prompt": f"Question {i}?",
            "responses": ["so " * (1 + i % 4) + "yes.", "I do not know."],
            "ratings": [{"verbosity": i % 4 + 0.3, "helpfulness": 4.7}, {}],
        }
        for i in range(n)
    ]


def sampled_rows(n, samples=3, seed=0):
    """Groups as `hs2jax weigh` writes them, with log-probabilities that anyone may have."""
    rng = np.random.default_rng(seed)
    return [
        {
            "source": f"prompts:{i}",
            "prompt": [{"role": "user", "content": f"Question {i}?"}],
            "condition": {"helpfulness": 4, "verbosity": i % 5},
            "responses": [f"Answer {j}" + " so" * int(rng.integers(4)) for j in range(samples)],
            "finished": [True] * samples,
            "log_attribute": rng.uniform(-3, -1, samples).tolist(),
            "log_prior": rng.uniform(-30, -29, samples).tolist(),
            "log_proposal": rng.uniform(-30, -29, samples).tolist(),
        }
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A language model, rated responses and weighed samples."""
    folder = tmp_path_factory.mktemp("policies")
    tiny.language_model(folder / "base")
    write(folder / "rated.jsonl", rated_rows(20))
    write(folder / "sampled.jsonl", sampled_rows(16))
    return folder


def config(data, kind="likelihood", **changes):
    made = configs.defaults("train_policy")
    spec = f"sampled:{data}/sampled.jsonl" if kind == "steerlm2" else f"ratings:{data}/rated.jsonl"
    own = {"objective.kind": kind, "data.condition": "" if kind == "steerlm2" else "ratings"}
    own |= {"data.train": f"{spec}[:-4]", "data.validation": f"{spec}[-4:]"}
    own |= {"model.name": str(data / "base")}
    made.update_from_flattened_dict(SMALL | own | changes)
    return made


def trained(of, folder):
    loop.train(of, folder)
    return workdir.read_json(folder / "result.json"), folder


@pytest.fixture(scope="module")
def steerlm(data):
    return trained(config(data), data / "steerlm")


@pytest.fixture(scope="module")
def steerlm2(data):
    return trained(config(data, "steerlm2"), data / "steerlm2")


def held_out(data, kind):
    groups = list(corpora.read(config(data, kind).data.validation))
    return list(tokenised.conditioned(groups, Record())) if kind == "likelihood" else groups


def evaluations(folder):
    return metrics.read(folder / "metrics.jsonl", "validation")


def log_probabilities(model, groups):
    """Of each response of each group, the sum over its tokens and how many these are."""
    return [
        [(float(tokens.sum(dtype=np.float64)), len(tokens)) for tokens in of]
        for of in LanguageModel.load(model).log_probability_groups(groups)
    ]


def distance(groups, log_policy):
    """The mean KL(w'||b') of the groups, as the paper's formulas say, in float64."""
    found = []
    for group, policy in zip(groups, log_policy, strict=True):
        names = ("log_attribute", "log_prior", "log_proposal")
        terms = [[ratings[name] for name in names] for ratings in group.ratings]
        attribute, prior, proposal = np.array(terms).T
        target = softmax(attribute + prior - proposal)
        baseline = softmax(np.array(policy) - proposal)
        found.append(np.sum(target * np.log(target / baseline)))
    return np.mean(found)


def test_likelihood_is_that_of_the_model_at_the_start_and_of_its_export(data, steerlm):
    result, folder = steerlm
    groups = held_out(data, "likelihood")
    assert [g.condition["helpfulness"] for g in groups] == [4] * 4
    best = next(row for row in evaluations(folder) if row["step"] == result["step"])
    for model, summary in ((data / "base", evaluations(folder)[0]), (folder / "model", best)):
        sums = [one for of in log_probabilities(model, groups) for one in of]
        loss = -sum(total for total, _ in sums) / sum(tokens for _, tokens in sums)
        assert summary["loss"] == pytest.approx(loss, rel=1e-5)
        assert summary["learned_tokens"] == sum(tokens for _, tokens in sums)
        assert summary["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
    assert best["loss"] < evaluations(folder)[0]["loss"] - 0.5
    assert result["kind"] == "train_policy"
    assert result["values"]["loss"] == best["loss"]
    assert result["records"]["train"]["skipped"] == {"response without ratings": 16}
    rows = workdir.read_rows(folder / "results.jsonl")
    loss, change = (next(r for r in rows if r["metric"] == m) for m in ("loss", "change of loss"))
    assert loss["value"] == pytest.approx(best["loss"], rel=1e-9)
    assert loss["low"] < loss["value"] < loss["high"]
    assert change["value"] == pytest.approx(best["loss"] - evaluations(folder)[0]["loss"])
    assert change["high"] < 0


def test_distance_is_the_papers_at_the_start_and_of_the_export(data, steerlm2):
    result, folder = steerlm2
    groups = held_out(data, "steerlm2")
    start = evaluations(folder)[0]
    for model, found in ((data / "base", start), (folder / "model", result["values"])):
        log_policy = [[total for total, _ in of] for of in log_probabilities(model, groups)]
        assert found["loss"] == pytest.approx(distance(groups, log_policy), rel=1e-3, abs=1e-4)
    assert result["values"]["loss"] < start["loss"]
    assert 1 < start["effective_sample_size"] <= 3
    assert result["warnings"] == []
    for item in workdir.read_rows(folder / "items" / "validation.jsonl"):
        assert sum(item["target"]) == pytest.approx(1, abs=1e-5)
        assert sum(item["baseline"]) == pytest.approx(1, abs=1e-5)


def test_layouts_and_split_groups_are_evaluated_alike(data):
    """Nor does it matter whether what is learned of a prompt lies beside its responses."""
    talk = [*QUESTION, {"role": "assistant", "content": "Three."}, *QUESTION]
    rows = [{"prompt": talk, "responses": ["Four, I think.", "One."]} for _ in range(2)]
    task = tasks.make(config(data, **{"data.condition": ""}), None)
    prepared, _ = task.read(f"responses:{write(data / 'talks.jsonl', rows)}")
    longest = max(packing.cost(each.encoded, "shared") for each in prepared.examples)
    summaries, items = [], []
    for layout, length in (*((each, 192) for each in packing.LAYOUTS), ("shared", longest - 1)):
        batches = plan_evaluation(prepared.examples, row_length=length, layout=layout, rows=2)
        found, summary = task.evaluate(task.params, prepared, batches, 0)
        summaries.append(summary)
        items.append([x for each in found for x in each["log_probability"]])
    assert batches.split, "the groups should not fit into one row"
    responses = sum(len(ids) for each in prepared.examples for ids in each.encoded.responses)
    assert summaries[0]["learned_tokens"] > responses, "earlier answers should be learned too"
    for summary, probabilities in zip(summaries, items, strict=True):
        assert summary["learned_tokens"] == summaries[0]["learned_tokens"]
        assert summary["loss"] == pytest.approx(summaries[0]["loss"], rel=1e-5)
        np.testing.assert_allclose(probabilities, items[0], rtol=1e-5)


def test_what_is_trained_changes_and_nothing_else(data, tmp_path, monkeypatch):
    monkeypatch.setenv("HS2JAX_CACHE", str(tmp_path / "cache"))
    changes = {"trainable.last_layers": 1, "trainable.cache": True, "epochs": 1}
    rows = loop.train(config(data, **changes), tmp_path / "run")
    before, after = (LanguageModel.load(m).params for m in (data / "base", tmp_path / "run/model"))
    assert jax.tree.structure(before) == jax.tree.structure(after)
    changed = stages.changed(before, after)
    assert changed
    assert all(re.fullmatch("layers/.*|norm", name) for name in changed), changed
    q, was = (each["layers"]["attention"]["q"] for each in (after, before))
    np.testing.assert_array_equal(q[:2], was[:2])
    assert not np.array_equal(q[2:], was[2:])
    (count,) = (row["value"] for row in rows if row["metric"] == "trained_parameters")
    assert 0 < count < sum(x.size for x in jax.tree.leaves(before))


def test_split_over_micro_batches_and_devices_a_run_learns_the_same(data, steerlm2, tmp_path):
    """Groups that lie in several rows of several micro-batches, against groups in one row each."""
    changes = {"data.row_length": 64, "micro_batch_size": 4, "mesh.data": 2, "mesh.fsdp": 2}
    loop.train(config(data, "steerlm2", **changes, **{"mesh.tensor": 2}), tmp_path / "run")
    assert [row["step"] for row in evaluations(tmp_path / "run")] == [0, 4, 6]
    for a, b in zip(evaluations(tmp_path / "run"), evaluations(steerlm2[1]), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-3)
        assert a["log_likelihood"] == pytest.approx(b["log_likelihood"], rel=2e-3)


def test_the_best_step_of_a_run_is_converted(data, steerlm):
    """Also when it lies among checkpoints only."""
    convert(str(steerlm[1]), data / "again")
    exported, again = (LanguageModel.load(m) for m in (steerlm[1] / "model", data / "again"))
    assert (again.template, again.read) == (exported.template, exported.read)
    jax.tree.map(np.testing.assert_array_equal, again.params, exported.params)


# Parts --------------------------------------------------------------------------------------------

RATINGS = st.dictionaries(st.sampled_from(["a", "b"]), st.floats(-9, 9), max_size=2)


@example([{"a": 0.5}, {"a": 1.5}, {"a": 2.5}])
@given(st.lists(RATINGS, min_size=1, max_size=3))
def test_each_rated_response_is_asked_for_its_ratings(ratings):
    texts = tuple(f"Answer {i}" for i in range(len(ratings)))
    record = Record()
    found = list(tokenised.conditioned([Group(QUESTION, texts, tuple(ratings))], record))
    assert len(found) + sum(record.skipped.values()) == len(texts)
    kept = [(text, each) for text, each in zip(texts, ratings, strict=True) if each]
    for group, (text, each) in zip(found, kept, strict=True):
        assert group.responses == (text,)
        assert group.condition.keys() == each.keys()
        for name, value in group.condition.items():
            assert value == round(min(max(each[name], 0), 4))  # Halves become even.


# What is refused ----------------------------------------------------------------------------------


def test_data_without_what_is_learned_from_are_told(data, tmp_path):
    unweighed = [{k: v for k, v in row.items() if k != "log_prior"} for row in sampled_rows(2)]
    alone = sampled_rows(2, samples=1)
    unrated = [row | {"ratings": [{}, {}]} for row in rated_rows(2)]
    steerlm, steerlm2 = (tasks.make(config(data, k), None) for k in ("likelihood", "steerlm2"))
    weigh = "log_prior.* of every response.*hs2jax weigh"
    for task, format, rows, told in (
        (steerlm2, "sampled", unweighed, weigh),
        (steerlm2, "ratings", rated_rows(2), weigh),
        (steerlm2, "sampled", alone, "two responses or more"),
        (steerlm, "ratings", unrated, "config.data.condition asks for"),
        (steerlm, "sampled", alone, "condition of its own.*config.data.condition"),
    ):
        with pytest.raises(ValueError, match=told):
            task.read(f"{format}:{write(tmp_path / 'rows.jsonl', rows)}")
    task = tasks.make(config(data, **{"data.row_length": 8}), None)
    with pytest.raises(ValueError, match="no conversation that fits"):
        task.read(f"ratings:{data}/rated.jsonl")
