"""SteerLM on several answers to a prompt: together they are learned as they are alone."""

import itertools

import jax
import numpy as np
import pytest
import stages
import tiny

from hs2jax import configs, inference
from hs2jax.data import packing
from hs2jax.training import loop, tasks, tokenised

ANSWERS = ("Yes.", "No, never.", "It depends on who asks, and when.", "", "so so so")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("groups")
    tiny.language_model(folder / "base")
    rows = [
        {
            "prompt": question,
            "responses": list(ANSWERS[: 1 + i]),
            "ratings": [{"helpfulness": 3, "verbosity": (i + j) % 5} for j in range(1 + i)],
        }
        for i, question in enumerate(("Why?", "Is the sea far?", "How do waves move?"))
    ]
    # Twelve neighbours with one prompt, more than a row should hold.
    rows += [{**rows[2], "prompt": "Who are you?"}] * 4
    config = configs.defaults("train_policy")
    config.model.name = str(folder / "base")
    config.data.condition = "ratings"
    config.data.row_length = 512
    config.data.train = f"ratings:{stages.write(folder / 'rated.jsonl', rows)}"
    return tasks.make(config, None)


@pytest.fixture(scope="module")
def prepared(task):
    return task.read(task.config.data.train)[0]


def batches(prepared, layout="shared"):
    """Laid out, all examples in one batch."""
    slots = max(len(example.encoded.responses) for example in prepared.examples)
    length = 128 * slots if layout == "padded" else 512
    planned = inference.plan_evaluation(
        prepared.examples, row_length=length, layout=layout, rows=32
    )
    (batch,) = (planned[i] for i in range(len(planned)))
    return {name: x[0] for name, x in batch.items()}


def learned(batch):
    """The runs of learned tokens, sorted."""
    found = []
    for tokens, learn in zip(batch["tokens"], batch["loss_mask"], strict=True):
        runs = itertools.groupby(zip(tokens.tolist(), learn, strict=True), key=lambda one: one[1])
        found += [tuple(token for token, _ in run) for is_learned, run in runs if is_learned]
    return sorted(found)


def test_neighbours_with_one_prompt_are_groups_of_at_most_eight(prepared):
    together = tokenised.together(prepared)
    assert [len(group.responses) for group in together.groups] == [1, 2, 3, 8, 4]
    alone = [group.responses[0] for group in prepared.groups]
    assert list(itertools.chain(*(group.responses for group in together.groups))) == alone
    saved = [
        sum(packing.cost(e.encoded, "shared") for e in p.examples) for p in (prepared, together)
    ]
    assert saved[1] < 0.8 * saved[0]


def test_only_answers_are_learned_and_each_follows_its_own_ratings(task, prepared):
    together = tokenised.together(prepared)
    for group, example in zip(together.groups, together.examples, strict=True):
        of = [g for g in prepared.groups if g.prompt == group.prompt]
        for text, ids, given in zip(
            group.responses, example.encoded.responses, example.encoded.given, strict=True
        ):
            asked = task.model.tokenizer.decode([*example.encoded.prompt, *ids[:given]])
            conditions = [g.condition for g in of if g.responses == (text,)]
            lines = [f"helpfulness:3,verbosity:{c['verbosity']}\n" for c in conditions]
            assert any(asked.endswith(line) for line in lines)
            assert task.model.tokenizer.decode(ids[given:]) == text + "<|im_end|>"
    assert learned(batches(together)) == learned(batches(prepared))


def loss_and_gradient(task, batch, layout="shared"):
    def loss(params, batch):
        found = inference.token_log_probabilities(
            params, batch, task.model.config, layout=layout, dtype=task.model.dtype
        )
        return task.objective.loss(found, batch, task.objective.counts(batch))[0]

    return jax.jit(jax.value_and_grad(loss))(task.params, batch)


@pytest.fixture(scope="module")
def alone(task, prepared):
    return loss_and_gradient(task, batches(prepared))


@pytest.mark.parametrize("layout", packing.LAYOUTS)
def test_loss_and_gradient_are_those_of_answers_alone(task, prepared, alone, layout):
    batch = batches(tokenised.together(prepared), layout)
    loss, gradient = loss_and_gradient(task, batch, layout)
    np.testing.assert_allclose(loss, alone[0], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(alone[1]), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-5)


def test_a_run_learns_the_same_in_long_rows_and_in_short_separate_ones(task, tmp_path):
    """Groups that are too long for a row lie in several."""
    ended = []
    for row_length, layout in ((512, "shared"), (128, "separate")):
        config = task.config.copy_and_resolve_references()
        config.data.update(row_length=row_length, layout=layout, validation=config.data.train)
        config.update(batch_size=2, micro_batch_size=8, epochs=1, evaluate_every=99)
        config.optimizer.learning_rate = 1e-3
        rows = loop.train(config, tmp_path / f"{layout}{row_length}")
        values = {row["metric"]: row["value"] for row in rows}
        assert values["step"] == 3  # Five groups, two at a time.
        ended.append(values["loss"])
    np.testing.assert_allclose(ended, ended[0], rtol=1e-4)
