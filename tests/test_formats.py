"""Every format's rows are the groups that they say, and what is wrong in them is named."""

import collections

import pytest
from format_rows import FILES, GROUPS, ROWS, UNREAD, of, user, write
from hypothesis import given
from hypothesis import strategies as st
from test_policy_chat import talk

from hs2jax.data import corpora
from hs2jax.data.formats import FORMATS, PRIOR_SETS, RM_BENCH_DOMAINS
from hs2jax.data.groups import DataError, FieldError, Group, Pair, pairs
from hs2jax.data.record import Record
from hs2jax.evaluation.benchmarks.catalogue import BENCHMARKS
from hs2jax.judging import criteria
from hs2jax.judging.judge import requests_of

FORMS = pytest.mark.parametrize("name", ROWS)


@FORMS
def test_a_row_is_its_group(name):
    assert of(name) == GROUPS[name]


@FORMS
def test_an_absent_field_is_named(name):
    for field in ROWS[name]:
        rest = {key: value for key, value in ROWS[name].items() if key != field}
        rest |= FORMATS[name].of_path(FILES[name])
        if field in UNREAD.get(name, ()):
            assert FORMATS[name].group(rest).responses == GROUPS[name].responses
        else:
            other = "conversations" if field == "messages" else field
            with pytest.raises(FieldError, match=f"^{other}: is missing"):
                FORMATS[name].group(rest)


# Ratings, strengths and signs ---------------------------------------------------------------------


def test_rows_of_a_prompt_are_joined_in_their_order(tmp_path):
    for name, (prompt, response) in {
        "helpsteer2_disagreements": ("prompt", "response"),
        "summeval": ("article", "summary"),
    }.items():
        order = [("a", "1"), ("b", "2"), ("a", "3")]
        rows = [ROWS[name] | {prompt: p, response: r} for p, r in order]
        path = write(tmp_path, rows)
        first, second = corpora.read(f"{name}:{path}")
        assert (first.responses, second.responses) == (("1", "3"), ("2",))
        assert first.ratings == of(name).ratings * 2
        assert (first.source, second.source) == (f"{path}:1", f"{path}:2")


def test_labels_say_which_is_better():
    for name, labels in {"llmbar": (1, 2), "judge_bench": ("A>B", "B>A")}.items():
        first, second = (pairs(of(name, label=label)) for label in labels)
        assert (first, second) == (([Pair(0, 1, 1.0)], 0), ([Pair(1, 0, 1.0)], 0))


def test_every_right_response_beats_every_wrong_one_and_no_other():
    found, _ = pairs(of("reward_bench_2"), derive="correct")
    assert {pair[:2] for pair in found} == {(i, j) for i in range(2) for j in range(2, 5)}


@given(st.lists(st.integers(0, 2), min_size=3, max_size=3))
def test_two_of_three_votes_decide(votes):
    group = of("pandalm", **{f"annotator{i}": vote for i, vote in enumerate(votes, 1)})
    (most, count), *_ = collections.Counter(votes).most_common()
    assert group.strength == {0: 0, 1: -1, 2: 1}[most if count > 1 else 0]


@pytest.mark.parametrize("nothing", ["", " \n", None])
def test_an_instruction_may_have_no_input(nothing):
    assert of("pandalm", input=nothing).prompt == user("Shorten the text.")
    row = {"instruction": "Name a gas.", "input": nothing, "response": "Helium."}  # Or "output".
    assert FORMATS["instructions"].group(row) == Group(user("Name a gas."), ("Helium.",))


def test_a_row_may_bring_its_own_rubric():
    for system in ("", None):
        assert of("biggen", system_prompt=system).prompt == user("Name a gas.")
    assert of("biggen", human_score=4).ratings == ({"rubric": 4.0},)
    criterion = criteria.of_group(of("biggen"))
    assert criterion.definition == "Is it a gas?"
    assert criterion.levels == ("1 of 5", "2 of 5", "3 of 5", "4 of 5", "5 of 5")
    (request,) = requests_of(of("biggen"), criteria.load("rubric"))
    assert "Is it a gas?\n1: 1 of 5\n2: 2 of 5" in request.questions[0]
    with pytest.raises(ValueError, match="the row has no rubric to judge by"):
        requests_of(of("instructions"), criteria.load("rubric"))


# What the names of files say ----------------------------------------------------------------------

LLMBAR = {
    "Dataset/LLMBar/Adversarial/GPTInst/dataset.json": "adversarial-GPTInst",
    "LLMBar__Adversarial__GPTInst.json": "adversarial-GPTInst",
    "folder/LLMBar__Adversarial__Neighbor.jsonl.gz": "adversarial-Neighbor",
    "hf://datasets/o/n@main/LLMBar/Adversarial/Manual/dataset.json": "adversarial-Manual",
    "Dataset/LLMBar/Natural/dataset.json": "natural",
    "LLMBar__Natural.json": "natural",
    "Dataset/Processed/MT-Bench/dataset.json": "mt-bench",
    "mine.parquet": "mine",
}


def test_judge_bench_has_four_categories():
    for source, category in {
        "mmlu-pro-computer science": "knowledge",
        "livebench-reasoning": "reasoning",
        "livebench-math": "math",
        "livecodebench": "coding",
    }.items():
        assert of("judge_bench", source=source).about["subset"] == category


@pytest.mark.parametrize(
    ("name", "path", "expected"),
    [
        *(("llmbar", path, {"subset": subset}) for path, subset in LLMBAR.items()),
        *(("rm_bench", f"data/{d}_filtered.json", {"domain": d}) for d in RM_BENCH_DOMAINS),
        *(("rm_bench", f"{path}.json", {}) for path in ("total_dataset", "x/subchat_filtered")),
        *(("reward_bench", f"data/{s}-00000-of-00001.parquet", {"subset": s}) for s in PRIOR_SETS),
        *(("reward_bench", f"{s}.jsonl.gz", {"subset": s}) for s in PRIOR_SETS),
        *(("reward_bench", p, {}) for p in ("data/filtered-0-of-1.parquet", "my_shp.jsonl")),
        ("reward_bench", "shp/rows.jsonl", {}),
    ],
)
def test_names_of_files_say_what_their_rows_lack(name, path, expected):
    assert FORMATS[name].of_path(path) == expected


def test_rows_name_what_their_file_does_not(tmp_path):
    row = ROWS["rm_bench"]
    named = FORMATS["rm_bench"].group({**row, "domain": "safety-response"})
    assert named.about["domain"] == "safety-response"
    path = write(tmp_path, [row], "mine.json")
    with pytest.raises(DataError, match="row 1, field 'domain': is missing"):
        list(corpora.read(f"rm_bench:{path}"))


def test_prior_sets_may_be_messages(tmp_path):
    prompt = talk("Hi", "Yes?", "Name a gas.")
    row = {"prompt": prompt, "chosen": "Neon.", "rejected": "Tin.", "subset": "hh", "id": 4}
    path = write(tmp_path, [row], "data/anthropic_helpful-00000-of-00001.jsonl")
    (group,) = corpora.read(f"reward_bench:{path}")
    assert group.prompt == tuple(prompt)
    assert (group.strength, group.about) == (-1, {"subset": "anthropic_helpful", "id": 4})


# Real files ---------------------------------------------------------------------------------------

REAL = {
    "reward_bench:reward_bench/filtered_first500.jsonl": {
        **BENCHMARKS["reward_bench"].sections["Chat"],
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 5,
    },
    "llmbar:llmbar/*.json": {
        "natural": 100,
        "mt-bench": 200,
        **BENCHMARKS["llmbar"].sections["Adversarial"],
    },
    "rm_bench:rm_bench/*.json": {"chat": 129, "safety-refuse": 284},
    "summeval:summeval/summeval.jsonl": {"": 1600},
}


@pytest.mark.parametrize("spec", REAL)
def test_real_files_have_the_published_counts(spec, real_data):
    name, _, path = spec.partition(":")
    record = Record()
    found = collections.Counter()
    for group in corpora.read(f"{name}:{real_data}/{path}", record=record):
        place = group.about.get("domain") or group.about.get("subset", "")
        found[place] += 16 if len(group.responses) == 16 else 1
    assert found == REAL[spec]
    assert record.rows == sum(REAL[spec].values())


def test_real_chat_hard_is_what_llmbar_published(real_data):
    """RewardBench took LLMBar's natural set, so both must prefer the same texts."""
    preferred = set()
    for group in corpora.read(f"llmbar:{real_data}/llmbar/LLMBar__Natural.json"):
        (pair,), _ = pairs(group)
        preferred.add((group.responses[pair.chosen], group.responses[pair.rejected]))
    groups = corpora.read(f"reward_bench:{real_data}/reward_bench/filtered_first500.jsonl")
    natural = [group for group in groups if group.about["subset"] == "llmbar-natural"]
    agree = sum(group.responses in preferred for group in natural)
    against = sum(group.responses[::-1] in preferred for group in natural)
    assert (len(natural), agree, against) == (100, 100, 0)


def test_real_votes(real_data):
    record = Record()
    path = real_data / "pandalm" / "testset-v1.json"
    groups = list(corpora.read(f"pandalm:{path}", on_error="skip", record=record))
    assert record.rows == 999
    # Empty responses, and some that are the truth value true.
    assert record.skipped == {"empty text": 55, "wrong type": 6}
    votes = collections.Counter(group.strength for group in groups)
    assert votes == {1.0: 441, -1.0: 394, 0.0: 103}
