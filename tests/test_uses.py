"""EQ-Bench's and SelfAware's questions as they are published, and judges who know planted parts of
the truth."""

import functools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_judge import TOO_LONG, PlantedJudge, readings_of, values

from hs2jax.data.groups import DataError
from hs2jax.data.record import Record
from hs2jax.judging import lager, uses
from hs2jax.report.run import find, select

ANSWERS = "reference_answer_fullscale"
GOOD = {"question_id": 1, "question": "Why?", "answer": None, "answerable": False, "source": "x"}


def dialogue(
    text="Ann: I won!\nBob: Oh.", asks="At the end of this dialogue, Ann would feel...", n=0
):
    numbers = [0, "6", (n * 7) % 11, "2.5"]
    names = ("Proud", "Bitter", "Calm", "Afraid")
    answers = {f"emotion{i}": name for i, name in enumerate(names, 1)}
    answers |= {f"emotion{i}_score": value for i, value in enumerate(numbers, 1)}
    return {
        "prompt": f"\nYour task is to predict.\n\n{text}\n[End dialogue]\n\n{asks}\nProud\n",
        "reference_answer": {"emotion1": "unused"},
        ANSWERS: answers,
    }


def questions(n):
    """Every third one has no answer."""
    return [GOOD | {"question": f"Is {i} odd?", "answerable": i % 3 > 0} for i in range(n)]


@pytest.fixture
def write(tmp_path):
    def to_file(content):
        path = tmp_path / "questions.json"
        if type(content) is list and "question" in content[0]:
            content = {"dataset_name": "x", "example": content}
        elif type(content) is list:
            content = {str(i): each for i, each in enumerate(content, 1)}
        path.write_text(json.dumps(content))
        return str(path)

    return to_file


def knows_intensities(path):
    """A belief: people's intensity, on 1 to 9."""
    truth = {}
    for item in uses.read_dialogues(path):
        request = item.request()
        of = dict(zip(request.questions, item.intensities, strict=True))
        truth.setdefault(request.item, {}).update(of)
    return lambda request, q: 1 + 0.8 * truth[request.item][request.questions[q]]


def knows_answers(request, q):
    """A belief: near 4.5 where there is an answer, near 2 where there is none."""
    return 4.5 if int(request.questions[q].split()[1]) % 3 else 2.0


def asked_by(use, judge, path, folder, record=None, **options):
    return use(readings_of(judge, folder), path, record or Record(), **options)


felt, known = (functools.partial(asked_by, use) for use in (uses.emotions, uses.knowledge))


def weights(rows) -> list[float]:
    return [row["value"] for row in select(rows, metric="weight")]


# Files ------------------------------------------------------------------------------------------


def test_a_question_about_feelings_becomes_an_item(write):
    path = write([dialogue(n=4)])
    (item,) = uses.read_dialogues(path)
    names, intensities = ("Proud", "Bitter", "Calm", "Afraid"), (0.0, 6.0, 6.0, 2.5)
    expected = "Ann: I won!\nBob: Oh.", "Ann", names, intensities, f"{path}:1"
    assert item == uses.Dialogue(*expected)
    request = item.request()
    assert item.text in request.item
    assert all("Ann" in q and e in q for q, e in zip(request.questions, item.emotions, strict=True))
    assert request.answers == tuple("123456789")


@pytest.mark.parametrize(
    ("asks", "person"),
    [
        ("Upon hearing this, Bob would feel...", "Bob"),
        ("In reaction to Ann's words, Bob would feel...", "Bob"),
        ("Bob's emotional state could be described as...", "Bob"),
        ("Dr. Bo Li would feel...", "Dr. Bo Li"),
    ],
)
def test_whose_feelings_are_asked_for(write, asks, person):
    asks = f"At the end of this dialogue, {asks}"
    path = write([dialogue("Ann: I won!\nDr. Bo Li: Oh.\nBob: Oh.", asks)])
    assert uses.read_dialogues(path)[0].person == person


def changed(**answers):
    """A dialogue with other answers; None takes one away."""
    found = dialogue()
    of = found[ANSWERS] | answers
    return found | {ANSWERS: {name: value for name, value in of.items() if value is not None}}


BAD_DIALOGUES = [
    ({}, "prompt", "is missing"),
    (7, "row", "expected one JSON object"),
    (dialogue() | {"prompt": "Predict.\n\nAnn: I won!"}, "prompt", "the dialogue"),
    (dialogue(" "), "prompt", "the dialogue"),
    (dialogue(asks="How does Ann feel?"), "prompt", "NAME would feel"),
    (dialogue(asks="At the end of this dialogue, Eve would feel..."), "prompt", "a name from"),
    (dialogue() | {ANSWERS: None}, ANSWERS, "expected an object"),
    (changed(emotion2=None), f"{ANSWERS}.emotion2", "is missing"),
    (changed(emotion1_score="11"), f"{ANSWERS}.emotion1_score", "0 to 10"),
    (changed(emotion1_score="much"), f"{ANSWERS}.emotion1_score", "found 'much'"),
]
BAD_QUESTIONS = [
    (GOOD | {"question": ""}, "question", "empty"),
    (GOOD | {"answerable": "true"}, "answerable", "true or false"),
    ({"question": "Why?"}, "answerable", "is missing"),
]


@pytest.mark.parametrize(
    ("read", "good", "bad", "field", "what"),
    [
        *((uses.read_dialogues, dialogue(), *case) for case in BAD_DIALOGUES),
        *((uses.read_questions, GOOD, *case) for case in BAD_QUESTIONS),
    ],
)
def test_a_malformed_row_is_named(write, read, good, bad, field, what):
    with pytest.raises(DataError, match=rf"questions\.json, row 2, field '{field}': .*{what}"):
        read(write([good, bad]))


@pytest.mark.parametrize("read", [uses.read_dialogues, uses.read_questions])
@pytest.mark.parametrize("content", ["x", "{}", '{"example": []}'])
def test_a_file_without_questions(tmp_path, read, content):
    (tmp_path / "questions.json").write_text(content)
    with pytest.raises(DataError, match=r"questions\.json, row 1, field '(file|example|row)'"):
        read(f"{tmp_path}/questions.json")


def test_the_real_questions(real_data):
    items = uses.read_dialogues(f"{real_data}/eq_bench/eq_bench_v2_questions_171.json")
    intensities = [value for item in items for value in item.intensities]
    assert (len(items), len(intensities)) == (171, 684)
    assert (min(intensities), max(intensities)) == (0, 9)
    # Each is a speaker, as the name stands in the dialogue.
    assert all(f"{item.person}:" in item.text for item in items)
    assert {"Dr. Hall", "Rev. Montague", "Elliot"} < {item.person for item in items}
    assert all("dialogue]" not in item.text.lower() for item in items)

    found = uses.read_questions(f"{real_data}/selfaware/SelfAware.json")
    unanswerable = np.array([not question.answerable for question in found])
    assert (len(found), unanswerable.sum()) == (3369, 1032)
    requests = uses.question_requests(found)
    assert [text for request in requests for text in request.questions] == [q.text for q in found]
    assert len({request.item for request in requests}) == 1
    assert uses.f1(unanswerable, np.ones(3369, bool)) == pytest.approx(0.469, abs=5e-4)


# Emotions ---------------------------------------------------------------------------------------


def test_a_layer_that_knows_feelings_is_found_where_the_last_one_does_not(write, tmp_path):
    rng = np.random.default_rng(0)
    path = write([dialogue(f"Ann: It is {i}!\nBob: {rng.integers(99)}.", n=i) for i in range(60)])
    judge = PlantedJudge(knows_intensities(path), noise=(4.0, 4.0, 0.1, 4.0))
    rows = felt(judge, path, tmp_path)
    value = values(rows, "spearman")
    assert list(value) == list(lager.AGGREGATIONS)
    assert value["lager_w"] > max(0.9, value["e_score"] + 0.1)
    assert [row["method"] for row in select(rows, headline=True)] == list(value)
    assert np.argmax(weights(rows)) == 2
    test = find(rows, metric="spearman", method="lager_w", against="e_score")
    assert test["value"] == pytest.approx(value["lager_w"] - value["e_score"])
    assert test["low"] > 0
    assert test["p"] < 0.01
    assert {row["n"] for row in select(rows, metric="pearson")} == {240}
    assert values(rows, "questions")[None] == values(rows, "dialogues")[None] == 60


def test_given_weights_are_used_and_nothing_is_fitted(write, tmp_path):
    # Two questions are about one dialogue.
    path = write([dialogue(f"Ann: It is {min(i, 6)}!", n=i) for i in range(8)])
    judge = PlantedJudge(knows_intensities(path))
    rows = felt(judge, path, tmp_path, weights=[0.0, 0.0, 0.0, 1.0])
    assert (values(rows, "questions")[None], values(rows, "dialogues")[None]) == (8, 7)
    assert weights(rows) == [0, 0, 0, 1]
    for measure in ("spearman", "pearson", "kendall"):
        found = values(rows, measure)
        assert found["lager_w"] == pytest.approx(found["e_score"])
    # All was read once, and four questions were asked of each dialogue.
    asked = len(judge.asked)
    felt(judge, path, tmp_path, preset=lager.PRESETS["paper"], weights=[0.25] * 4)
    assert len(judge.asked) == asked == 7
    assert {len(request.questions) for request in judge.asked} == {4}


def test_what_cannot_be_read_is_left_out_and_counted(write, tmp_path):
    path = write([dialogue(f"Ann: It is {i}! {TOO_LONG * (i == 3)}", n=i) for i in range(9)])
    belief, record = knows_intensities(path), Record()

    rows = felt(PlantedJudge(belief), path, tmp_path, record, weights=[0.25] * 4)
    assert (record.too_long, record.skipped) == (4, {})
    assert find(rows, metric="spearman")["n"] == 32
    assert all(value > 0 for value in values(rows, "spearman").values())
    path = write([dialogue(f"Ann: {TOO_LONG}")])
    with pytest.raises(ValueError, match="read none of the questions of emotions: 4 too long"):
        felt(PlantedJudge(belief), path, tmp_path)
    path = write([dialogue("Ann: So!")])
    with pytest.raises(ValueError, match=r"questions.json.*1: the judge's logits are not finite"):
        felt(PlantedJudge(lambda request, q: np.nan), path, tmp_path)


# Knowledge --------------------------------------------------------------------------------------

SCORES = st.lists(
    st.tuples(st.integers(1, 5).map(float) | st.floats(1, 5), st.booleans()), min_size=2
).filter(lambda pairs: {kind for _, kind in pairs} == {True, False})


def plain_f1(called, there):
    hits = sum(a and b for a, b in zip(called, there, strict=True))
    return 2 * hits / (sum(called) + sum(there))


@given(SCORES)
def test_auc_f1_and_the_best_threshold_equal_their_definitions(pairs):
    scores, there = np.array([s for s, _ in pairs]), np.array([kind for _, kind in pairs])
    low, high = scores[there], scores[~there]
    won = (high[:, None] > low).mean() + (high[:, None] == low).mean() / 2
    assert uses.auc(there, scores) == pytest.approx(won)
    called = scores <= np.median(scores)
    assert uses.f1(there, called) == pytest.approx(plain_f1(called, there))
    best = plain_f1(scores <= uses.best_threshold(scores, there), there)
    assert best == pytest.approx(max(plain_f1(scores <= t, there) for t in scores))
    assert best >= plain_f1(np.ones(len(there)), there) - 1e-12


def test_a_judge_with_one_layer_that_knows_what_can_be_answered(write, tmp_path):
    judge = PlantedJudge(knows_answers, noise=(3.0, 3.0, 0.2, 3.0))
    rows = known(judge, write(questions(300)), tmp_path)
    # The explanation is computed once for several questions.
    assert [len(request.questions) for request in judge.asked] == [16] * 18 + [12]
    auc = values(rows, "auc")
    assert list(auc) == list(lager.AGGREGATIONS)
    assert [row["method"] for row in select(rows, headline=True)] == list(auc)
    assert auc["lager_w"] > 0.99
    assert 0.5 < auc["e_score"] < 0.95
    assert np.argmax(weights(rows)) == 2
    assert (values(rows, "read")[None], values(rows, "unanswerable")[None]) == (300, 100)
    assert values(rows, "f1")["all called unanswerable"] == pytest.approx(0.5)
    for part in ("threshold/published", "threshold/fitted"):
        f1, precision, recall = (values(rows, m, part) for m in ("f1", "precision", "recall"))
        for name in lager.AGGREGATIONS:
            sum_of = max(precision[name] + recall[name], 1e-9)
            assert f1[name] == pytest.approx(2 * precision[name] * recall[name] / sum_of)
    assert f1["lager_w"] > 0.95
    for row in select(rows, metric=["auc", "f1"]):
        if row["low"] is not None:
            assert row["low"] <= row["value"] <= row["high"]
        if row.get("against"):
            of = values(rows, row["metric"], row["part"])
            assert row["value"] == pytest.approx(of[row["method"]] - of[row["against"]])
    assert find(rows, metric="auc", method="lager_w", against="e_score")["low"] > 0


def test_questions_of_one_kind_only(write, tmp_path):
    path = write([GOOD | {"question": f"Is {i} odd?"} for i in range(20)])
    with pytest.raises(ValueError, match="of one kind"):
        known(PlantedJudge(knows_answers), path, tmp_path)
