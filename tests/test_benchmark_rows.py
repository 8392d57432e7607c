"""The rows of each benchmark in the form that its publishers gave them, and what is wrong in them.

The rows here were written for the tests.
"""

import collections
import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hs2jax.data import corpora, formats, whole_rows
from hs2jax.data.formats import FORMATS
from hs2jax.data.groups import DataError, FieldError, Group, Pair, pairs
from hs2jax.data.record import Record

# Of each format: the file's name, and a row of it.
ROWS = {
    "reward_bench": (
        "data/filtered.jsonl",
        """{"prompt": "Name a gas.", "chosen": "Helium.", "chosen_model": "large",
        "rejected": "Iron.", "rejected_model": "small", "subset": "hep-go", "id": 30}""",
    ),
    "reward_bench_2": (
        "data/test-00000-of-00001.jsonl",
        """{"id": "tied:12", "prompt": "Name a colour.", "chosen": ["Red.", "Blue."],
        "rejected": ["Two.", "Cat.", "Loud."], "num_correct": 2, "num_incorrect": 3,
        "total_completions": 5, "models": ["human", "human", "human", "human", "human"],
        "subset": "Ties", "additional_metadata": {"category": null, "index": 7.0}}""",
    ),
    "rm_bench": (
        "data/math_filtered.json",
        """{"id": 8, "prompt": "What is 2 + 2?", "subset": "gsm8k", "error": "a wrong sum",
        "chosen": ["4", "It is 4, two more than 2.", "**4**, two more than 2"],
        "rejected": ["5", "It is 5, three more than 2.", "**5**, three more than 2"]}""",
    ),
    "judge_bench": (
        "data/dataset=judgebench,response_model=gpt-4o-2024-05-13.jsonl",
        """{"pair_id": "81ec57f2-483f", "original_id": "10646", "source": "mmlu-pro-law",
        "question": "Which is a tort?", "response_model": "gpt-4o-2024-05-13",
        "response_A": "Theft.", "response_B": "Negligence.", "label": "B>A"}""",
    ),
    "llmbar": (
        "Dataset/LLMBar/Adversarial/GPTInst/dataset.json",
        """{"input": "Say hello.", "output_1": "Hello.", "output_2": "Goodbye.", "label": 1}""",
    ),
    "pandalm": (
        "data/testset-v1.json",
        """{"idx": 3, "motivation_app": "Maps", "cmp_key": "bloom-7b_llama-7b",
        "instruction": "Shorten the text.", "input": "It is very cold.", "response1": "Cold.",
        "response2": "Hot.", "annotator1": 1, "annotator2": 1, "annotator3": 2}""",
    ),
}
ROWS = {format_: (name, json.loads(row)) for format_, (name, row) in ROWS.items()}
# Fields that a format does not read, or does not need.
UNREAD = {
    "reward_bench": {"chosen_model", "rejected_model", "id"},
    "reward_bench_2": {
        *("num_correct", "num_incorrect", "total_completions", "models", "additional_metadata"),
    },
    "rm_bench": {"id", "subset", "error"},
    "judge_bench": {"pair_id", "original_id", "response_model"},
    "llmbar": set(),
    "pandalm": {"idx", "motivation_app", "input"},
}


def of(format_, **fields):
    """The group of a row, with some fields changed."""
    name, row = ROWS[format_]
    read = FORMATS[format_]
    return read.group({**row, **fields, **read.of_path(name)})


def write(folder, name, rows):
    """A file of rows in the form that its name says."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    as_list = json.dumps(rows)
    path.write_text(
        as_list if name.endswith(".json") else "".join(json.dumps(r) + "\n" for r in rows)
    )
    return path


def user(content):
    return ({"role": "user", "content": content},)


def test_what_becomes_of_each_row():
    assert of("reward_bench") == Group(
        user("Name a gas."),
        ("Helium.", "Iron."),
        strength=-1.0,
        about={"subset": "hep-go", "id": 30},
    )
    assert of("reward_bench_2") == Group(
        user("Name a colour."),
        ("Red.", "Blue.", "Two.", "Cat.", "Loud."),
        ratings=({"correct": 1.0},) * 2 + ({"correct": 0.0},) * 3,
        about={"subset": "Ties", "id": "tied:12"},
    )
    rm_bench = ROWS["rm_bench"][1]
    assert of("rm_bench") == Group(
        user("What is 2 + 2?"),
        (*rm_bench["chosen"], *rm_bench["rejected"]),
        ratings=({"correct": 1.0},) * 3 + ({"correct": 0.0},) * 3,
        about={"domain": "math", "id": 8},
    )
    assert of("judge_bench") == Group(
        user("Which is a tort?"),
        ("Theft.", "Negligence."),
        strength=1.0,
        about={"subset": "knowledge", "id": "81ec57f2-483f", "writer": "gpt-4o-2024-05-13"},
    )
    assert of("llmbar") == Group(
        user("Say hello."),
        ("Hello.", "Goodbye."),
        strength=-1.0,
        about={"subset": "adversarial-GPTInst"},
    )
    assert of("pandalm") == Group(
        user("Shorten the text.\n\nIt is very cold."),
        ("Cold.", "Hot."),
        strength=-1.0,
        about={"subset": "bloom-7b_llama-7b", "id": 3},
    )


def test_labels_say_which_is_better():
    for format_, labels in {"llmbar": (1, 2), "judge_bench": ("A>B", "B>A")}.items():
        first, second = (pairs(of(format_, label=label)) for label in labels)
        assert (first, second) == (([Pair(0, 1, 1.0)], 0), ([Pair(1, 0, 1.0)], 0))


def test_every_right_response_beats_every_wrong_one_and_no_other():
    found, _ = pairs(of("reward_bench_2"), derive="correct")
    assert {pair[:2] for pair in found} == {(i, j) for i in range(2) for j in range(2, 5)}


@given(st.lists(st.integers(0, 2), min_size=3, max_size=3))
def test_two_of_three_votes_decide(votes):
    group = of("pandalm", **{f"annotator{i}": vote for i, vote in enumerate(votes, 1)})
    (most, count), *_ = collections.Counter(votes).most_common()
    assert group.strength == {0: 0, 1: -1, 2: 1}[most if count > 1 else 0]


@pytest.mark.parametrize("nothing", ["", " \n"])
def test_an_instruction_may_have_no_input(nothing):
    assert of("pandalm", input=nothing).prompt == user("Shorten the text.")


@pytest.mark.parametrize(
    ("source", "category"),
    [
        ("mmlu-pro-computer science", "knowledge"),
        ("livebench-reasoning", "reasoning"),
        ("livebench-math", "math"),
        ("livecodebench", "coding"),
    ],
)
def test_judge_bench_has_four_categories(source, category):
    assert of("judge_bench", source=source).about["subset"] == category


@pytest.mark.parametrize(
    ("path", "subset"),
    [
        ("Dataset/LLMBar/Adversarial/GPTInst/dataset.json", "adversarial-GPTInst"),
        ("LLMBar__Adversarial__GPTInst.json", "adversarial-GPTInst"),
        ("folder/LLMBar__Adversarial__Neighbor.jsonl.gz", "adversarial-Neighbor"),
        ("hf://datasets/o/n@main/LLMBar/Adversarial/Manual/dataset.json", "adversarial-Manual"),
        ("Dataset/LLMBar/Natural/dataset.json", "natural"),
        ("LLMBar__Natural.json", "natural"),
        ("Dataset/Processed/MT-Bench/dataset.json", "mt-bench"),
        ("Processed__MT-Bench.json", "mt-bench"),
        ("mine.parquet", "mine"),
    ],
)
def test_llmbar_subsets_are_named_by_files(path, subset):
    assert formats.llmbar_file(path) == {"subset": subset}


def test_rm_bench_domains_are_named_by_files_or_rows():
    for domain in whole_rows.RM_BENCH_DOMAINS:
        assert whole_rows.rm_bench_file(f"data/{domain}_filtered.json") == {"domain": domain}
    for path in ("total_dataset.json", "data/subchat_filtered.json", "chat_filtered/all.json"):
        assert whole_rows.rm_bench_file(path) == {}
    row = {**ROWS["rm_bench"][1], "domain": "safety-response"}
    assert FORMATS["rm_bench"].group(row).about["domain"] == "safety-response"


def test_prior_sets_are_named_by_files_and_may_be_messages(tmp_path):
    prompt = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Name a gas."},
    ]
    row = {"prompt": prompt, "chosen": "Neon.", "rejected": "Tin.", "subset": "hh", "id": 4}
    path = write(tmp_path, "data/anthropic_helpful-00000-of-00001.jsonl", [row])
    (group,) = corpora.read(f"reward_bench:{path}")
    assert group.prompt == tuple(prompt)
    assert (group.strength, group.about) == (-1, {"subset": "anthropic_helpful", "id": 4})
    for name in whole_rows.PRIOR_SETS:
        for path in (f"data/{name}-00000-of-00001.parquet", f"{name}.jsonl.gz"):
            assert whole_rows.reward_bench_file(path) == {"subset": name}
    for path in ("data/filtered-00000-of-00001.parquet", "my_shp.jsonl", "shp/rows.jsonl"):
        assert whole_rows.reward_bench_file(path) == {}


def test_a_strength_that_reward_bench_does_not_know_is_not_read():
    assert of("reward_bench", strength=3).strength == -1


MALFORMED = [
    ("reward_bench", {"id": 2.5}, "id"),
    ("reward_bench", {"id": ""}, "id"),
    ("reward_bench", {"id": True}, "id"),
    ("reward_bench", {"id": 10**400}, "id"),
    ("reward_bench", {"subset": " "}, "subset"),
    ("reward_bench", {"prompt": [{"role": "tool", "content": "x"}]}, "prompt[0].role"),
    ("reward_bench_2", {"chosen": "Red."}, "chosen"),
    ("reward_bench_2", {"chosen": []}, "chosen"),
    ("reward_bench_2", {"rejected": ["Two.", " ", "Loud."]}, "rejected[1]"),
    ("reward_bench_2", {"num_correct": 1}, "num_correct"),
    ("reward_bench_2", {"num_incorrect": 2}, "num_incorrect"),
    ("reward_bench_2", {"total_completions": 4}, "total_completions"),
    ("reward_bench_2", {"total_completions": "5"}, "total_completions"),
    ("reward_bench_2", {"id": "12"}, "id"),
    ("reward_bench_2", {"id": "tied:x"}, "id"),
    ("reward_bench_2", {"id": 12}, "id"),
    ("rm_bench", {"chosen": ["4", "4"]}, "chosen"),
    ("rm_bench", {"rejected": ["5", "5", None]}, "rejected[2]"),
    ("judge_bench", {"source": "gsm8k"}, "source"),
    ("judge_bench", {"label": "A=B"}, "label"),
    ("judge_bench", {"label": ["A>B"]}, "label"),
    ("judge_bench", {"response_model": 4}, "response_model"),
    ("judge_bench", {"response_B": ""}, "response_B"),
    ("llmbar", {"label": 0}, "label"),
    ("llmbar", {"label": "1"}, "label"),
    ("llmbar", {"label": True}, "label"),
    ("llmbar", {"output_2": None}, "output_2"),
    ("pandalm", {"annotator2": 3}, "annotator2"),
    ("pandalm", {"annotator3": None}, "annotator3"),
    ("pandalm", {"response1": True}, "response1"),  # Found in the published file.
    ("pandalm", {"input": 3}, "input"),
]


@pytest.mark.parametrize(("format_", "fields", "field"), MALFORMED)
def test_a_malformed_row_is_named_or_skipped_and_counted(format_, fields, field, tmp_path):
    name, good = ROWS[format_]
    path, record = write(tmp_path, name, [good, {**good, **fields}]), Record()
    with pytest.raises(DataError) as raised:
        list(corpora.read(f"{format_}:{path}"))
    assert (raised.value.line, raised.value.field) == (2, field)
    counted = "row" if name.endswith(".json") else "line"
    assert f"{path}, {counted} 2, field '{field}'" in str(raised.value)
    (group,) = corpora.read(f"{format_}:{path}", on_error="skip", record=record)
    assert group.source == f"{path}:1"
    assert (record.rows, record.skipped) == (2, {raised.value.reason: 1})


@pytest.mark.parametrize("format_", ROWS)
def test_an_absent_field_is_named(format_):
    name, row = ROWS[format_]
    read = FORMATS[format_]
    for field in row:
        rest = {key: value for key, value in row.items() if key != field} | read.of_path(name)
        if field in UNREAD[format_]:
            assert read.group(rest).responses == of(format_).responses
        else:
            with pytest.raises(FieldError, match=f"^{field}: is missing"):
                read.group(rest)


def test_a_row_that_no_file_name_places_is_refused(tmp_path):
    path = write(tmp_path, "mine.json", [ROWS["rm_bench"][1]])
    with pytest.raises(DataError, match="row 1, field 'domain': is missing"):
        list(corpora.read(f"rm_bench:{path}"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(st.data())
def test_any_json_is_a_group_or_an_error_that_names_its_field(tmp_path_factory, data):
    format_ = data.draw(st.sampled_from(list(ROWS)))
    name, good = ROWS[format_]
    row = copy.deepcopy(good)
    field = data.draw(st.sampled_from(list(row)))
    place = row[field] if isinstance(row[field], list) and data.draw(st.booleans()) else None
    if place:
        place[data.draw(st.integers(0, len(place) - 1))] = data.draw(JSON)
    else:
        row[field] = data.draw(JSON)
    path = write(tmp_path_factory.getbasetemp(), f"any/{format_}/{name}", [good, row])
    read = corpora.read(f"{format_}:{path}")
    next(read)
    try:
        group, error = next(read), None
    except DataError as raised:
        group, error = None, raised
    if error is None:
        json.dumps(group.about)
        assert all(text.strip() for text in group.responses)
    else:
        # A list of another length does not agree with the counts.
        named = {field}
        if field in ("chosen", "rejected"):
            named |= {"num_correct", "num_incorrect", "total_completions"}
        assert (error.file, error.line) == (str(path), 2)
        assert error.field.split("[")[0].split(".")[0] in named


def test_what_is_said_about_a_group_is_texts_and_integers():
    for about in ([], {"id": None}, {"id": 1.5}, {"id": True}, {"": 1}, {3: "x"}, {"id": "\ud800"}):
        with pytest.raises(FieldError):
            Group(user("Hi"), ("Hello.",), about=about)


REAL = {
    "reward_bench:reward_bench/filtered_first500.jsonl": {
        "alpacaeval-easy": 100,
        "alpacaeval-hard": 95,
        "alpacaeval-length": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 5,
    },
    "llmbar:llmbar/*.json": {
        "natural": 100,
        "adversarial-GPTInst": 92,
        "adversarial-GPTOut": 47,
        "adversarial-Manual": 46,
        "adversarial-Neighbor": 134,
        "mt-bench": 200,
    },
    "rm_bench:rm_bench/*.json": {"chat": 129, "safety-refuse": 284},
}


@pytest.mark.parametrize("spec", REAL)
def test_real_files_have_the_published_counts(spec, real_data):
    format_, _, path = spec.partition(":")
    record = Record()
    groups = list(corpora.read(f"{format_}:{real_data}/{path}", record=record))
    places = [group.about.get("domain") or group.about["subset"] for group in groups]
    assert collections.Counter(places) == REAL[spec]
    assert record.groups == record.rows == sum(REAL[spec].values())


def test_real_chat_hard_is_what_llmbar_published(real_data):
    """RewardBench took LLMBar's natural set, so both must prefer the same texts."""
    folder = real_data / "llmbar"
    preferred = {}
    for group in corpora.read(f"llmbar:{folder}/LLMBar__Natural.json"):
        (pair,), _ = pairs(group)
        preferred[group.responses[pair.chosen], group.responses[pair.rejected]] = group
    rows = corpora.read(f"reward_bench:{real_data}/reward_bench/filtered_first500.jsonl")
    natural = [group for group in rows if group.about["subset"] == "llmbar-natural"]
    agree = sum(group.responses in preferred for group in natural)
    against = sum(group.responses[::-1] in preferred for group in natural)
    assert len(natural) == 100
    assert (agree, against) == (100, 0)


def test_real_votes(real_data):
    record = Record()
    path = real_data / "pandalm" / "testset-v1.json"
    groups = list(corpora.read(f"pandalm:{path}", on_error="skip", record=record))
    assert record.rows == 999
    # Empty responses, and some that are the truth value true.
    assert record.skipped == {"empty text": 55, "wrong type": 6}
    votes = collections.Counter(group.strength for group in groups)
    assert votes == {1.0: 441, -1.0: 394, 0.0: 103}
