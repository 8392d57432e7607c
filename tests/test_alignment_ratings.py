"""Annotation: a reward model's outputs as whole numbers, in rows that training reads again; and
rescaling, which gives them people's mean and spread first."""

import numpy as np
import pytest
import stages
import tiny
from hypothesis import assume, given
from hypothesis import strategies as st

from hs2jax.alignment.annotate import annotate, every_turn
from hs2jax.alignment.rescale import affine, rescale
from hs2jax.data import corpora
from hs2jax.data.groups import Group
from hs2jax.losses.steerlm import rounded
from hs2jax.reward_model import RewardModel

BREAD = [("human", "What is bread?"), ("gpt", "Flour and water.")]
SEA, WHY = [("human", "And the sea?"), ("gpt", "Water.")], [("human", "Why?"), ("gpt", "So.")]
ROWS = [
    {"system": system, "conversations": [{"from": who, "value": text} for who, text in turns]}
    for system, turns in (("Be brief.", BREAD + SEA), ("", WHY))
]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotate")
    for name, bias in (("ratings", True), ("plain", False)):
        tiny.save(folder / name, outputs=stages.OUTPUTS, bias=bias, max_seq_len=1024)
    return folder


@pytest.fixture(scope="module")
def data(here):
    return f"conversations:{stages.write(here / 'talks.jsonl', ROWS)}"


@pytest.fixture(scope="module")
def last(here, data):
    return annotate(stages.annotation(here, data), here / "last")


def test_rounded_as_python_does_after_clamping():
    outputs = np.float32([-3.0, -0.2, 0.5, 1.5, 2.5, 2.51, 3.5, 9.0])
    assert rounded(outputs).tolist() == [0, 0, 0, 2, 2, 3, 4, 4]
    drawn = np.random.default_rng(0).uniform(-2, 6, 1000).astype(np.float32)
    assert rounded(drawn).tolist() == [round(min(max(float(x), 0), 4)) for x in drawn]


def test_the_rows_hold_what_the_model_says_and_are_read_as_ratings(here, data, last):
    groups = list(corpora.read(data))
    outputs = RewardModel.load(here / "ratings").score_groups(groups)
    annotated = stages.read(here / "last" / "annotated.jsonl")
    assert [row["source"] for row in annotated] == [group.source for group in groups]
    again = list(corpora.read(f"ratings:{here / 'last' / 'annotated.jsonl'}"))
    for group, table, row, read in zip(groups, outputs, annotated, again, strict=True):
        assert (read.prompt, read.responses) == (group.prompt, group.responses)
        expected = [dict(zip(stages.OUTPUTS, map(int, rounded(x)), strict=True)) for x in table]
        assert row["ratings"] == expected == list(read.ratings)
        assert list(row["ratings"][0]) == ["helpfulness", "verbosity", "reward"]
    assert [stages.value(last, name) for name in ("rows", "responses")] == [2, 2]
    for name in stages.OUTPUTS:
        rated, part = [row["ratings"][0][name] for row in annotated], f"attribute/{name}"
        assert stages.value(last, "mean", part) == np.mean(rated)
        for level in range(5):
            assert stages.value(last, f"rated_{level}", part) == rated.count(level)


def test_only_the_wanted_attributes_are_written(here, data, last):
    names = ("verbosity", "helpfulness")
    rows = annotate(stages.annotation(here, data, attributes=names), here / "two")
    assert rows == [row for row in last if "reward" not in row["part"]]
    assert [row["ratings"] for row in stages.read(here / "two" / "annotated.jsonl")] == [
        [{name: rating[name] for name in names} for rating in row["ratings"]]
        for row in stages.read(here / "last" / "annotated.jsonl")
    ]
    with pytest.raises(ValueError, match=r"config.attributes: .* rates .*, and not humour"):
        annotate(stages.annotation(here, data, attributes=("humour",)), here / "unknown")


def test_one_reward_is_written_as_it_is(here, data):
    weights = {"wit": 1.0, "length": -0.5}
    tiny.save(here / "weighed", outputs=tuple(weights), weights=weights, max_seq_len=1024)
    named = {"model": {"name": str(here / "weighed")}, "reward": True}
    rows = annotate(stages.annotation(here, data, **named), here / "reward")
    found = stages.read(here / "reward" / "annotated.jsonl")
    outputs = RewardModel.load(here / "weighed").score_groups(list(corpora.read(data)))
    for row, table in zip(found, outputs, strict=True):
        (rating,) = row["ratings"]
        assert rating["reward"] == pytest.approx(table[0, 0] - 0.5 * table[0, 1], abs=1e-5)
    mean = np.mean([row["ratings"][0]["reward"] for row in found])
    assert stages.value(rows, "mean", "attribute/reward") == pytest.approx(mean)
    assert not any(row["metric"].startswith("rated_") for row in rows)
    with pytest.raises(ValueError, match="no weights that make them one reward"):
        annotate(stages.annotation(here, data, reward=True), here / "no")


def test_every_turn_has_its_own_row(here, data, last):
    rows = annotate(stages.annotation(here, data, every_turn=True), here / "turns")
    assert stages.value(rows, "rows") == 3
    turns = stages.read(here / "turns" / "annotated.jsonl")
    assert [(len(row["prompt"]), row["responses"]) for row in turns] == [
        (2, ["Flour and water."]),
        (4, ["Water."]),
        (1, ["So."]),
    ]
    alone = stages.read(here / "last" / "annotated.jsonl")
    assert [turns[1]["ratings"], turns[2]["ratings"]] == [row["ratings"] for row in alone]


@given(st.integers(0, 3), st.integers(1, 3), st.booleans())
def test_turns_are_all_there_once(earlier, responses, system):
    prompt = [{"role": "system", "content": "s"}] if system else []
    for i in range(earlier):
        prompt += tiny.talk(f"u{i}", f"a{i}")
    prompt.append({"role": "user", "content": "last"})
    group = Group(tuple(prompt), tuple(f"r{i}" for i in range(responses)), source="here")
    found = list(every_turn([group]))
    answers = [f"a{i}" for i in range(earlier)] + [*group.responses]
    assert [x for each in found for x in each.responses] == answers
    for each in found:
        assert each.prompt == group.prompt[: len(each.prompt)]


def test_of_sampled_responses_the_finished_are_annotated(here):
    row = {"prompt": [{"role": "user", "content": "Why?"}], "condition": {"helpfulness": 4}}
    row |= {"responses": ["So.", "Because it", " "], "finished": [True, False, True]}
    sampled = stages.write(here / "samples.jsonl", [row, row | {"finished": [False] * 3}])
    # Also where there is data of another format beside it.
    other = stages.write(here / "other.jsonl", [{"prompt": "Why?", "response": "It is."}])
    data = f"sampled:{sampled}+responses:{other}"
    annotate(stages.annotation(here, data), here / "mixed")
    found = stages.read(here / "mixed" / "annotated.jsonl")
    assert [row["responses"] for row in found] == [["So."], ["It is."]]
    assert "condition" not in found[0]
    record = stages.result(here / "mixed")["records"]["data"]
    assert record["skipped"] == {"unfinished responses": 3, "empty responses": 2}


def test_a_model_that_rates_no_attribute_is_refused(data, tmp_path):
    tiny.save(tmp_path / "ratings", outputs=("reward",))
    with pytest.raises(ValueError, match="none of them an attribute"):
        annotate(stages.annotation(tmp_path, data), tmp_path / "run")


# Rescaling: values get people's mean and spread, and keep their order -----------------------------

TALKS = "helpsteer2:mini/train.jsonl[:6]"
PEOPLE = "helpsteer2:mini/train.jsonl[10:40]"
NAMES = ("helpfulness", "verbosity")


def outputs_of(folder) -> np.ndarray:
    return np.concatenate(RewardModel.load(folder).score_groups(list(corpora.read(TALKS))))


@pytest.mark.parametrize("model", ["ratings", "plain"])
def test_the_saved_model_rates_as_people_do_in_mean_and_spread(here, model, tmp_path):
    rows = rescale(stages.rescaling(here, TALKS, model, attributes=NAMES), tmp_path / "run")
    before, after = outputs_of(here / model), outputs_of(tmp_path / "run" / "model")
    people = [rating for group in corpora.read(PEOPLE) for rating in group.ratings]
    assert len(before) == 12
    for name in NAMES:
        rated, part = [rating[name] for rating in people], f"attribute/{name}"
        old, new = (table[:, stages.OUTPUTS.index(name)] for table in (before, after))
        assert [new.mean(), new.std()] == pytest.approx([np.mean(rated), np.std(rated)], abs=1e-3)
        assert (np.argsort(old) == np.argsort(new)).all()
        for method, table in (("before", old), ("after", new)):
            told = [stages.value(rows, metric, part, method=method) for metric in ("mean", "std")]
            assert told == pytest.approx([table.mean(), table.std()], abs=1e-3)
        for v in range(5):
            assert stages.value(rows, f"rated_{v}", part, method="people") == rated.count(v)
    # What was not named stays as it is.
    assert {row["part"].split("/")[1] for row in rows} == set(NAMES)
    np.testing.assert_allclose(after[:, 1], before[:, 1], atol=1e-5)


@given(
    values=st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20),
    ratings=st.lists(st.integers(0, 4), min_size=2, max_size=20),
)
def test_affine_matches_the_first_two_moments(values, ratings):
    assume(np.std(values) > 1e-2 and len(set(ratings)) > 1)
    scale, shift = affine(np.asarray(values), ratings, "verbosity")
    scaled = scale * np.asarray(values) + shift
    assert scale > 0
    assert np.mean(scaled) == pytest.approx(np.mean(ratings), abs=1e-5)
    assert np.std(scaled) == pytest.approx(np.std(ratings), abs=1e-5)


def test_what_does_not_vary_cannot_be_spread():
    with pytest.raises(ValueError, match="verbosity: all 3 values are 2; there is no spread"):
        affine(np.full(3, 2.0), [1, 2, 3], "verbosity")
    with pytest.raises(ValueError, match="verbosity: all 2 people's ratings are 4"):
        affine(np.arange(3.0), [4, 4], "verbosity")


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        (("beauty",), "config.ratings: .*: no ratings of beauty"),
        ((), "has no ratings of reward; leave them out with config.attributes"),
    ],
)
def test_attributes_that_cannot_be_rescaled_are_named(here, attributes, said, tmp_path):
    config = stages.rescaling(here, TALKS, "ratings", attributes=attributes)
    with pytest.raises(ValueError, match=said):
        rescale(config, tmp_path / "run")
