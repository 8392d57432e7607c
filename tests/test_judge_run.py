"""`hs2jax judge` from end to end on a tiny model: numbers, baselines, data."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command import fail, succeed
from judge_runs import column, flags, items_of, judged, people, prepare, rated_rows, write
from scipy import stats

from hs2jax.data import corpora
from hs2jax.judging import baselines, criteria, lager, layer_weights, readings, set_results
from hs2jax.judging.judge import Judge, requests_of
from hs2jax.reward_model import RewardModel

MEASURES = {
    "spearman": stats.spearmanr,
    "pearson": stats.pearsonr,
    "kendall": stats.kendalltau,
}


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    return prepare(tmp_path_factory.mktemp("here"))


@pytest.fixture(scope="module")
def everything(here, tmp_path_factory) -> tuple[Path, str]:
    """A run with all that it can: two sets, fitted weights, all baselines; what it printed."""
    workdir = tmp_path_factory.mktemp("everything")
    data = f"ratings:{here / 'rated.jsonl'}+responses:{here / 'own.jsonl'}"
    settings = {"data": data, "weights": "cross-validate", "folds": 4, "seed": 3}
    settings |= {"baselines": "gpt_score,ridge_probe, reward_model", "preset": "paper"}
    settings |= {"reward_model": here / "reward"}
    return workdir, succeed("judge", *flags(here, workdir, **settings))


@pytest.fixture(scope="module")
def read(here, everything):
    """What the judge has read of the rated set: groups, criteria, readings, people's ratings."""
    groups = list(corpora.read(f"ratings:{here / 'rated.jsonl'}"))
    chosen = criteria.load(str(here / "criteria.json"))
    judge = Judge.load(str(here / "model"))
    requests = [request for group in groups for request in requests_of(group, chosen)]
    kept = list(readings.kept(judge, requests, everything[0] / "readings", states=True))
    return groups, chosen, judge, requests, kept


def test_every_number_is_that_of_the_items(everything):
    items, rated = items_of(everything[0]), judged(everything[0])["sets"][0]
    assert len(items) == 2 * 16
    assert [c["name"] for c in rated["criteria"]] == ["helpfulness", "verbosity", "all"]
    for criterion in rated["criteria"]:
        some = [i for i in items if criterion["name"] in (i["criterion"], "all")]
        human = people(some)
        there = np.isfinite(human)
        assert criterion["n"] == there.sum() > 10
        assert criterion["human"]["counts"] == [
            sum(abs(human - value) < 0.5) + sum(human == value + 0.5) for value in range(1, 6)
        ]
        np.testing.assert_allclose(criterion["human"]["mean"], human[there].mean())
        assert list(criterion["scores"]) == list(some[0]["scores"])
        for way, found in criterion["scores"].items():
            score = column(some, way)
            both = there & np.isfinite(score)
            assert (found["n"], found["left_out"]) == (both.sum(), (~both).sum())
            np.testing.assert_allclose(found["mean"], score[np.isfinite(score)].mean())
            for measure, of in MEASURES.items():
                if np.ptp(score[both]) == 0:
                    assert found[measure]["value"] is None
                else:
                    expected = of(human[both], score[both]).statistic
                    np.testing.assert_allclose(found[measure]["value"], expected, atol=1e-9)
        assert {(t["a"], t["b"]) for t in criterion["tests"]} >= {
            (a, b)
            for a in set_results.CROSS_LAYER
            for b in (*set_results.LAST_LAYER, "gpt_score", "ridge_probe", "reward_model")
        }
        for test in criterion["tests"]:
            a, b = (criterion["scores"][test[side]]["spearman"]["value"] for side in "ab")
            if test["n"] == criterion["n"] and None not in (a, b):
                np.testing.assert_allclose(test["spearman"]["difference"], a - b, atol=1e-9)
        expected = criterion["scores"]["e_score"]["spearman"]["value"]
        for layers in criterion["by_layer"].values():
            np.testing.assert_allclose(layers[-1], expected, atol=1e-9)
            assert len(layers) == 4
        ours = criterion["presets"]["paper"]
        assert ours["lager_w"] == criterion["scores"]["lager_w"]["spearman"]
        assert ours["lager_wo"] == criterion["scores"]["lager_wo"]["spearman"]


def test_aggregations_are_those_of_the_readings(everything, read):
    _, chosen, judge, requests, kept = read
    again = judge.read(requests)
    for one, other in zip(kept, again, strict=True):
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-4)
    logits = np.concatenate([reading.logits for reading in kept])
    items, preset = items_of(everything[0]), lager.PRESETS["paper"]
    assert list(items[0]["scores"])[:10] == list(lager.AGGREGATIONS)
    for way in set(lager.AGGREGATIONS) - set(lager.WEIGHTED):
        expected = lager.aggregate(logits, chosen[0].scale, way, preset)
        np.testing.assert_allclose(column(items, way), expected, atol=1e-6)
    expected = np.asarray(lager.distribution(logits, preset))
    np.testing.assert_allclose([item["distribution"] for item in items], expected, atol=1e-6)


def test_fitted_weights_are_those_of_the_other_folds(everything, read):
    _, chosen, _, _, kept = read
    items, rated = items_of(everything[0]), judged(everything[0])["sets"][0]
    logits = np.concatenate([reading.logits for reading in kept])
    human = people(items)
    there = np.isfinite(human)
    prompts = [item["prompt"] for item, known in zip(items, there, strict=True) if known]
    arguments = (logits[there], human[there])
    preset, options = lager.PRESETS["paper"], {"recipe": "converged", "seed": 3}
    found = layer_weights.cross_validate(
        *arguments, prompts, chosen[0].scale, preset, folds=4, **options
    )
    for way, scores in found.on_one_level().items():
        np.testing.assert_allclose(column(items, way)[there], scores, atol=1e-6)
        assert np.isnan(column(items, way)[~there]).all()
        assert (~there).sum() == 1
    np.testing.assert_allclose(rated["weights"]["folds"], found.weights, atol=1e-6)
    np.testing.assert_allclose(rated["weights"]["mean"], found.mean, atol=1e-6)
    saved = json.loads((everything[0] / "weights.json").read_text())
    fitted = layer_weights.fit(*arguments, chosen[0].scale, preset, clusters=prompts, **options)
    np.testing.assert_allclose(saved["weights"], fitted.weights, atol=1e-6)
    assert saved["layers"] == 4
    assert saved["model"]["checksum"] == judged(everything[0])["model"]["checksum"]
    assert judged(everything[0])["weights_from"] == "cross-validation"


def test_baselines_are_what_their_functions_give(here, everything, read):
    groups, chosen, judge, _, kept = read
    items = items_of(everything[0])
    texts = [(group.prompt[0]["content"], r) for group in groups for r in group.responses]
    expected = baselines.gpt_score(judge.model, texts, chosen)
    np.testing.assert_allclose(column(items, "gpt_score"), expected.ravel(), atol=1e-4)
    talks = [
        [*group.prompt, {"role": "assistant", "content": r}]
        for group in groups
        for r in group.responses
    ]
    scored = RewardModel.load(here / "reward").score(talks)
    expected = [x for s in scored for x in (s.outputs["helpfulness"], s.reward)]
    np.testing.assert_allclose(column(items, "reward_model"), expected, atol=1e-4)
    states = np.concatenate([reading.states for reading in kept])
    for k in range(len(chosen)):
        human = people(items[k::2])
        there = np.isfinite(human)
        probe = baselines.ridge_probe(
            states[k::2][there],
            human[there],
            [i["prompt"] for i, known in zip(items[k::2], there, strict=True) if known],
            folds=4,
            seed=3,
        )
        np.testing.assert_allclose(column(items[k::2], "ridge_probe")[there], probe.scores)
    for criterion in judged(everything[0])["sets"][0]["criteria"]:
        for name in ("gpt_score", "ridge_probe", "reward_model"):
            of = criterion["scores"][name]
            assert (of["kl"], of["mse"]) == (None, None)


def test_what_nobody_rated_is_judged_all_the_same(everything):
    workdir, printed = everything
    items, entry = items_of(workdir, "responses-own"), judged(workdir)["sets"][1]
    assert [item["response"] for item in items[::2]] == [
        "Paris.",
        "Rome.",
        "Mix it with water and yeast.",
    ]
    assert "Assistant: Which flour have you got?\n\nUser: Rye." in items[-1]["prompt"]
    assert (entry["items"], entry["weights"]) == (3, None)
    for criterion in entry["criteria"]:
        assert criterion["human"] is None
        assert "tests" not in criterion
        of = criterion["scores"]["lager_wo"]
        some = [i for i in items if criterion["name"] in (i["criterion"], "all")]
        assert set(of) == {"mean", "sd"}
        np.testing.assert_allclose(of["mean"], column(some, "lager_wo").mean())
    for item in items:
        assert item["human"] is None
        assert 1 <= item["scores"]["lager_wo"] <= 5
        assert "lager_w" not in item["scores"]
        assert item["scores"].get("ridge_probe") is None
        np.testing.assert_allclose(sum(item["distribution"]), 1, atol=1e-5)
    assert "responses-own: 3 responses judged, none rated by people" in printed
    for page in ("report.html", "report.md"):
        text = (workdir / page).read_text(encoding="utf-8")
        assert "ratings-rated" in text
        assert "responses-own" in text
        assert "cross-validated" in text


def test_published_ratings_from_0_are_judged_from_1(here, tmp_path):
    one = tmp_path / "one.json"
    one.write_text(json.dumps([{"name": "coherence", "definition": "It hangs together."}]))
    names = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    rows = [
        {"prompt": f"Is {i} odd?", "response": f"{i} is{r}", **dict.fromkeys(names, (i + r) % 5)}
        for i in range(3)
        for r in range(2)
    ]
    attributes = write(tmp_path / "attributes.jsonl", rows)
    experts = {"consistency": 1, "fluency": 2.5, "relevance": 5}
    rows = [
        {"article": f"It rained {i} times.", "summary": "Rain." * r, "coherence": 1 + r / 3}
        | experts
        for i in range(2)
        for r in (1, 4)
    ]
    summaries = write(tmp_path / "summaries.jsonl", rows)
    data = f"helpsteer:{attributes}+helpsteer2:{attributes}[:2]+summeval:{summaries}"
    succeed("judge", *flags(here, tmp_path / "run", data=data, criteria=one))
    entries = judged(tmp_path / "run")["sets"]
    items = [items_of(tmp_path / "run", entry["name"]) for entry in entries]
    assert people(items[0]).tolist() == [1, 2, 2, 3, 3, 4]
    assert people(items[1]).tolist() == [1, 2, 2, 3]
    np.testing.assert_allclose(people(items[2]), [4 / 3, 7 / 3, 4 / 3, 7 / 3])
    assert entries[2]["criteria"][0]["human"]["counts"] == [2, 2, 0, 0, 0]
    assert "lager_w" not in entries[0]["criteria"][0]["scores"]
    assert judged(tmp_path / "run")["weights_from"] is None
    wide = {"name": "coherence", "definition": "It hangs together.", "scale": list(range(1, 10))}
    one.write_text(json.dumps([wide]))
    told = fail(
        "judge", *flags(here, tmp_path / "wide", data=f"helpsteer:{attributes}", criteria=one)
    )
    assert "people rated from 0 to 4, and the criteria's scale is 1 to 9" in told


def test_rows_are_judged_by_their_own_rubrics(here, tmp_path):
    levels = {f"score{i}_description": f"Level {i}." for i in range(1, 6)}
    rows = [
        {
            "input": f"Is {i} odd?",
            "response": "No.",
            "score_rubric": {"criteria": f"Is it kind to {i}?", **levels},
            "human_score": [1 + i, 2 + i],
        }
        for i in range(3)
    ]
    data = f"biggen:{write(tmp_path / 'rows.jsonl', rows)}"
    succeed("judge", *flags(here, tmp_path / "run", data=data, criteria="rubric"))
    (entry,) = judged(tmp_path / "run")["sets"]
    items = items_of(tmp_path / "run", entry["name"])
    assert people(items).tolist() == [1.5, 2.5, 3.5]
    assert {item["criterion"] for item in items} == {"rubric"}
    assert [criterion["name"] for criterion in entry["criteria"]] == ["rubric", "all"]


def test_the_mini_set_by_its_five_attributes(here, tmp_path):
    data = "helpsteer2:mini/validation.jsonl[:2]"
    printed = succeed("judge", *flags(here, tmp_path, data=data, criteria="helpsteer"))
    (entry,) = judged(tmp_path)["sets"]
    assert entry["items"] == 4
    assert f"{entry['name']}: 20 ratings of 4 responses" in printed
    names = [criterion["name"] for criterion in entry["criteria"][:-1]]
    expected = [
        rating[name] + 1
        for group in corpora.read(data)
        for rating in group.ratings
        for name in names
    ]
    items = items_of(tmp_path, entry["name"])
    assert people(items).tolist() == expected
    assert [item["criterion"] for item in items] == names * 4


def test_what_is_too_long_is_counted_and_left_out(here, tmp_path):
    rows = rated_rows(4)
    rows[1]["responses"][0] = "No. " * 4000
    data = f"ratings:{write(tmp_path / 'long.jsonl', rows)}"
    succeed("judge", *flags(here, tmp_path / "run", data=data))
    (entry,) = judged(tmp_path / "run")["sets"]
    assert (entry["items"], entry["left_out"]) == (7, {"too long": 1})
    items = items_of(tmp_path / "run", entry["name"])
    responses = [r for row in rows for r in row["responses"] if len(r) < 100]
    assert [item["response"] for item in items[::2]] == responses
    assert "too long" in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    write(tmp_path / "long.jsonl", [rows[1] | {"responses": ["No. " * 4000] * 2}])
    assert "no response could be read: 2 too long" in fail(
        "judge", *flags(here, tmp_path / "none", data=data)
    )


def test_malformed_rows_are_named_or_counted(here, tmp_path):
    rows = rated_rows(3)
    rows[1]["responses"] = ["Alone."]
    path = write(tmp_path / "rows.jsonl", rows)
    data = f"ratings:{path}"
    said = fail("judge", *flags(here, tmp_path / "run", data=data))
    assert f"{path}, line 2, field 'ratings'" in said
    succeed("judge", *flags(here, tmp_path / "run", data=data, on_error="skip"))
    (entry,) = judged(tmp_path / "run")["sets"]
    assert (entry["items"], entry["left_out"]) == (4, {"wrong number of ratings": 1})


def test_a_rating_outside_the_scale_is_named(here, tmp_path):
    rows = rated_rows(3)
    rows[1]["ratings"][1]["helpfulness"] = 6
    path = write(tmp_path / "rows.jsonl", rows)
    said = fail("judge", *flags(here, tmp_path / "run", data=f"ratings:{path}"))
    assert f"{path}:2: helpfulness is rated 6, and the criterion's scale is 1 to 5" in said
    assert not (tmp_path / "run" / "readings").exists(), "it was said only after reading"


def test_one_folder_holds_one_run_and_keeps_it_whole(here, everything, tmp_path, monkeypatch):
    shutil.copytree(everything[0], tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    same = {key: config[key] for key in ("data", "weights", "folds", "seed", "baselines", "preset")}
    same |= {"reward_model": here / "reward"}
    for key, other in (("preset", "recommended"), ("seed", 4)):
        said = fail("judge", *flags(here, tmp_path / "run", **same | {key: other}))
        assert f"different: {key}" in said
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}

    def stopping(*_):
        raise OSError("no room is left")

    with monkeypatch.context() as patch:
        patch.setattr(set_results, "_items", stopping)
        assert "no room is left" in fail("judge", *flags(here, tmp_path / "run", **same))
    assert {path: path.read_bytes() for path in files} == before
