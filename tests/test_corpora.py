"""Every format is read as it is published, and every part of a file means the same rows."""

import functools
import json
import pickle

import format_rows
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_policy_chat import talk

from hs2jax.data import corpora
from hs2jax.data.groups import DataError, FieldError, Group, Pair, pairs
from hs2jax.data.record import Record

FIVE = {"helpfulness": 3, "correctness": 4, "coherence": 4, "complexity": 1, "verbosity": 0}
USER = {"role": "user", "content": "Hello?"}


def say(*contents):
    return tuple(talk(*contents))


@pytest.fixture
def write(tmp_path):
    """Writes rows to a file."""
    return functools.partial(format_rows.write, tmp_path)


def rated(prompt, response, **ratings):
    return {"prompt": prompt, "response": response, **FIVE, **ratings}


def preferences(n, **fields):
    return [{"prompt": f"p{i}", "chosen": "yes", "rejected": "no", **fields} for i in range(n)]


def test_helpsteer2_joins_neighbours_and_splits_turns(write):
    prompt = "Hi\n<extra_id_1>Assistant\nHello\n\nagain\n<extra_id_1>User\nTwo plus two?"
    path = write([rated(prompt, "4"), rated(prompt, "5", helpfulness=0), *[rated("x", "y")] * 2])
    first, second = corpora.read(f"helpsteer2:{path}")
    assert first.prompt == say("Hi", "Hello\n\nagain", "Two plus two?")
    assert first.responses == ("4", "5")
    assert first.ratings == (FIVE, {**FIVE, "helpfulness": 0})
    assert first.strength is None
    assert (first.source, second.source) == (f"{path}:1", f"{path}:3")


def test_helpsteer2_names_both_lines_of_rows_that_do_not_belong_together(write):
    path = write([rated("a", "1"), rated("a", "2"), rated("b", "3"), rated("c", "4")])
    with pytest.raises(DataError, match=r"line 4.*'prompt'.*line 3"):
        list(corpora.read(f"helpsteer2:{path}"))
    path = write([rated("a", "1"), rated("a", "2"), rated("b", "3")])
    with pytest.raises(DataError, match=r"line 3.*'prompt'.*file ends"):
        list(corpora.read(f"helpsteer2:{path}"))


def test_a_malformed_helpsteer_row_does_not_cost_its_prompt(write):
    path = write([rated("a", "1"), rated("a", "2", helpfulness=9), rated("a", "3")])
    record = Record()
    (group,) = corpora.read(f"helpsteer:{path}", on_error="skip", record=record)
    assert group.responses == ("1", "3")
    assert (record.rows, record.groups, record.skipped) == (3, 1, {"out of range": 1})


def test_helpsteer2_preference_keeps_signs_and_splits(write):
    row = {"prompt": "p", "response_1": "one", "response_2": "two"}
    splits = [("train", "val")[i % 2] for i in range(7)]
    path = write(
        [row | {"split": split, "preference_strength": i - 3} for i, split in enumerate(splits)]
    )
    groups = list(corpora.read(f"helpsteer2_preference:{path}"))
    assert [g.strength for g in groups] == [-3, -2, -1, 0, 1, 2, 3]
    assert [pairs(g) for g in groups] == [
        *[([Pair(0, 1, s)], 0) for s in (3, 2, 1)],
        ([], 1),
        *[([Pair(1, 0, s)], 0) for s in (1, 2, 3)],
    ]
    train = list(corpora.read(f"helpsteer2_preference:{path}[train]"))
    val = list(corpora.read(f"helpsteer2_preference:{path}[val]"))
    assert (train, val) == (groups[::2], groups[1::2])


def test_neither_response_valid_has_its_own_reason(write):
    row = {"prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": -100}
    record = Record()
    path = write([row])
    assert not list(corpora.read(f"helpsteer2_preference:{path}", on_error="skip", record=record))
    assert record.skipped == {"neither response valid": 1}
    with pytest.raises(DataError, match="'split'"):
        list(corpora.read(f"helpsteer2_preference:{path}[train]"))


def test_hh_rlhf_shares_the_prompt_and_joins_turns_of_one_speaker(write):
    start = (
        "\n\nHuman: Hi \n\nAssistant: Yes?\n\nAssistant: Go on.\n\nHuman: Why: so?\n\nAssistant:"
    )
    path = write([{"chosen": start + " Good.", "rejected": start + "Bad.\n\nAssistant: Worse. "}])
    (group,) = corpora.read(f"hh_rlhf:{path}")
    assert group.prompt == say("Hi", "Yes?\n\nGo on.", "Why: so?")
    assert group.responses == ("Good.", "Bad.\n\nWorse.")
    assert pairs(group) == ([Pair(0, 1, 1.0)], 0)


def test_ratings_forms(write):
    path = write(
        [
            {"prompt": "p", "response": "a", "ratings": {"clarity": 2, "tone": None}},
            {"prompt": [USER], "responses": ["a", "b"], "ratings": [{"x": -1.5}, {}]}
            | {"strength": 0},
        ]
    )
    single, double = corpora.read(f"ratings:{path}")
    assert single.ratings == ({"clarity": 2.0},)
    assert double.ratings == ({"x": -1.5}, {})
    assert pairs(single, "clarity") == ([], 0)
    assert pairs(double, "x") == ([], 1), "a given strength decides, also when it is a tie"


@given(st.lists(st.none() | st.integers(0, 4), min_size=1, max_size=6))
def test_derived_pairs_and_ties_cover_every_comparison_once(scores):
    ratings = tuple({} if s is None else {"helpfulness": float(s)} for s in scores)
    group = Group((USER,), tuple(map(str, range(len(scores)))), ratings)
    found, ties = pairs(group, "helpfulness")
    n = sum(s is not None for s in scores)
    assert len(found) + ties == n * (n - 1) // 2
    assert pairs(group) == pairs(group, "tone") == ([], 0)
    assert len({frozenset(pair[:2]) for pair in found}) == len(found)
    for chosen, rejected, strength in found:
        assert 0 < strength == min(scores[chosen] - scores[rejected], 3)


@given(st.integers(0, 23), st.integers(-110, 110), st.integers(-30, 30))
def test_slices_cut_a_file_in_two(tmp_path_factory, n, percent, index):
    path = tmp_path_factory.getbasetemp() / f"slices{n}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n\n" for row in preferences(n)))
    everything = list(corpora.read(f"preference:{path}"))
    for bound in (f"{percent}%", f"{index}"):
        before = list(corpora.read(f"preference:{path}[:{bound}]"))
        after = list(corpora.read(f"preference:{path}[{bound}:]"))
        assert before + after == everything
    assert list(corpora.read(f"preference:{path}[:{index}]")) == everything[:index]


def test_a_slice_means_the_same_rows_whatever_is_skipped(write):
    rows = preferences(20)
    rows[2]["chosen"] = rows[11]["chosen"] = ""
    path, record = write(rows), Record()
    groups = list(corpora.read(f"preference:{path}[10%:60%]", on_error="skip", record=record))
    assert [g.source for g in groups] == [f"{path}:{i + 1}" for i in range(3, 12) if i != 11]
    assert (record.rows, record.groups, record.skipped) == (10, 8, {"empty text": 2})
    assert "line 3" in record.skipped_examples[0]


def test_slices_count_groups_not_rows(write):
    path = write([rated(f"p{i // 2}", f"r{i}") for i in range(20)])
    (group,) = corpora.read(f"helpsteer2:{path}[-3:-2]")
    assert group.responses == ("r14", "r15")
    (group,) = corpora.read(f"helpsteer:{path}[90%:]")
    assert group.responses == ("r18", "r19")


def test_several_files_compressed_or_not(write):
    gz = write(preferences(3), "one+two.jsonl.gz")
    ratings = write([{"prompt": "p", "response": "a", "ratings": {}}], "three.jsonl")
    groups = list(corpora.read(f"preference:{gz}[1:] + ratings:{ratings}"))
    assert (groups[0].prompt, groups[0].strength) == (say("p1"), -1)
    assert [g.source for g in groups] == [f"{gz}:2", f"{gz}:3", f"{ratings}:1"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("rows.jsonl", "format:path"),
        ("helpsteer9:rows.jsonl", "helpsteer2_preference"),
        ("preference:rows.jsonl[5]", "slice"),
        ("preference:rows.jsonl[a:b]", "slice"),
        ("preference:rows.jsonl[1:2:3]", "slice"),
        ("preference:rows.jsonl[~:50]", "of prompts as"),
        ("preference:rows.jsonl[~-10%:]", "of prompts as"),
        ("preference:s3://bucket/rows.jsonl", "is not read from; fetch the file"),
        ("preference:https://host/rows.jsonl", "is not read from; fetch the file"),
        ("helpsteer2:rows.jsonl[train]", "where rows name theirs"),
        ("preference:rows.jsonl[train][val]", "selector"),
        ("preference:rows.jsonl[:1][2:][3:]", "format:path"),
        ("tfds:helpsteer9", "reward_bench"),
        ("tfds:helpsteer2/rating", "helpsteer2/preference, helpsteer2/disagreements"),
        ("tfds:helpsteer2[test]", r"\[train\] or \[validation\]"),
        ("tfds:reward_bench[val]", r"\[filtered\]"),
        ("tfds:helpsteer2[:1][train]", "selector"),
        ("tfds:helpsteer2[train[:90%]]", r"name/config\[split\]\[slice\]"),
        ("tfds:", "name/config"),
    ],
)
def test_a_wrong_spec_is_refused_at_once(spec, expected):
    with pytest.raises(ValueError, match=expected):
        corpora.read(spec)


def test_a_missing_file_and_wrong_settings_are_refused_at_once(write):
    with pytest.raises(FileNotFoundError, match=r"absent\.jsonl"):
        corpora.read(f"preference:{write([])} + preference:absent.jsonl")
    with pytest.raises(ValueError, match="on_error"):
        corpora.read(f"preference:{write([])}", on_error="ignore")
    with pytest.raises(ValueError, match="record"):
        corpora.read(f"preference:{write([])}", on_error="skip")


@pytest.mark.parametrize(
    "about", [[], {"id": None}, {"id": 1.5}, {"": 1}, {3: "x"}, {"id": "\ud800"}]
)
def test_a_group_refuses_what_no_file_could_say_of_it(about):
    with pytest.raises(FieldError, match=r"about|id"):
        Group((USER,), ("a", "b"), about=about)


def test_errors_survive_pickling():
    for error in (DataError("f", 3, "prompt", "is odd", "turn order"), FieldError("x", "y", "z")):
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.reason) == (str(error), error.reason)


def test_real_hh_rlhf(real_data):
    path = real_data / "hh_rlhf" / "helpful_test_1850.jsonl"
    record = Record()
    groups = list(corpora.read(f"hh_rlhf:{path}", on_error="skip", record=record))
    assert (record.rows, record.groups, record.skipped) == (1850, 1847, {"empty text": 3})
    held_out = list(corpora.read(f"hh_rlhf:{path}[-250:]"))
    assert held_out == groups[-250:]
    longer = sum(len(g.responses[0]) > len(g.responses[1]) for g in held_out)
    assert longer == 141, "56.4% of these 250 chosen responses are the longer ones"


def test_real_helpsteer(real_data):
    groups = list(corpora.read(f"helpsteer2:{real_data}/helpsteer2/train_first100.jsonl"))
    assert (len(groups), {len(g.responses) for g in groups}) == (50, {2})
    compared = [pairs(g, "helpfulness") for g in groups]
    assert (sum(len(p) for p, _ in compared), sum(t for _, t in compared)) == (29, 21)
    groups = list(corpora.read(f"helpsteer:{real_data}/helpsteer/sample500.jsonl"))
    assert (len(groups), sum(len(g.responses) for g in groups)) == (139, 500)
    help_mean = sum(r["helpfulness"] for g in groups for r in g.ratings) / 500
    assert help_mean == pytest.approx(2.7856, abs=0.2), "the mean published for the whole set"


def test_sets_are_a_benchmarks_files_together_and_others_apart():
    pairs, ratings = "helpsteer2_preference:mini/preference.jsonl[val]", "helpsteer2:mini/a.jsonl"
    found = corpora.sets_of(f"{pairs}+{pairs}+{ratings}+llmbar:a.json+llmbar:b.json")
    assert len({name for name, _ in found}) == 4
    assert found[-1] == ("llmbar", "llmbar:a.json+llmbar:b.json")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_rows_as_they_are_have_the_sources_of_their_groups(name, tmp_path):
    rows = [{**preferences(1)[0], "chosen": f"{i}", "more": [i, {"x": "\u00e9"}]} for i in range(5)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / name).write_text(lines if name == "rows.jsonl" else json.dumps(rows, indent=2))
    spec = f"preference:{tmp_path / name}[2:4]"
    raw = {source: json.loads(row) for source, row in corpora.raw(spec)}
    assert list(raw.values()) == rows
    assert [raw[group.source] for group in corpora.read(spec)] == rows[2:4]
    with pytest.raises(ValueError, match="unknown data format"):
        list(corpora.raw("poems:x.jsonl"))
    with pytest.raises(FileNotFoundError):
        list(corpora.raw(f"preference:{tmp_path}/absent.jsonl"))
