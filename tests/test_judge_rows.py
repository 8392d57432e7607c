"""Rows for judges: what becomes of them, what is wrong in them, and the real files."""

import json

import pytest

from hs2jax.data import corpora
from hs2jax.data.formats import SUMMEVAL
from hs2jax.data.groups import DataError, Group
from hs2jax.data.record import Record
from hs2jax.judging import criteria
from hs2jax.judging.judge import requests_of

SUMMARY = {
    "article_id": "A7",
    "summary_id": "S0",
    "article": "A long tale.",
    "summary": "A tale.",
    "coherence": 1.3333333333,
    "consistency": 5,
    "fluency": 3.0,
    "relevance": 1,
}
TASK = {"instruction": "Name a gas.", "input": "", "output": "Helium."}
RUBRIC = {"criteria": "Is it a gas?"} | {f"score{i}_description": f"{i} of 5" for i in range(1, 6)}
OWN = {
    "system_prompt": "You know gases.",
    "input": "Name a gas.",
    "response": "Helium.",
    "score_rubric": RUBRIC,
    "human_score": 4,
}


@pytest.fixture
def write(tmp_path):
    def to_file(rows, name="rows.jsonl"):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        path = tmp_path / name
        path.write_text(lines if name.endswith(".jsonl") else json.dumps(rows, indent=2))
        return str(path)

    return to_file


def user(content):
    return ({"role": "user", "content": content},)


def test_the_summaries_of_an_article_are_one_group_in_their_order(write):
    other = {**SUMMARY, "article": "Another tale.", "article_id": "A8"}
    last = {**SUMMARY, "summary": "Tale!", "coherence": 5}
    path = write([SUMMARY, other, last])
    first, second = corpora.read(f"summeval:{path}")
    scores = {name: float(SUMMARY[name]) for name in SUMMEVAL}
    assert first == Group(
        user("Summarize this article in a few sentences.\n\nA long tale."),
        ("A tale.", "Tale!"),
        ratings=(scores, {**scores, "coherence": 5.0}),
        source=f"{path}:1",
        about={"id": "A7"},
    )
    assert (second.responses, second.source) == (("A tale.",), f"{path}:2")


@pytest.mark.parametrize(
    ("change", "turns", "score"),
    [
        ({}, 2, 4.0),
        ({"system_prompt": ""}, 1, 4.0),
        ({"system_prompt": None, "human_score": [4, 5, 2]}, 1, 11 / 3),
    ],
)
def test_a_row_may_bring_its_own_rubric(write, change, turns, score):
    (group,) = corpora.read(f"biggen:{write([OWN | change])}")
    assert len(group.prompt) == turns
    assert group.prompt[-1:] == user("Name a gas.")
    assert group.ratings == ({"rubric": pytest.approx(score)},)
    criterion = criteria.of_group(group)
    assert criterion.definition == "Is it a gas?"
    assert criterion.levels == ("1 of 5", "2 of 5", "3 of 5", "4 of 5", "5 of 5")
    (request,) = requests_of(group, criteria.load("rubric"))
    assert "Is it a gas?\n1: 1 of 5\n2: 2 of 5" in request.questions[0]


def test_a_row_without_a_rubric_is_told(write):
    (group,) = corpora.read(f"instructions:{write([TASK])}")
    with pytest.raises(ValueError, match="the row has no rubric to judge by"):
        requests_of(group, criteria.load("rubric"))


@pytest.mark.parametrize(
    ("change", "prompt"),
    [
        ({}, "Name a gas."),
        ({"input": None}, "Name a gas."),
        ({"input": " \n"}, "Name a gas."),
        ({"input": "A light one."}, "Name a gas.\n\nA light one."),
    ],
)
def test_an_instruction_with_or_without_an_input(write, change, prompt):
    path = write([TASK | change])
    (group,) = corpora.read(f"instructions:{path}")
    assert group == Group(user(prompt), ("Helium.",), source=f"{path}:1")


def test_input_may_be_missing_and_output_may_be_called_response(write):
    path = write([{"instruction": "Name a gas.", "response": "Helium."}], "rows.json")
    (group,) = corpora.read(f"instructions:{path}")
    assert (group.prompt, group.responses) == (user("Name a gas."), ("Helium.",))


@pytest.mark.parametrize(
    ("format_", "change", "field"),
    [
        ("biggen", {"human_score": 0}, "human_score"),
        ("biggen", {"human_score": [4, "5"]}, "human_score"),
        ("biggen", {"human_score": []}, "human_score"),
        ("biggen", {"score_rubric": "strict"}, "score_rubric"),
        ("biggen", {"score_rubric": RUBRIC | {"criteria": " "}}, "score_rubric.criteria"),
        ("biggen", {"system_prompt": 3}, r"prompt\[0\].content"),
        ("instructions", {"instruction": ""}, "instruction"),
        ("instructions", {"instruction": None}, "instruction"),
        ("instructions", {"input": 3}, "input"),
        ("instructions", {"input": ["x"]}, "input"),
        ("instructions", {"input": "\ud800"}, "input"),
        ("instructions", {"output": " "}, "output"),
        ("instructions", {"output": ["x"]}, "output"),
        ("instructions", {"response": "Neon."}, "response"),
        ("summeval", {"article": ""}, "article"),
        ("summeval", {"article_id": [7]}, "article_id"),
        ("summeval", {"summary": None}, "summary"),
        ("summeval", {"coherence": 0.9}, "coherence"),
        ("summeval", {"consistency": 5.1}, "consistency"),
        ("summeval", {"fluency": None}, "fluency"),
        ("summeval", {"relevance": float("nan")}, "relevance"),
        ("summeval", {"relevance": True}, "relevance"),
    ],
)
def test_a_malformed_row_is_named_and_can_be_skipped(write, format_, change, field):
    good = {"biggen": OWN, "instructions": TASK, "summeval": SUMMARY}[format_]
    path = write([good, good | change, good])
    with pytest.raises(DataError, match=f"rows.jsonl, line 2, field '{field}'"):
        list(corpora.read(f"{format_}:{path}"))
    record = Record()
    groups = list(corpora.read(f"{format_}:{path}", on_error="skip", record=record))
    assert sum(len(group.responses) for group in groups) == 2
    assert (record.rows, sum(record.skipped.values())) == (3, 1)


@pytest.mark.parametrize("field", ["instruction", "output"])
def test_a_missing_field_is_named(write, field):
    path = write([{name: text for name, text in TASK.items() if name != field}], "rows.json")
    with pytest.raises(DataError, match=f"rows.json, row 1, field '{field}': is missing"):
        list(corpora.read(f"instructions:{path}"))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_rows_as_they_are_have_the_sources_of_their_groups(write, name):
    rows = [{**TASK, "output": f"{i}", "more": [i, {"x": "\u00e9"}]} for i in range(5)]
    spec = f"instructions:{write(rows, name)}[2:4]"
    raw = {source: json.loads(row) for source, row in corpora.raw(spec)}
    assert list(raw.values()) == rows
    groups = list(corpora.read(spec))
    assert [raw[group.source] for group in groups] == rows[2:4]


def test_rows_as_they_are_of_a_wrong_spec(tmp_path):
    with pytest.raises(ValueError, match="unknown data format"):
        list(corpora.raw("poems:x.jsonl"))
    with pytest.raises(FileNotFoundError):
        list(corpora.raw(f"instructions:{tmp_path}/absent.jsonl"))


def test_the_real_summaries(real_data):
    groups = list(corpora.read(f"summeval:{real_data}/summeval/summeval.jsonl"))
    assert [len(group.responses) for group in groups] == [16] * 100
    assert len({group.about["id"] for group in groups}) == 100
    scores = [value for group in groups for r in group.ratings for value in r.values()]
    assert len(scores) == 6400
    assert (min(scores), max(scores)) == (1, 5)


def test_the_real_instructions(real_data):
    groups = list(corpora.read(f"instructions:{real_data}/gpteacher/roleplay.json"))
    assert len(groups) == 1923
    # What is an input stands behind the instruction.
    rows = [json.loads(row) for _, row in corpora.raw(f"instructions:{real_data}/gpteacher/*.json")]
    with_input = [row for row in rows if row["input"]]
    assert len(with_input) == 443
    prompts = [group.prompt[0]["content"] for group in groups]
    assert all(
        prompt.startswith(row["instruction"]) and prompt.endswith(row["input"])
        for prompt, row in zip(prompts, rows, strict=True)
    )
