"""Runs of a judge from end to end on a tiny model: numbers, baselines, weights, data, refusals."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
from judge_runs import (
    CRITERIA,
    SET,
    column,
    items_of,
    people,
    prepare,
    rated_rows,
    result_of,
    run,
    write,
)
from planted_judge import values
from scipy import stats
from test_uses import dialogue, questions

from hs2jax import workdir
from hs2jax.data import corpora
from hs2jax.judging import baselines, criteria, lager, layer_weights
from hs2jax.judging.judge import Judge, requests_of
from hs2jax.judging.readings import Readings
from hs2jax.models.checksum import checksum
from hs2jax.report.run import find, select
from hs2jax.reward_model import RewardModel

MEASURES = {
    "spearman": stats.spearmanr,
    "pearson": stats.pearsonr,
    "kendall": stats.kendalltau,
}


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    folder = prepare(tmp_path_factory.mktemp("here"))
    rows = rated_rows(5)
    for row in rows[2:]:
        for ratings in row["ratings"]:
            ratings["verbosity"] = None
    write(folder / "sparse.jsonl", rows)
    return folder


def settings_of_everything(here) -> dict:
    data = f"ratings:{here / 'rated.jsonl'}+responses:{here / 'own.jsonl'}"
    settings = {"data": data, "weights": "cross-validate", "folds": 4, "seed": 3}
    settings |= {"baselines": "gpt_score,ridge_probe, reward_model", "preset": "paper"}
    return settings | {"reward_model": here / "reward"}


@pytest.fixture(scope="module")
def everything(here, tmp_path_factory) -> tuple[Path, list[dict]]:
    """A run with all that it can: two sets, fitted weights, all baselines; and its rows."""
    folder = tmp_path_factory.mktemp("everything")
    return folder, run(here, folder, **settings_of_everything(here))


@pytest.fixture(scope="module")
def read(here, everything):
    """What the judge has read of the rated set: groups, criteria, the judge, readings."""
    groups = list(corpora.read(f"ratings:{here / 'rated.jsonl'}"))
    chosen = criteria.load(str(here / "criteria.json"))
    judge = Judge.load(str(here / "model"))
    requests = [request for group in groups for request in requests_of(group, chosen)]
    kept = Readings(judge, everything[0] / "readings.jsonl")
    found = list(kept.stream(requests, "again", states=True))
    for one, other in zip(found, judge.ask(requests), strict=True):
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-4)
    return groups, chosen, judge, found


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
                if np.ptp(score[both]) == 0:
                    assert row["value"] is None
                else:
                    expected = of(human[both], score[both]).statistic
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
        for norm in lager.NORMS:
            layers = [
                values(rows, "spearman", f"{part}/layer/{layer}".strip("/"))[norm]
                for layer in range(4)
            ]
            assert layers[-1] == pytest.approx(of["e_score"], abs=1e-9)
        assert (values(rows, "kl", part)["lager_wo"] is None) is False
        assert "gpt_score" not in values(rows, "kl", part)
        for preset in ("repository", "recommended"):
            found = select(everything[1], set=SET, part=part, preset=preset)
            assert {row["method"] for row in found} == set(lager.CROSS_LAYER)
    within = values(rows, "spearman_within")["e_score"]
    apart = [values(rows, "spearman", f"criterion/{c['name']}")["e_score"] for c in CRITERIA]
    assert within == pytest.approx(np.mean(apart))
    assert {row["method"] for row in select(rows, headline=True)} == set(items[0]["scores"])


def test_aggregations_are_those_of_the_readings(everything, read):
    _, chosen, _, kept = read
    logits = np.concatenate([reading.logits for reading in kept])
    items, preset = items_of(everything[0]), lager.PRESETS["paper"]
    assert list(items[0]["scores"])[:10] == list(lager.AGGREGATIONS)
    for name in set(lager.AGGREGATIONS) - set(lager.WEIGHTED):
        expected = lager.aggregate(logits, chosen[0].scale, name, preset)
        np.testing.assert_allclose(column(items, name), expected, atol=1e-6)
    expected = np.asarray(lager.distribution(logits, preset))
    np.testing.assert_allclose([item["distribution"] for item in items], expected, atol=1e-6)


def test_fitted_weights_are_those_of_the_other_folds(everything, read):
    _, chosen, _, kept = read
    items, rows = items_of(everything[0]), select(everything[1], set=SET, metric="weight")
    logits = np.concatenate([reading.logits for reading in kept])
    human = people(items)
    there = np.isfinite(human)
    prompts = [item["prompt"] for item, known in zip(items, there, strict=True) if known]
    arguments = (logits[there], human[there])
    preset, options = lager.PRESETS["paper"], {"recipe": "converged", "seed": 3}
    found = layer_weights.cross_validate(
        *arguments, prompts, chosen[0].scale, preset, folds=4, **options
    )
    assert (~there).sum() == 1
    for name, scores in found.on_one_level().items():
        np.testing.assert_allclose(column(items, name)[there], scores, atol=1e-6)
        assert np.isnan(column(items, name)[~there]).all()
    for fold, weights in ((None, found.mean), *enumerate(found.weights, 1)):
        kept = [row["value"] for row in select(rows, fold=fold)]
        np.testing.assert_allclose(kept, weights, atol=1e-6)
    saved = json.loads((everything[0] / "weights.json").read_text())
    fitted = layer_weights.fit(*arguments, chosen[0].scale, preset, clusters=prompts, **options)
    np.testing.assert_allclose(saved["weights"], fitted.weights, atol=1e-6)
    assert saved["layers"] == 4
    assert saved["model"]["checksum"] == result_of(everything[0])["model"]["checksum"]


def test_baselines_are_what_their_functions_give(here, everything, read):
    groups, chosen, judge, kept = read
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


def test_what_nobody_rated_is_judged_all_the_same(everything):
    folder, rows = everything
    items, rows = items_of(folder, "responses-own"), select(rows, set="responses-own")
    responses = ["Paris.", "Rome.", "Mix it with water and yeast."]
    assert [item["response"] for item in items[::2]] == responses
    assert "Assistant: Which flour have you got?\n\nUser: Rye." in items[-1]["prompt"]
    assert {row["metric"] for row in rows} == {"responses", "mean", "sd"}
    assert values(rows, "responses")[None] == 3
    for name in CRITERIA:
        part = f"criterion/{name['name']}"
        some = [i for i in items if i["criterion"] == name["name"]]
        mean = values(rows, "mean", part)["lager_wo"]
        assert mean == pytest.approx(column(some, "lager_wo").mean())
    for item in items:
        assert item["human"] is None
        assert 1 <= item["scores"]["lager_wo"] <= 5
        assert "lager_w" not in item["scores"]
        assert item["scores"].get("ridge_probe") is None
        np.testing.assert_allclose(sum(item["distribution"]), 1, atol=1e-5)


def test_a_finished_run_is_not_made_again_and_takes_no_other_config(here, everything):
    folder, rows = everything
    made = [path for path in folder.rglob("*") if path.is_file() and path.name != "config.json"]
    before = [path.stat().st_mtime_ns for path in made]
    settings = settings_of_everything(here)
    assert run(here, folder, **settings) == rows
    for key, other in (("preset", "recommended"), ("seed", 4)):
        with pytest.raises(ValueError, match=f"different: {key}"):
            run(here, folder, **settings | {key: other})
    assert before == [path.stat().st_mtime_ns for path in made]


# Weights ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def validated(here, tmp_path_factory) -> Path:
    """A run on the last prompts with weights that are fitted to ratings of the first."""
    folder, rated = tmp_path_factory.mktemp("validated"), here / "rated.jsonl"
    data = {"data": f"ratings:{rated}[5:]", "validation": f"ratings:{rated}[:5]"}
    run(here, folder, **data, recipe="published")
    return folder


def test_weights_are_fitted_to_the_validation_data_and_serve_again(here, validated, tmp_path):
    saved = json.loads((validated / "weights.json").read_text())
    assert saved["fitted"]["data"] == result_of(validated)["weights_from"]
    assert saved["fitted"]["data"].endswith("[:5]")
    assert (saved["fitted"]["samples"], saved["fitted"]["recipe"]) == (19, "published")
    rows = select(workdir.read_rows(validated / "results.jsonl"), metric="weight")
    assert [row["value"] for row in rows] == saved["weights"]
    assert np.ptp(saved["weights"]) > 1e-4
    chosen, judge = criteria.load(str(here / "criteria.json")), Judge.load(str(here / "model"))
    groups = corpora.read(f"ratings:{here / 'rated.jsonl'}[5:]")
    requests = [request for group in groups for request in requests_of(group, chosen)]
    kept = Readings(judge, validated / "readings.jsonl").stream(requests, "again")
    logits = np.concatenate([reading.logits for reading in kept])
    items, preset = items_of(validated, "ratings-rated-5"), lager.PRESETS["recommended"]
    weights = np.array(saved["weights"], np.float32)
    for name in lager.AGGREGATIONS:
        expected = lager.aggregate(logits, chosen[0].scale, name, preset, weights)
        np.testing.assert_allclose(column(items, name), expected, atol=1e-6)
    expected = np.asarray(lager.distribution(logits, preset, weights))
    np.testing.assert_allclose([item["distribution"] for item in items], expected, atol=1e-6)

    path = validated / "weights.json"
    run(here, tmp_path, data=f"ratings:{here / 'rated.jsonl'}[5:]", weights=path)
    again = items_of(tmp_path, "ratings-rated-5")
    for name in lager.AGGREGATIONS:
        np.testing.assert_allclose(column(again, name), column(items, name), atol=1e-4)
    assert result_of(tmp_path)["weights_from"] == str(path)
    assert not (tmp_path / "weights.json").exists()


def test_weights_are_not_judged_by_what_they_were_fitted_to(here, tmp_path):
    rated = f"ratings:{here / 'rated.jsonl'}"
    with pytest.raises(ValueError, match="all of its prompts are in"):
        run(here, tmp_path / "a", data=f"{rated}[:3]", validation=f"{rated}[:3]")
    run(here, tmp_path / "b", data=f"{rated}[3:]", validation=f"{rated}[:5]", recipe="published")
    run(here, tmp_path / "c", data=f"{rated}[5:]", validation=f"{rated}[:3]", recipe="published")
    found = [json.loads((tmp_path / name / "weights.json").read_text()) for name in "bc"]
    assert found[0]["fitted"]["samples"] == found[1]["fitted"]["samples"]
    np.testing.assert_allclose(found[0]["weights"], found[1]["weights"], atol=1e-4)


@pytest.mark.parametrize("what", ["model", "preset", "norm", "template", "file"])
def test_weights_of_another_judge_are_refused(here, validated, tmp_path, what):
    path, settings = validated / "weights.json", {}
    if what == "model":
        tiny.language_model(tmp_path / "other", seed=1, max_seq_len=4096)
        settings, words = {"model": tmp_path / "other"}, "checksum is"
    elif what == "preset":
        settings, words = {"preset": "repository"}, "layers is 4 there and 3 here"
    elif what == "norm":
        settings, words = {"preset": "paper"}, "preset.norm is 'final' there and 'none' here"
    elif what == "template":
        shutil.copytree(here / "model", tmp_path / "other")
        template = tmp_path / "other" / "chat_template.jinja"
        template.write_text(template.read_text().replace("user", "human") + " ")
        settings, words = {"model": tmp_path / "other"}, "template is 'pointwise-"
    else:
        path = write(tmp_path / "weights.json", [{"weights": [0.5, 0.5]}])
        words = "field 'model'"
    with pytest.raises(ValueError, match=r"config\.weights: ") as error:
        run(here, tmp_path / "run", weights=path, **settings)
    assert str(path) in str(error.value)
    assert words in str(error.value)
    assert not (tmp_path / "run" / "readings.jsonl").exists()


# Data -------------------------------------------------------------------------------------------


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
    found = run(here, tmp_path / "run", data=data, criteria=one)
    names = list(result_of(tmp_path / "run")["records"])
    ratings = [people(items_of(tmp_path / "run", name)) for name in names]
    assert ratings[0].tolist() == [1, 2, 2, 3, 3, 4]
    assert ratings[1].tolist() == [1, 2, 2, 3]
    np.testing.assert_allclose(ratings[2], [4 / 3, 7 / 3, 4 / 3, 7 / 3])
    assert "lager_w" not in values(select(found, set=names[0]), "mean")
    wide = {"name": "coherence", "definition": "It hangs together.", "scale": list(range(1, 10))}
    one.write_text(json.dumps([wide]))
    with pytest.raises(ValueError, match="rated from 0 to 4, and the criteria's scale is 1 to 9"):
        run(here, tmp_path / "wide", data=f"helpsteer:{attributes}", criteria=one)


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
    run(here, tmp_path / "run", data=data, criteria="rubric")
    items = items_of(tmp_path / "run", "biggen-rows")
    assert people(items).tolist() == [1.5, 2.5, 3.5]
    assert {item["criterion"] for item in items} == {"rubric"}


def test_what_is_too_long_or_malformed_is_counted_and_left_out(here, tmp_path):
    rows = rated_rows(5)
    rows[1]["responses"][0] = "No. " * 4000
    rows[3]["responses"] = ["Alone."]
    path = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(ValueError, match="line 4, field 'ratings'"):
        run(here, tmp_path / "run", data=f"ratings:{path}")
    run(here, tmp_path / "run", data=f"ratings:{path}", on_error="skip")
    record = result_of(tmp_path / "run")["records"]["ratings-rows"]
    assert (record["too_long"], record["skipped"]) == (1, {"wrong number of ratings": 1})
    responses = [r for row in rows if len(row["responses"]) > 1 for r in row["responses"]]
    items = items_of(tmp_path / "run", "ratings-rows")
    assert [item["response"] for item in items[::2]] == [r for r in responses if len(r) < 100]
    write(path, [rows[1] | {"responses": ["No. " * 4000] * 2}])
    with pytest.raises(ValueError, match="no response could be read: 2 too long"):
        run(here, tmp_path / "none", data=f"ratings:{path}")


def test_a_rating_outside_the_scale_is_named_before_anything_is_read(here, tmp_path):
    rows = rated_rows(3)
    rows[1]["ratings"][1]["helpfulness"] = 6
    path = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(ValueError, match=":2: helpfulness is rated 6, and the criterion's scale"):
        run(here, tmp_path / "run", data=f"ratings:{path}")
    assert not (tmp_path / "run" / "readings.jsonl").exists()


# Other tasks ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def foreign(here) -> tuple[Path, list[float]]:
    """A file of weights that were fitted with other prompts on another scale, and its weights."""
    path, weights = here / "weights.json", [0.4, 0.1, 0.2, 0.3]
    layer_weights.save(
        path,
        layer_weights.Fit(np.array(weights), 1.0, 0.9, 10, 100, "converged", 0),
        model="here",
        checksum=checksum(Judge.load(str(here / "model")).model.params),
        template="of other prompts",
        preset=lager.PRESETS["paper"],
        scale=range(1, 6),
        data="other data",
    )
    return path, weights


@pytest.mark.parametrize("given", [False, True], ids=["fitted", "given"])
@pytest.mark.parametrize("task", ["emotions", "knowledge"])
def test_feelings_and_knowledge_are_judged(here, foreign, tmp_path, task, given):
    path = tmp_path / "questions.json"
    if task == "emotions":
        talks = [dialogue(f"Ann: I won {i} times!\nBob: Oh.", n=i) for i in range(6)]
        path.write_text(json.dumps({str(i): talk for i, talk in enumerate(talks, 1)}))
    else:
        path.write_text(json.dumps({"example": questions(18)}))
    settings = {"weights": foreign[0] if given else "", "preset": "paper"}
    rows = run(here, tmp_path / "run", task=task, data=path, **settings)
    found = select(rows, metric={"emotions": "spearman", "knowledge": "auc"}[task], against=None)
    assert [row["method"] for row in found] == list(lager.AGGREGATIONS)
    assert found[0]["n"] == {"emotions": 24, "knowledge": 18}[task]
    weights = [row["value"] for row in select(rows, metric="weight")]
    assert sum(weights) == pytest.approx(1, abs=1e-5)
    assert (weights == pytest.approx(foreign[1], abs=1e-6)) == given
    expected = str(foreign[0]) if given else "cross-validate"
    assert result_of(tmp_path / "run")["weights_from"] == expected


def test_pairs_and_rows_are_judged(here, foreign, tmp_path):
    rows = [{"prompt": f"Is {i} odd?", "chosen": str(i % 2), "rejected": "No."} for i in range(4)]
    data = f"preference:{write(tmp_path / 'pairs.jsonl', [*rows, {'prompt': 'And 5?'}])}"
    settings = {"criteria": "helpfulness", "on_error": "skip", "preset": "paper"}
    found = run(here, tmp_path / "pairs", task="pairs", data=data, **settings)
    assert find(found, part="way/question", metric="accuracy")["n"] == 4
    record = result_of(tmp_path / "pairs")["records"]["pairs"]
    assert (record["pairs"], record["skipped"]) == (4, {"missing field": 1})

    rows = [{"instruction": f"Task {i}.", "output": "word " * (1 + i % 4)} for i in range(10)]
    data = f"instructions:{write(tmp_path / 'rows.jsonl', rows)}"
    settings = {"fraction": 0.3, "weights": foreign[0], "preset": "paper"}
    found = run(here, tmp_path / "chosen", task="selection", data=data, **settings)
    assert (values(found, "rows")[None], values(found, "selected")[None]) == (10, 3)
    scored = workdir.read_rows(tmp_path / "chosen" / "scores.jsonl")
    best = sorted(scored, key=lambda row: -row["means"]["lager_w"])[:3]
    places = sorted(int(row["source"].rpartition(":")[2]) for row in best)
    selected = workdir.read_rows(tmp_path / "chosen" / "selected.jsonl")
    assert selected == [rows[place - 1] for place in places]


# Refusals ---------------------------------------------------------------------------------------

BAD = {
    "a reward model": ({"model.name": "HERE/reward"}, "is a reward model"),
    "unknown criteria": ({"criteria": "virtues"}, "config.criteria: there are no criteria"),
    "criteria of two scales": (
        {"criteria": [CRITERIA[0], CRITERIA[1] | {"levels": ["x", "y"], "scale": [0, 1]}]},
        "config.criteria: criterion 'verbosity' has the scale 0..1",
    ),
    "a scale of one token": (
        {"criteria": [CRITERIA[0] | {"scale": [1, 10]}]},
        "begin with the same token in this tokenizer",
    ),
    "rubrics of rows that have none": ({"criteria": "rubric"}, "rated.jsonl:1"),
    "a reward model that is none": (
        {"baselines": "reward_model", "reward_model": "HERE/model"},
        "HERE/model",
    ),
    "weights fitted to nothing": (
        {"weights": "cross-validate", "data": "responses:HERE/own.jsonl"},
        "config.data: nobody has rated responses:",
    ),
    "validation that nobody rated": (
        {"validation": "responses:HERE/own.jsonl"},
        "config.validation: nobody has rated responses:",
    ),
    "a probe with few ratings by one criterion": (
        {"folds": 3, "baselines": "ridge_probe", "data": "ratings:HERE/sparse.jsonl"},
        "config.folds is 3, but only 2 prompts of ratings-sparse have ratings by verb",
    ),
    "more folds than prompts": (
        {"folds": 4, "weights": "cross-validate", "data": "ratings:HERE/rated.jsonl[:2]"},
        "config.folds is 4, but only 2 prompts of ratings-rated-2",
    ),
    "a selection among several responses": (
        {"task": "selection", "data": "ratings:HERE/rated.jsonl"},
        "expected one response in a row to choose, found 2",
    ),
    "questions of another kind": (
        {"task": "emotions", "data": "HERE/criteria.json"},
        "JSON object",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_judged_is_said(case, here, tmp_path):
    settings, words = BAD[case]
    settings = {
        key: value.replace("HERE", str(here)) if isinstance(value, str) else value
        for key, value in settings.items()
    }
    if isinstance(settings.get("criteria"), list):
        path = tmp_path / "criteria.json"
        path.write_text(json.dumps(settings["criteria"]))
        settings["criteria"] = path
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        run(here, tmp_path / "run", **settings)
    assert words.replace("HERE", str(here)) in str(error.value)
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_tokenizer_without_a_chat_template_is_told(here, tmp_path):
    shutil.copytree(here / "model", tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    settings = tmp_path / "base" / "tokenizer_config.json"
    rest = {k: v for k, v in json.loads(settings.read_text()).items() if k != "chat_template"}
    settings.write_text(json.dumps(rest))
    with pytest.raises(ValueError, match="use an instruction-tuned model"):
        run(here, tmp_path / "run", model=tmp_path / "base")
