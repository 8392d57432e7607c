"""The pairwise judge: what must hold whatever the logits, planted judges, and a real tiny one."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_judge import TOO_LONG, PlantedJudge, readings_of, values
from test_judge import CRITERIA, TALKS, small_judge

from hs2jax.data.groups import Group
from hs2jax.data.record import Record
from hs2jax.judging import lager, pairwise
from hs2jax.judging.judge import Reading
from hs2jax.judging.pairwise import WAYS, asked, margins
from hs2jax.report.run import find, select

HELPFUL = CRITERIA[0]
WEIGHTS = np.float32([0.1, 0.2, 0.3, 0.4])
UNTUNED = [name for name in lager.AGGREGATIONS if name not in lager.WEIGHTED]


def weights_of(preset) -> np.ndarray:
    used = 3 if preset.layers == "without_last" else 4
    return WEIGHTS[:used] / WEIGHTS[:used].sum()


def logits_of(way: str, seed: int = 0, scale: float = 1.0, pairs: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    answers = {"pointwise": 5, "question": 2}[way]
    return rng.normal(0, scale, (pairs, 2, 2, 4, answers)).astype(np.float32)


def group(i: int, first: str, second: str, strength: float, prompt: str = "") -> Group:
    turns = ({"role": "user", "content": prompt or f"Question {i}?"},)
    return Group(turns, (first, second), strength=strength, source=f"rows.jsonl:{i}")


def worth_groups(n: int = 12, prompts: int = 12) -> list[Group]:
    """Responses that say what they are worth; the better one is now the first, now the second."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(n):
        low, high = np.sort(rng.choice(np.arange(10, 50), 2, replace=False)) / 10
        texts = (f"worth {low} of 5", f"worth {high} of 5")
        found.append(group(i, *texts[:: 1 if i % 2 else -1], 2 if i % 2 else -2, f"Q{i % prompts}"))
    return found


class PlantedPairs(PlantedJudge):
    """Scores what responses say they are worth; of two, A's logit is above B's by what A is worth
    more and by a liking for A. broken: its logits are not finite where the text has this."""

    def __init__(self, noise=(0.0, 0.0, 0.0, 0.0), sees=1.0, likes_a=0.0, broken="(nothing)"):
        def worth(request, q):
            return float(re.findall(r"worth ([\d.]+)", request.item)[-1])

        super().__init__(worth, noise)
        self.sees, self.likes_a, self.broken = sees, likes_a, broken

    def _reading(self, request):
        if self.broken in request.item:
            return Reading(np.full((1, 2, 4, len(request.answers)), np.nan, np.float32))
        if request.answers != ("A", "B"):
            return super()._reading(request)
        a, b = map(float, re.findall(r"worth ([\d.]+)", request.item))
        logits = np.zeros((1, 2, 4, 2), np.float32)
        logits[..., 0] = self.sees * (a - b) + self.likes_a
        return Reading(logits)


# Margins ----------------------------------------------------------------------------------------


@given(
    way=st.sampled_from(WAYS),
    name=st.sampled_from(list(lager.AGGREGATIONS)),
    preset=st.sampled_from(sorted(lager.PRESETS)),
    scale=st.sampled_from([0.1, 1.0, 30.0, 1000.0]),
    seed=st.integers(0, 1000),
)
def test_swapping_the_responses_negates_the_margin(way, name, preset, scale, seed):
    logits, preset = logits_of(way, seed, scale), lager.PRESETS[preset]
    found = margins(logits, HELPFUL, way, name, preset, weights_of(preset))
    swapped = margins(logits[:, ::-1], HELPFUL, way, name, preset, weights_of(preset))
    assert found.shape == (6,)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(swapped, -found)  # So who answers alike in both has none.
    bound = 4 if way == "pointwise" else 0.5
    assert np.abs(found).max() <= bound + 1e-6


@given(seed=st.integers(0, 1000), weighted=st.booleans(), likes_a=st.sampled_from([0.0, 3.0]))
def test_the_margin_of_a_question_is_the_mean_probability_and_has_the_sign_of_the_log_odds(
    seed, weighted, likes_a
):
    preset, name = lager.PRESETS["recommended"], "lager_w" if weighted else "lager_wo"
    logits = logits_of("question", seed)
    logits[..., 0] += likes_a
    found = margins(logits, HELPFUL, "question", name, preset, WEIGHTS)
    weights = WEIGHTS if weighted else np.full(4, 0.25)
    odds = np.einsum("poln,l->pon", logits[:, :, 1].astype(float), weights) @ [1, -1]
    a = 1 / (1 + np.exp(-odds))
    np.testing.assert_allclose(found, (a[:, 0] + 1 - a[:, 1]) / 2 - 0.5, atol=1e-6)
    clear = np.abs(odds[:, 0] - odds[:, 1]) > 1e-4
    np.testing.assert_array_equal(np.sign(found)[clear], np.sign(odds[:, 0] - odds[:, 1])[clear])


def test_what_is_asked():
    first, second = asked("Q?", "ONE", "TWO", "rows:1", HELPFUL, "question")
    assert first.item.index("ONE") < first.item.index("TWO")
    assert second.item.index("TWO") < second.item.index("ONE")
    assert first.questions == second.questions
    assert first.answers == ("A", "B")
    assert first.source == "rows:1"
    alone = asked("Q?", "ONE", "TWO", "", HELPFUL, "pointwise")
    assert [("ONE" in r.item, "TWO" in r.item) for r in alone] == [(True, False), (False, True)]


# Evaluation -------------------------------------------------------------------------------------


def compare_all(judge, groups, folder, record=None, **options) -> list[dict]:
    record = Record() if record is None else record
    return pairwise.pair_rows(readings_of(judge, folder), groups, HELPFUL, record, **options)


def asked_for(rows, metric, way="question") -> dict:
    return values(rows, metric, f"way/{way}")


@pytest.mark.parametrize("likes_a", [0.0, 20.0, -20.0])
def test_the_better_response_is_found_whatever_the_letter_liked(tmp_path, likes_a):
    rows = compare_all(PlantedPairs(likes_a=likes_a), worth_groups(), tmp_path, weights=WEIGHTS)
    for way in WAYS:
        accuracy, equal = (asked_for(rows, metric, way) for metric in ("accuracy", "equal"))
        assert list(accuracy) == list(lager.AGGREGATIONS)
        for name in ("lager_w", "lager_wo", "e_score"):
            row = find(rows, part=f"way/{way}", metric="accuracy", method=name)
            assert (accuracy[name], equal[name], row["high"], row["n"]) == (1, 0, 1, 12)
    habits = [asked_for(rows, key)["lager_w"] for key in ("consistency", "says_a")]
    assert habits == {0: [1, 0.5], 20: [0, 1], -20: [0, 0]}[likes_a]
    # Taking the likeliest letter, a liking for one leaves nothing to tell by.
    assert asked_for(rows, "equal")["direct"] == (0 if likes_a == 0 else 12)


def test_a_judge_that_always_says_a_is_at_chance(tmp_path):
    rows = compare_all(PlantedPairs(sees=0.0, likes_a=5.0), worth_groups(), tmp_path)
    # Strictly: a tie is wrong.
    expected = {"accuracy": 0, "accuracy_half_credit": 0.5, "equal": 12}
    for metric, value in (expected | {"consistency": 0, "says_a": 1}).items():
        assert asked_for(rows, metric) == dict.fromkeys(UNTUNED, value)


def test_what_does_not_count_is_counted(tmp_path):
    groups = [
        *worth_groups(),
        group(12, "worth 3.0", "worth 3.1", 0, "Tie"),
        group(15, "worth 3.0", "worth 3.0", 2),
        group(13, "worth 3.0", f"worth 3.1 {TOO_LONG}", 1),
        group(14, "worth 3.0", "worth 3.1 broken", 1),
        Group(({"role": "user", "content": "Unrated"},), ("one", "two")),
    ]
    record = Record()
    with pytest.raises(
        ValueError, match="the judge's logits are not finite numbers, first in the e"
    ):
        compare_all(PlantedPairs(broken="broken"), groups, tmp_path)
    rows = compare_all(PlantedPairs(broken="broken"), groups, tmp_path, record, skip=True)
    assert (record.pairs, record.ties, record.too_long) == (12, 1, 1)
    assert (record.skipped, record.indistinct) == ({"not finite": 1}, 1)
    assert values(rows, "prompts")[None] == 12
    with pytest.raises(ValueError, match="none of the groups has a preference"):
        compare_all(PlantedPairs(), [group(0, "worth 1", "worth 2", 0)], tmp_path)
    with pytest.raises(ValueError, match=r"could read none of the pairs: 1 too long"):
        compare_all(PlantedPairs(), [group(0, "worth 1", TOO_LONG, 1)], tmp_path)
    with pytest.raises(ValueError, match="another model or preset"):
        compare_all(PlantedPairs(), worth_groups(), tmp_path, weights=[0.5, 0.5])


def test_longer_and_shorter_are_beside_it(tmp_path):
    groups = [group(i, "worth 2", "worth 1 and more", -1) for i in range(2)]
    groups += [group(2, "worth 1", "worth 2 and more", 1), group(3, "worth 1", "worth 2", 1)]
    rows = compare_all(PlantedPairs(), groups, tmp_path)
    assert values(rows, "accuracy") == {"longer": 0.25, "shorter": 0.5}
    assert values(rows, "equal") == {"longer": 1, "shorter": 1}
    for way in WAYS:
        leads = select(rows, part=f"way/{way}", metric="accuracy", against="shorter")
        assert [row["method"] for row in leads] == UNTUNED
        for row in leads:
            assert row["value"] == asked_for(rows, "accuracy", way)[row["method"]] - 0.5
            assert row["low"] < row["value"] <= row["high"]


def test_pairs_of_one_prompt_are_no_independent_pairs(tmp_path):
    def width(prompts):
        # All pairs of even prompts are judged right, none of the odd ones.
        groups = [
            group(i, "worth 2", "worth 1", 1 if i % 2 else -1, f"Q{i % prompts}") for i in range(24)
        ]
        rows = compare_all(PlantedPairs(), groups, tmp_path)
        row = find(rows, part="way/question", metric="accuracy", method="lager_wo")
        assert row["value"] == 0.5
        return row["high"] - row["low"]

    assert width(4) > 1.5 * width(24)


# A real judge -----------------------------------------------------------------------------------

JUDGE = small_judge()


def test_a_language_model_judges_pairs(tmp_path):
    groups = [group(i, talk[1], f"{talk[1]} Yes.", (-1) ** i) for i, talk in enumerate(TALKS)]
    rows = compare_all(JUDGE, groups, tmp_path, weights=WEIGHTS)
    requests = []
    for i, (_, answer) in enumerate(TALKS):
        texts = [answer, f"{answer} Yes."][:: 1 if i % 2 else -1]
        requests += asked(f"Question {i}?", *texts, "", HELPFUL, "question")
    logits = np.stack([r.logits[0] for r in JUDGE.ask(requests)]).reshape(3, 2, 2, 4, 2)
    preset = lager.PRESETS["recommended"]
    expected = margins(logits, HELPFUL, "question", "lager_w", preset, WEIGHTS)
    assert asked_for(rows, "accuracy")["lager_w"] == pytest.approx((expected > 0).mean())
    # With the labels turned round, what was right is wrong.
    turned = [group(i, *g.responses, -g.strength) for i, g in enumerate(groups)]
    again = compare_all(JUDGE, turned, tmp_path, weights=WEIGHTS)
    for way in WAYS:
        assert asked_for(rows, "equal", way) == asked_for(again, "equal", way)
        half, other = (asked_for(each, "accuracy_half_credit", way) for each in (rows, again))
        assert half == {name: pytest.approx(1 - x) for name, x in other.items()}
