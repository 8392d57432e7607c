"""SelfAware's questions as they are published, the rules for calling one unanswerable, judges."""

import json

import numpy as np
import planted_judge
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_judge import TOO_LONG, PlantedJudge

from hs2jax.data.groups import DataError
from hs2jax.judging import knowledge, lager

GOOD = {"question_id": 1, "question": "Why?", "answer": None, "answerable": False, "source": "x"}


@pytest.fixture
def write(tmp_path):
    def to_file(rows):
        path = tmp_path / "questions.json"
        path.write_text(json.dumps({"dataset_name": "x", "example": rows}))
        return str(path)

    return to_file


def questions(n):
    """Every third one has no answer."""
    return [GOOD | {"question": f"Is {i} odd?", "answerable": i % 3 > 0} for i in range(n)]


def knows(request, q):
    """A belief: near 4.5 where there is an answer, near 2 where there is none."""
    return 4.5 if int(request.questions[q].split()[1]) % 3 else 2.0


def test_a_question_is_read_with_its_place(write):
    path = write([GOOD, GOOD | {"question": " How? ", "answerable": True}])
    assert knowledge.read(path) == [
        knowledge.Question("Why?", False, f"{path}:1"),
        knowledge.Question("How?", True, f"{path}:2"),
    ]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (3, "row"),
        (GOOD | {"question": ""}, "question"),
        (GOOD | {"question": None}, "question"),
        (GOOD | {"answerable": 1}, "answerable"),
        (GOOD | {"answerable": "true"}, "answerable"),
        ({"question": "Why?"}, "answerable"),
    ],
)
def test_a_malformed_question_is_named(write, bad, field):
    with pytest.raises(DataError, match=rf"questions\.json, row 2, field '{field}'"):
        knowledge.read(write([GOOD, bad]))


@pytest.mark.parametrize("content", ["x", "[]", "{}", '{"example": []}', '{"example": 3}'])
def test_a_file_without_questions(tmp_path, content):
    (tmp_path / "questions.json").write_text(content)
    with pytest.raises(DataError, match=r"questions\.json, row 1, field '(file|example)'"):
        knowledge.read(f"{tmp_path}/questions.json")


def test_the_real_questions(real_data):
    found = knowledge.read(f"{real_data}/selfaware/SelfAware.json")
    unanswerable = np.array([not question.answerable for question in found])
    assert (len(found), unanswerable.sum()) == (3369, 1032)
    requests = knowledge.requests(found)
    assert [text for request in requests for text in request.questions] == [q.text for q in found]
    assert len({request.item for request in requests}) == 1
    always = knowledge.f1(np.ones(3369, bool), unanswerable, np.ones((1, 3369)))
    assert always == pytest.approx(0.469, abs=5e-4)


SCORES = st.lists(
    st.tuples(st.integers(1, 5).map(float) | st.floats(1, 5), st.booleans()), min_size=2
).filter(lambda pairs: {kind for _, kind in pairs} == {True, False})


def plain_f1(called, there):
    hits = sum(a and b for a, b in zip(called, there, strict=True))
    return 2 * hits / (sum(called) + sum(there))


@given(SCORES, st.integers(0, 2**32 - 1))
def test_auc_and_f1_equal_their_definitions_in_each_resample(pairs, seed):
    scores, there = np.array([s for s, _ in pairs]), np.array([kind for _, kind in pairs])
    N = len(pairs)
    counts = np.random.default_rng(seed).multinomial(N, np.full(N, 1 / N), size=4)
    counts[0] = 1
    called = scores <= np.median(scores)
    for row, auc, f1 in zip(
        counts,
        knowledge.auc(scores, there, counts),
        knowledge.f1(called, there, counts),
        strict=True,
    ):
        drawn = np.repeat(np.arange(N), row)
        low, high = (scores[[i for i in drawn if there[i] == kind]] for kind in (True, False))
        if len(low) and len(high):
            won = (high[:, None] > low).mean() + (high[:, None] == low).mean() / 2
            assert auc == pytest.approx(won)
        else:
            assert np.isnan(auc)
        if called[drawn].any() or there[drawn].any():
            assert f1 == pytest.approx(plain_f1(called[drawn], there[drawn]))


@given(SCORES)
def test_no_threshold_has_a_better_f1_than_the_best_one(pairs):
    scores, there = np.array([s for s, _ in pairs]), np.array([kind for _, kind in pairs])
    best = plain_f1(scores <= knowledge.best_threshold(scores, there), there)
    assert best == pytest.approx(max(plain_f1(scores <= t, there) for t in scores))
    assert best >= plain_f1(np.ones(len(there)), there) - 1e-12


def test_the_published_threshold_is_three_quarters_of_the_way():
    assert knowledge.published_threshold(np.array([5.0, 1.0, 3.0])) == 4.0
    assert knowledge.published_threshold(np.array([2.0, 2.4])) == pytest.approx(2.3)


def test_a_judge_with_one_layer_that_knows(write, tmp_path):
    path = write(questions(300))
    judge = PlantedJudge(knows, noise=(3.0, 3.0, 0.2, 3.0))
    result = knowledge.evaluate(judge, path, tmp_path)
    scores = result["scores"]
    assert list(scores) == list(lager.AGGREGATIONS)
    assert scores["lager_w"]["auc"]["value"] > 0.99
    assert scores["lager_w"]["fitted"]["f1"]["value"] > 0.95
    assert 0.5 < scores["e_score"]["auc"]["value"] < 0.95
    assert np.argmax(result["weights"]) == 2
    assert (result["n"], result["unanswerable"], result["left_out"]) == (300, 100, {})
    assert result["always"] == pytest.approx(0.5)
    for found in scores.values():
        for each in (found["auc"], found["published"]["f1"], found["fitted"]["f1"]):
            assert each["interval"][0] <= each["value"] <= each["interval"][1]
        for rule in ("published", "fitted"):
            precision, recall = found[rule]["precision"], found[rule]["recall"]
            harmonic = 2 * precision * recall / max(precision + recall, 1e-9)
            assert found[rule]["f1"]["value"] == pytest.approx(harmonic)
    first = result["tests"][0]
    for rule in ("auc", "published", "fitted"):
        value = [
            scores[side][rule]["value"] if rule == "auc" else scores[side][rule]["f1"]["value"]
            for side in (first["a"], first["b"])
        ]
        assert first[rule]["difference"] == pytest.approx(value[0] - value[1])
    assert first["auc"]["interval"][0] > 0
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    text = knowledge.describe(result)
    assert "300 questions, 100 of them unanswerable" in text
    assert all(name in text for name in lager.AGGREGATIONS)


def test_the_explanation_is_computed_once_for_several_questions(write, tmp_path):
    path = write(questions(40))
    judge = PlantedJudge(knows)
    first = knowledge.evaluate(judge, path, tmp_path, weights=[0.25] * 4)
    assert [len(request.questions) for request in judge.asked] == [16, 16, 8]
    assert first["weights_from"] == "given"
    again = knowledge.evaluate(judge, path, tmp_path, weights=[0.25] * 4)
    assert len(judge.asked) == 3
    assert again == first


def test_a_judge_that_knows_nothing_is_no_better_than_always_unanswerable(write, tmp_path):
    path = write(questions(600))
    result = knowledge.evaluate(PlantedJudge(lambda request, q: 3.0), path, tmp_path)
    for name, found in result["scores"].items():
        # Scores by the weights of other folds are pooled, which makes them worse than chance here.
        low = 0.35 if name in lager.WEIGHTED else 0.42
        assert low < found["auc"]["value"] < 0.58
        assert found["fitted"]["f1"]["value"] < result["always"] + 0.03


def test_questions_of_one_kind_only(write, tmp_path):
    path = write([GOOD | {"question": f"Is {i} odd?"} for i in range(20)])
    with pytest.raises(ValueError, match="of one kind"):
        knowledge.evaluate(PlantedJudge(knows), path, tmp_path)


def test_nothing_is_read(write, tmp_path, monkeypatch):
    monkeypatch.setattr(knowledge, "ITEM", TOO_LONG)
    with pytest.raises(ValueError, match=r"none of the questions of knowledge .too long 20"):
        knowledge.evaluate(PlantedJudge(knows), write(questions(20)), tmp_path)


def test_a_language_model_judges_questions(write, tmp_path):
    judge = planted_judge.random_judge(tmp_path / "model")
    result = knowledge.evaluate(judge, write(questions(20)), tmp_path)
    assert (result["n"], result["left_out"], len(result["weights"])) == (20, {}, 4)
    assert all(1 <= found["mean"] <= 5 for found in result["scores"].values())
    assert result["scores"]["lager_wo"]["sd"] > 0
