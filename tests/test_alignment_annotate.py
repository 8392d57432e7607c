"""Annotation: a reward model's outputs as whole numbers, in rows that training reads again."""

import json

import numpy as np
import pytest
import stages
import tiny
from hypothesis import given
from hypothesis import strategies as st

from hs2jax.alignment.annotate import annotate, every_turn
from hs2jax.data import corpora
from hs2jax.data.groups import Group
from hs2jax.losses.steerlm import rounded
from hs2jax.reward_model import RewardModel

ROWS = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is bread?"},
            {"role": "assistant", "content": "Flour and water."},
            {"role": "user", "content": "And the sea?"},
            {"role": "assistant", "content": "Water."},
        ]
    },
    {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]},
]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotate")
    tiny.save(folder / "ratings", outputs=stages.OUTPUTS, bias=True)
    stages.write(folder / "talks.jsonl", ROWS)
    return folder


def test_rounded_as_python_does_after_clamping():
    outputs = np.float32([-3.0, -0.2, 0.5, 1.5, 2.5, 2.51, 3.5, 9.0])
    assert rounded(outputs).tolist() == [0, 0, 0, 2, 2, 3, 4, 4]
    drawn = np.random.default_rng(0).uniform(-2, 6, 1000).astype(np.float32)
    assert rounded(drawn).tolist() == [round(min(max(float(x), 0), 4)) for x in drawn]


def test_the_rows_hold_what_the_model_says_and_are_read_as_ratings(here):
    result = annotate(
        stages.annotation(here, f"conversations:{here / 'talks.jsonl'}"), here / "last"
    )
    groups = list(corpora.read(f"conversations:{here / 'talks.jsonl'}"))
    outputs = RewardModel.load(here / "ratings").score_groups(groups)
    rows = stages.read(here / "last" / "annotated.jsonl")
    assert [row["source"] for row in rows] == [group.source for group in groups]
    again = list(corpora.read(f"ratings:{here / 'last' / 'annotated.jsonl'}"))
    for group, table, row, read in zip(groups, outputs, rows, again, strict=True):
        assert (read.prompt, read.responses) == (group.prompt, group.responses)
        expected = [dict(zip(stages.OUTPUTS, map(int, rounded(x)), strict=True)) for x in table]
        assert row["ratings"] == expected == list(read.ratings)
        assert [list(rating) for rating in row["ratings"]] == [
            ["helpfulness", "verbosity", "reward"]
        ]
    assert (result["rows"], result["responses"]) == (2, 2)
    for name, counts in result["values"].items():
        assert counts == {
            str(v): sum(row["ratings"][0][name] == v for row in rows) for v in range(5)
        }


def test_only_the_wanted_attributes_are_written(here):
    data = f"conversations:{here / 'talks.jsonl'}"
    every = annotate(stages.annotation(here, data), here / "every")
    config = stages.annotation(here, data, attributes=("verbosity", "helpfulness"))
    result = annotate(config, here / "two")
    names = ["helpfulness", "verbosity"]
    assert result["values"] == {name: every["values"][name] for name in names}
    assert [row["ratings"] for row in stages.read(here / "two" / "annotated.jsonl")] == [
        [{name: rating[name] for name in names} for rating in row["ratings"]]
        for row in stages.read(here / "every" / "annotated.jsonl")
    ]
    with pytest.raises(ValueError, match=r"config.attributes: .* rates .*, and not humour"):
        annotate(stages.annotation(here, data, attributes=("humour",)), here / "unknown")


def test_every_turn_has_its_own_row(here):
    config = stages.annotation(here, f"conversations:{here / 'talks.jsonl'}", every_turn=True)
    assert annotate(config, here / "turns")["rows"] == 3
    rows = stages.read(here / "turns" / "annotated.jsonl")
    assert [(len(row["prompt"]), row["responses"]) for row in rows] == [
        (2, ["Flour and water."]),
        (4, ["Water."]),
        (1, ["So."]),
    ]
    last = stages.read(here / "last" / "annotated.jsonl")
    assert [rows[1]["ratings"], rows[2]["ratings"]] == [row["ratings"] for row in last]


@given(st.integers(0, 3), st.integers(1, 3), st.booleans())
def test_turns_are_all_there_once(earlier, responses, system):
    prompt = [{"role": "system", "content": "s"}] if system else []
    for i in range(earlier):
        prompt += [
            {"role": "user", "content": f"u{i}"},
            {"role": "assistant", "content": f"a{i}"},
        ]
    prompt.append({"role": "user", "content": "last"})
    group = Group(tuple(prompt), tuple(f"r{i}" for i in range(responses)), source="here")
    found = list(every_turn([group]))
    assert [x for each in found for x in each.responses] == [
        *(f"a{i}" for i in range(earlier)),
        *group.responses,
    ]
    for each in found:
        assert each.prompt == group.prompt[: len(each.prompt)]


def test_of_sampled_responses_the_finished_are_annotated(here):
    row = {
        "prompt": [{"role": "user", "content": "Why?"}],
        "condition": {"helpfulness": 4},
        "responses": ["So.", "Because it", " "],
        "finished": [True, False, True],
    }
    data = f"sampled:{stages.write(here / 'samples.jsonl', [row, row | {'finished': [False] * 3}])}"
    result = annotate(stages.annotation(here, data), here / "sampled")
    (found,) = stages.read(here / "sampled" / "annotated.jsonl")
    assert found["responses"] == ["So."]
    assert "condition" not in found
    assert result["record"]["skipped"] == {"unfinished responses": 3, "empty responses": 2}
    # Also where there is data of another format beside it.
    other = stages.write(here / "other.jsonl", [{"prompt": "Why?", "response": "It is."}])
    annotate(stages.annotation(here, f"{data}+responses:{other}"), here / "mixed")
    found = stages.read(here / "mixed" / "annotated.jsonl")
    assert [row["responses"] for row in found] == [["So."], ["It is."]]


def test_a_finished_folder_is_left_alone(here, monkeypatch):
    folder, data = here / "once", f"conversations:{here / 'talks.jsonl'}"
    first = annotate(stages.annotation(here, data), folder)
    monkeypatch.setattr(RewardModel, "load", lambda *_, **__: pytest.fail("loaded again"))
    assert annotate(stages.annotation(here, data), folder) == json.loads(json.dumps(first))
    with pytest.raises(ValueError, match="different: max_tokens"):
        annotate(stages.annotation(here, data, max_tokens=9), folder)


def test_what_cannot_be_is_told(here, tmp_path):
    data = f"conversations:{here / 'talks.jsonl'}"
    for changes, words in (
        ({"on_error": "stop"}, "config.on_error is 'stop'"),
        ({"max_tokens": -1}, "config.max_tokens is -1"),
        ({"data": ""}, "config.data is not set"),
    ):
        with pytest.raises(ValueError, match=words):
            annotate(stages.annotation(here, data, **changes), tmp_path / "run")
    tiny.save(tmp_path / "preferences", outputs=("reward",))
    config = stages.annotation(here, data)
    config.model.name = str(tmp_path / "preferences")
    with pytest.raises(ValueError, match="none of them an attribute"):
        annotate(config, tmp_path / "run")
