"""`hs2jax expo`: which factor it chooses, that it goes on after a kill, and what it says."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from command import fail, succeed
from hypothesis import given
from hypothesis import strategies as st

from hs2jax.evaluation import expo_report
from hs2jax.evaluation import items as scored_items
from hs2jax.models import merge
from hs2jax.reward_model import RewardModel
from hs2jax.training import expo_sweep

# Few, so that it is quick: with 0, 1 and the fine ones it is eight.
FACTORS = ("factors=(1.25,1.5,2.0)", "fine_step=0.05", "fine_reach=0.1")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    save_pair(folder)
    return folder / "initial", folder / "trained"


def save_pair(folder: Path, seed: int = 7) -> None:
    """An initial model, and one as if it had been trained from there."""
    model = tiny.save(folder / "initial")
    rng = np.random.default_rng(seed)
    model.params = jax.tree.map(
        lambda x: (x + rng.normal(0, 0.03, x.shape)).astype(np.float32), model.params
    )
    model.save(folder / "trained")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    with path.open("w") as file:
        for i in range(36):
            row = {"prompt": f"Is {i} odd?", "chosen": str(bool(i % 2)), "rejected": "I forgot."}
            file.write(json.dumps(row | {"rejected": "I forgot" + i % 7 * "."}) + "\n")
    return path


def command(models, data, workdir, *options: str) -> list[str]:
    settings = [f"initial={models[0]}", f"trained={models[1]}", f"data=preference:{data}[:24]"]
    flags = [f"--config.{option}" for option in (*settings, *FACTORS, *options)]
    return ["expo", "--config=configs/expo.py", f"--workdir={workdir}", *flags]


@pytest.fixture(scope="module")
def swept(models, data, tmp_path_factory) -> tuple[Path, str]:
    workdir = tmp_path_factory.mktemp("swept")
    return workdir, succeed(*command(models, data, workdir, f"test=preference:{data}[24:]"))


def read(path: Path):
    return json.loads(path.read_text())


def rows_of(workdir: Path) -> list[dict]:
    rows = map(json.loads, (workdir / "sweep.jsonl").read_text().splitlines())
    return [{key: x for key, x in row.items() if key != "seconds"} for row in rows]


# Which factor -------------------------------------------------------------------------------------


def test_factors_coarse_then_fine():
    coarse = expo_sweep.coarse_factors((1.4, 1.2, 1.0))
    assert coarse == [1.0, 0.0, 1.2, 1.4]
    fine = expo_sweep.fine_factors(1.4, coarse, step=0.02, reach=0.08)
    assert fine == [1.32, 1.34, 1.36, 1.38, 1.42, 1.44, 1.46, 1.48]
    assert expo_sweep.fine_factors(0.04, coarse, step=0.02, reach=0.08) == [
        0.02,
        0.04,
        0.06,
        0.08,
        0.1,
        0.12,
    ]
    assert expo_sweep.fine_factors(1.4, coarse, step=0.0, reach=0.08) == []


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "factor": st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0]),
            "accuracy": st.sampled_from([0.5, 0.6]),
            "loss": st.sampled_from([0.6, 0.7]),
        }
    ),
    min_size=1,
    max_size=8,
)


@given(ROWS)
def test_the_most_accurate_then_the_lowest_loss_then_the_nearest_to_1_is_chosen(rows):
    rows.append({"factor": 1.0, "accuracy": 0.5, "loss": 0.7})
    best = expo_sweep.choose(rows)
    assert best["factor"] > 0
    for row in rows:
        if row["factor"] > 0:
            assert row["accuracy"] <= best["accuracy"]
            if row["accuracy"] == best["accuracy"]:
                assert row["loss"] >= best["loss"]
                if row["loss"] == best["loss"]:
                    assert abs(row["factor"] - 1) >= abs(best["factor"] - 1)


def simulated(rng, groups: int, accuracy: float) -> list[dict]:
    return [
        {
            "source": f"f:{i}",
            "prompt": str(i),
            "responses": ["a", "b"],
            "outputs": [[0.0], [0.0]],
            "rewards": [float(np.where(rng.random() < accuracy, 1, -1)), 0.0],
            "ratings": [{}, {}],
            "pairs": [[0, 1, 1.0]],
            "ties": 0,
            "tokens": [1, 1],
        }
        for i in range(groups)
    ]


def test_the_held_out_gain_is_honest_where_choosing_is_not():
    factors = [1.0, 0.0, *np.arange(1.1, 2.01, 0.1).tolist()]
    seen, held_out = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        items = {factor: simulated(rng, 60, 0.6) for factor in factors}
        found = expo_sweep.held_out(factors, items.__getitem__)
        assert found["pairs"] == 60
        assert found["first"] == np.mean([i["rewards"][0] > 0 for i in items[1.0]])
        accuracy = {f: np.mean([i["rewards"][0] > 0 for i in some]) for f, some in items.items()}
        seen.append(max(accuracy[f] for f in factors if f) - accuracy[1.0])
        held_out.append(found["difference"])
    assert np.mean(seen) > 0.06  # No factor is better, but the best of eleven seems to be.
    assert abs(np.mean(held_out)) < 0.03


def test_the_held_out_gain_is_seen_where_there_is_one():
    rng = np.random.default_rng(0)
    items = {f: simulated(rng, 200, 0.9 if f == 1.5 else 0.6) for f in (0.0, 1.0, 1.5, 2.0)}
    found = expo_sweep.held_out([1.0, 0.0, 1.5, 2.0], items.__getitem__)
    assert found["factors"] == [1.5] * 5
    assert found["second"] == np.mean([i["rewards"][0] > 0 for i in items[1.5]])
    assert found["interval"][0] > 0
    few = {f: some[:4] for f, some in items.items()}
    assert expo_sweep.held_out([1.0, 0.0, 1.5, 2.0], few.__getitem__) is None


# The command --------------------------------------------------------------------------------------


def test_the_chosen_model_is_the_two_models_arithmetic(swept, models):
    workdir, said = swept
    result = read(workdir / "expo.json")
    factor = result["factor"]
    assert f"factor: {factor:g}" in said
    assert factor not in (0, 1)  # Else the rest shows little.
    initial, trained = (RewardModel.load(folder) for folder in models)
    trained.params = merge.expo(initial.params, trained.params, factor)
    exported = RewardModel.load(workdir / "model")
    for item in scored_items.read(workdir / "items" / "chosen.jsonl"):
        talks = [
            [{"role": "user", "content": item["prompt"]}, {"role": "assistant", "content": text}]
            for text in item["responses"]
        ]
        for model in (trained, exported):
            scores = [score.reward for score in model.score(talks)]
            np.testing.assert_allclose(item["rewards"], scores, atol=2e-5)


def test_the_results_are_those_of_the_items(swept):
    workdir, _ = swept
    result, rows = read(workdir / "expo.json"), {row["factor"]: row for row in rows_of(workdir)}
    assert [row["factor"] for row in result["curve"]] == sorted(rows)
    assert {0.0, 1.0, 1.25, 1.5, 2.0} < set(rows)
    best = max(row["accuracy"] for factor, row in rows.items() if factor > 0)
    assert rows[result["factor"]]["accuracy"] == best
    for name, factor in (("initial", 0.0), ("trained", 1.0), ("chosen", result["factor"])):
        items = scored_items.read(workdir / "items" / f"{name}.jsonl")
        right = [i["rewards"][c] > i["rewards"][r] for i in items for c, r, _ in i["pairs"]]
        assert len(right) == 24
        assert np.mean(right) == rows[factor]["accuracy"]
        assert result["validation"][name]["accuracy"] == rows[factor]["accuracy"]
        assert len(scored_items.read(workdir / "items" / f"test-{name}.jsonl")) == 12
    gain = result["validation"]["gain"]
    assert gain["difference"] == pytest.approx(best - rows[1.0]["accuracy"])
    assert result["test"]["gain"]["pairs"] == 12


def test_the_report_says_what_came_out(swept):
    workdir, _ = swept
    page, text = ((workdir / name).read_text() for name in ("report.html", "report.md"))
    for said in (page, text):
        assert "12 test pairs that had no say in the factor" in said
        assert "chosen on these very pairs" in said
    assert page.count("<svg") == 2
    assert "http" not in page.replace("http://www.w3.org", "")


def test_a_finished_sweep_is_not_done_again(swept, models, data, monkeypatch):
    workdir, said = swept
    monkeypatch.setattr(merge, "merge", lambda *_: pytest.fail("merged again"))
    assert succeed(*command(models, data, workdir, f"test=preference:{data}[24:]")) == said


def test_a_killed_sweep_goes_on(models, data, tmp_path, monkeypatch):
    arguments = command(models, data, tmp_path / "whole")
    succeed(*arguments)
    whole, real, merged = rows_of(tmp_path / "whole"), merge.merge, []

    def until(calls: int):
        def merge_some(initial, trained, factor):
            if len(merged) == calls:
                raise KeyboardInterrupt
            merged.append(factor)
            return real(initial, trained, factor)

        monkeypatch.setattr(merge, "merge", merge_some)

    arguments = command(models, data, tmp_path / "parts")
    for calls, done in ((3, 3), (6, 6)):  # In the coarse part, then in the fine one.
        until(calls)
        with pytest.raises(KeyboardInterrupt):
            succeed(*arguments)
        assert rows_of(tmp_path / "parts") == whole[:done]
        assert not (tmp_path / "parts" / "expo.json").exists()
    until(-1)
    succeed(*arguments)
    assert rows_of(tmp_path / "parts") == whole
    assert merged[:-1] == [row["factor"] for row in whole]  # Each once, then the one to save.
    model = (tmp_path / name / "model" / "model.safetensors" for name in ("whole", "parts"))
    assert len({path.read_bytes() for path in model}) == 1


def test_results_of_other_models_or_settings_are_not_gone_on_with(data, tmp_path, monkeypatch):
    save_pair(tmp_path)
    models = tmp_path / "initial", tmp_path / "trained"
    monkeypatch.setattr(RewardModel, "save", lambda *_: 1 / 0)  # Killed before the end.
    with pytest.raises(ZeroDivisionError):
        succeed(*command(models, data, tmp_path / "out"))
    said = fail(*command(models, data, tmp_path / "out", "max_tokens=100"))
    assert "different: max_tokens" in said
    monkeypatch.undo()
    save_pair(tmp_path, seed=8)
    said = fail(*command(models, data, tmp_path / "out"))
    assert "holds results of other parameters or pairs" in said


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("initial=", "config.initial is not set"),
        ("data=", "config.data is not set"),
        ("dtype=int8", "config.dtype is 'int8'"),
        ("on_error=ignore", "config.on_error is 'ignore'"),
        ("factors=(1.5,-1.0)", "config.factors has -1.0"),
        ("fine_step=-0.1", "config.fine_step is -0.1"),
        ("weights=quality=1", "weights for ['quality'], but the outputs are ['helpfulness']"),
        ("test=ratings:absent.jsonl", "absent.jsonl"),
        ("trained=absent", "no model 'absent'"),
    ],
)
def test_a_config_that_cannot_be_is_refused(models, data, tmp_path, option, said):
    assert said in fail(*command(models, data, tmp_path, option))


def test_models_or_data_that_cannot_be_are_refused(models, data, tmp_path):
    tiny.save(tmp_path / "other", num_layers=2)
    said = fail(*command(models, data, tmp_path / "a", f"trained={tmp_path / 'other'}"))
    assert "layers: 3 and 2" in said
    tie = {"prompt": "a", "responses": ["b", "c"], "ratings": [{"helpfulness": 1}] * 2}
    (tmp_path / "ties.jsonl").write_text(json.dumps(tie) + "\n")
    options = f"data=ratings:{tmp_path / 'ties.jsonl'}", "derive=helpfulness"
    said = fail(*command(models, data, tmp_path / "b", *options))
    assert "no preference pairs to judge a factor by" in said
    assert "ties 1" in said
    tiny.save(tmp_path / "two", outputs=("a", "b"))
    both = f"initial={tmp_path / 'two'}", f"trained={tmp_path / 'two'}"
    assert "has the outputs a, b: say in config.weights" in fail(
        *command(models, data, tmp_path / "c", *both)
    )


# The page -----------------------------------------------------------------------------------------


def gain(difference: float, half: float) -> dict:
    names = {"pairs": 100, "first": 0.6, "second": 0.6 + difference, "difference": difference}
    return names | {"interval": [difference - half, difference + half], "p_mcnemar": 0.5}


@pytest.mark.parametrize(
    ("test", "held_out", "tone"),
    [
        (gain(0.1, 0.05), gain(-0.1, 0.05), "good"),
        (gain(0.1, 0.2), None, "unsure"),
        (gain(-0.1, 0.05), None, "bad"),
        (None, gain(0.1, 0.05), "good"),
        (None, gain(0.1, 0.2), "unsure"),
        (None, None, "unsure"),
    ],
)
def test_only_pairs_without_a_say_make_a_good_verdict(test, held_out, tone):
    chosen = {"accuracy": 0.7, "pairs": 100}
    validation = {"gain": gain(0.1, 0.05), "chosen": chosen, "initial": {"accuracy": 0.8}}
    result = {"factor": 2.0, "at_edge": True, "curve": [{}] * 12, "validation": validation}
    result |= {"test": test and {"gain": test}, "held_out": held_out}
    first, second = expo_report.verdicts(result)
    assert first.tone == tone
    assert second.tone == "unsure"
    assert "try larger ones" in second.sentence
    assert "The initial model is better than any of them: 80.0%" in second.sentence


@given(
    st.lists(
        st.tuples(st.integers(1, 300).map(lambda n: n / 100), st.floats(0, 1), st.floats(0, 5)),
        min_size=1,
        max_size=12,
        unique_by=lambda row: row[0],
    ),
    st.floats(0, 1),
)
def test_any_curve_can_be_drawn(points, longer):
    points = {0.0: (0.0, 0.5, 0.7), 1.0: (1.0, 0.6, 0.6)} | {row[0]: row for row in points}
    curve = [
        {"factor": f, "accuracy": a, "interval": [a * 0.9, a + (1 - a) * 0.1], "loss": loss}
        for f, a, loss in sorted(points.values())
    ]
    for svg in (
        expo_report.accuracy_curve(curve, curve[-1]["factor"], {"accuracy": longer}),
        expo_report.loss_curve(curve, curve[0]["factor"]),
    ):
        root = ElementTree.fromstring(svg)
        for element in root.iter():
            for name in ("x", "y", "x1", "y1", "cx", "cy"):
                assert -30 <= float(element.get(name, 0)) <= 370
