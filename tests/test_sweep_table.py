"""Estimates over seeds against their definitions and in simulation, and the tables' texts."""

import csv
import io

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from hs2jax.evaluation import statistics
from hs2jax.evaluation import sweep_statistics as estimates
from hs2jax.evaluation import sweep_table as table
from hs2jax.evaluation.sweep_statistics import Sums


def item(source, margins, ratings=(), outputs=()):
    """A group of two responses per pair, the chosen with its margin and the rejected with 0."""
    n = max(2 * len(margins), len(ratings))
    rewards = [0.0] * n
    rewards[: 2 * len(margins) : 2] = margins
    return {
        "source": source,
        "responses": ["longer", "short"] * (n // 2) + ["odd"] * (n % 2),
        "rewards": rewards,
        "pairs": [[2 * i, 2 * i + 1, 1] for i in range(len(margins))],
        "ratings": [{"help": y} for y in ratings] or [{}] * n,
        "outputs": [[x] for x in outputs] or [[0.0]] * n,
    }


def right(*groups):
    """Items whose pairs are right (1) or wrong (0), one list per group."""
    return [item(f"f:{g}", [2.0 * r - 1 for r in pairs]) for g, pairs in enumerate(groups)]


def shares(*seeds):
    return [estimates.pair_sums(right(*groups)) for groups in seeds]


def run(items, **costs):
    return table.measure(items, ["help"], costs)


# Estimates ----------------------------------------------------------------------------------------


def test_one_seed_and_one_pair_each_by_hand():
    found = estimates.estimate(shares([[1], [1], [1], [0]]), estimates.accuracy)
    assert found.value == 0.75
    assert found.deviation is None
    # The jackknife of a mean of n is its variance with n - 1: 0.75 * 0.25 / 3, worth 3 pairs.
    t, z = scipy.stats.t.ppf(0.975, 3), scipy.stats.norm.ppf(0.975)
    n = 3 * (z / t) ** 2
    np.testing.assert_allclose(found.interval, statistics.wilson(0.75 * n, n))


def test_two_seeds_by_hand():
    sums = shares([[1], [1], [0]], [[1], [0], [0]])
    found = estimates.estimate(sums, lambda m: estimates.accuracy(m))
    # Over seeds: 2/3 and 1/3. Per group, the mean over seeds is 1, 1/2 and 0.
    np.testing.assert_allclose((found.value, found.deviation), (0.5, np.sqrt(1 / 18)))
    prompts, seeds = 0.25 / 3, 1 / 36
    df = (prompts + seeds) ** 2 / (prompts**2 / 2 + seeds**2 / 1)
    half = scipy.stats.t.ppf(0.975, df) * np.sqrt(prompts + seeds)
    np.testing.assert_allclose(found.interval, (0.5 - half, 0.5 + half))


def test_all_right_is_not_certain():
    found = estimates.estimate(shares(*[[[1], [1, 1, 1]]] * 3), estimates.accuracy)
    assert (found.value, found.deviation) == (1.0, 0.0)
    # Four pairs of two groups: 16 / (1 + 9) of them.
    t, z = scipy.stats.t.ppf(0.975, 1), scipy.stats.norm.ppf(0.975)
    n = 1.6 * (z / t) ** 2
    np.testing.assert_allclose(found.interval, statistics.wilson(n, n))


def test_one_group_gives_no_interval():
    assert estimates.estimate(shares([[1, 0]], [[1, 1]]), estimates.accuracy).interval is None
    sides = shares([[1, 0]]), shares([[1, 1]])
    assert estimates.difference(*sides, estimates.accuracy) == (-0.5, None, None)


GROUPS = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=4), min_size=2, max_size=6)


@given(GROUPS, st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_estimates_hold_together(groups, seeds, number):
    rng = np.random.default_rng(number)
    drawn = [[rng.integers(0, 2, len(pairs)).tolist() for pairs in groups] for _ in range(seeds)]
    sums = shares(*drawn)
    found = estimates.estimate(sums, estimates.accuracy)
    accuracies = [statistics.preferences(right(*each))["accuracy"] for each in drawn]
    np.testing.assert_allclose(found.value, np.mean(accuracies))
    low, high = found.interval
    assert 0 <= low <= found.value + 1e-12
    assert found.value - 1e-12 <= high <= 1
    assert low < high
    same = estimates.difference(sums, sums, estimates.accuracy)
    assert same[:2] == (0.0, (0.0, 0.0))
    # Which group or seed is first does not matter.
    other = shares(*[[each[g] for g in reversed(range(len(groups)))] for each in reversed(drawn)])
    again = estimates.estimate(other, estimates.accuracy)
    np.testing.assert_allclose(again.interval, found.interval)
    wrong = estimates.difference(shares(groups), sums[:1], estimates.accuracy)
    back = estimates.difference(sums[:1], shares(groups), estimates.accuracy)
    np.testing.assert_allclose(wrong.interval, [-end for end in reversed(back.interval)])


def test_what_arms_share_falls_out_of_their_difference():
    """Prompts differ much, arms by little: one answer in forty."""
    rng = np.random.default_rng(0)
    hard = rng.random((40, 1)) < 0.5
    reference = [np.repeat(hard, 3, axis=1).astype(int) for _ in range(3)]
    better = [np.array(each) for each in reference]
    for each in better:
        each[rng.integers(40)] = 1
    sums = [shares(*each) for each in (better, reference)]
    over = estimates.difference(*sums, estimates.accuracy)
    alone = estimates.estimate(sums[0], estimates.accuracy)
    assert np.ptp(over.interval) < np.ptp(alone.interval) / 4


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (3, 0.0), (3, 0.3)])
def test_intervals_hold_the_truth_as_often_as_they_say(seeds, spread):
    """Simulated: prompts of 1 to 5 pairs, effects of prompt, pair, seed, and prompt by seed."""
    rng = np.random.default_rng(1)
    effects = np.array([0.9, 0.7, 0.5, spread])
    truth = scipy.stats.norm.cdf(0.6 / np.sqrt((effects**2).sum()))
    held = []
    for _ in range(300):
        sizes = rng.integers(1, 6, 60)
        group = np.repeat(np.arange(60), sizes)
        prompt, pair = rng.normal(0, 0.9, 60)[group], rng.normal(0, 0.7, len(group))
        sums = []
        for seed in rng.normal(0, spread, seeds):
            won = 0.6 + prompt + pair + seed + rng.normal(0, 0.5, len(group)) > 0
            counts = np.bincount(group, weights=won)
            sums.append(Sums([], np.stack([sizes, counts, counts], axis=1).astype(float)))
        low, high = estimates.estimate(sums, estimates.accuracy).interval
        held.append(low <= truth <= high)
    assert 0.91 <= np.mean(held) <= 0.985


RATED = st.lists(
    st.tuples(st.integers(0, 4), st.floats(-3, 3).map(lambda x: round(x, 3))), min_size=1
)


@given(st.lists(RATED, min_size=2, max_size=5))
def test_ratings_are_those_of_the_summary(groups):
    items = [
        item(f"f:{g}", [], [y for y, _ in pairs], [x for _, x in pairs])
        for g, pairs in enumerate(groups)
    ]
    expected = statistics.attributes(items, ["help"])["help"]
    sums = [estimates.rating_sums(items, 0, "help")]
    error = estimates.estimate(sums, estimates.squared_error)
    np.testing.assert_allclose(error.value, expected["mse"])
    assert 0 <= error.interval[0] <= error.value <= error.interval[1]
    pearson = estimates.estimate(sums, estimates.pearson)
    if expected["pearson"] is None:
        assert pearson is None
    else:
        np.testing.assert_allclose(pearson.value, expected["pearson"], atol=1e-9)
        if pearson.interval:
            low, high = pearson.interval
            assert -1 <= low <= pearson.value + 1e-9
            assert pearson.value - 1e-9 <= high <= 1


def test_the_interval_of_a_correlation_is_fishers():
    """Of independent pairs, the jackknife agrees with theory: tanh(artanh r ± 1.96 / sqrt(n))."""
    x, y = np.random.default_rng(0).multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 2000).T
    items = [item(f"f:{i}", [], [b], [a]) for i, (a, b) in enumerate(zip(x, y, strict=True))]
    found = estimates.estimate([estimates.rating_sums(items, 0, "help")], estimates.pearson)
    expected = np.tanh(np.arctanh(found.value) + np.array([-1.96, 1.96]) / np.sqrt(2000))
    np.testing.assert_allclose(found.interval, expected, atol=0.004)


# Rows and texts -----------------------------------------------------------------------------------

COSTS = {"seconds_per_step": 2.0, "tokens_per_second": 1500.4, "trained_parameters": 134515008}


@pytest.fixture
def arms():
    """Two arms of two seeds with ratings and costs, and one without a run."""
    rng = np.random.default_rng(0)

    def items(share):
        return [
            item(f"f:{g}", rng.choice([-1.0, 1.0], 2, p=[1 - share, share]), [1, 2, 3, 4], ratings)
            for g, ratings in enumerate(rng.normal(2, 1, (30, 4)))
        ]

    return [
        table.Arm("a|b", {"epochs": 1}, {s: run(items(0.6), **COSTS) for s in (0, 1)}),
        table.Arm("other", {"epochs": 2}, {s: run(items(0.9), **COSTS) for s in (0, 1)}),
        table.Arm("none", {"epochs": 3}, {}),
    ]


def test_csv_has_the_raw_numbers(arms):
    rows, _ = table.make_rows(arms, "a|b")
    read = list(csv.DictReader(io.StringIO(table.write_csv(rows))))
    assert [line["arm"] for line in read] == ["a|b", "other", "none"]
    assert [line["seeds"] for line in read] == ["0 1", "0 1", ""]
    assert [line["epochs"] for line in read] == ["1", "2", "3"]
    for row, line in zip(rows, read, strict=True):
        for name, each in row.metrics.items():
            numbers = (each.value, *each.interval, each.deviation)
            heads = [f"{name}{part}" for part in ("", " low", " high", " deviation")]
            assert tuple(float(line[head]) for head in heads) == numbers
    assert set(rows[1].metrics) == {
        *("accuracy", "difference", "margin"),
        *("help squared error", "help Pearson"),
    }
    assert "difference" not in rows[0].metrics
    assert float(read[0]["trained_parameters"]) == COSTS["trained_parameters"]
    assert "peak_memory_bytes" not in read[0]
    assert float(read[0]["longer response wins"]) == 1.0
    assert not any(read[2][head] for head in read[2] if head not in ("arm", "epochs"))


def test_markdown_shows_the_same(arms):
    rows, notes = table.make_rows(arms, "a|b")
    text = table.write_markdown(rows, "a|b", ["Missing: none, seed 0.", *notes])
    main, ratings, costs, rest = text.split("\n\n")
    lines = main.splitlines()
    assert len({len(line) for line in lines}) == 1, "columns are aligned"
    cells = [[cell.strip() for cell in line[2:-2].split(" | ")] for line in lines]
    assert cells[0] == [
        *("arm", "epochs", "seeds", "accuracy", "sd over seeds"),
        *("over a\\|b, points", "margin"),
    ]
    accuracy, over = rows[1].metrics["accuracy"], rows[1].metrics["difference"]
    low, high = (100 * end for end in accuracy.interval)
    assert cells[3][3] == f"{100 * accuracy.value:.1f}% [{low:.1f}, {high:.1f}]"
    low, high = (100 * end for end in over.interval)
    assert cells[3][5] == f"{100 * over.value:+.1f} [{low:+.1f}, {high:+.1f}]".replace("-", "−")
    assert [line[0] for line in cells[2:]] == ["a\\|b", "other", "none", "(longer response wins)"]
    assert cells[4][2] == "none"
    assert cells[5][3].startswith("100.0% [")
    assert "help squared error" in ratings
    assert "134,515,008" in costs
    assert "1,500" in costs
    assert "- Missing: none, seed 0.\n- Held out: 60 pairs of 30 prompts.\n" in rest


def test_one_seed_is_said(arms):
    alone = [arm._replace(runs={s: r for s, r in arm.runs.items() if s == 0}) for arm in arms]
    text = table.write_markdown(table.make_rows(alone, "a|b")[0], "a|b", [])
    assert "they cannot count what another seed would change" in text
    assert "sd over seeds" not in text
    mixed = [alone[0], *arms[1:]]
    rows, notes = table.make_rows(mixed, "a|b")
    assert notes == ["The difference of “other” is over seed 0."]
    assert "of prompts only" in table.write_markdown(rows, "a|b", notes)


def test_differences_are_left_out_where_they_would_mislead(arms):
    elsewhere = table.Arm("elsewhere", {}, {0: run(right([1], [0]))})
    other_seeds = arms[1]._replace(name="other seeds", runs={5: arms[1].runs[0]})
    rows, notes = table.make_rows([arms[0], elsewhere, other_seeds], "a|b")
    assert not any("difference" in row.metrics for row in rows)
    assert notes == [
        "No difference of “elsewhere” from “a|b”: they were judged on different pairs.",
        "No difference of “other seeds” from “a|b”: they have no seed in common.",
    ]
    text = table.write_markdown(rows, "a|b", notes)
    assert "Held out: 2 pairs of 2 prompts (elsewhere)." in text
    rows, notes = table.make_rows([arms[2], arms[0]], "none")
    assert notes == ["No difference of “a|b” from “none”: it has no finished run."]


def test_seeds_of_one_arm_are_judged_on_the_same_data():
    changed = table.Arm("a", {}, {0: run(right([1], [0])), 1: run(right([1], [0, 1]))})
    with pytest.raises(ValueError, match="arm 'a': its seeds were judged on different data"):
        table.make_rows([changed], "a")


def test_a_prompt_that_is_listed_twice_is_one_group():
    twice = [item("f:1", [1.0]), item("f:1", [-1.0]), item("f:2", [1.0])]
    sums = estimates.pair_sums(twice)
    assert [source for source, _ in sums.groups] == ["f:1", "f:2"]
    assert sums.values[:, 0].tolist() == [2.0, 1.0]
