"""EQ-Bench's questions as they are published, and judges who know planted parts of the truth."""

import json

import numpy as np
import planted_judge
import pytest
from planted_judge import TOO_LONG, PlantedJudge

from hs2jax.data.groups import DataError
from hs2jax.judging import emotions, lager

ANSWERS = "reference_answer_fullscale"


def row(
    dialogue="Ann: I won!\nBob: Oh.", asks="At the end of this dialogue, Ann would feel...", n=0
):
    values = [0, "6", (n * 7) % 11, "2.5"]
    names = ("Proud", "Bitter", "Calm", "Afraid")
    answers = {f"emotion{i}": name for i, name in enumerate(names, 1)}
    answers |= {f"emotion{i}_score": value for i, value in enumerate(values, 1)}
    return {
        "prompt": f"\nYour task is to predict.\n\n{dialogue}\n[End dialogue]\n\n{asks}\nProud\n",
        "reference_answer": {"emotion1": "unused"},
        ANSWERS: answers,
    }


@pytest.fixture
def write(tmp_path):
    def to_file(rows):
        path = tmp_path / "questions.json"
        content = {str(i): each for i, each in enumerate(rows, 1)} if type(rows) is list else rows
        path.write_text(json.dumps(content))
        return str(path)

    return to_file


def knows(items):
    """A belief: people's intensity, on 1 to 9."""
    truth = {emotions.request(item).item: {} for item in items}
    for item in items:
        request = emotions.request(item)
        truth[request.item] |= dict(zip(request.questions, item.intensities, strict=True))
    return lambda request, q: 1 + 0.8 * truth[request.item][request.questions[q]]


def test_a_question_becomes_an_item(write):
    path = write([row(n=4)])
    (item,) = emotions.read(path)
    assert item == emotions.Item(
        "Ann: I won!\nBob: Oh.",
        "Ann",
        ("Proud", "Bitter", "Calm", "Afraid"),
        (0.0, 6.0, 6.0, 2.5),
        f"{path}:1",
    )
    request = emotions.request(item)
    assert item.dialogue in request.item
    assert all("Ann" in q and e in q for q, e in zip(request.questions, item.emotions, strict=True))
    assert request.answers == tuple("123456789")


@pytest.mark.parametrize(
    ("asks", "person"),
    [
        ("At the end of this dialogue, Bob would feel...", "Bob"),
        ("At the end of this dialogue, Upon hearing this, Bob would feel...", "Bob"),
        ("At the end of this dialogue, In reaction to Ann's words, Bob would feel...", "Bob"),
        ("At the end of this dialogue, Bob's emotional state could be described as...", "Bob"),
        ("At the end of this dialogue, Dr. Bo Li would feel...", "Dr. Bo Li"),
    ],
)
def test_whose_feelings_are_asked_for(write, asks, person):
    (item,) = emotions.read(write([row("Ann: I won!\nDr. Bo Li: Oh.\nBob: Oh.", asks)]))
    assert item.person == person


def without(field):
    found = row()
    del found[ANSWERS][field]
    return found


@pytest.mark.parametrize(
    ("bad", "field", "what"),
    [
        ({}, "prompt", "is missing"),
        (7, "row", "expected an object"),
        (row() | {"prompt": 3}, "prompt", "expected a text"),
        (row() | {"prompt": "Predict.\n\nAnn: I won!"}, "prompt", "dialogue"),
        (row(dialogue=" "), "prompt", "dialogue"),
        (row(asks="How does Ann feel?"), "prompt", "no such name"),
        (row(asks="At the end of this dialogue, Eve would feel..."), "prompt", "asks about 'Eve'"),
        (row() | {ANSWERS: None}, ANSWERS, "expected an object"),
        (without("emotion2"), f"{ANSWERS}.emotion2", "is missing"),
        (without("emotion4_score"), f"{ANSWERS}.emotion4_score", "is missing"),
        (
            row() | {ANSWERS: row()[ANSWERS] | {"emotion1_score": "11"}},
            f"{ANSWERS}.emotion1_score",
            "0 to 10",
        ),
        (
            row() | {ANSWERS: row()[ANSWERS] | {"emotion1_score": "much"}},
            f"{ANSWERS}.emotion1_score",
            "found 'much'",
        ),
    ],
)
def test_a_malformed_question_is_named(write, bad, field, what):
    with pytest.raises(DataError, match=rf"questions\.json, row 2, field '{field}': .*{what}"):
        emotions.read(write([row(), bad]))


@pytest.mark.parametrize("content", [[], {}, "x"])
def test_a_file_without_questions(tmp_path, content):
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"questions\.json, row 1, field 'file'"):
        emotions.read(str(path))


def test_the_real_questions(real_data):
    items = emotions.read(f"{real_data}/eq_bench/eq_bench_v2_questions_171.json")
    assert len(items) == 171
    intensities = [value for item in items for value in item.intensities]
    assert len(intensities) == 684
    assert (min(intensities), max(intensities)) == (0, 9)
    # Each is a speaker, as the name stands in the dialogue.
    assert all(f"{item.person}:" in item.dialogue for item in items)
    assert {"Dr. Hall", "Rev. Montague", "Elliot"} < {item.person for item in items}
    assert all("dialogue]" not in item.dialogue.lower() for item in items)


def test_a_layer_that_knows_is_found_where_the_last_one_does_not(write, tmp_path):
    rng = np.random.default_rng(0)
    rows = [row(f"Ann: It is {i}!\nBob: {rng.integers(99)}.", n=i) for i in range(60)]
    path = write(rows)
    judge = PlantedJudge(knows(emotions.read(path)), noise=(4.0, 4.0, 0.1, 4.0))
    result = emotions.evaluate(judge, path, tmp_path)
    assert list(result["scores"]) == list(lager.AGGREGATIONS)
    value = {name: found["spearman"]["value"] for name, found in result["scores"].items()}
    assert value["lager_w"] > 0.9
    assert value["lager_w"] > value["e_score"] + 0.1
    assert np.argmax(result["weights"]) == 2
    test = result["tests"][0]
    assert (test["a"], test["b"]) == ("lager_w", "e_score")
    assert test["spearman"]["p"] < 0.01
    assert (result["n"], result["questions"], result["dialogues"]) == (240, 60, 60)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    text = emotions.describe(result)
    assert all(name in text for name in lager.AGGREGATIONS)
    assert f"{value['lager_w']:.3f}" in text


def test_given_weights_are_used_and_nothing_is_fitted(write, tmp_path):
    path = write([row(f"Ann: It is {i}!", n=i) for i in range(8)])
    judge = PlantedJudge(knows(emotions.read(path)))
    only_last = emotions.evaluate(judge, path, tmp_path, weights=[0.0, 0.0, 0.0, 1.0])
    assert only_last["weights_from"] == "given"
    assert only_last["weights"] == [0, 0, 0, 1]
    weighted, last = (only_last["scores"][name] for name in ("lager_w", "e_score"))
    for measure in ("spearman", "pearson", "kendall"):
        assert weighted[measure]["value"] == pytest.approx(last[measure]["value"])
    # All was read once, and four questions were asked of each dialogue.
    asked = len(judge.asked)
    emotions.evaluate(judge, path, tmp_path, preset="paper", weights=[0.25] * 4)
    assert len(judge.asked) == asked == 8
    assert {len(request.questions) for request in judge.asked} == {4}


def test_questions_about_one_dialogue_hang_together(write, tmp_path):
    rows = [row(f"Ann: It is {i // 3}!", n=i) for i in range(30)]
    path = write(rows)
    result = emotions.evaluate(PlantedJudge(knows(emotions.read(path))), path, tmp_path)
    assert (result["questions"], result["dialogues"]) == (30, 10)


def test_what_does_not_fit_is_left_out_and_counted(write, tmp_path):
    rows = [row(f"Ann: It is {i}! {TOO_LONG * (i == 3)}", n=i) for i in range(9)]
    path = write(rows)
    judge = PlantedJudge(knows(emotions.read(path)))
    result = emotions.evaluate(judge, path, tmp_path, weights=[0.25] * 4)
    assert (result["n"], result["left_out"]) == (32, {"too long": 4})
    assert "left out: too long 4" in emotions.describe(result)
    path = write([row(f"Ann: {TOO_LONG}")])
    with pytest.raises(ValueError, match=r"none of the questions of emotions .too long 4"):
        emotions.evaluate(judge, path, tmp_path)


def test_readings_that_are_not_finite_are_left_out(write, tmp_path):
    path = write([row(f"Ann: It is {i}!", n=i) for i in range(9)])
    belief = knows(emotions.read(path))

    def broken(request, q):
        return np.nan if q == 1 else belief(request, q)

    result = emotions.evaluate(PlantedJudge(broken), path, tmp_path, weights=[0.25] * 4)
    assert (result["n"], result["left_out"]) == (27, {"not finite": 9})
    assert all(found["spearman"]["value"] > 0 for found in result["scores"].values())


def test_a_language_model_judges_dialogues(write, tmp_path):
    path = write([row(f"Ann: It is {i}!", n=i) for i in range(6)])
    judge = planted_judge.random_judge(tmp_path / "model")
    result = emotions.evaluate(judge, path, tmp_path)
    assert (result["n"], result["left_out"], len(result["weights"])) == (24, {}, 4)
    assert all(1 <= found["mean"] <= 9 for found in result["scores"].values())
    assert result["scores"]["lager_wo"]["sd"] > 0
