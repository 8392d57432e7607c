"""A file of layer weights: comes back as it was, and only to the judge it was made for."""

import dataclasses
import json

import numpy as np
import pytest
from planted_judge import PlantedJudge

from hs2jax.judging import prompts, weights_file
from hs2jax.judging.lager import PRESETS
from hs2jax.judging.layer_weights import Fit
from hs2jax.models.checksum import checksum

OURS = PRESETS["recommended"]
JUDGE, OTHER = (PlantedJudge(None, seed=seed) for seed in (0, 1))
FIT = Fit(np.float32([0.1, 0.2, 0.3, 0.4]), 1.25, 0.75, 10, 40, "published", 3)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "weights.json"
    weights_file.save(path, FIT, JUDGE, OURS, np.arange(1, 6), "40 samples of noise")
    return path


def change(path, **fields) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_saved_weights_come_back_bit_by_bit_and_say_where_they_are_from(path, monkeypatch):
    monkeypatch.setenv("HOME", str(path.parent))
    loaded = weights_file.load("~/weights.json", JUDGE, OURS)
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, FIT.weights)
    row = json.loads(path.read_text())
    assert row["model"] == {"name": "planted", "checksum": checksum(JUDGE.model.params)}
    assert row["preset"] == dataclasses.asdict(OURS)
    assert row["scale"] == [1, 2, 3, 4, 5]
    assert row["fitted"] == {
        "data": "40 samples of noise",
        "samples": 40,
        "recipe": "published",
        "seed": 3,
        "steps": 10,
        "loss": {"before": 1.25, "after": 0.75},
    }
    assert [file.name for file in path.parent.iterdir()] == ["weights.json"]
    # How weights were found does not bind those who use them.
    other_loss = dataclasses.replace(OURS, error="absolute", mix=0.5, double_softmax=True)
    np.testing.assert_array_equal(weights_file.load(path, JUDGE, other_loss), FIT.weights)


@pytest.mark.parametrize(
    ("judge", "preset", "words"),
    [
        (OTHER, "recommended", "model.checksum is '.*' there and '.*' here"),
        (JUDGE, "paper", "preset.norm is 'final' there and 'none' here"),
        (OTHER, "repository", "checksum is .*; layers is 4 there and 3 here; preset.layers is"),
    ],
)
def test_weights_for_another_judge_are_refused_by_name(path, judge, preset, words):
    with pytest.raises(ValueError, match=words) as error:
        weights_file.load(path, judge, PRESETS[preset])
    assert f"{path} has weights for another judge, planted" in str(error.value)


def test_weights_that_were_fitted_with_other_prompts_serve_where_it_is_asked_for(path):
    change(path, template="pairwise")
    own = prompts.key(JUDGE.model.tokenizer.chat_template)
    with pytest.raises(ValueError, match=f"template is 'pairwise' there and '{own}' here"):
        weights_file.load(path, JUDGE, OURS)
    same = weights_file.load(path, JUDGE, OURS, any_template=True)
    np.testing.assert_array_equal(same, FIT.weights)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"weights": [0.5, 0.5]}, "weights"),
        ({"weights": [0.1] * 4}, "sum of weights"),
        ({"weights": [0.6, 0.6, -0.2, 0.0]}, "weights"),
        ({"model": {"name": "tiny"}}, "checksum"),
        ({"preset": {"layers": "all"}}, "norm"),
        ({"model": 3}, "checksum"),
    ],
)
def test_a_malformed_file_is_refused(path, fields, words):
    change(path, **fields)
    with pytest.raises(ValueError, match=rf"is no file of layer weights .*{words}"):
        weights_file.load(path, JUDGE, OURS)


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b"\xff\xfe\x00"])
def test_a_file_that_is_no_json_object_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no file of layer weights"):
        weights_file.load(path, JUDGE, OURS)
