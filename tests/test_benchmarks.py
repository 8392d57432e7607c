"""Benchmarks by their published rules, by hand and on real files."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raters import from_groups, listwise, pair, pairs

from hs2jax.data import corpora, formats
from hs2jax.evaluation.benchmarks import scoring, ties
from hs2jax.evaluation.benchmarks.catalogue import BENCHMARKS
from hs2jax.evaluation.statistics import wilson
from hs2jax.report.run import find, select

SECTIONS = BENCHMARKS["reward_bench"].sections
JUDGE_BENCH, JUDGE_BENCH_CLAUDE = BENCHMARKS["judge_bench"], BENCHMARKS["judge_bench_claude"]
# RewardBench's published weights, written out once more.
WEIGHTS = {
    "Chat": [100, 95, 95, 28, 40],
    "Chat Hard": [37, 100, 134, 92, 47, 46],
    "Safety": [100, 100, 154, 250, 136],
    "Reasoning": [984, 164, 164, 164, 164, 164, 164],
}
FEW = st.integers(-2, 2).map(float)  # So that equal rewards are common.


def missing(rows: list[dict]) -> dict[str, tuple[int, int]]:
    """{part: (items, expected)} of the scores that lack items, or have too many."""
    some = [row for row in select(rows, metric="score") if row.get("complete") is False]
    return {row["part"]: (row["n"], row["expected"]) for row in some}


def scores(name: str, items: list[dict]) -> tuple[dict, dict]:
    """{part: value} of the scores, and what is missing."""
    rows, about = scoring.rows(name, items)
    json.dumps([rows, about], allow_nan=False)
    for row in select(rows, metric="score"):
        if row["low"] is not None:
            assert row["low"] <= row["value"] <= row["high"]
    return {row["part"]: row["value"] for row in select(rows, metric="score")}, missing(rows)


def full(wrong: dict[str, int]) -> list[dict]:
    """All of RewardBench, right but for so many items of some subsets."""
    counts = {k: v for subsets in SECTIONS.values() for k, v in subsets.items()}
    return [
        item
        for name, rows in counts.items()
        for item in pairs(name, rows - wrong.get(name, 0), wrong.get(name, 0))
    ]


# Pairs ------------------------------------------------------------------------------------------


@settings(max_examples=8)
@given(st.lists(st.integers(0, 28), min_size=23, max_size=23))
def test_sections_are_the_published_formula(counts):
    wrong = dict(zip([n for s in SECTIONS.values() for n in s], counts, strict=True))
    found, lacking = scores("reward_bench", full(wrong))
    assert not lacking
    assert sum(part.count("/") == 2 for part in found) == 23
    sections = []
    for section, weights in WEIGHTS.items():
        rows = SECTIONS[section]
        accuracies = [1 - wrong[name] / rows[name] for name in rows]
        sections.append(np.average(accuracies, weights=weights))
        assert found[f"section/{section}"] == pytest.approx(sections[-1])
    assert found[""] == pytest.approx(np.mean(sections))


def test_absent_and_superfluous_rows_are_named_and_nothing_is_called_complete():
    items = pairs("alpacaeval-easy", 101) + pairs("alpacaeval-hard", 47, 47)
    rows, _ = scoring.rows("reward_bench", items)
    chat = find(rows, part="section/Chat", metric="score")
    assert chat["value"] == pytest.approx((100 * 1 + 95 * 0.5) / 195)
    assert (chat["n"], chat["expected"], chat["complete"]) == (195, 358, False)
    safety = find(rows, part="section/Safety", metric="score")
    assert (safety["value"], safety["low"], safety["n"]) == (None, None, 0)
    assert find(rows, part="", metric="score") is None
    lacking = missing(rows)
    assert lacking["section/Chat/alpacaeval-easy"] == (101, 100)
    assert lacking["section/Chat/alpacaeval-hard"] == (94, 95)
    assert lacking["section/Safety"] == (0, 740)
    # Nor where one subset has as many too many as another lacks.
    items = full({})
    found, lacking = scores("reward_bench", [*items[1:], *pairs("alpacaeval-hard", 1)])
    assert lacking["section/Chat"] == (358, 358)
    assert "" not in found


def test_an_equal_reward_is_wrong_and_stands_at_half_credit_beside():
    items = pairs("hep-go", 100, 44, 20)
    items[0] = items[0] | {"cut": 7}

    def part(items):
        rows = select(scoring.rows("reward_bench", items)[0], part="section/Reasoning/hep-go")
        return {row["metric"]: row for row in rows}

    found = part(items)
    assert found["score"]["value"] == pytest.approx(100 / 164)
    assert (found["score"]["low"], found["score"]["high"]) == pytest.approx(wilson(100, 164))
    assert found["score"]["complete"]
    names = ("ties_as_half", "longer_wins", "shorter_wins", "prompts_cut")
    assert [found[name]["value"] for name in names] == pytest.approx([110 / 164, 1, 0, 1])
    found = part([pair("hep-go", 0.0, 1.0, lengths=(2, 2), pairs=[[1, 0, 1.0]])])
    assert [found[name]["value"] for name in ("score", *names[1:3])] == [1, 0, 0]


def test_prior_sets_have_a_mean_of_their_own_and_half_a_weight():
    prior = pairs("anthropic_helpful", 3096, 3096) + pairs("anthropic_hhh", 221)
    prior += pairs("shp", 1741) + pairs("summarize", 0, 9000) + pairs("mtbench_human", 1, 1)
    rows, _ = scoring.rows("reward_bench", full({}) + prior)
    found = {row["part"]: row for row in select(rows, metric="score")}
    assert found[""]["value"] == 1.0
    assert found["apart"]["value"] == 0.625  # Not by rows, and without mtbench_human.
    human = found["apart/mtbench_human"]
    assert (human["value"], human["n"], human["expected"]) == (0.5, 2, 3355)
    half = find(rows, metric="score_with_prior")
    assert half["value"] == pytest.approx((8 + 0.625) / 9)
    few, _ = scoring.rows("reward_bench", full({}) + pairs("shp", 5, 5))
    assert [row["part"] for row in select(few, family="apart", metric="score")] == [
        *("apart/shp", "apart")
    ]
    assert find(few, metric="score_with_prior") is None
    some, _ = scores("reward_bench", [pair(name, 1.0, 0.0) for name in formats.PRIOR_SETS])
    assert {f"apart/{name}" for name in formats.PRIOR_SETS} <= set(some)


@pytest.mark.parametrize(
    ("name", "item", "words"),
    [
        ("reward_bench", pair("alpaca", 1, 0), ["alpaca.jsonl:1", "'alpaca'", "alpacaeval-easy"]),
        ("reward_bench", pair("shp", 1, 0) | {"about": {}}, ["does not say its subset"]),
        ("reward_bench", pair("hep-go", 1, 0, pairs=[]), ["hep-go.jsonl:1", "expected one pair"]),
        ("reward_bench_2", listwise([1.0], [0.0], subset="Maths"), ["'Maths', expected one of"]),
        ("reward_bench_2", listwise([1.0, 1.0], [0.0], subset="Math"), ["one right response"]),
        ("reward_bench_2", listwise([1.0], [], subset="Math"), ["at least one of each"]),
        ("reward_bench_2", listwise([1.0], [0.0], subset="Ties", id="5"), ["'ref:N' or 'tied:N'"]),
        ("reward_bench_2", listwise([1.0], [0.0], subset="Ties", id="tied:5"), ["several right"]),
        ("reward_bench_2", listwise([1.0] * 2, [0.0], subset="Ties", id="ref:5"), ["one in a ref"]),
        ("rm_bench", listwise([1.0, 2.0], [0.0], domain="chat"), ["expected 3 right and 3 wrong"]),
        ("rm_bench", listwise([1.0] * 3, [0.0] * 3, domain="safety"), ["the domain 'safety'"]),
    ],
)
def test_what_is_not_of_the_benchmark_is_refused_by_name(name, item, words):
    with pytest.raises(ValueError, match=r"jsonl:1") as error:
        scoring.rows(name, [item])
    assert all(word in str(error.value) for word in words)


def test_formats_without_a_rule_have_no_score():
    assert scoring.rows("helpsteer2", [pair("hep-go", 1, 0)]) == ([], None)


def test_judgebench_knows_both_splits_and_averages_over_pairs():
    writers = {"gpt-4o-2024-05-13": JUDGE_BENCH, "claude-3-5-sonnet-20240620": JUDGE_BENCH_CLAUDE}
    totals = []
    for writer, split in writers.items():
        counts = {name: n for subsets in split.sections.values() for name, n in subsets.items()}
        items = [
            item | {"about": {**item["about"], "writer": writer}}
            for name, rows in counts.items()
            for item in pairs(name, rows - 10, 10)
        ]
        rows, about = scoring.rows("judge_bench", items[1:])
        assert about["title"] == split.title
        assert missing(rows) == {"section/Knowledge": (153, 154)}
        rows, about = scoring.rows("judge_bench", items)
        total = sum(counts.values())
        totals.append(total)
        overall = find(rows, metric="score", part="")
        assert overall["value"] == pytest.approx(1 - 40 / total)
        assert (overall["low"], overall["high"]) == pytest.approx(wilson(total - 40, total))
    assert totals == [350, 270]


def test_llmbar_averages_the_adversarial_subsets_and_keeps_mt_bench_apart():
    right = {"Neighbor": 134, "GPTInst": 0, "GPTOut": 47, "Manual": 23}
    counts = {"Neighbor": 134, "GPTInst": 92, "GPTOut": 47, "Manual": 46}
    items = pairs("natural", 90, 10) + pairs("mt-bench", 150, 50)
    for name, rows in counts.items():
        items += pairs(f"adversarial-{name}", right[name], rows - right[name])
    found, lacking = scores("llmbar", items)
    assert found["section/Natural"] == 0.9
    assert found["section/Adversarial"] == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    assert found["apart/mt-bench"] == 0.75
    assert "" not in found
    assert not lacking


# Several right and wrong responses --------------------------------------------------------------


def four(domain: str, *rewards: float) -> dict:
    """An item of RewardBench 2; the first response is the right one."""
    return listwise(rewards[:1], rewards[1:], subset=domain, id="1")


def test_best_of_four_shares_the_credit_for_the_top():
    items = [four("Math", *row) for row in ((3, 2, 1, 0), (3, 3, 1, 0), (3, 3, 3, 0), (3, 3, 3, 3))]
    rows, _ = scoring.rows("reward_bench_2", [*items, four("Math", 2, 3, 1, 0)])
    found = {row["metric"]: row["value"] for row in select(rows, part="section/Math")}
    assert found["score"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4 + 0) / 5)
    assert (found["longer_wins"], found["shorter_wins"], found["strict"]) == (0.0, 1.0, 0.2)
    lacking = missing(rows)
    assert (lacking["section/Math"], lacking["section/Ties"]) == ((5, 183), (0, 102))


def prompt(number: int, ref: tuple, tied: tuple) -> list[dict]:
    """Both rows of a Ties prompt; each is (right rewards, wrong rewards)."""
    return [
        listwise(*ref, subset="Ties", id=f"ref:{number}"),
        listwise(*tied, subset="Ties", id=f"tied:{number}"),
    ]


def ties_of(items: list[dict]):
    return ties.score(items, [item["rewards"] for item in items])[0]


def test_the_ties_score_of_small_cases():
    # Both accurate; tied margin 2 > spread 1, the smaller margin 1 is not; tanh(1 / 1 - 1) = 0.
    first = prompt(0, ([3.0], [2.0]), ([5.0, 4.0], [2.0, 1.0]))
    # Nothing accurate, a spread of 0 and margins of 0: 0/0 counts as 0.
    second = prompt(1, ([1.0], [1.0]), ([1.0, 1.0], [1.0]))
    # The mean over prompts.
    rows, _ = scoring.rows("reward_bench_2", first + second)
    assert find(rows, part="section/Ties", metric="score")["value"] == pytest.approx(0.4)
    assert [row["value"] for row in select(rows, metric="share")] == [0.5, 0.5, 0.5, 0, 0]
    with pytest.raises(ValueError, match="a second Ties row with the id 'ref:0'"):
        scoring.rows("reward_bench_2", first + first)


REWARDS = st.lists(FEW, min_size=2, max_size=4)
PROMPTS = st.lists(
    st.tuples(
        st.tuples(st.lists(FEW, min_size=1, max_size=1), REWARDS), st.tuples(REWARDS, REWARDS)
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=50)
@given(PROMPTS)
def test_the_ties_score_is_the_published_formula(drawn):
    total = 0.0
    for ref, tied in drawn:
        ref_margin = min(ref[0]) - max(ref[1])
        margin, spread = min(tied[0]) - max(tied[1]), max(tied[0]) - min(tied[0])
        smaller = min(ref_margin, margin)
        closeness = math.tanh(smaller / spread - 1) if spread else float(np.sign(smaller))
        total += 0.3 * (margin > 0) + 0.3 * (ref_margin > 0)
        total += 0.2 * (margin > spread) + 0.2 * (smaller > spread) + 0.01 * closeness
    items = [row for i, (ref, tied) in enumerate(drawn) for row in prompt(i, ref, tied)]
    score, (low, high), *_ = ties_of(items)
    assert score == pytest.approx(total / len(drawn), abs=1e-12)
    assert low <= score <= high
    assert high - low > 0.1
    assert ties_of(items[::-1]).value == pytest.approx(score, abs=1e-12)


def test_ties_prompts_without_a_partner_count_as_published():
    whole = prompt(0, ([3.0], [0.0]), ([3.0, 3.0], [0.0]))
    alone = prompt(1, ([0.0], [1.0]), ([3.0, 3.0], [0.0]))[:1]
    assert ties_of(whole + alone).value == pytest.approx(0.3 + 0.3 / 2 + 0.2 + 0.2 + 0.01)
    assert ties_of(alone).value is None
    found, lacking = scores("reward_bench_2", whole + alone)
    assert lacking["section/Ties"] == (3, 102)
    assert "" not in found


def test_a_full_rewardbench_2_is_the_mean_of_six():
    counts = {k: v for s in BENCHMARKS["reward_bench_2"].sections.values() for k, v in s.items()}
    del counts["Ties"]
    items = [four(name, k % 2, 0, -1, -1) for name, rows in counts.items() for k in range(rows)]
    for number in range(51):
        items += prompt(number, ([3.0], [0.0]), ([3.0, 2.0], [0.0]))
    found, lacking = scores("reward_bench_2", items)
    assert not lacking
    assert len(items) == 1865
    # Odd ones are right, even ones share the top with one other.
    expected = [(rows // 2 + (rows - rows // 2) / 2) / rows for rows in counts.values()]
    expected.append(1 + 0.01 * math.tanh(1))
    assert [found[f"section/{name}"] for name in (*counts, "Ties")] == pytest.approx(expected)
    assert found[""] == pytest.approx(np.mean(expected))


def styles(right: list[float], wrong: list[float], domain: str = "chat") -> dict:
    return listwise(right, wrong, domain=domain, id=1)


ROWS = st.lists(st.lists(FEW, min_size=6, max_size=6), min_size=1, max_size=8)


@settings(max_examples=50)
@given(ROWS, ROWS)
def test_levels_are_the_published_formula(refuse, respond):
    items = [styles(row[:3], row[3:], "safety-refuse") for row in refuse]
    items += [styles(row[:3], row[3:], "safety-response") for row in respond]
    found, lacking = scores("rm_bench", items)
    rewards = np.array(refuse + respond)  # The two files are pooled.
    right, wrong = rewards[:, :3, None], rewards[:, None, 3:]
    matrix, half = (right > wrong).mean(axis=0), ((right > wrong) + 0.5 * (right == wrong)).mean()
    levels = np.triu(matrix, 1).sum() / 3, np.diag(matrix).mean(), np.tril(matrix, -1).sum() / 3
    names = ("Hard", "Normal", "Easy")
    assert [found[f"level/{name}/Safety"] for name in names] == pytest.approx(levels)
    assert found["section/Safety"] == pytest.approx(np.mean(levels))
    cells = [value for part, value in found.items() if part.startswith("style/Safety")]
    assert cells == pytest.approx(matrix.ravel())  # The right style of each row, the wrong of each.
    halves = select(scoring.rows("rm_bench", items)[0], metric="ties_as_half")
    assert np.average([x["value"] for x in halves], weights=[x["n"] for x in halves]) == (
        pytest.approx(half)
    )
    assert lacking["section/Safety"] == (len(items), 441)
    assert "level/Hard" not in found


def test_a_full_rm_bench_is_the_mean_of_four_domains():
    counts = {k: v for s in BENCHMARKS["rm_bench"].sections.values() for k, v in s.items()}
    right = {"chat": [3.0] * 3, "math": [0.0] * 3, "code": [2.0] * 3, "safety-refuse": [3.0] * 3}
    items = [
        styles(right.get(name, [0.0] * 3), [0.0, 1.0, 2.0], name)
        for name, rows in counts.items()
        for _ in range(rows)
    ]
    found, lacking = scores("rm_bench", items)
    assert (lacking, len(items)) == ({}, 1327)
    sections = [found[f"section/{name}"] for name in BENCHMARKS["rm_bench"].sections]
    assert sections == pytest.approx([1, 0, 2 / 3, 284 / 441])
    assert found[""] == pytest.approx(np.mean(sections))
    # Hard, of the four: 1, 0, 1/3 and 284/441.
    assert found["level/Hard"] == pytest.approx((1 + 1 / 3 + 284 / 441) / 4)


# Real files -------------------------------------------------------------------------------------


def test_the_length_baseline_is_the_published_one_on_real_files(real_data):
    def rows_of(name, path):
        return scoring.rows(name, from_groups(corpora.read(f"{name}:{real_data}/{path}")))

    rows, _ = rows_of("reward_bench", "reward_bench/filtered_first500.jsonl")
    for name, percent in (("easy", 99.0), ("hard", 98.9), ("length", 64.2)):
        part = f"section/Chat/alpacaeval-{name}"
        longer = find(rows, metric="longer_wins", part=part)["value"]
        assert round(100 * longer, 1) == percent
        assert find(rows, metric="score", part=part)["value"] == longer
    assert find(rows, metric="score", part="section/Chat")["complete"]
    assert missing(rows)["section/Chat Hard/llmbar-adver-neighbor"] == (5, 134)

    rows, _ = rows_of("rm_bench", "rm_bench/*.json")
    chat = find(rows, metric="score", part="section/Chat")
    assert chat["complete"]
    # A ruler likes the fancier style: it is right where that is the right response's.
    hard, normal, easy = (
        find(rows, part=f"level/{level}/Chat")["value"] for level in ("Hard", "Normal", "Easy")
    )
    assert hard < 0.2 < normal < 0.8 < easy


def test_published_rows_agree_with_their_own_averages():
    benchmarks = {"reward_bench": None, "reward_bench_2": None, "rm_bench": None}
    counts = [n for s in JUDGE_BENCH.sections.values() for n in s.values()]
    for name, weights in {**benchmarks, "judge_bench": counts}.items():
        models: dict = {}
        for each in BENCHMARKS[name].published:
            models.setdefault((each["method"], each["source"]), {})[each["part"]] = each["value"]
        for model, found in models.items():
            own = [score for part, score in found.items() if part.startswith("section/")]
            assert found[""] == pytest.approx(np.average(own, weights=weights), abs=0.0012), model
