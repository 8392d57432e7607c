"""Weighing: each log-probability is the one it should be, and what is left out is counted."""

import dataclasses

import numpy as np
import pytest
import stages
import tiny
from scipy.special import softmax
from scipy.stats import beta

from hs2jax.alignment import weigh
from hs2jax.alignment.sample import sample
from hs2jax.config_rules import parse_condition
from hs2jax.data import corpora, formats
from hs2jax.language_model import LanguageModel
from hs2jax.reward_model import RewardModel

LOGS = ("log_attribute", "log_prior", "log_proposal")
ASKED = parse_condition(stages.ASKED)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weigh")
    stages.models(folder)
    tiny.language_model(folder / "other", words=tiny.bos_tokenizer())
    sample(stages.sampling(folder), folder / "samples")
    return folder


@pytest.fixture(scope="module")
def weighed(here):
    config = stages.weighing(here, f"sampled:{here / 'samples' / 'samples.jsonl'}")
    return weigh.weigh(config, here / "whole"), stages.read(here / "whole" / "groups.jsonl")


def test_each_number_is_what_its_model_says(here, weighed):
    rows = weighed[1]
    assert len(rows) > 2
    outputs = RewardModel.load(here / "ratings")
    prior = LanguageModel.load(here / "prior")
    for row in rows:
        group = formats.FORMATS["sampled"].group(row)
        (table,) = outputs.score_groups([group])
        predicted = [dict(zip(stages.OUTPUTS, map(float, line), strict=True)) for line in table]
        for found, expected in zip(row["predicted"], predicted, strict=True):
            assert found == pytest.approx(expected, abs=1e-4)
        (tokens,) = prior.log_probability_groups([dataclasses.replace(group, condition={})])
        assert [len(x) for x in tokens] == [len(ids) for ids in row["tokens"]]
        assert row["log_prior"] == pytest.approx([float(x.sum()) for x in tokens], abs=1e-3)
        # "reward" is not asked for, and does not count.
        assert row["log_attribute"] == pytest.approx(
            [sum(log_beta(one[name], ASKED[name]) for name in ASKED) for one in predicted], abs=1e-2
        )


def log_beta(predicted: float, level: int) -> float:
    """As the paper says it, by scipy."""
    mean = min(max(predicted / 4, 1e-3), 1 - 1e-3)
    low, high = max(level - 0.5, 0) / 4, min(level + 0.5, 4) / 4
    ends = beta(24 * mean, 24 * (1 - mean))
    return np.log(max(ends.cdf(high) - ends.cdf(low), 1e-12))


def test_rows_are_those_sampled_and_are_read_with_their_logarithms(here, weighed):
    result, rows = weighed
    before = {row["source"]: row for row in stages.read(here / "samples" / "samples.jsonl")}
    for row in rows:
        sampled = before[row["source"]]
        kept = [i for i, text in enumerate(sampled["responses"]) if text.strip()]
        for name in ("responses", "tokens", "finished", "log_proposal"):
            assert row[name] == [sampled[name][i] for i in kept]
    groups = list(corpora.read(f"sampled:{here / 'whole' / 'groups.jsonl'}"))
    for group, row in zip(groups, rows, strict=True):
        assert group.condition == ASKED
        for i, rating in enumerate(group.ratings):
            assert rating == pytest.approx({name: row[name][i] for name in LOGS})
    empty = sum(not text.strip() for row in before.values() for text in row["responses"])
    record = stages.result(here / "whole")["records"]["data"]
    assert record["skipped"].get("empty responses", 0) == empty
    assert stages.value(result, "responses") == sum(len(row["responses"]) for row in rows)


def test_the_measures_are_those_of_the_weights(weighed):
    result, rows = weighed
    sizes, distances = [], []
    for row in rows:
        attribute, prior, proposal = (np.float64(row[name]) for name in LOGS)
        w = softmax(attribute + prior - proposal)
        sizes.append(1 / (w**2).sum())
        distances.append((w * np.log(np.maximum(w, 1e-300) * len(w))).sum())
    assert stages.value(result, "distance") == pytest.approx(np.mean(distances), abs=1e-3)
    assert stages.value(result, "effective_sample_size") == pytest.approx(np.mean(sizes), rel=1e-3)
    parts = [size / len(row["responses"]) for size, row in zip(sizes, rows, strict=True)]
    assert stages.value(result, "effective_fraction") == pytest.approx(np.mean(parts), rel=1e-3)
    assert stages.value(result, "collapsed") == sum(size < 1.5 for size in sizes)


def test_without_log_proposal_the_model_that_wrote_them_is_asked(here, weighed, tmp_path):
    rows = stages.read(here / "samples" / "samples.jsonl")
    for row in rows:
        del row["log_proposal"]
    data = f"sampled:{stages.write(tmp_path / 'samples.jsonl', rows)}"
    with pytest.raises(ValueError, match=r"config\.proposal: .*name the model that wrote it"):
        weigh.weigh(stages.weighing(here, data), tmp_path / "named")
    config = stages.weighing(here, data, proposal=str(here / "policy"))
    weigh.weigh(config, tmp_path / "named")
    found = stages.read(tmp_path / "named" / "groups.jsonl")
    for row, whole in zip(found, weighed[1], strict=True):
        for name in LOGS:
            assert row[name] == pytest.approx(whole[name], abs=1e-3)


def test_what_nothing_measures_is_warned_of(here, weighed, tmp_path):
    asked = {"humor": 1, "verbosity": 1}
    row = {"prompt": "Why?", "condition": asked, "responses": ["So.", "The sea."]}
    data = f"sampled:{stages.write(tmp_path / 'samples.jsonl', [row])}"
    weigh.weigh(stages.weighing(here, data, proposal=str(here / "policy")), tmp_path / "run")
    warnings = stages.result(tmp_path / "run")["warnings"]
    (warning,) = (each for each in warnings if "humor" in each)
    assert "does not rate humor: " in warning
    (found,) = stages.read(tmp_path / "run" / "groups.jsonl")
    of_verbosity = [log_beta(one["verbosity"], 1) for one in found["predicted"]]
    assert found["log_attribute"] == pytest.approx(of_verbosity, abs=1e-2)
    warnings = stages.result(here / "whole")["warnings"]
    assert not any("does not rate" in each for each in warnings)


def test_groups_that_are_too_small_or_too_long_are_counted(here, tmp_path):
    rows = [
        {"prompt": "Why?", "condition": ASKED, "responses": ["a", response]}
        for response in ("b", " ", "why? " * 600)
    ]
    data = f"sampled:{stages.write(tmp_path / 'samples.jsonl', rows)}"
    options = {"proposal": str(here / "policy"), "on_error": "skip"}
    result = weigh.weigh(stages.weighing(here, data, **options), tmp_path / "skip")
    assert [stages.value(result, name) for name in ("groups", "responses")] == [1, 2]
    record = stages.result(tmp_path / "skip")["records"]["data"]
    assert (record["rows"], record["too_long"]) == (3, 1)
    assert record["skipped"] == {"empty responses": 1, "too few responses": 1}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"condition": {"humor": 1}}, r"config\.reward_model: .*none of humor"),
        ({"condition": {}}, r"config\.data: .*asks for no attributes"),
        ({"responses": ["a"]}, r"nothing is left of .*too few responses"),
        ({"instruction": "Briefly."}, r"config\.data: .*under the instruction 'Briefly\.'"),
        ({"finished": [True, False]}, r"config\.unfinished: .*cannot be scored"),
        # To a smaller vocabulary it is no token.
        ({"tokens": [[310], [311]]}, r"config\.prior: .* has another vocabulary"),
    ],
)
def test_what_cannot_be_weighed_is_told(here, tmp_path, row, words):
    row = {"prompt": "Why?", "condition": ASKED, "responses": ["a", "b"]} | row
    data = f"sampled:{stages.write(tmp_path / 'rows.jsonl', [row])}"
    models = {"prior": str(here / "other"), "proposal": str(here / "policy")}
    with pytest.raises(ValueError, match=words):
        weigh.weigh(stages.weighing(here, data, **models), tmp_path / "run")
