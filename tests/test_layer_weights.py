"""Layer weights: planted ones are found, noise gives none, and no fold sees its own scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_policies import softmax

from hs2jax.evaluation.statistics import spearman
from hs2jax.judging import lager, layer_weights
from hs2jax.judging.lager import PRESETS
from hs2jax.judging.layer_weights import RECIPES, cross_validate, fit

OURS, PAPER, REPOSITORY = (PRESETS[name] for name in ("recommended", "paper", "repository"))
VALUES = np.arange(1, 6)
recipes = pytest.mark.parametrize("recipe", RECIPES)


def noise(rng, N, entries=8, S=5, spread=3.0):
    """[N, 2, L + 1, S], both norms alike."""
    return np.repeat(rng.normal(size=(N, 1, entries, S)) * spread, 2, axis=1)


def informative(rng, targets, error=0.7):
    """Logits [N, S] of a layer that knows the targets but for an error."""
    seen = targets + error * rng.normal(size=len(targets))
    return -((VALUES - seen[:, None]) ** 2)


def planted(rng, N, *, at=3, spread=3.0):
    """Readings with one informative layer among noise, targets, and clusters of two."""
    targets = rng.integers(1, 6, size=N).astype(float)
    logits = noise(rng, N, spread=spread)
    logits[:, :, at] = informative(rng, targets)[:, None]
    return logits, targets, np.arange(N) // 2


def scores(logits, preset, weights=None):
    name = "lager_wo" if weights is None else "lager_w"
    return lager.aggregate(logits, VALUES, name, preset, weights)


def mean_loss(logits, targets, values, preset, weights):
    """The loss by its definition, in float64 and one sample at a time."""
    total = 0.0
    for z, target in zip(np.array(lager.used_layers(logits, preset), float), targets, strict=True):
        p = softmax(sum(w * layer for w, layer in zip(weights, z, strict=True)))
        if preset.whole_targets:
            target = np.floor(target)
        low = min(int(np.floor(target)) - values[0], len(values) - 2)
        share = target - values[low]
        entropy = -(1 - share) * np.log(p[low]) - share * np.log(p[low + 1])
        difference = (p * np.array(values)).sum() - target
        error = difference**2 if preset.error == "squared" else abs(difference)
        total += preset.mix * entropy + (1 - preset.mix) * error
    return total / len(targets)


@pytest.mark.parametrize("preset", [OURS, REPOSITORY], ids=["recommended", "repository"])
def test_planted_weights_are_recovered_from_sampled_scores(preset):
    rng = np.random.default_rng(0)
    truth = np.array([0.5, 0.0, 0.3, 0.05, 0.15])
    logits = noise(rng, 6_000, entries=6 if preset.layers == "without_last" else 5)
    p = softmax(np.einsum("l,nls->ns", truth, logits[:, 0, :5]))
    targets = (p.cumsum(axis=1) < rng.random((len(p), 1))).sum(axis=1) + 1.0
    arguments = (logits, targets, np.arange(6_000), VALUES, preset)
    found = fit(*arguments, recipe="converged")
    np.testing.assert_allclose(found.weights, truth, atol=0.03)
    # One pass of small steps goes the same way, and not as far.
    one_pass = fit(*arguments, recipe="published")
    assert np.corrcoef(one_pass.weights, truth)[0, 1] > 0.95
    assert found.after < one_pass.after < one_pass.before


@pytest.mark.parametrize(
    ("preset", "at", "recipe", "spread"),
    [
        (OURS, 0, "converged", 3.0),
        (PAPER, 6, "published", 3.0),
        (PAPER, 3, "converged", 20_000.0),
        (REPOSITORY, 6, "converged", 3.0),
    ],
)
def test_the_informative_layer_is_found_among_noise(preset, at, recipe, spread):
    rng = np.random.default_rng(1)
    logits, targets, clusters = planted(rng, 400, at=at, spread=spread)
    options = {"recipe": recipe, "folds": 3}
    result = cross_validate(logits, targets, clusters, VALUES, preset, **options)
    assert (result.weights.argmax(axis=1) == at).all()
    # One pass over 267 samples moves each free parameter by 0.67 at most.
    least = 0.75 if recipe == "converged" else 1.5 / result.weights.shape[1]
    assert result.weights[:, at].mean() > least
    tuned = spearman(result.scores["lager_w"], targets)
    assert tuned > spearman(scores(logits, preset), targets) + 0.05
    lost = logits.copy()  # Without that layer nothing is left to be found.
    lost[:, :, at] = logits[rng.permutation(len(targets))][:, :, at]
    without = cross_validate(lost, targets, clusters, VALUES, preset, **options)
    assert abs(spearman(without.scores["lager_w"], targets)) < 0.2


def test_a_judge_that_knows_nothing_is_not_ordered_against_people():
    """Prompts differ in people's level, and weights can follow it: one entry gives 2, one 4."""
    raw, level = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        clusters = np.repeat(np.arange(20), 8)
        people = 3 + rng.normal(0, 0.7, size=20)[clusters] + rng.normal(0, 0.2, size=160)
        logits = noise(rng, 160, entries=2, spread=0.1)
        logits[:, :, 0, 1] += 3
        logits[:, :, 1, 3] += 3
        options = {"recipe": "converged", "seed": seed}
        found = cross_validate(logits, people.clip(1, 5), clusters, VALUES, OURS, **options)
        every = np.stack([scores(logits, OURS, weights) for weights in found.weights])
        raw.append(spearman(every[found.fold, np.arange(160)], people))
        level.append(spearman(found.scores["lager_w"], people))
    error = np.std(level, ddof=1) / np.sqrt(len(level))
    assert abs(np.mean(level)) < 3 * error
    assert np.mean(raw) < np.mean(level) - 3 * error


@recipes
def test_a_folds_weights_are_those_of_a_fit_without_it(recipe):
    # 30 samples in three folds: 20 to fit on, which fill fewer batches than all would.
    logits, targets, clusters = planted(np.random.default_rng(12), 30)
    options = {"folds": 3, "recipe": recipe}
    result = cross_validate(logits, targets, clusters, VALUES, OURS, **options)
    for f, weights in enumerate(result.weights):
        rest = result.fold != f
        some = (logits[rest], targets[rest], clusters[rest])
        alone = fit(*some, VALUES, OURS, recipe=recipe)
        np.testing.assert_allclose(weights, alone.weights, atol=1e-4)


MEMBERS = st.lists(st.sampled_from("abcdefgh"), min_size=30, max_size=30)


@given(MEMBERS.filter(lambda few: len(set(few)) > 2), st.integers(2, 3), st.integers(0, 9))
@settings(max_examples=10)
def test_clusters_stay_together_and_every_sample_is_scored(members, folds, seed):
    clusters, N = np.array(members), len(members)
    rng = np.random.default_rng(seed)
    logits, targets = noise(rng, N, entries=3), rng.uniform(1, 5, size=N)
    result = cross_validate(logits, targets, clusters, VALUES, OURS, folds=folds, seed=seed)
    of = {name: set(result.fold[clusters == name]) for name in clusters}
    assert all(len(each) == 1 for each in of.values())
    per_fold = np.bincount([each.pop() for each in of.values()], minlength=folds)
    assert len(per_fold) == folds
    assert np.ptp(per_fold) <= 1
    assert list(result.scores) == list(lager.WEIGHTED)
    assert result.weights.shape == (folds, 3)
    for f, weights in enumerate(result.weights):
        held = result.fold == f
        for name, found in result.scores.items():
            moved = found - lager.aggregate(logits, VALUES, name, OURS, weights)
            np.testing.assert_allclose(moved[held], moved[held][0], atol=1e-5)
            assert lager.AGGREGATIONS[name].expectation or not moved[held].any()


CASES = [(range(1, 6), 2, REPOSITORY), (range(1, 10), 6, REPOSITORY)]
CASES += [(range(1, 6), 6, PAPER), (range(10), 2, OURS)]


@given(
    case=st.sampled_from(CASES),
    recipe=st.sampled_from(RECIPES),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=20)
def test_losses_are_as_defined_and_weights_a_distribution(case, recipe, seed):
    (values, entries, preset), N = case, 13
    rng = np.random.default_rng(seed)
    logits = noise(rng, N, entries, len(values))
    targets = rng.uniform(values[0], values[-1], size=N)
    targets[:3] = values[0], values[-1], values[1]
    arguments = (logits, targets, np.arange(N), values, preset)
    found = fit(*arguments, recipe=recipe, seed=seed % 7)
    used = entries - (preset.layers == "without_last")
    assert found.weights.shape == (used,)
    assert found.weights.dtype == np.float32
    assert (found.weights > 0).all()
    assert found.weights.sum() == pytest.approx(1, abs=1e-5)
    for weights, loss in (
        (np.full(used, 1 / used), found.before),
        (found.weights.astype(float), found.after),
    ):
        assert loss == pytest.approx(mean_loss(logits, targets, values, preset, weights), rel=1e-4)
    assert (found.samples, found.recipe, found.seed) == (N, recipe, seed % 7)
    if recipe == "published":
        assert found.steps == 4  # 13 samples in batches of 4.
    again = fit(*arguments, recipe=recipe, seed=seed % 7)
    np.testing.assert_array_equal(again.weights, found.weights)


@pytest.mark.parity
def test_the_published_recipe_is_pytorchs_adam():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    # Samples that are all the same, so that their order makes no difference.
    logits = np.repeat(noise(rng, 1, entries=6), 41, axis=0)
    found = fit(logits, np.full(41, 4.0), np.arange(41), VALUES, OURS, recipe="published")
    free = torch.zeros(6, requires_grad=True)
    optimizer = torch.optim.Adam([free], lr=0.01)
    layers, values = torch.tensor(logits[0, 1]).float(), torch.arange(1.0, 6.0)
    for _ in range(11):
        aggregated = torch.softmax(free, 0) @ layers
        entropy = torch.nn.functional.cross_entropy(aggregated, torch.tensor(3))
        error = (torch.softmax(aggregated, 0) @ values - 4.0) ** 2
        optimizer.zero_grad()
        (OURS.mix * entropy + (1 - OURS.mix) * error).backward()
        optimizer.step()
    assert found.steps == 11
    np.testing.assert_allclose(found.weights, torch.softmax(free, 0).detach(), atol=1e-5)


def test_the_converged_recipe_is_stopped_by_clusters_it_does_not_fit_on(monkeypatch):
    calls, run = [], layer_weights._converged

    def spy(samples, train, held, preset):
        calls.append((samples, train, held))
        return run(samples, train, held, preset)

    monkeypatch.setattr(layer_weights, "_converged", spy)
    clusters = np.arange(60) // 3
    for seed in range(10):
        rng = np.random.default_rng(seed)
        # Nothing to be learnt, and much to be learnt by heart.
        logits, targets = noise(rng, 60, entries=20), rng.uniform(1, 5, size=60)
        found = fit(logits, targets, clusters, VALUES, OURS, recipe="converged", seed=seed)
        samples, train, held = calls[-1]
        assert (train ^ held).all()
        assert not set(clusters[train]) & set(clusters[held])
        assert held.sum() == 12
        even, fitted = (
            np.asarray(layer_weights.losses(weights, samples, OURS))[held].mean()
            for weights in (np.full(20, 0.05, np.float32), found.weights)
        )
        assert fitted <= even + 1e-5
        assert found.steps < layer_weights.MOST_STEPS / 2
    assert len({tuple(held) for _, _, held in calls}) > 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"targets": [1, 2, 6, 3]}, "targets must lie on the scale from 1 to 5"),
        ({"recipe": "converged", "clusters": ["a"] * 4}, "holds out a part of the clusters"),
        ({"folds": 5}, "5 folds need as many prompts with ratings, and there are only 4"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change, words):
    arguments = {"logits": np.zeros((4, 2, 3, 5)), "targets": [1, 2, 3, 5], "clusters": range(4)}
    arguments |= {"values": VALUES, "preset": OURS}
    fit(**arguments)
    with pytest.raises(ValueError, match=words):
        (cross_validate if "folds" in change else fit)(**arguments | change)
