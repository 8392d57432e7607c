"""Benchmarks of several right and wrong responses: RewardBench 2 and RM-Bench."""

import json
import math

import numpy as np
import pytest
from benchmark_items import from_groups, listwise
from hypothesis import given
from hypothesis import strategies as st

from hs2jax.data import corpora
from hs2jax.evaluation import benchmarks
from hs2jax.evaluation.benchmarks import reward_bench_2, rm_bench

FEW = st.integers(-2, 2).map(float)  # So that equal rewards are common.


def sections(result: dict) -> dict:
    return {section["name"]: section for section in result["sections"]}


def four(domain: str, *rewards: float) -> dict:
    """An item of RewardBench 2; the first response is the right one."""
    return listwise(rewards[:1], rewards[1:], subset=domain, id="1")


def test_best_of_four_shares_the_credit_for_the_top():
    items = [
        four("Math", 3, 2, 1, 0),
        four("Math", 3, 3, 1, 0),
        four("Math", 3, 3, 3, 0),
        four("Math", 3, 3, 3, 3),
        four("Math", 2, 3, 1, 0),
    ]
    result = benchmarks.score("reward_bench_2", items)
    math_domain = sections(result)["Math"]
    assert math_domain["score"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4 + 0) / 5)
    assert math_domain["subsets"][0]["longer"] == 0.0
    assert math_domain["subsets"][0]["shorter"] == 1.0
    assert "Math: 178 of 183 rows are absent" in result["missing"]
    assert "Ties: 102 of 102 rows are absent" in result["missing"]
    (table,) = result["extras"]
    assert table["rows"] == [["Math", "41.7", "20.0"]]
    json.dumps(result, allow_nan=False)


def prompt(number: int, ref: tuple, tied: tuple) -> list[dict]:
    """Both rows of a Ties prompt; each is (right rewards, wrong rewards)."""
    return [
        listwise(*ref, subset="Ties", id=f"ref:{number}"),
        listwise(*tied, subset="Ties", id=f"tied:{number}"),
    ]


def test_the_ties_score_of_small_cases():
    # Both accurate; tied margin 2 > spread 1, the smaller margin 1 is not; tanh(1 / 1 - 1) = 0.
    first = prompt(0, ([3.0], [2.0]), ([5.0, 4.0], [2.0, 1.0]))
    assert ties(first)["score"] == pytest.approx(0.3 + 0.3 + 0.2)
    # Nothing accurate, a spread of 0 and margins of 0: 0/0 counts as 0.
    second = prompt(1, ([1.0], [1.0]), ([1.0, 1.0], [1.0]))
    assert ties(second)["score"] == 0.0
    # A spread of 0 with margins above it: tanh(infinity) = 1. With a margin below: -1.
    assert ties(prompt(2, ([2.0], [1.0]), ([3.0, 3.0], [1.0])))["score"] == pytest.approx(1.01)
    assert ties(prompt(3, ([0.0], [1.0]), ([0.0, 0.0], [1.0])))["score"] == pytest.approx(-0.01)
    # The mean over prompts.
    result = benchmarks.score("reward_bench_2", first + second)
    assert sections(result)["Ties"]["score"] == pytest.approx(0.4)
    values = {row[0] + row[2][:4]: row[1] for row in result["extras"][-1]["rows"]}
    assert list(values.values()) == ["50.0", "50.0", "50.0", "0.0", "0.0"]


def ties(items: list[dict]) -> dict:
    return reward_bench_2.ties_score(items, [item["rewards"] for item in items])


REWARDS = st.lists(FEW, min_size=2, max_size=4)
PROMPTS = st.lists(
    st.tuples(
        st.tuples(st.lists(FEW, min_size=1, max_size=1), REWARDS), st.tuples(REWARDS, REWARDS)
    ),
    min_size=1,
    max_size=6,
)


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
    found = ties(items)
    assert found["score"] == pytest.approx(total / len(drawn), abs=1e-12)
    low, high = found["interval"]
    assert low <= found["score"] <= high
    assert high - low > 0.1
    assert ties(items[::-1])["score"] == pytest.approx(found["score"], abs=1e-12)


def test_ties_prompts_without_a_partner_count_as_published():
    whole = prompt(0, ([3.0], [0.0]), ([3.0, 3.0], [0.0]))
    alone = prompt(1, ([0.0], [1.0]), ([3.0, 3.0], [0.0]))[:1]
    found = ties(whole + alone)
    assert found["score"] == pytest.approx(0.3 + 0.3 / 2 + 0.2 + 0.2 + 0.01)
    assert found["interval"][0] < found["score"] <= found["interval"][1] <= 1.01
    assert ties(alone)["score"] is None
    result = benchmarks.score("reward_bench_2", whole + alone)
    assert "Ties: 99 of 102 rows are absent" in result["missing"]
    assert result["overall"] is None


def test_intervals_of_the_ties_score_cover_at_their_rate():
    rng = np.random.default_rng(3)

    def draw(prompts):
        right = rng.normal(4, 1, prompts)
        items = []
        for number, mean in enumerate(right):
            ref = [rng.normal(mean)], list(rng.normal(size=4))
            items += prompt(number, ref, (list(rng.normal(mean, 1, 4)), list(rng.normal(size=4))))
        return ties(items)

    truth = draw(4000)["score"]
    covered = [low <= truth <= high for low, high in (draw(51)["interval"] for _ in range(300))]
    assert 0.90 < np.mean(covered) < 0.99


def test_a_full_rewardbench_2_is_the_mean_of_six():
    counts = reward_bench_2.DOMAINS
    items = [four(name, k % 2, 0, -1, -1) for name, rows in counts.items() for k in range(rows)]
    for number in range(51):
        items += prompt(number, ([3.0], [0.0]), ([3.0, 2.0], [0.0]))
    result = benchmarks.score("reward_bench_2", items)
    assert result["missing"] == []
    scores = [section["score"] for section in result["sections"]]
    # Odd ones are right, even ones share the top with one other.
    shares = [(rows // 2 + (rows - rows // 2) / 2) / rows for rows in counts.values()]
    assert scores == pytest.approx([*shares, 1 + 0.01 * math.tanh(1)])
    assert result["overall"]["score"] == pytest.approx(np.mean(scores))
    assert sum(section["items"] for section in result["sections"]) == 1865


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (four("Maths", 1, 0, 0, 0), "'Maths', expected one of: Factuality"),
        (listwise([1.0, 1.0], [0.0], subset="Math"), "expected one right response, found 2"),
        (listwise([1.0], [], subset="Math"), "at least one of each"),
        (listwise([1.0], [0.0], subset="Ties", id="5"), "'ref:N' or 'tied:N', found '5'"),
        (listwise([1.0], [0.0], subset="Ties", id="tied:5"), "several right responses"),
        (listwise([1.0, 1.0], [0.0], subset="Ties", id="ref:5"), "one in a reference row"),
    ],
)
def test_items_that_are_not_rewardbench_2s_are_refused(item, words):
    with pytest.raises(ValueError, match=f"list.jsonl:1: .*{words}"):
        benchmarks.score("reward_bench_2", [item])
    twice = prompt(1, ([3.0], [0.0]), ([3.0, 2.0], [0.0]))
    with pytest.raises(ValueError, match="a second Ties row with the id 'ref:1'"):
        benchmarks.score("reward_bench_2", twice + twice)


def styles(right: list[float], wrong: list[float], domain: str = "chat") -> dict:
    return listwise(right, wrong, domain=domain, id=1)


def test_the_matrix_of_small_cases():
    # Wrong:         concise 1, detailed 2, markdown 3
    # Right: 2            1          0           0
    #        2            1          0           0
    #        4            1          1           1
    first = styles([2.0, 2.0, 4.0], [1.0, 2.0, 3.0])
    second = styles([9.0, 9.0, 9.0], [1.0, 2.0, 3.0])
    result = benchmarks.score("rm_bench", [first, second])
    levels, matrices = result["extras"]
    shown = [cell.split(" ")[0] for cell in levels["rows"][0][1:]]
    # Hard: 0 and 1. Normal: 2/3 and 1. Easy: 1 and 1.
    assert (levels["columns"][1:], shown) == (["Hard", "Normal", "Easy"], ["50.0", "83.3", "100.0"])
    assert [row[2:] for row in matrices["rows"]] == [
        ["100.0", "50.0", "50.0"],
        ["100.0", "50.0", "50.0"],
        ["100.0", "100.0", "100.0"],
    ]
    chat = sections(result)["Chat"]
    assert chat["score"] == pytest.approx((5 / 9 + 1) / 2)
    # Two of the four wrong comparisons are equal rewards.
    assert chat["subsets"][0]["half_credit"] == pytest.approx((6 / 9 + 1) / 2)
    assert "Chat: 127 of 129 rows are absent" in result["missing"]
    assert "Safety, safety-refuse: 284 of 284 rows are absent" in result["missing"]
    assert result["overall"] is None


ROWS = st.lists(st.lists(FEW, min_size=6, max_size=6), min_size=1, max_size=8)


@given(ROWS, ROWS)
def test_levels_are_the_published_formula(refuse, respond):
    items = [styles(row[:3], row[3:], "safety-refuse") for row in refuse]
    items += [styles(row[:3], row[3:], "safety-response") for row in respond]
    result = benchmarks.score("rm_bench", items)
    rewards = np.array(refuse + respond)  # The two files are pooled.
    matrix = (rewards[:, :3, None] > rewards[:, None, 3:]).mean(axis=0)
    hard, easy = np.triu(matrix, 1).sum() / 3, np.tril(matrix, -1).sum() / 3
    normal = np.diag(matrix).mean()
    shown = [cell.split(" ")[0] for cell in result["extras"][0]["rows"][0][1:]]
    assert shown == [f"{100 * level:.1f}" for level in (hard, normal, easy)]
    assert sections(result)["Safety"]["score"] == pytest.approx((hard + normal + easy) / 3)
    low, high = sections(result)["Safety"]["interval"]
    assert low <= sections(result)["Safety"]["score"] <= high
    assert high > low


def test_a_full_rm_bench_is_the_mean_of_four_domains():
    counts = {
        name: rows for subsets in rm_bench.SECTIONS.values() for name, rows in subsets.items()
    }
    right = {"chat": [3.0] * 3, "math": [0.0] * 3, "code": [2.0] * 3, "safety-refuse": [3.0] * 3}
    items = [
        styles(right.get(name, [0.0] * 3), [0.0, 1.0, 2.0], name)
        for name, rows in counts.items()
        for _ in range(rows)
    ]
    result = benchmarks.score("rm_bench", items)
    assert result["missing"] == []
    assert sum(section["items"] for section in result["sections"]) == 1327
    scores = [section["score"] for section in result["sections"]]
    assert scores == pytest.approx([1, 0, 2 / 3, 284 / 441])
    assert result["overall"]["score"] == pytest.approx((1 + 0 + 2 / 3 + 284 / 441) / 4)
    levels = result["extras"][0]
    assert "plain mean of Safety's two files is 50.0" in levels["note"]
    # Hard, of the four: 1, 0, 1/3 and 284/441.
    hard = f"{100 * (1 + 1 / 3 + 284 / 441) / 4:.1f}"
    assert levels["rows"][-1][0] == "Overall"
    assert levels["rows"][-1][1].startswith(hard)


def test_items_that_are_not_rm_benchs_are_refused():
    with pytest.raises(ValueError, match=r"list\.jsonl:1: expected 3 right and 3 wrong"):
        benchmarks.score("rm_bench", [listwise([1.0, 2.0], [0.0], domain="chat")])
    with pytest.raises(ValueError, match="has the domain 'safety', expected one of: chat, math"):
        benchmarks.score("rm_bench", [styles([1.0] * 3, [0.0] * 3, "safety")])


def test_length_on_the_real_rm_bench(real_data):
    spec = f"rm_bench:{real_data}/rm_bench/*.json"
    result = benchmarks.score("rm_bench", from_groups(corpora.read(spec)))
    found = sections(result)
    assert found["Chat"]["complete"]
    assert [part["complete"] for part in found["Safety"]["subsets"]] == [True, False]
    assert found["Chat"]["score"] == found["Chat"]["subsets"][0]["longer"]
    # A ruler likes the fancier style: it is right where that is the right response's.
    hard, normal, easy = (float(c.split(" ")[0]) for c in result["extras"][0]["rows"][0][1:])
    assert hard < 20 < normal < 80 < easy
