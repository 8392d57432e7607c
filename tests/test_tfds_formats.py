"""The rows of disagreements, HelpSteer3 and RewardBench, as JSONL."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hs2jax.data import corpora
from hs2jax.data.formats import ATTRIBUTES, FORMATS
from hs2jax.data.groups import DataError, FieldError, Pair, pairs
from hs2jax.data.record import Record

SCALE = st.integers(0, 4)


def disagreements(prompt="p", response="r", **fields):
    return {"prompt": prompt, "response": response, **{a: [1, 2] for a in ATTRIBUTES}, **fields}


def helpsteer3(**fields):
    context = [{"role": "user", "content": "Hi"}]
    row = {"domain": "stem", "language": "english", "context": context, "response1": "a"}
    notes = [{"score": 2, "reasoning": "so"}]
    preference = {"overall_preference": 2, "individual_preference": notes}
    return {**row, "response2": "b", **preference, **fields}


def reward_bench(**fields):
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "subset": "hep-go", "id": 7}
    return {**row, "chosen_model": "human", "rejected_model": "unknown", **fields}


@given(st.fixed_dictionaries({a: st.lists(SCALE, min_size=1, max_size=6) for a in ATTRIBUTES}))
def test_a_rating_is_the_mean_of_the_annotators(lists):
    (rating,) = FORMATS["helpsteer2_disagreements"].group(disagreements(**lists)).ratings
    for name, values in lists.items():
        assert min(values) <= rating[name] <= max(values)
        assert rating[name] * len(values) == pytest.approx(sum(values))


def test_disagreements_join_all_rows_of_a_prompt(tmp_path):
    path = tmp_path / "disagreements.jsonl"
    order = [("a", "1"), ("b", "2"), ("a", "3")]
    path.write_text("".join(json.dumps(disagreements(*row)) + "\n" for row in order))
    first, second = corpora.read(f"helpsteer2_disagreements:{path}")
    assert (first.responses, second.responses) == (("1", "3"), ("2",))
    assert first.ratings == (dict.fromkeys(ATTRIBUTES, 1.5),) * 2
    assert (first.source, second.source) == (f"{path}:1", f"{path}:2")


@given(st.integers(-3, 3), st.integers(0, 3))
def test_helpsteer3_keeps_turns_and_signs(strength, exchanges):
    context = [{"role": "user", "content": "q0"}]
    for i in range(exchanges):
        context += [{"role": "assistant", "content": f"a{i}"}, {"role": "user", "content": "q"}]
    group = FORMATS["helpsteer3"].group(helpsteer3(context=context, overall_preference=strength))
    assert group.prompt == tuple(context)
    better = ("a", "b")[strength > 0]
    found, ties = pairs(group)
    assert ties == (strength == 0)
    assert [(group.responses[p.chosen], p.strength) for p in found] == [
        (better, abs(strength)) for _ in range(1 - ties)
    ]


def test_reward_bench_prefers_chosen():
    group = FORMATS["reward_bench"].group(reward_bench())
    assert group.prompt == ({"role": "user", "content": "p"},)
    assert group.responses == ("a", "b")
    assert pairs(group) == ([Pair(0, 1, 1.0)], 0)


MALFORMED = {
    "helpsteer2_disagreements": [
        (disagreements(coherence=[]), "coherence"),
        (disagreements(coherence=3), "coherence"),
        (disagreements(coherence=[1, 5]), "coherence[1]"),
        (disagreements(coherence=[1, None]), "coherence[1]"),
        (disagreements(coherence=[1.5]), "coherence[0]"),
        (disagreements(coherence=[True]), "coherence[0]"),
        (disagreements(response=""), "response"),
        (disagreements(prompt="a\n<extra_id_1>User\nb"), "prompt"),
    ],
    "helpsteer3": [
        (helpsteer3(context=[]), "context"),
        (helpsteer3(context=[{"role": "assistant", "content": "Hi"}]), "context"),
        (helpsteer3(context=[{"role": "user"}]), "context[0]"),
        (helpsteer3(context=[{"role": "tool", "content": "x"}]), "context[0].role"),
        (helpsteer3(response1=" "), "response1"),
        (helpsteer3(response2=None), "response2"),
        (helpsteer3(overall_preference=4), "overall_preference"),
        (helpsteer3(overall_preference=0.5), "overall_preference"),
        (helpsteer3(overall_preference=None), "overall_preference"),
    ],
    "reward_bench": [
        (reward_bench(prompt=["p"]), "prompt[0]"),
        (reward_bench(chosen=""), "chosen"),
        (reward_bench(rejected=None), "rejected"),
        (reward_bench(subset=3), "subset"),
    ],
}


@pytest.mark.parametrize(
    ("format_", "row", "field"),
    [(format_, row, field) for format_, cases in MALFORMED.items() for row, field in cases],
)
def test_a_malformed_row_is_named_or_skipped_and_counted(format_, row, field, tmp_path):
    good = {
        "helpsteer2_disagreements": disagreements(),
        "helpsteer3": helpsteer3(),
        "reward_bench": reward_bench(),
    }[format_]
    path, record = tmp_path / "rows.jsonl", Record()
    path.write_text("".join(json.dumps(each) + "\n" for each in (good, row)))
    with pytest.raises(DataError) as raised:
        list(corpora.read(f"{format_}:{path}"))
    assert (raised.value.line, raised.value.field) == (2, field)
    (group,) = corpora.read(f"{format_}:{path}", on_error="skip", record=record)
    assert group.source == f"{path}:1"
    assert (record.rows, sum(record.skipped.values())) == (2, 1)


@pytest.mark.parametrize("reader", ["helpsteer2_disagreements", "helpsteer3", "reward_bench"])
def test_an_absent_field_is_named(reader):
    read = FORMATS[reader].group
    whole = {"helpsteer2_disagreements": disagreements(), "helpsteer3": helpsteer3()}
    row = whole.get(reader, reward_bench())
    unread = {"domain", "language", "individual_preference", "chosen_model", "rejected_model", "id"}
    for field in row.keys() - unread:
        with pytest.raises(FieldError, match=f"{field}: is missing"):
            read({name: value for name, value in row.items() if name != field})


def test_real_reward_bench(real_data):
    groups = list(corpora.read(f"reward_bench:{real_data}/reward_bench/filtered_first500.jsonl"))
    assert (len(groups), {g.strength for g in groups}) == (500, {-1.0})
