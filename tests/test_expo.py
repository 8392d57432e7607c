"""`hs2jax expo`: which factor it chooses, and what it says."""

from pathlib import Path

import jax
import numpy as np
import pytest
import stages
import tiny
from command import fail, succeed
from hypothesis import given
from hypothesis import strategies as st

from hs2jax import workdir
from hs2jax.evaluation.measures import Pairs
from hs2jax.models import merge
from hs2jax.reward_model import RewardModel
from hs2jax.training import expo

# Few, so that it is quick: with 0, 1 and the fine ones it is eight.
FACTORS = ("factors=(1.25,1.5,2.0)", "fine_step=0.05", "fine_reach=0.1")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    save_pair(folder)
    return folder / "initial", folder / "trained"


def save_pair(folder: Path, seed: int = 7) -> None:
    """Save an initial model, and one as if it had been trained from there."""
    model = tiny.save(folder / "initial")
    rng = np.random.default_rng(seed)
    moved = lambda x: (x + rng.normal(0, 0.03, x.shape)).astype(np.float32)  # noqa: E731
    model.params = jax.tree.map(moved, model.params)
    model.save(folder / "trained")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    stages.pairs(path, 36)
    return path


def command(models, data, folder, *options: str) -> list[str]:
    settings = [f"initial={models[0]}", f"trained={models[1]}", f"data=preference:{data}[:24]"]
    flags = [f"--config.{option}" for option in (*settings, *FACTORS, *options)]
    return ["expo", "--config=configs/expo.py", f"--workdir={folder}", *flags]


@pytest.fixture(scope="module")
def swept(models, data, tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("swept")
    return folder, succeed(*command(models, data, folder, f"test=preference:{data}[24:]"))


def results(folder: Path):
    return workdir.read_json(folder / "result.json"), workdir.read_rows(folder / "results.jsonl")


def curve(rows) -> dict[float, float]:
    """Accuracy on the validation pairs by factor."""
    family = [row for row in rows if row["part"].startswith("factor/")]
    return {float(r["part"][7:]): r["value"] for r in family if r["metric"] == "accuracy"}


# Which factor -------------------------------------------------------------------------------------


def test_factors_coarse_then_fine():
    coarse = expo.coarse_factors((1.4, 1.2, 1.0))
    assert coarse == [1.0, 0.0, 1.2, 1.4]
    fine = expo.fine_factors(1.4, coarse, step=0.02, reach=0.08)
    assert fine == [1.32, 1.34, 1.36, 1.38, 1.42, 1.44, 1.46, 1.48]
    near_0 = expo.fine_factors(0.04, coarse, step=0.02, reach=0.08)
    assert near_0 == [0.02, 0.04, 0.06, 0.08, 0.1, 0.12]
    assert expo.fine_factors(1.4, coarse, step=0.0, reach=0.08) == []


@given(
    st.dictionaries(
        st.sampled_from([0.0, 0.5, 1.5, 2.0]),
        st.tuples(st.sampled_from([0.5, 0.6]), st.sampled_from([0.6, 0.7])),
    )
)
def test_the_most_accurate_then_the_lowest_loss_then_the_nearest_to_1_is_chosen(found):
    measured = {f: {"accuracy": a, "log_loss": loss} for f, (a, loss) in found.items()}
    measured[1.0] = {"accuracy": 0.5, "log_loss": 0.7}
    best = expo.choose(measured)
    assert best > 0

    def rank(factor):
        return measured[factor]["accuracy"], -measured[factor]["log_loss"], -abs(factor - 1)

    assert all(rank(factor) <= rank(best) for factor in measured if factor > 0)


def simulated(rng, groups: int, accuracy: float) -> Pairs:
    margin = np.where(rng.random(groups) < accuracy, 1.0, -1.0)
    return Pairs(np.arange(groups), margin, np.ones((groups, 2)), np.ones(groups))


def test_the_held_out_gain_is_honest_where_choosing_is_not():
    factors = [1.0, *np.arange(1.1, 2.01, 0.1).tolist()]
    seen, held_out = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        pairs = {factor: simulated(rng, 60, 0.6) for factor in factors}
        right = {factor: each.right for factor, each in pairs.items()}
        chosen = expo.cross_validate(pairs)
        held_out.append(np.mean([right[f][i] for i, f in enumerate(chosen)]) - right[1.0].mean())
        seen.append(max(each.mean() for each in right.values()) - right[1.0].mean())
    assert np.mean(seen) > 0.06  # No factor is better, but the best of eleven seems to be.
    assert abs(np.mean(held_out)) < 0.03


def test_the_held_out_gain_is_seen_where_there_is_one():
    rng = np.random.default_rng(0)
    pairs = {f: simulated(rng, 200, 0.9 if f == 1.5 else 0.6) for f in (1.0, 1.5, 2.0)}
    assert (expo.cross_validate(pairs) == 1.5).all()
    row = expo.gain("held_out", pairs[1.0], pairs[1.5].right)
    assert row["value"] == pytest.approx(pairs[1.5].right.mean() - pairs[1.0].right.mean())
    assert 0 < row["low"] < row["value"] < row["high"]
    assert row["p_mcnemar"] < 0.001
    assert row["only_second"] - row["only_first"] == round(200 * row["value"])
    few = {f: Pairs(*(x[:4] for x in each)) for f, each in pairs.items()}
    assert expo.cross_validate(few) is None


# The command --------------------------------------------------------------------------------------


def test_the_chosen_model_is_the_two_models_arithmetic(swept, models):
    folder, said = swept
    factor = results(folder)[0]["factor"]
    assert f"{factor:g}" in said
    assert factor not in (0, 1)  # Else the rest shows little.
    initial, trained = (RewardModel.load(each) for each in models)
    trained.params = merge.expo(initial.params, trained.params, factor)
    exported = RewardModel.load(folder / "model")
    items = workdir.read_rows(folder / "items" / "chosen.jsonl")
    talks = [tiny.talk(item["prompt"], text) for item in items for text in item["responses"]]
    rewards = [reward for item in items for reward in item["rewards"]]
    for model in (trained, exported):
        scores = [score.reward for score in model.score(talks)]
        np.testing.assert_allclose(rewards, scores, atol=2e-5)


def test_the_rows_are_those_of_the_items(swept):
    folder, _ = swept
    result, rows = results(folder)
    accuracy = curve(rows)
    assert {0.0, 1.0, 1.25, 1.5, 2.0} < set(accuracy)
    best = max(x for factor, x in accuracy.items() if factor > 0)
    assert accuracy[result["factor"]] == best == accuracy[stages.value(rows, "factor")]
    for name, factor in (("initial", 0.0), ("trained", 1.0), ("chosen", result["factor"])):
        items = workdir.read_rows(folder / "items" / f"{name}.jsonl")
        right = [i["rewards"][c] > i["rewards"][r] for i in items for c, r, _ in i["pairs"]]
        assert len(right) == 24
        of = stages.value(rows, "accuracy", set="validation", method=name)
        assert np.mean(right) == accuracy[factor] == of
        assert len(workdir.read_rows(folder / "items" / f"test-{name}.jsonl")) == 12
    assert stages.value(rows, "gain", set="validation") == pytest.approx(best - accuracy[1.0])
    verdicts = {row["set"]: "reference" in row for row in rows if row["metric"] == "gain"}
    assert verdicts == {"validation": False, "held_out": True, "test": True}


def test_models_or_data_that_cannot_be_are_refused(models, data, tmp_path):
    tiny.save(tmp_path / "other", num_layers=2)
    tiny.save(tmp_path / "two", outputs=("a", "b"))
    tie = {"prompt": "a", "responses": ["b", "c"], "ratings": [{"helpfulness": 1}] * 2}
    ties = stages.write(tmp_path / "ties.jsonl", [tie])
    two = f"initial={tmp_path / 'two'}", f"trained={tmp_path / 'two'}"
    derived = f"data=ratings:{ties}", "derive=helpfulness"
    for n, (options, said) in enumerate(
        (
            (("weights=quality=1",), "weights for ['quality'], but the outputs are"),
            (("trained=absent",), "no model 'absent'"),
            ((f"trained={tmp_path / 'other'}",), "num_layers: 3 and 2"),
            (derived, "no preference pairs: 1 rows, 1 groups, 0 pairs (ties"),
            (two, "has the outputs a, b: say in config.weights"),
        )
    ):
        assert said in fail(*command(models, data, tmp_path / str(n), *options))
