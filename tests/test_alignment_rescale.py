"""Rescaling: a reward model's values get people's mean and spread, and keep their order."""

import numpy as np
import pytest
import stages
import tiny
from hypothesis import assume, given
from hypothesis import strategies as st

from hs2jax.alignment.rescale import affine, rescale
from hs2jax.data import corpora
from hs2jax.reward_model import RewardModel

TALKS = "helpsteer2:mini/train.jsonl[:6]"
PEOPLE = "helpsteer2:mini/train.jsonl[10:40]"
NAMES = ("helpfulness", "verbosity")
OUTPUTS = ("verbosity", "helpfulness", "reward")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rescale")
    tiny.save(folder / "biased", outputs=OUTPUTS, bias=True, max_seq_len=1024)
    tiny.save(folder / "plain", outputs=OUTPUTS, bias=False, max_seq_len=1024)
    return folder


def outputs_of(folder) -> np.ndarray:
    return np.concatenate(RewardModel.load(folder).score_groups(list(corpora.read(TALKS))))


@pytest.mark.parametrize("model", ["biased", "plain"])
def test_the_saved_model_rates_as_people_do_in_mean_and_spread(here, model, tmp_path):
    rows = rescale(stages.rescaling(here, TALKS, model, attributes=NAMES), tmp_path / "run")
    before, after = outputs_of(here / model), outputs_of(tmp_path / "run" / "model")
    people = [rating for group in corpora.read(PEOPLE) for rating in group.ratings]
    assert len(before) == 12
    for at, name in enumerate(OUTPUTS[:2]):
        rated = [rating[name] for rating in people]
        assert after[:, at].mean() == pytest.approx(np.mean(rated), abs=1e-3)
        assert after[:, at].std() == pytest.approx(np.std(rated), abs=1e-3)
        assert (np.argsort(before[:, at]) == np.argsort(after[:, at])).all()
        part = f"attribute/{name}"
        mean, std = before[:, at].mean(), after[:, at].std()
        assert stages.value(rows, "mean", part, method="before") == pytest.approx(mean, abs=1e-3)
        assert stages.value(rows, "std", part, method="after") == pytest.approx(std, abs=1e-3)
        for v in range(5):
            assert stages.value(rows, f"rated_{v}", part, method="people") == rated.count(v)
    # What was not named stays as it is.
    assert {row["part"].split("/")[1] for row in rows} == {"verbosity", "helpfulness"}
    np.testing.assert_allclose(after[:, 2], before[:, 2], atol=1e-5)


@given(
    values=st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20),
    ratings=st.lists(st.integers(0, 4), min_size=2, max_size=20),
)
def test_affine_matches_the_first_two_moments(values, ratings):
    assume(np.std(values) > 1e-2 and len(set(ratings)) > 1)
    scale, shift = affine(np.asarray(values), ratings, "verbosity")
    scaled = scale * np.asarray(values) + shift
    assert scale > 0
    assert np.mean(scaled) == pytest.approx(np.mean(ratings), abs=1e-5)
    assert np.std(scaled) == pytest.approx(np.std(ratings), abs=1e-5)


def test_what_does_not_vary_cannot_be_spread():
    with pytest.raises(ValueError, match="verbosity: all 3 values are 2; there is no spread"):
        affine(np.full(3, 2.0), [1, 2, 3], "verbosity")
    with pytest.raises(ValueError, match="verbosity: all 2 people's ratings are 4"):
        affine(np.arange(3.0), [4, 4], "verbosity")


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        (("beauty",), "rates verbosity, helpfulness, reward, and not beauty"),
        ((), "has no ratings of reward; leave them out with config.attributes"),
    ],
)
def test_attributes_that_cannot_be_rescaled_are_named(here, attributes, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        rescale(stages.rescaling(here, TALKS, "biased", attributes=attributes), tmp_path / "run")
