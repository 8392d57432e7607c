"""GPTScore, reward models and probes: what they compute, and that none sees what it must not."""

import itertools

import numpy as np
import pytest
import tiny
from planted_judge import readings_of

from hs2jax import inference
from hs2jax.data import packing
from hs2jax.data.groups import Group
from hs2jax.data.record import Record
from hs2jax.judging import baselines, layer_weights
from hs2jax.judging.criteria import Criterion
from hs2jax.judging.judge import Judge
from hs2jax.language_model import LanguageModel

CRITERIA = (
    Criterion("helpfulness", "How well the response does what was asked."),
    Criterion("verbosity", "How much detail there is, for what was asked."),
)


MODEL = LanguageModel(tiny.config(), tiny.parameters(tiny.config()), tiny.tokenizer())
ITEMS = list(itertools.product(("Where is Paris?", "Hi", "Bake bread."), ("Yes.", "In France.")))


def gpt_score(folder, items=ITEMS, criteria=CRITERIA) -> np.ndarray:
    return baselines.gpt_score(readings_of(Judge(MODEL), folder), items, criteria)


def test_gpt_score_is_the_mean_log_probability_behind_prompt_and_criterion(tmp_path):
    items = [*ITEMS[::2], *ITEMS[1::2]]  # Those of one prompt apart.
    asked = [tiny.talk(baselines.asked(p, c), r) for p, r in items for c in CRITERIA]
    likely = MODEL.log_probability(asked)
    expected = np.reshape([each.total / len(each.tokens) for each in likely], (-1, len(CRITERIA)))
    found = gpt_score(tmp_path, [*items, ("Hi", "word " * 300)])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:-1], expected, atol=1e-5)
    assert np.isnan(found[-1]).all(), "what does not fit"
    # The criterion is read, and so is the prompt.
    assert np.abs(np.diff(found[:-1], axis=1)).min() > 1e-3
    assert np.abs(found[0] - found[1]).min() > 1e-3


def test_a_prompt_is_computed_once_for_all_its_criteria(monkeypatch, tmp_path):
    laid, plan = [], inference.plan_rows

    def spy(examples, **options):
        laid.extend(example.encoded for example in examples)
        return plan(examples, **options)

    monkeypatch.setattr(inference, "plan_rows", spy)
    long = " ".join(["How do I bake bread?"] * 8)
    # One prompt's responses stand apart here.
    items = [(long, "Yes."), ("Hi", "Yes."), (long, "Mix flour and water.")]
    gpt_score(tmp_path, items)
    assert sum(len(encoded.responses) for encoded in laid) == len(items) * len(CRITERIA)
    shared, separate = (
        sum(packing.cost(encoded, layout) for encoded in laid) for layout in ("shared", "separate")
    )
    assert shared <= separate - 3 * len(MODEL.tokenizer(long)["input_ids"])


GROUPS = [
    Group(({"role": "user", "content": "Hi"},), ("Yes.", "No."), source="a:1"),
    Group(({"role": "user", "content": "Where is Paris?"},), ("In France.",), source="a:2"),
]
OTHER = Criterion("style", "How it reads.")


def test_reward_scores_are_the_output_of_the_criterions_name_or_the_one_reward():
    weights, record = {"quality": 2.0, "helpfulness": -0.5}, Record()
    model = tiny.reward_model(tuple(weights), weights=weights)
    long = Group(GROUPS[0].prompt, ("word " * 600,), source="a:3")
    none, *found = baselines.reward_scores(model, [long, *GROUPS], [CRITERIA[0], OTHER], record)
    assert none is None
    assert record.too_long == 1
    for table, outputs in zip(found, model.score_groups(GROUPS), strict=True):
        np.testing.assert_allclose(table[:, 0], outputs[:, 1], atol=1e-5)
        np.testing.assert_allclose(table[:, 1], outputs @ [2.0, -0.5], atol=1e-5)
    other = tiny.reward_model(("quality", "length"))
    with pytest.raises(ValueError, match="no output 'style' and no weights"):
        baselines.reward_scores(other, GROUPS, [OTHER], Record())


N, ENTRIES, D, LAYER = 400, 4, 12, 2


def planted(seed=0, noise=0.5, clusters=80):
    """States of which one entry says the target, behind an offset and scales of its own."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(N, ENTRIES, D)).astype(np.float32)
    target = states[:, LAYER, :3].sum(axis=1) + noise * rng.normal(size=N)
    states = (states * np.geomspace(0.01, 100, D) + 1000).astype(np.float32)
    return states, target, rng.integers(0, clusters, N)


def ridge(states, target, layer, penalty, train, test):
    """Predictions for `test` of a ridge regression that is fitted to `train`, written out."""
    x = states[:, layer].astype(np.float64)
    x = (x - x[train].mean(axis=0)) / x[train].std(axis=0)
    y, mean = target[train], target[train].mean()
    gram = x[train].T @ x[train] + penalty * train.sum() * np.eye(D)
    return x[test] @ np.linalg.solve(gram, x[train].T @ (y - mean)) + mean


def test_layers_penalties_and_scores_are_those_of_the_other_folds_written_out():
    states, target, clusters = planted(noise=3)
    found = baselines.ridge_probe(states, target, clusters, folds=4, seed=3)
    np.testing.assert_array_equal(found.fold, layer_weights.draw_folds(clusters, 4, 3))
    for outer in range(4):
        errors = np.zeros((ENTRIES, len(baselines.PENALTIES)))
        for inner in set(range(4)) - {outer}:
            train, test = ~np.isin(found.fold, (inner, outer)), found.fold == inner
            for layer, p in np.ndindex(errors.shape):
                of = ridge(states, target, layer, baselines.PENALTIES[p], train, test)
                errors[layer, p] += ((of - target[test]) ** 2).sum()
        layer, p = np.unravel_index(errors.argmin(), errors.shape)
        assert (found.layers[outer], layer) == (LAYER, LAYER)
        assert found.penalties[outer] == np.float32(baselines.PENALTIES[p])
        train, test = found.fold != outer, found.fold == outer
        of = ridge(states, target, layer, baselines.PENALTIES[p], train, test)
        # All folds have one mean.
        expected = of - target[train].mean() + target.mean()
        np.testing.assert_allclose(found.scores[test], expected, atol=1e-4)


def test_features_that_are_constant_say_nothing():
    states, target, clusters = planted()
    with_constants = np.concatenate([states, np.full((N, ENTRIES, 2), 30_000.1)], axis=-1)
    found, plain = (baselines.ridge_probe(x, target, clusters) for x in (with_constants, states))
    np.testing.assert_allclose(found.scores, plain.scores, atol=1e-5)
