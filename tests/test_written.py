"""Scores that the judge writes itself: found in its text, and read at their place."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_runs import items_of, prepare, result_of, run
from test_judge import ANSWERS, CRITERIA, TALKS, small_judge

from hs2jax.data.record import Record
from hs2jax.judging import criteria, lager, prompts, written
from hs2jax.judging.judge import Judge
from hs2jax.judging.readings import is_whole
from hs2jax.language_model import LanguageModel


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("Score: 4", "4"),
        ("4", "4"),
        ("**Score**: 3/5", "3/5"),
        ("It deserves a score of 2, I think. Score: 5.", "5."),
        ("Score: 1\nNo, wait.\nScore: 2\nIt has 3 parts.", "2\nIt has 3 parts."),
        ("There are 3 reasons, so I give it a 4!", "4!"),
        ("It is 4.5 or 12, v2 and -3", None),
        ("Score: 7", None),
        ("No score at all.", None),
        ("", None),
    ],
)
def test_the_score_is_the_one_behind_the_last_name_or_the_last_that_stands_alone(text, rest):
    place = written.place_of_score(text, ANSWERS)
    assert (None if place is None else text[place:]) == rest


@given(st.text(max_size=60), st.sampled_from(["1", "5", "10"]))
def test_a_named_score_at_the_end_is_found_behind_any_text(text, value):
    whole = f"{text}\nScore: {value}"
    assert written.place_of_score(whole, [str(i) for i in range(1, 11)]) == len(whole) - len(value)


class Writes(LanguageModel):
    """A language model whose samples are given."""

    def sample_groups(self, groups, n, *, temperature, max_new_tokens):
        assert (n, temperature) == (1, 0.0)
        self.asked = [group.prompt[0]["content"] for group in groups]
        return [[SimpleNamespace(text=text)] for text in self.texts[: len(groups)]]


def writing_judge(*texts, **changes) -> Judge:
    model = small_judge(**changes).model
    model = Writes(model.config, model.params, model.tokenizer)
    model.texts = texts
    return Judge(model)


def test_a_written_score_is_read_where_it_was_written():
    request = prompts.pointwise(*TALKS[0], CRITERIA, condition="reasoning")
    texts = "It helps.\nScore: 4", "It is short. Score: 2 of 5"
    judge = writing_judge(*texts)
    (found,) = judge.ask([request], condition="reasoning", states=True)
    assert judge.model.asked == [request.item + question for question in request.questions]
    for q, prefix in enumerate(("It helps.\nScore: ", "It is short. Score: ")):
        alone = request._replace(questions=request.questions[q : q + 1], prefix=prefix)
        (expected,) = judge.ask([alone], states=True)
        np.testing.assert_allclose(found.logits[q], expected.logits[0], atol=2e-5)
        np.testing.assert_allclose(found.states[q], expected.states[0], atol=2e-5)


def test_a_text_without_a_score_is_counted_and_left_out():
    requests = [prompts.pointwise(*t, CRITERIA[:1], condition="direct") for t in TALKS[:2]]
    record = Record()
    found = writing_judge("Well.", "Score: 1").ask(requests, condition="direct")
    assert [is_whole([each], record, condition="direct") for each in found] == [False, True]
    assert found[1].logits.shape[0] == 1
    assert record.skipped == {written.NO_SCORE: 1}


def test_a_text_that_leaves_no_room_to_write_is_left_out():
    request = prompts.pointwise("word " * 300, "Yes.", CRITERIA[:1], condition="reasoning")
    assert writing_judge(max_seq_len=600).ask([request], condition="reasoning") == [None]


def test_a_run_whose_judge_writes(tmp_path, monkeypatch):
    prepare(tmp_path)
    monkeypatch.setattr(
        LanguageModel,
        "sample_groups",
        lambda self, groups, n, **settings: [
            [SimpleNamespace(text=f"So.\nScore: {1 + i % 5}")] for i, _ in enumerate(groups)
        ],
    )
    # Weights that were fitted in another condition serve, as in the paper.
    fitted = tmp_path / "fitted" / "weights.json"
    run(tmp_path, fitted.parent, weights="cross-validate", folds=2, preset="paper")
    settings = {"weights": fitted, "condition": "reasoning", "preset": "paper"}
    run(tmp_path, tmp_path / "run", **settings)
    assert result_of(tmp_path / "run")["weights_from"] == str(fitted)
    items = items_of(tmp_path / "run")
    assert len(items) == 32
    judge = Judge.load(str(tmp_path / "model"))
    chosen = criteria.load(str(tmp_path / "criteria.json"))
    weights = np.array(json.loads(fitted.read_text())["weights"], np.float32)
    for one, other in zip(items[::2], items[1::2], strict=True):
        request = prompts.pointwise(one["prompt"], one["response"], chosen, condition="reasoning")
        (found,) = judge.ask([request._replace(prefix="So.\nScore: ")])
        expected = lager.aggregate(
            found.logits, chosen[0].scale, "lager_w", lager.PRESETS["paper"], weights
        )
        scores = [each["scores"]["lager_w"] for each in (one, other)]
        np.testing.assert_allclose(scores, np.asarray(expected), atol=1e-4)
