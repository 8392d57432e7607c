"""Rescaling: a reward model's values get people's mean and spread, and keep their order."""

import json

import numpy as np
import pytest
import stages
import tiny
from command import fail, succeed
from hypothesis import assume, given
from hypothesis import strategies as st

from hs2jax.alignment import settings
from hs2jax.alignment.rescale import affine, describe, rescale
from hs2jax.data import corpora
from hs2jax.reward_model import RewardModel

TALKS = "helpsteer2:mini/train.jsonl[:6]"
PEOPLE = "helpsteer2:mini/train.jsonl[10:40]"
OUTPUTS = ("verbosity", "helpfulness", "reward")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rescale")
    tiny.save(folder / "biased", outputs=OUTPUTS, bias=True, max_positions=1024)
    tiny.save(folder / "plain", outputs=OUTPUTS, bias=False, max_positions=1024)
    return folder


def config_of(here, model="biased", **changes):
    config = settings.rescale()
    config.model.name = str(here / model)
    config.data, config.ratings = TALKS, PEOPLE
    config.attributes = ("helpfulness", "verbosity")
    config.update(changes)
    return config


def outputs_of(folder) -> np.ndarray:
    return np.concatenate(RewardModel.load(folder).score_groups(list(corpora.read(TALKS))))


@pytest.mark.parametrize("model", ["biased", "plain"])
def test_the_saved_model_rates_as_people_do_in_mean_and_spread(here, model, tmp_path):
    result = rescale(config_of(here, model), tmp_path / "run")
    before, after = outputs_of(here / model), outputs_of(tmp_path / "run" / "model")
    people = [rating for group in corpora.read(PEOPLE) for rating in group.ratings]
    assert result["responses"] == len(before) == 12
    for at, name in enumerate(OUTPUTS[:2]):
        rated = [rating[name] for rating in people]
        assert after[:, at].mean() == pytest.approx(np.mean(rated), abs=1e-3)
        assert after[:, at].std() == pytest.approx(np.std(rated), abs=1e-3)
        assert (np.argsort(before[:, at]) == np.argsort(after[:, at])).all()
        told = result["attributes"][name]
        assert told["before"]["mean"] == pytest.approx(before[:, at].mean(), abs=1e-5)
        assert told["after"]["std"] == pytest.approx(after[:, at].std(), abs=1e-3)
        assert told["people"]["values"] == {str(v): rated.count(v) for v in range(5)}
    # What was not named stays as it is.
    assert list(result["attributes"]) == ["verbosity", "helpfulness"]
    np.testing.assert_allclose(after[:, 2], before[:, 2], atol=1e-5)
    assert f"helpfulness: {before[:, 1].mean():.2f} ± " in describe(result)


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


def test_only_sampled_responses_that_ended_count(here, tmp_path):
    row = {
        "prompt": [{"role": "user", "content": "Why?"}],
        "condition": {},
        "responses": ["So.", "Water.", "The waves come in, the waves go out."],
        "tokens": [[5], [6], [7]],
        "finished": [True, False, True],
    }
    file = stages.write(tmp_path / "samples.jsonl", [row])
    result = rescale(config_of(here, data=f"sampled:{file}"), tmp_path / "run")
    assert result["responses"] == 2
    assert result["record"]["skipped"] == {"unfinished responses": 1}


def test_a_finished_run_is_left_alone_and_a_killed_one_is_made_again(here, tmp_path):
    run, config = tmp_path / "run", config_of(here)
    first = rescale(config, run)
    written = (run / "model" / "model.safetensors").read_bytes()
    (run / "result.json").unlink()  # Killed between the model and the result.
    again = rescale(config, run)
    assert (run / "model" / "model.safetensors").read_bytes() == written
    assert again["attributes"] == first["attributes"]
    (run / "model" / "model.safetensors").unlink()
    assert rescale(config, run) == json.loads((run / "result.json").read_text())
    with pytest.raises(ValueError, match=r"another config .different: ratings"):
        rescale(config_of(here, ratings=TALKS), run)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ratings": ""}, "config.ratings is not set"),
        ({"data": ""}, "config.data is not set"),
        ({"attributes": ("beauty",)}, "rates verbosity, helpfulness, reward, and not beauty"),
        ({"attributes": ()}, "has no ratings of reward; leave them out with config.attributes"),
        ({"on_error": "hope"}, "config.on_error is 'hope'"),
        ({"ratings": "helpsteer2:nowhere.jsonl"}, "nowhere.jsonl"),
    ],
)
def test_what_cannot_be_is_refused(here, changes, said, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        rescale(config_of(here, **changes), tmp_path / "run")
    assert said in str(error.value)


def test_from_the_command_line(here, tmp_path):
    flags = [
        f"--config.model.name={here / 'biased'}",
        *(f"--config.data={TALKS}", f"--config.ratings={PEOPLE}"),
        "--config.attributes=('verbosity',)",
        f"--workdir={tmp_path / 'run'}",
    ]
    said = succeed("rescale", "--config=configs/rescale.py", *flags)
    assert "verbosity: " in said
    assert f"model: {tmp_path / 'run' / 'model'}" in said
    assert "/run/report.html" in succeed("report", f"--workdir={tmp_path / 'run'}")
    page = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "|  | verbosity |" in page
    assert "| after.values.4 | " in page
    assert "it is one for `hs2jax rescale`" in fail(
        *("annotate", "--config=configs/rescale.py", f"--workdir={tmp_path / 'other'}")
    )
