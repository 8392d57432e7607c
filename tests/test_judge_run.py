"""Runs of a judge from end to end on a tiny model: numbers, baselines, weights, data, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
from judge_runs import CRITERIA, SET, column, items_of, people, prepare, rated_rows, result_of, run
from planted_judge import readings_of, values
from scipy import stats
from stages import write
from test_fields import WEBGPT, WEBGPT_MAP
from test_uses import dialogue, questions

from hs2jax import workdir
from hs2jax.data import corpora
from hs2jax.data.formats import ATTRIBUTES, SUMMEVAL
from hs2jax.data.record import Record
from hs2jax.judging import baselines, criteria, lager, layer_weights, weights_file
from hs2jax.judging.judge import Judge, requests_of
from hs2jax.report.run import find, select
from hs2jax.reward_model import RewardModel

MEASURES = {"spearman": stats.spearmanr, "pearson": stats.pearsonr, "kendall": stats.kendalltau}


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    folder = prepare(tmp_path_factory.mktemp("here"))
    write(folder / "outside.jsonl", [rated_rows(1)[0] | {"ratings": [{"helpfulness": 6}] * 2}])
    write(folder / "long.jsonl", [{"prompt": "Why?", "responses": ["No. " * 4000]}])
    return folder


@pytest.fixture(scope="module")
def everything(here, tmp_path_factory) -> tuple[Path, list[dict]]:
    """A run with all that it can: two sets, fitted weights, all baselines; and its rows."""
    folder = tmp_path_factory.mktemp("everything")
    data = f"ratings:{here / 'rated.jsonl'}+responses:{here / 'own.jsonl'}"
    settings = {"data": data, "weights": "cross-validate", "folds": 4, "seed": 3}
    settings |= {"baselines": "gpt_score,ridge_probe, reward_model", "preset": "paper"}
    return folder, run(here, folder, **settings, reward_model=here / "reward")


@pytest.fixture(scope="module")
def read(here, everything):
    """What the judge has read of the rated set: groups, criteria, the judge, logits, states."""
    groups = list(corpora.read(f"ratings:{here / 'rated.jsonl'}"))
    chosen, judge = criteria.load(str(here / "criteria.json")), Judge.load(str(here / "model"))
    requests = [request for group in groups for request in requests_of(group, chosen)]
    found = list(readings_of(judge, everything[0]).stream(requests, "again", states=True))
    logits, states = (
        np.concatenate([getattr(x, name) for x in found]) for name in found[0]._fields
    )
    return groups, chosen, judge, logits, states


def test_every_number_is_that_of_the_items(everything):
    items, rows = items_of(everything[0]), select(everything[1], set=SET, preset=None)
    assert len(items) == 2 * 16
    assert workdir.read_rows(everything[0] / "results.jsonl") == everything[1]
    for part in ("", "criterion/helpfulness", "criterion/verbosity"):
        some = [i for i in items if part in ("", f"criterion/{i['criterion']}")]
        human = people(some)
        there = np.isfinite(human)
        assert values(rows, "mean", part)["human"] == pytest.approx(human[there].mean())
        for method in some[0]["scores"]:
            score = column(some, method)
            both = there & np.isfinite(score)
            mean = values(rows, "mean", part)[method]
            assert mean == pytest.approx(score[np.isfinite(score)].mean())
            for measure, of in MEASURES.items():
                row = find(rows, part=part, metric=measure, method=method, against=None)
                assert row["n"] == both.sum() > 10
                same = np.ptp(score[both]) == 0
                expected = None if same else of(human[both], score[both]).statistic
                assert row["value"] == pytest.approx(expected, abs=1e-9)
        of = values(rows, "spearman", part)
        tests = [row for row in select(rows, part=part, metric="spearman") if "against" in row]
        others = (*lager.LAST_LAYER, "gpt_score", "ridge_probe", "reward_model")
        assert {(row["method"], row["against"]) for row in tests} == {
            *((a, b) for a in lager.CROSS_LAYER for b in others),
            lager.CROSS_LAYER,
        }
        for row in tests:
            a, b = of[row["method"]], of[row["against"]]
            if row["n"] == there.sum() and None not in (a, b):
                assert row["value"] == pytest.approx(a - b, abs=1e-9)
        last = values(rows, "spearman", f"{part}/layer/3".strip("/"))
        assert last == dict.fromkeys(lager.NORMS, pytest.approx(of["e_score"], abs=1e-9))
        assert values(rows, "kl", part).keys() == set(lager.AGGREGATIONS)
        for preset in ("repository", "recommended"):
            found = select(everything[1], set=SET, part=part, preset=preset)
            assert {row["method"] for row in found} == set(lager.CROSS_LAYER)
    within = values(rows, "spearman_within")["e_score"]
    apart = [values(rows, "spearman", f"criterion/{c['name']}")["e_score"] for c in CRITERIA]
    assert within == pytest.approx(np.mean(apart))
    assert {row["method"] for row in select(rows, headline=True)} == set(items[0]["scores"])


def test_aggregations_are_those_of_the_readings(everything, read):
    _, chosen, _, logits, _ = read
    items, preset = items_of(everything[0]), lager.PRESETS["paper"]
    assert list(items[0]["scores"])[:10] == list(lager.AGGREGATIONS)
    for name in set(lager.AGGREGATIONS) - set(lager.WEIGHTED):
        expected = lager.aggregate(logits, chosen[0].scale, name, preset)
        np.testing.assert_allclose(column(items, name), expected, atol=1e-6)
    expected = lager.distribution(logits, preset)
    np.testing.assert_allclose([item["distribution"] for item in items], expected, atol=1e-6)


def test_fitted_weights_are_those_of_the_other_folds(everything, read):
    _, chosen, _, logits, _ = read
    items, rows = items_of(everything[0]), select(everything[1], set=SET, metric="weight")
    human = people(items)
    there = np.isfinite(human)
    prompts = np.array([item["prompt"] for item in items])[there]
    options = {"recipe": "converged", "seed": 3}
    arguments = (logits[there], human[there], prompts, chosen[0].scale, lager.PRESETS["paper"])
    found = layer_weights.cross_validate(*arguments, folds=4, **options)
    assert (~there).sum() == 1
    for name, scores in found.scores.items():
        np.testing.assert_allclose(column(items, name)[there], scores, rtol=2e-6)
        assert np.isnan(column(items, name)[~there]).all()
    folds = {f"fold {i}": weights for i, weights in enumerate(found.weights, 1)}
    for method, weights in {"lager_w": found.weights.mean(axis=0), **folds}.items():
        kept = [row["value"] for row in select(rows, method=method)]
        np.testing.assert_allclose(kept, weights, atol=1e-6)
    saved = json.loads((everything[0] / "weights.json").read_text())
    fitted = layer_weights.fit(*arguments, **options)
    np.testing.assert_allclose(saved["weights"], fitted.weights, atol=1e-6)
    assert saved["layers"] == 4
    assert saved["model"]["checksum"] == result_of(everything[0])["model"]["checksum"]


def test_baselines_are_what_their_functions_give(here, everything, read, tmp_path):
    groups, chosen, judge, _, states = read
    items = items_of(everything[0])
    texts = [(group.prompt[0]["content"], r) for group in groups for r in group.responses]
    expected = baselines.gpt_score(readings_of(judge, tmp_path), texts, chosen)
    np.testing.assert_allclose(column(items, "gpt_score"), expected.ravel(), atol=1e-4)
    tables = baselines.reward_scores(RewardModel.load(here / "reward"), groups, chosen, Record())
    expected = np.concatenate(tables).ravel()
    np.testing.assert_allclose(column(items, "reward_model"), expected, atol=1e-4)
    for k in range(len(chosen)):
        human = people(items[k::2])
        there = np.isfinite(human)
        prompts = np.array([item["prompt"] for item in items[k::2]])[there]
        arguments = (states[k::2][there], human[there], prompts)
        probe = baselines.ridge_probe(*arguments, folds=4, seed=3)
        found = column(items[k::2], "ridge_probe")[there]
        np.testing.assert_allclose(found, probe.scores, atol=1e-4)  # Of states read anew.


# Weights ----------------------------------------------------------------------------------------


def test_weights_are_fitted_to_the_prompts_that_are_not_judged_and_serve_again(here, tmp_path):
    rated, published = f"ratings:{here / 'rated.jsonl'}", {"recipe": "published"}
    with pytest.raises(ValueError, match="all of its prompts are in"):
        run(here, tmp_path / "a", data=f"{rated}[:3]", validation=f"{rated}[:3]")
    run(here, tmp_path / "b", data=f"{rated}[3:]", validation=f"{rated}[:5]", **published)
    rows = run(here, tmp_path / "c", data=f"{rated}[5:]", validation=f"{rated}[:3]", **published)
    shared, saved = (json.loads((tmp_path / name / "weights.json").read_text()) for name in "bc")
    np.testing.assert_allclose(shared["weights"], saved["weights"], atol=1e-4)
    assert shared["fitted"]["samples"] == saved["fitted"]["samples"] == 11
    assert saved["fitted"]["data"] == result_of(tmp_path / "c")["weights_from"] == f"{rated}[:3]"
    assert [row["value"] for row in select(rows, metric="weight")] == saved["weights"]
    assert np.ptp(saved["weights"]) > 1e-4

    path = tmp_path / "c" / "weights.json"
    run(here, tmp_path / "again", data=f"{rated}[5:]", weights=path)
    first, again = (items_of(tmp_path / name, "ratings-rated-5") for name in ("c", "again"))
    for name in lager.AGGREGATIONS:
        np.testing.assert_allclose(column(again, name), column(first, name), atol=1e-4)
    assert result_of(tmp_path / "again")["weights_from"] == str(path)
    assert not (tmp_path / "again" / "weights.json").exists()


# Data -------------------------------------------------------------------------------------------


def test_what_nobody_rated_is_judged_all_the_same(everything):
    folder, rows = everything
    items, rows = items_of(folder, "responses-own"), select(rows, set="responses-own")
    responses = ["Paris.", "Rome.", "Mix it with water and yeast."]
    assert [item["response"] for item in items[::2]] == responses
    assert "Assistant: Which flour have you got?\n\nUser: Rye." in items[-1]["prompt"]
    assert {row["metric"] for row in rows} == {"responses", "mean", "sd"}
    assert values(rows, "responses")[None] == 3
    for item in items:
        assert item["human"] is None
        assert 1 <= item["scores"]["lager_wo"] <= 5
        assert "lager_w" not in item["scores"]
        assert item["scores"].get("ridge_probe") is None
        np.testing.assert_allclose(sum(item["distribution"]), 1, atol=1e-5)


def test_published_ratings_and_rubrics_are_judged_on_the_scale(here, tmp_path):
    """Ratings from 0 to 4 are judged from 1 to 5; rows of BIGGen-Bench by their own rubrics."""
    one = tmp_path / "one.json"
    one.write_text(json.dumps([{"name": "coherence", "definition": "It hangs together."}]))
    rows = [
        {"prompt": f"Is {i} odd?", "response": f"{i} is{r}", **dict.fromkeys(ATTRIBUTES, i + r)}
        for i in range(3)
        for r in range(2)
    ]
    attributes = write(tmp_path / "attributes.jsonl", rows)
    row = {"article": "It rained.", **dict.fromkeys(SUMMEVAL, 2.5)}
    summaries = write(tmp_path / "summaries.jsonl", [row | {"summary": text} for text in "ab"])
    data = f"helpsteer:{attributes}+helpsteer2:{attributes}[:2]+summeval:{summaries}"
    found = run(here, tmp_path / "run", data=data, criteria=one)
    names = list(result_of(tmp_path / "run")["records"])
    ratings = [people(items_of(tmp_path / "run", name)).tolist() for name in names]
    assert ratings == [[1, 2, 2, 3, 3, 4], [1, 2, 2, 3], [2.5, 2.5]]
    assert "lager_w" not in values(select(found, set=names[0]), "mean")
    wide = {"name": "coherence", "definition": "It hangs together.", "scale": list(range(1, 10))}
    one.write_text(json.dumps([wide]))
    with pytest.raises(ValueError, match="rated from 0 to 4, and the criteria's scale is 1 to 9"):
        run(here, tmp_path / "wide", data=f"helpsteer:{attributes}", criteria=one)

    row = {"input": "Is 7 odd?", "response": "No.", "human_score": [1, 2]}
    row["score_rubric"] = {f"score{i}_description": f"Level {i}." for i in range(1, 6)}
    row["score_rubric"]["criteria"] = "Is it kind?"
    data = f"biggen:{write(tmp_path / 'rows.jsonl', [row])}"
    run(here, tmp_path / "biggen", data=data, criteria="rubric")
    (item,) = items_of(tmp_path / "biggen", "biggen-rows")
    assert (item["human"], item["criterion"]) == (1.5, "rubric")


def test_comparisons_with_scores_are_judged_by_a_map_alone(here, tmp_path):
    """In WebGPT's form, as pairs and as ratings."""
    scores = [(-1.0, 1.0), (0.5, -0.5), (0, 0), (0.25, 0.5)]
    asked = [WEBGPT | {"question": {"full_text": f"Why {i}?", "id": i}} for i in range(4)]
    rows = [row | {"score_0": a, "score_1": b} for row, (a, b) in zip(asked, scores, strict=True)]
    path = write(tmp_path / "webgpt.jsonl", [*rows, {"answer_0": "No question."}])
    data = f"preference{WEBGPT_MAP}:{path}"
    settings = {"preset": "paper", "on_error": "skip"}
    named = settings | {"task": "pairs", "criteria": "helpfulness"}
    found = run(here, tmp_path / "pairs", data=data, **named)
    assert find(found, part="way/question", metric="accuracy")["n"] == 3
    record = result_of(tmp_path / "pairs")["records"]["pairs"]
    assert (record["pairs"], record["ties"]) == (3, 1)
    assert record["skipped"] == {"missing field": 1}
    fields = "responses=answer_0|answer_1,helpfulness=score_0*2+3|score_1*2+3"
    data = f"ratings{{prompt=question.full_text,{fields}}}:{path}"
    run(here, tmp_path / "ratings", data=data, **settings)
    assert "question.id in " in json.dumps(result_of(tmp_path / "ratings")["records"])
    items = items_of(tmp_path / "ratings", "ratings-webgpt")
    found = people([item for item in items if item["criterion"] == "helpfulness"])
    assert found == pytest.approx([2 * x + 3 for pair in scores for x in pair])


def test_what_is_too_long_or_malformed_is_counted_and_left_out(here, tmp_path):
    rows = rated_rows(5)
    rows[1]["responses"][0] = "No. " * 4000
    rows[3]["responses"] = ["Alone."]
    data = f"ratings:{write(tmp_path / 'rows.jsonl', rows)}"
    with pytest.raises(ValueError, match="line 4, field 'ratings'"):
        run(here, tmp_path / "run", data=data)
    run(here, tmp_path / "run", data=data, on_error="skip")
    record = result_of(tmp_path / "run")["records"]["ratings-rows"]
    assert (record["too_long"], record["skipped"]) == (1, {"wrong number of ratings": 1})
    responses = [r for row in rows if len(row["responses"]) > 1 for r in row["responses"]]
    items = items_of(tmp_path / "run", "ratings-rows")
    assert [item["response"] for item in items[::2]] == [r for r in responses if len(r) < 100]
    with pytest.raises(ValueError, match=r"could read no response of .*: 1 too long"):
        run(here, tmp_path / "none", data=f"responses:{here / 'long.jsonl'}")


# Other tasks ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def foreign(here) -> tuple[Path, list[float]]:
    """A file of weights that were fitted with other prompts on another scale, and its weights."""
    path, weights = here / "weights.json", [0.4, 0.1, 0.2, 0.3]
    fitted = layer_weights.Fit(np.array(weights), 1.0, 0.9, 10, 100, "converged", 0)
    judge, preset = Judge.load(str(here / "model")), lager.PRESETS["paper"]
    weights_file.save(path, fitted, judge, preset, range(1, 6), "other data")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"template": "of other prompts"}))
    return path, weights


def test_weights_of_other_prompts_serve_every_task_but_scores(here, foreign, tmp_path):
    with pytest.raises(ValueError, match=r"config\.weights: .*template is 'of other prompts'"):
        run(here, tmp_path / "run", weights=foreign[0], preset="paper")
    assert not workdir.read_json(tmp_path / "run" / "run.json")["settled"]
    talks = [dialogue(f"Ann: I won {i} times!\nBob: Oh.", n=i) for i in range(6)]
    path = tmp_path / "questions.json"
    path.write_text(json.dumps({str(i): talk for i, talk in enumerate(talks, 1)}))
    settings = {"data": path, "weights": foreign[0], "preset": "paper"}
    rows = run(here, tmp_path / "feelings", task="emotions", **settings)
    found = select(rows, metric="spearman", against=None)
    assert [row["method"] for row in found] == list(lager.AGGREGATIONS)
    assert found[0]["n"] == 24
    weights = [row["value"] for row in select(rows, metric="weight")]
    assert weights == pytest.approx(foreign[1], abs=1e-6)
    assert result_of(tmp_path / "feelings")["weights_from"] == str(foreign[0])

    rows = [{"instruction": f"Task {i}.", "output": "word " * (1 + i % 4)} for i in range(10)]
    settings["data"] = f"instructions:{write(tmp_path / 'rows.jsonl', rows)}"
    found = run(here, tmp_path / "chosen", task="selection", fraction=0.3, **settings)
    assert values(found, "selected") == {None: 3}
    assert next(iter(values(found, "overlap"))) == "lager_w"

    path.write_text(json.dumps({"example": questions(18)}))
    rows = run(here, tmp_path / "knowledge", task="knowledge", data=path)
    found = select(rows, metric="auc", against=None)
    assert [row["method"] for row in found] == list(lager.AGGREGATIONS)
    assert found[0]["n"] == 18
    assert sum(row["value"] for row in select(rows, metric="weight")) == pytest.approx(1, abs=1e-5)
    assert result_of(tmp_path / "knowledge")["weights_from"] == "cross-validate"


# Refusals ---------------------------------------------------------------------------------------

BAD = {
    "a reward model": ({"model.name": "HERE/reward"}, "is a reward model"),
    "a rating outside": ({"data": "ratings:HERE/outside.jsonl"}, ":1: helpfulness is rated 6, and"),
    "criteria of two scales": (
        {"criteria": [CRITERIA[0], CRITERIA[1] | {"levels": ["x", "y"], "scale": [0, 1]}]},
        "config.criteria: criterion 'verbosity' has the scale 0..1",
    ),
    "no reward": ({"baselines": "reward_model", "reward_model": "HERE/model"}, "HERE/model"),
    "weights fitted to nothing": (
        {"weights": "cross-validate", "data": "responses:HERE/own.jsonl"},
        "config.data: nobody has rated responses:",
    ),
    "validation that nobody rated": (
        {"validation": "responses:HERE/own.jsonl"},
        "config.validation: nobody has rated responses:",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_judged_is_said(case, here, tmp_path):
    settings, words = BAD[case]
    settings = json.loads(json.dumps(settings).replace("HERE", str(here)))
    if "criteria" in settings:
        path = tmp_path / "criteria.json"
        path.write_text(json.dumps(settings["criteria"]))
        settings["criteria"] = path
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        run(here, tmp_path / "run", **settings)
    assert words.replace("HERE", str(here)) in str(error.value)
    assert not (tmp_path / "run" / "result.json").exists()
