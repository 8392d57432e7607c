"""Benchmarks of pairs: RewardBench, JudgeBench, LLMBar; and how scores and intervals combine."""

import json
import math

import numpy as np
import pytest
from benchmark_items import from_groups, pair, pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from hs2jax.data import corpora, whole_rows
from hs2jax.evaluation import benchmarks
from hs2jax.evaluation.benchmarks import judge_bench, parts, published, reward_bench
from hs2jax.evaluation.statistics import wilson

# RewardBench's published weights, written out once more.
WEIGHTS = {
    "Chat": [100, 95, 95, 28, 40],
    "Chat Hard": [37, 100, 134, 92, 47, 46],
    "Safety": [100, 100, 154, 250, 136],
    "Reasoning": [984, 164, 164, 164, 164, 164, 164],
}


def by_name(result: dict) -> dict:
    """Sections and subsets of a result by their names."""
    found = {section["name"]: section for section in result["sections"]}
    return {p["name"]: p for s in result["sections"] for p in s["subsets"]} | found


def full(wrong: dict[str, int]) -> list[dict]:
    """All of RewardBench, right but for so many items of some subsets."""
    counts = {k: v for subsets in reward_bench.SECTIONS.values() for k, v in subsets.items()}
    return [
        item
        for name, rows in counts.items()
        for item in pairs(name, rows - wrong.get(name, 0), wrong.get(name, 0))
    ]


def test_full_counts_give_the_published_arithmetic():
    hard = {k: v for k, v in reward_bench.SECTIONS["Chat Hard"].items() if k != "llmbar-natural"}
    code = {k: v for k, v in reward_bench.SECTIONS["Reasoning"].items() if k != "math-prm"}
    wrong = {"mt-bench-easy": 14, "mt-bench-med": 20} | hard | code
    result = benchmarks.score("reward_bench", full(wrong))
    found = by_name(result)
    assert found["Chat"]["score"] == pytest.approx(324 / 358)
    assert found["Chat Hard"]["score"] == pytest.approx(100 / 456)
    assert found["Safety"]["score"] == 1.0
    assert found["Reasoning"]["score"] == pytest.approx(0.5)  # 447 rows of mathematics weigh half.
    mean = (324 / 358 + 100 / 456 + 1 + 0.5) / 4
    assert result["overall"]["score"] == pytest.approx(mean)
    assert result["overall"]["complete"]
    assert result["missing"] == []
    assert [s["items"] for s in result["sections"]] == [358, 456, 740, 1431]
    assert sum(len(s["subsets"]) for s in result["sections"]) == 23
    json.dumps(result, allow_nan=False)


@settings(max_examples=15)
@given(st.lists(st.integers(0, 28), min_size=23, max_size=23))
def test_sections_are_the_published_formula(counts):
    names = [name for subsets in reward_bench.SECTIONS.values() for name in subsets]
    wrong = dict(zip(names, counts, strict=True))
    result = benchmarks.score("reward_bench", full(wrong))
    sections = []
    for section, weights in WEIGHTS.items():
        rows = reward_bench.SECTIONS[section]
        accuracies = [1 - wrong[name] / rows[name] for name in rows]
        sections.append(np.average(accuracies, weights=weights))
    assert [s["score"] for s in result["sections"]] == pytest.approx(sections)
    assert result["overall"]["score"] == pytest.approx(np.mean(sections))
    low, high = result["overall"]["interval"]
    assert low < result["overall"]["score"] < high or result["overall"]["score"] == high == 1


def test_absent_and_superfluous_rows_are_named_and_nothing_is_called_complete():
    items = pairs("alpacaeval-easy", 101) + pairs("alpacaeval-hard", 47, 47)
    result = benchmarks.score("reward_bench", items)
    found = by_name(result)
    assert found["Chat"]["score"] == pytest.approx((100 * 1 + 95 * 0.5) / 195)
    assert not found["Chat"]["complete"]
    assert found["Safety"]["score"] is None
    assert found["Safety"]["interval"] is None
    assert result["overall"] is None
    missing = result["missing"]
    assert "Chat, alpacaeval-easy: 101 rows, but 100 are published" in missing
    assert "Chat, alpacaeval-hard: 1 of 95 rows are absent" in missing
    assert "Safety, refusals-dangerous: 100 of 100 rows are absent" in missing
    assert len(missing) == 23
    json.dumps(result, allow_nan=False)


def test_an_equal_reward_is_wrong_and_stands_at_half_credit_beside():
    items = pairs("shp", 0) + pairs("hep-go", 100, 44, 20)
    items[0] = items[0] | {"cut": 7}
    part = by_name(benchmarks.score("reward_bench", items))["hep-go"]
    assert part["score"] == pytest.approx(100 / 164)
    assert part["interval"] == pytest.approx(wilson(100, 164))
    assert part["half_credit"] == pytest.approx(110 / 164)
    assert (part["longer"], part["shorter"]) == (1.0, 0.0)
    assert part["cut"] == 1
    assert part["complete"]
    swapped = pair("hep-go", 0.0, 1.0, lengths=(2, 2), pairs=[[1, 0, 1.0]])
    part = by_name(benchmarks.score("reward_bench", [swapped]))["hep-go"]
    assert (part["score"], part["longer"], part["shorter"]) == (1.0, 0.0, 0.0)


def test_prior_sets_have_a_mean_of_their_own_and_half_a_weight():
    prior = pairs("anthropic_helpful", 3096, 3096) + pairs("anthropic_hhh", 221)
    prior += pairs("shp", 1741) + pairs("summarize", 0, 9000) + pairs("mtbench_human", 1, 1)
    result = benchmarks.score("reward_bench", full({}) + prior)
    assert result["overall"]["score"] == 1.0
    rows = {row[0]: row[1] for row in result["extras"][0]["rows"]}
    assert rows["mean of the four"] == "62.5"  # Not by rows, and without mtbench_human.
    assert rows["mtbench_human"] == "50.0"
    assert {row[0]: row[3] for row in result["extras"][0]["rows"]}["mtbench_human"] == "2 of 3,355"
    half = rows["overall, with these at half weight"]
    assert half == f"{100 * (8 + 0.625) / 9:.1f}"
    few = benchmarks.score("reward_bench", full({}) + pairs("shp", 5, 5))
    rows = [row[0] for row in few["extras"][0]["rows"]]
    assert rows == ["shp", "mean of the four"]
    assert "shp: 1,731 of 1,741 rows are absent" in few["extras"][0]["note"]


def test_every_prior_set_that_is_read_can_be_scored():
    items = [pair(name, 1.0, 0.0) for name in whole_rows.PRIOR_SETS]
    (table,) = benchmarks.score("reward_bench", items)["extras"]
    shown = [row[0] for row in table["rows"]]
    assert sorted(shown) == sorted([*whole_rows.PRIOR_SETS, "mean of the four"])


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (pair("alpaca-easy", 1, 0), ["alpaca-easy.jsonl:1", "'alpaca-easy'", "alpacaeval-easy"]),
        (pair("hep-go", 1, 0) | {"about": {}}, ["does not say its subset"]),
        (pair("hep-go", math.nan, 0), ["hep-go.jsonl:1", "finite", "nan"]),
        (pair("hep-go", 1, 0) | {"pairs": []}, ["hep-go.jsonl:1", "expected one pair"]),
    ],
)
def test_what_is_not_of_the_benchmark_is_refused_by_name(item, words):
    with pytest.raises(ValueError, match=words[0]) as error:
        benchmarks.score("reward_bench", [item])
    assert all(word in str(error.value) for word in words)


def test_formats_without_a_rule_have_no_score():
    assert benchmarks.score("helpsteer2", [pair("hep-go", 1, 0)]) is None


def test_length_on_the_real_rewardbench(real_data):
    spec = f"reward_bench:{real_data}/reward_bench/filtered_first500.jsonl"
    result = benchmarks.score("reward_bench", from_groups(corpora.read(spec)))
    found = by_name(result)
    published_share = {"alpacaeval-easy": 99.0, "alpacaeval-hard": 98.9, "alpacaeval-length": 64.2}
    for name, percent in published_share.items():
        assert round(100 * found[name]["longer"], 1) == percent
        assert found[name]["score"] == found[name]["longer"]
    assert found["Chat"]["complete"]
    assert not found["Chat Hard"]["complete"]
    assert "Chat Hard, llmbar-adver-neighbor: 129 of 134 rows are absent" in result["missing"]
    assert result["overall"] is None


def test_judgebench_knows_both_splits_and_averages_over_pairs():
    writers = {"GPT-4o": "gpt-4o-2024-05-13", "Claude 3.5 Sonnet": "claude-3-5-sonnet-20240620"}
    for split, counts in judge_bench.SPLITS.items():
        items = [
            item | {"about": {**item["about"], "writer": writers[split]}}
            for name, rows in counts.items()
            for item in pairs(name, rows - 10, 10)
        ]
        part = benchmarks.score("judge_bench", items[1:])
        assert split in part["title"]
        assert part["missing"] == ["Knowledge: 1 of 154 rows are absent"]
        result = benchmarks.score("judge_bench", items)
        total = sum(counts.values())
        assert split in result["title"]
        assert result["missing"] == []
        assert result["overall"]["score"] == pytest.approx(1 - 40 / total)
        assert result["overall"]["interval"] == pytest.approx(wilson(total - 40, total))
    assert [sum(counts.values()) for counts in judge_bench.SPLITS.values()] == [350, 270]
    part = benchmarks.score("judge_bench", pairs("math", 3, 1))
    assert part["overall"] is None
    assert "Knowledge: 154 of 154 rows are absent" in part["missing"]


def test_llmbar_averages_the_adversarial_subsets_and_keeps_mt_bench_apart():
    right = {"Neighbor": 134, "GPTInst": 0, "GPTOut": 47, "Manual": 23}
    counts = {"Neighbor": 134, "GPTInst": 92, "GPTOut": 47, "Manual": 46}
    items = pairs("natural", 90, 10) + pairs("mt-bench", 150, 50)
    for name, rows in counts.items():
        items += pairs(f"adversarial-{name}", right[name], rows - right[name])
    result = benchmarks.score("llmbar", items)
    found = by_name(result)
    assert found["Natural"]["score"] == 0.9
    assert found["Adversarial"]["score"] == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    assert result["overall"] is None
    assert result["missing"] == []
    (table,) = result["extras"]
    assert table["rows"][0][:2] == ["mt-bench", "75.0"]


def test_the_real_llmbar_is_complete(real_data):
    spec = f"llmbar:{real_data}/llmbar/*.json"
    result = benchmarks.score("llmbar", from_groups(corpora.read(spec)))
    assert result["missing"] == []
    assert [section["items"] for section in result["sections"]] == [100, 319]
    assert all(section["complete"] for section in result["sections"])
    assert result["extras"][0]["rows"][0][3] == "200 of 200"


SHARES = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 60)), min_size=1, max_size=6)


def shares(drawn: list[tuple[int, int]]) -> list[dict]:
    """Scores as the parts of a section have them; at most n right of n."""
    return [
        parts.scored(np.array([[1.0]] * min(k, n) + [[0.0]] * (n - min(k, n)))) for k, n in drawn
    ]


@given(SHARES, st.data())
def test_a_weighted_mean_has_an_interval_around_it(drawn, data):
    scores = shares(drawn)
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(drawn), max_size=len(drawn)))
    found = parts.combine(scores, weights)
    low, high = found["interval"]
    assert found["score"] == pytest.approx(
        np.average([s["score"] for s in scores], weights=weights)
    )
    assert 0 <= low <= found["score"] <= high <= 1
    assert high - low > 0.005
    mirrored = parts.combine(shares([(n - min(k, n), n) for k, n in drawn]), weights)
    assert mirrored["interval"] == pytest.approx([1 - high, 1 - low], abs=1e-9)
    absent = {"score": None, "interval": None, "effective": None}
    assert parts.combine([*scores, absent], [*weights, 5.0]) == found


@given(st.integers(0, 30), st.lists(st.integers(1, 5), min_size=2, max_size=5))
def test_equal_shares_weighted_by_their_counts_are_one_sample(right, sizes):
    drawn = [(right * size, 30 * size) for size in sizes]
    found = parts.combine(shares(drawn), [n for _, n in drawn])
    total = sum(n for _, n in drawn)
    assert found["effective"] == pytest.approx(total)
    assert found["interval"] == pytest.approx(wilson(sum(k for k, _ in drawn), total))


@pytest.mark.parametrize("accuracy", [0.6, 0.9, 0.98])
def test_intervals_of_sections_and_overall_cover_at_their_rate(accuracy):
    rng = np.random.default_rng(7)
    rows = {name: list(subsets.values()) for name, subsets in reward_bench.SECTIONS.items()}
    spread = {
        name: np.clip(accuracy + (1 - accuracy) * rng.uniform(-1, 0.8, len(sizes)), 0, 1)
        for name, sizes in rows.items()
    }
    truth = [np.average(spread[name], weights=WEIGHTS[name]) for name in rows]
    covered = []
    for _ in range(400):
        sections = []
        for name, sizes in rows.items():
            right = rng.binomial(sizes, spread[name])
            scores = [
                {"score": k / n, "interval": wilson(k, n), "effective": float(n)}
                for k, n in zip(right, sizes, strict=True)
            ]
            sections.append(parts.combine(scores, WEIGHTS[name]))
        overall = parts.combine(sections, [1.0] * 4)
        each = zip([*sections, overall], [*truth, np.mean(truth)], strict=True)
        covered.append([s["interval"][0] <= t <= s["interval"][1] for s, t in each])
    rates = np.mean(covered, axis=0)  # The standard error of a rate of 0.95 is 0.011.
    assert np.all((rates > 0.905) & (rates < 0.985)), rates


def test_published_rows_agree_with_their_own_averages():
    for rows in (published.REWARD_BENCH, published.REWARD_BENCH_2, published.RM_BENCH):
        for row in rows:
            sections = {
                k: v for k, v in row["scores"].items() if k not in ("Overall", "Prior sets")
            }
            mean = np.mean(list(sections.values()))
            assert row["scores"]["Overall"] == pytest.approx(mean, abs=0.11), row
    counts = judge_bench.SPLITS["GPT-4o"]
    for row in published.JUDGE_BENCH:
        values = [row["scores"][name.capitalize()] for name in counts]
        mean = np.average(values, weights=list(counts.values()))
        assert row["scores"]["Overall"] == pytest.approx(mean, abs=0.01), row
