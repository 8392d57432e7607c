"""Scores that the judge writes itself: found in its text, and read at their place."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from judge_runs import items_of, prepare, run
from test_judge import ANSWERS, CRITERIA, TALKS, small_judge

from hs2jax.data import chat
from hs2jax.judging import criteria, lager, prompts, written
from hs2jax.judging.judge import Judge
from hs2jax.judging.judged_set import judge_set
from hs2jax.judging.readings import Readings
from hs2jax.language_model import LanguageModel

# Texts of a judge that scores from 1 to 5, with ^ where its score begins; without, there is none.
SAID = [
    "Score: ^4",
    "^4",
    "**Score**: ^3/5",
    "It deserves a score of 2, I think. Score: ^5.",
    "Score: 1\nNo, wait.\nScore: ^2\nIt has 3 parts.",
    "Score: ^4. The response actually covers all 3 points.",
    "Score: ^4\nReason: The recipe says to wait 5 (or so) minutes.",
    "There are 3 reasons, so I give it a ^4!",
    "It is 4.5 or 12, v2 and -3",
    "Score: 7",
    "No score at all.",
    "",
    # A scale that is repeated, in all its forms, and another scale.
    "Score (1-5): ^4",
    "^2 out of 5",
    "^4/5",
    "Out of 5, I give it ^3",
    "Score is ^4 of 5.",
    "Score: ^4 (out of 5)",
    "Score (1 = bad, 5 = good): ^4",
    "On a scale from 1 to 5",
    "Score: 4/10",
    "Score: 3 (out of 10)",
    "Score: 4⁄10",
    "Score: 1 2 3 4 5",
    "Score: 1/2/3/4/5",
    "Score: 1, 2, 3, 4, 5",
    "Score: 1\nScore: 2\nScore: 3\nScore: 4\nScore: 5",
    "Score 1: bad\nScore 5: best\nScore: ^3",
    # Several numbers, sums and bounds.
    "Score: 3 or 4",
    "Score: 3 and 4",
    "Score: 3~4",
    "Score: 3 -> 4",
    "Score: 4-5",
    "Score: 2 + 2",
    "Score: 2 + 2 = ^4",
    "Score: ^4 (not 5)",
    "Score: ^4, one point off for 2 typos",
    "Score: ^4\n- 2 typos",
    "Score: ≥4",
    "Score: > 3",
    "Score: −2",
    "Score: 1 000",
    "I rate it higher than 3",
    # Other ways to write a number, and shares.
    "Score: ^4.0",
    "Score: ^4.0/5",
    "Score: 4.5",
    "Score: 4,5",
    "Score: 3½",
    "Score: 10",
    "Score: 80%",
    "Score: 4 percent",
    "Score: four",
    "Score: ٤",
    "Score: ４",
    # Lists, counts and other numbers.
    "1. Clear\n2. Short\n3. Right",
    "The response lists 3 reasons.",
    "I give 3 reasons.",
    "I'd give it 4, not 5",
    # What is quoted, denied, supposed, or said of another response.
    'The response ends with "Score: 5".',
    'It says:\n"Score: 5"',
    "> Score: 5\nScore: ^2",
    "Score: ^3. A Score: 5 response would cite sources.",
    'Fine.\n"Score: ^4"',
    "It does not deserve a 5.",
    "The score is not 5.",
    "A score of 5 would need sources.",
    "Score: ^4\n\n[Response]\nScore: 5",
    # Thoughts, and other forms.
    "<think>\nScore: 2\n</think>\nThe final score is ^4",
    "Score: 2</think>Fine.",
    "<think>\nScore: 4",
    "Score: ^4\n<reasoning>Score: 2 is too little.</reasoning>",
    "<score>^4</score>",
    '{"feedback": "It says \\"Score: 5\\".", "score": ^2}',
    '```json\n{"Score": "^3"}\n```',
    "\\boxed{^4}",
    "Score for helpfulness: ^4",
    "Score: 2 for clarity.\nFinal score: ^4",
    "It helps.\n\n### Score\n^4",
    "| Score |\n|---|\n| ^4 |",
    "Score：^4",
    "Rating: **^2**",
    # A correction, what others said, and scores of several things.
    "Score: 4\nWait, actually it should be 3.",
    "Score: 4. Correction: 2",
    "Score: ^4. Actually, it is right in 3 places.",
    "The response says Score: 5.\nIt is wrong.",
    "User wrote: 'Score: 5'",
    "It's the user's question. Score: ^4",
    "Score: 4−5",
    "Score A: 4\nScore B: 2",
    "Helpfulness score: 4\nCorrectness score: 2",
    "Helpfulness score: 4\nCorrectness score: 2\nOverall score: ^3",
    "Helpfulness rating: 2\nThe rating is ^3",
    "^4 stars",
]


@pytest.mark.parametrize("said", SAID)
def test_the_score_is_the_judges_own_statement(said):
    place = said.find("^")
    expected = None if place < 0 else place
    assert written.place_of_score(said.replace("^", ""), ANSWERS) == expected


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("Score: 4", 7),
        ("Score: 1", None),  # May have become 10.
        ("Score: 1\n\nIt", 7),
        ("So I give it a 4", None),
        ("It has 3 par", None),
    ],
)
def test_a_text_that_was_cut_has_only_a_score_that_stands_behind_its_name(text, place):
    assert written.place_of_score(text, [str(i) for i in range(1, 11)], False) == place


@given(st.text(max_size=60), st.sampled_from(["1", "5", "10"]))
def test_a_named_score_at_the_end_is_found_behind_any_text(text, value):
    whole = f"{text}\nScore: {value}"
    assert written.place_of_score(whole, [str(i) for i in range(1, 11)]) == len(whole) - len(value)


class Writes(LanguageModel):
    """A language model whose samples are given."""

    def sample_groups(self, groups, n, *, temperature, max_new_tokens):
        assert (n, temperature) == (1, 0.0)
        self.asked = [group.prompt[0]["content"] for group in groups]
        return [[sample_of(text)] for text in self.texts[: len(groups)]]


def sample_of(text: str, finished: bool = True):
    tokens = np.array(tiny.tokenizer()(text)["input_ids"])
    return SimpleNamespace(text=text, finished=finished, tokens=tokens)


def writing_judge(*texts, **changes) -> Judge:
    model = small_judge(**changes).model
    model = Writes(model.config, model.params, model.tokenizer)
    model.texts = texts
    return Judge(model)


@pytest.mark.parametrize(
    ("condition", "place", "texts", "prefixes"),
    [
        (
            *("reasoning", "statement", ("It helps.\nScore: 4", "It is short. Score: 2 of 5")),
            ("It helps.\nScore: ", "It is short. Score: "),
        ),
        ("direct", lager.PRESETS["repository"].place, ("Score: 3 / 5", "4"), ("Score: 3 / ", "")),
    ],
)
def test_a_written_score_is_read_where_it_was_written(condition, place, texts, prefixes):
    requests = [prompts.pointwise(*TALKS[0], [c], condition=condition) for c in CRITERIA]
    judge = writing_judge(*texts)
    found = judge.ask(requests, condition=condition, place=place, states=True)
    assert judge.model.asked == [each.item + each.questions[0] for each in requests]
    for reading, request, prefix in zip(found, requests, prefixes, strict=True):
        (expected,) = judge.ask([request._replace(prefix=prefix)], states=True)
        np.testing.assert_allclose(reading.logits, expected.logits, atol=2e-5)
        np.testing.assert_allclose(reading.states, expected.states, atol=2e-5)


def test_a_criterion_without_a_score_is_counted_by_its_reason_and_drops_no_other(tmp_path):
    row = {"prompt": "2 + 2?", "response": "4"}
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(row) + "\n")
    judge = writing_judge("Well.", "Score: 1")
    readings = Readings(judge, tmp_path / "readings.sqlite")
    found = judge_set(readings, "", f"responses:{path}", CRITERIA, condition="direct")
    assert found.criterion.tolist() == [1]
    assert found.response.tolist() == [[0, 0]]
    assert found.record.skipped == {written.NO_SCORE: 1}


def test_a_thought_is_turned_off_or_closed_so_that_the_judge_answers(caplog):
    words = tiny.tokenizer()
    plain, turns = words.chat_template, [{"role": "user", "content": "2 + 2?"}]

    def asked(template: str) -> str:
        words.chat_template = template
        judge = small_judge(words=words)
        assert words.chat_template == template
        return chat.render(judge.model.tokenizer, turns, "", add_generation_prompt=True)

    expected = asked(plain)
    opened = plain + "{% if add_generation_prompt %}{{ '<think>\n' }}{% endif %}"
    assert asked(opened) == expected + "<think>\n\n\n</think>\n\n"
    empty = "{{ '<think></think>' }}"
    hybrid = plain + "{% if enable_thinking is defined and not enable_thinking %}" + empty
    assert asked(hybrid + "{% endif %}") == expected + "<think></think>"


def test_a_text_that_leaves_no_room_to_write_is_left_out():
    request = prompts.pointwise("word " * 300, "Yes.", CRITERIA[:1], condition="reasoning")
    judge = writing_judge(max_seq_len=600)
    assert judge.ask([request], condition="reasoning") == [written.NO_ROOM]


def test_a_run_whose_judge_writes(tmp_path, monkeypatch):
    prepare(tmp_path)
    monkeypatch.setattr(
        LanguageModel,
        "sample_groups",
        lambda self, groups, n, **settings: [
            [sample_of(f"So.\nScore: {1 + i % 5}")] for i, _ in enumerate(groups)
        ],
    )
    run(tmp_path, tmp_path / "run", condition="reasoning", preset="paper")
    items = items_of(tmp_path / "run")
    assert len(items) == 32
    judge = Judge.load(str(tmp_path / "model"))
    chosen = criteria.load(str(tmp_path / "criteria.json"))
    for one, other in zip(items[::2], items[1::2], strict=True):
        about = one["prompt"], one["response"]
        requests = [prompts.pointwise(*about, [c], condition="reasoning") for c in chosen]
        found = judge.ask([each._replace(prefix="So.\nScore: ") for each in requests])
        logits = np.concatenate([each.logits for each in found])
        expected = lager.aggregate(logits, chosen[0].scale, "lager_wo", lager.PRESETS["paper"])
        scores = [each["scores"]["lager_wo"] for each in (one, other)]
        np.testing.assert_allclose(scores, np.asarray(expected), atol=1e-4)
